//! The lines around every screen: the target, how reliable the numbers are, the keys.

use profiler_core::completeness::{Confidence, Released, Slices, StandStill};
use profiler_core::sample::PythonMalloc;
use profiler_core::units::{bytes, count, nanoseconds};
use profiler_core::view::{ActivitySource, View};
use ratatui::text::{Line, Span};

use super::app::{App, Tab};
use crate::timestamp::date_and_time;

const BETWEEN: &str = " │ ";

/// The target, then how reliable the numbers are, in as many lines as needed.
pub(super) fn lines(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    let mut lines = flow(app, target(app, view), width);
    // The least important facts about the target, its versions, are dropped first.
    lines.truncate(1);
    if let Some(cursor) = &app.saved {
        let text = format!(
            "saved session, walk {} of {}, {}",
            cursor.number,
            cursor.last,
            date_and_time(view.report.taken_at_ns)
        );
        lines.insert(0, Line::styled(text, app.theme.warn()));
    }
    lines.extend(flow(app, sureness(app, view), width));
    if let Some(what_if) = &view.what_if {
        let phrases = what_if.phrases().into_iter();
        let pieces = phrases.map(|phrase| Span::styled(phrase, app.theme.strong()));
        lines.extend(flow(app, pieces.collect(), width));
    }
    lines
}

fn target(app: &App, view: &View) -> Vec<Span<'static>> {
    let report = &view.report;
    let target = &report.target;
    let now = view.history.last();
    let rss = now.map_or(report.kernel.rss_bytes, |point| point.rss_bytes);
    let swap = now.map_or(report.kernel.swap_bytes, |point| point.swap_bytes);
    let name = format!("{} {}", target.comm, target.pid);
    let mut pieces = vec![
        Span::styled(name, app.theme.title()),
        Span::styled(format!("RSS {}", bytes(rss)), app.theme.strong()),
        Span::raw(format!("swap {}", bytes(swap))),
    ];
    if app.paused {
        pieces.push(Span::styled("PAUSED", app.theme.warn()));
    }
    let or = |name: &Option<String>, other: &str| name.clone().unwrap_or_else(|| other.to_owned());
    let mut python = or(&target.python, "not Python");
    match target.python_malloc {
        None | Some(PythonMalloc::Pymalloc) => {}
        // A reader who expects pymalloc must see that another allocator is used.
        Some(other) => python.push_str(&format!(" on {}", other.name())),
    }
    pieces.push(Span::raw(python));
    let malloc = target.malloc.as_ref().map(ToString::to_string);
    pieces.push(Span::raw(or(&malloc, "malloc unknown")));
    if target.libc != malloc {
        pieces.push(Span::raw(or(&target.libc, "libc unknown")));
    }
    pieces.push(Span::raw(match target.threads {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    }));
    pieces
}

fn sureness(app: &App, view: &View) -> Vec<Span<'static>> {
    let of = &view.report.completeness;
    let theme = app.theme;
    let now = view
        .history
        .last()
        .map_or(view.report.taken_at_ns, |point| point.time_ns);
    let age = now.saturating_sub(view.report.taken_at_ns);
    let layout = of.layout_confidence;
    let done = match layout {
        Confidence::None => "read",
        _ => "walked",
    };
    // Of a saved session the line above has the date.
    let when = match app.saved {
        None => format!("{done} {:.0} s ago", age as f64 / 1e9),
        Some(_) => done.to_owned(),
    };
    let mut pieces = vec![
        Span::raw(when),
        match of.stand_still {
            StandStill::Throughout => Span::raw(format!("stopped {}", nanoseconds(of.stop_ns))),
            StandStill::Released(Released { after_ns, .. }) => {
                let text = format!("resumed {} into the walk", nanoseconds(after_ns));
                Span::styled(text, theme.warn())
            }
            StandStill::InSlices(Slices { number, .. }) => {
                let all = nanoseconds(of.stop_ns);
                Span::raw(format!("stopped {number} times, {all} in all"))
            }
            StandStill::Never => Span::styled("not stopped", theme.warn()),
        },
        Span::styled(layout.heap_state(), theme.confidence(layout)),
    ];
    if let Some(longest) = of.out_of_time_ns {
        let text = format!("ended after {}", nanoseconds(longest));
        pieces.push(Span::styled(text, theme.warn()));
    }
    if of.unreadable_bytes > 0 {
        let text = format!("{} unreadable", bytes(of.unreadable_bytes));
        pieces.push(Span::styled(text, theme.warn()));
    }
    match of.defects.len() {
        0 => {}
        1 => pieces.push(Span::styled("1 defect", theme.warn())),
        more => pieces.push(Span::styled(format!("{more} defects"), theme.warn())),
    }
    pieces.extend(probes(app, view));
    pieces
}

/// The state of the probes, and their cost.
fn probes(app: &App, view: &View) -> Vec<Span<'static>> {
    let theme = app.theme;
    let source = view.activity_source();
    let every_call = match source {
        ActivitySource::NotRequested | ActivitySource::NoProbes => {
            return vec![Span::styled("no probes", theme.quiet())];
        }
        ActivitySource::Attaching => {
            return vec![Span::styled("attaching probes", theme.quiet())];
        }
        ActivitySource::Sampled(_) => false,
        ActivitySource::Recorded(_) => true,
    };
    let mut pieces = Vec::new();
    match view.events_lost() {
        0 => {}
        1 => pieces.push(Span::styled("1 event lost", theme.warn())),
        more => {
            let lost = format!("{} events lost", count(more));
            pieces.push(Span::styled(lost, theme.warn()));
        }
    }
    let ended = source.ended();
    let text = match source.cost() {
        _ if ended.is_some() => "probes ended".to_owned(),
        Some(cost) => {
            let allowed = match cost.budget {
                _ if every_call => "every call".to_owned(),
                None => "no limit".to_owned(),
                Some(share) => format!("max {} %", short(share * 100.0)),
            };
            format!("probe cost {:.1} % ({allowed})", cost.share * 100.0)
        }
        None => "probes on every call".to_owned(),
    };
    pieces.push(match ended {
        None => Span::raw(text),
        Some(_) => Span::styled(text, theme.warn()),
    });
    pieces
}

/// A limit set by the user, with a digit after the point only if it is not 0.
fn short(number: f64) -> String {
    let shown = format!("{number:.1}");
    shown.strip_suffix(".0").unwrap_or(&shown).to_owned()
}

/// Lines of whole pieces.
fn flow(app: &App, pieces: Vec<Span<'static>>, width: u16) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    for piece in pieces {
        let Some(line) = lines.last_mut() else { break };
        if line.spans.is_empty() {
            line.push_span(piece);
        } else if line.width() + BETWEEN.chars().count() + piece.width() <= usize::from(width) {
            line.push_span(Span::styled(BETWEEN, app.theme.quiet()));
            line.push_span(piece);
        } else {
            lines.push(Line::from(piece));
        }
    }
    lines
}

/// The width, in columns, from which on the names of the screens have blanks on both sides.
const WIDE_TABS: u16 = 90;

/// The names of the screens.
pub(super) fn tabs(app: &App) -> Line<'static> {
    let style = |chosen| {
        if chosen {
            app.theme.chosen()
        } else {
            app.theme.quiet()
        }
    };
    let names = Tab::ALL.into_iter().enumerate().map(|(index, tab)| {
        let chosen = tab == app.tab && !app.help;
        let gap = if app.size.0 < WIDE_TABS { "" } else { " " };
        let name = format!(" {} {}{gap}", index + 1, tab.name());
        Span::styled(name, style(chosen))
    });
    let help = Span::styled(" ? Help ", style(app.help));
    names.chain([help]).collect()
}

/// What the user must know: how the session ended, the result of an export, what is missing.
pub(super) fn notice(app: &App, view: Option<&View>, width: u16) -> Option<Line<'static>> {
    let fit = |text: &str| fitted(text, usize::from(width));
    if let Some(note) = &app.note {
        return Some(Line::styled(fit(note), app.theme.warn()));
    }
    let view = view?;
    if let Some(ended) = &view.ended {
        let text = format!("ENDED: {ended}. This is the last walk.");
        return Some(Line::styled(fit(&text), app.theme.bad()));
    }
    let first = view.notices.first()?;
    let text = match view.notices.len() {
        1 => fit(first),
        all => {
            let more = format!(" (+{}, see ?)", all - 1);
            let room = usize::from(width).saturating_sub(more.len());
            format!("{}{more}", fitted(first, room))
        }
    };
    Some(Line::styled(text, app.theme.warn()))
}

/// The text, cut to `width` with a mark if it is longer.
pub(super) fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The keys.
pub(super) fn keys(app: &App) -> Line<'static> {
    let own = match app.tab {
        _ if app.help => "Esc back  ↑↓ scroll",
        Tab::Overview => "Tab next",
        Tab::Sizes => "s sort  S reverse  ↑↓ scroll",
        Tab::Pages => "arrows +- 0 map  t 2 MiB",
        Tab::Objects => "t table  s sort  / filter  Enter open",
        Tab::Sites => "t from  s sort  / filter  Enter open",
        Tab::Arenas | Tab::Activity | Tab::Why => "↑↓ scroll  Tab next",
    };
    let all = match app.saved {
        None if app.tab == Tab::Objects && !app.help => {
            format!("q quit  ? help  w walk  e export  o read  {own}")
        }
        None if app.tab == Tab::Sites && !app.help => {
            format!("q quit  ? help  w walk  e export  {own}")
        }
        None => format!("q quit  ? help  p pause  w walk now  e export  {own}"),
        Some(_) if matches!(app.tab, Tab::Objects | Tab::Sites) && !app.help => {
            format!("q quit  ? help  [ ] walk  e export  {own}")
        }
        Some(_) => format!("q quit  ? help  [ ] walk  {{ }} first, last  e export  {own}"),
    };
    Line::styled(all, app.theme.quiet())
}

//! One frame: header, tabs, the screen, footer. Changes nothing.

use profiler_core::units::{bytes, count, nanoseconds};
use profiler_core::view::View;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::app::{App, Tab};
use super::screens;

/// The least terminal that everything fits into, in columns and rows.
const LEAST: (u16, u16) = (80, 24);

/// Draws the app.
pub(super) fn draw(app: &App, frame: &mut Frame) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!(
            "This terminal is {} × {}; fragscope needs {} × {}. Enlarge it, or press q.",
            area.width, area.height, LEAST.0, LEAST.1
        );
        let wrapped = ratatui::widgets::Wrap { trim: true };
        frame.render_widget(Paragraph::new(text).wrap(wrapped), area);
        return;
    }
    let rows = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ];
    let [head, sure, tabs, body, foot] = Layout::vertical(rows).areas(area);
    frame.render_widget(tab_line(app), tabs);
    frame.render_widget(footer(app), foot);
    let Some(view) = &app.view else {
        frame.render_widget(Paragraph::new("taking the first sample…"), body);
        return;
    };
    frame.render_widget(header(app, view), head);
    frame.render_widget(completeness(app, view), sure);
    if app.help {
        scrolled(
            app,
            frame,
            body,
            screens::help::lines(app, view, body.width),
        );
        return;
    }
    match app.tab {
        Tab::Overview => screens::overview::draw(app, view, frame, body),
        Tab::Pages => screens::pages::draw(app, view, frame, body),
        Tab::Sizes => scrolled(
            app,
            frame,
            body,
            screens::sizes::lines(app, view, body.width),
        ),
        Tab::Arenas => scrolled(
            app,
            frame,
            body,
            screens::arenas::lines(app, view, body.width),
        ),
        Tab::Activity => {
            scrolled(
                app,
                frame,
                body,
                screens::activity::lines(app, view, body.width),
            );
        }
        Tab::Why => scrolled(app, frame, body, screens::why::lines(app, view, body.width)),
    }
}

/// Draws lines from where the user scrolled to; never past the end. Says how much is below.
fn scrolled(app: &App, frame: &mut Frame, area: Rect, lines: Vec<Line<'_>>) {
    let hidden = (lines.len() as u16).saturating_sub(area.height);
    let first = app.scrolled().min(hidden);
    frame.render_widget(Paragraph::new(lines).scroll((first, 0)), area);
    if first < hidden {
        let more = format!(" ↓ {} more lines ", hidden - first);
        let width = (more.chars().count() as u16).min(area.width);
        let corner = Rect::new(area.right() - width, area.bottom() - 1, width, 1);
        frame.render_widget(Line::styled(more, app.theme.chosen()), corner);
    }
}

fn header(app: &App, view: &View) -> Line<'static> {
    let report = &view.report;
    let target = &report.target;
    let now = view.history.last();
    let rss = now.map_or(report.kernel.rss_bytes, |point| point.rss_bytes);
    let swap = now.map_or(report.kernel.swap_bytes, |point| point.swap_bytes);
    let python = target.python.clone().unwrap_or_else(|| "not Python".into());
    let malloc = target
        .malloc
        .clone()
        .unwrap_or_else(|| "malloc unknown".into());
    let mut spans = vec![
        Span::styled("fragscope ", app.theme.title()),
        Span::styled(
            format!("{} ({})", target.comm, target.pid),
            app.theme.strong(),
        ),
        Span::raw(format!("  {python}, {malloc}  ")),
        Span::styled(format!("RSS {}", bytes(rss)), app.theme.strong()),
        Span::raw(format!("  swap {}", bytes(swap))),
    ];
    if app.paused {
        spans.push(Span::styled("  PAUSED", app.theme.warn()));
    }
    Line::from(spans)
}

fn completeness(app: &App, view: &View) -> Line<'static> {
    let of = &view.report.completeness;
    let theme = app.theme;
    let now = view
        .history
        .last()
        .map_or(view.report.taken_at_ns, |point| point.time_ns);
    let age = now.saturating_sub(view.report.taken_at_ns);
    let held = if of.stopped {
        Span::raw(format!(", stopped {}", nanoseconds(of.stop_ns)))
    } else {
        Span::styled(", not stopped", theme.warn())
    };
    let mut spans = vec![
        Span::raw(format!("sample {:.0} s old", age as f64 / 1e9)),
        held,
        Span::raw(" │ "),
    ];
    let layout = of.layout_confidence;
    let sure = format!("layout {}", screens::confidence(layout));
    spans.push(Span::styled(sure, theme.confidence(layout)));
    if of.unreadable_bytes > 0 {
        spans.push(Span::styled(
            format!(", unreadable {}", bytes(of.unreadable_bytes)),
            theme.warn(),
        ));
    }
    if !of.defects.is_empty() {
        spans.push(Span::styled(
            format!(", {} defects", of.defects.len()),
            theme.warn(),
        ));
    }
    spans.push(Span::raw(" │ "));
    match &view.activity {
        Some(activity) => {
            let lost = format!("lost {}", count(activity.events_lost));
            spans.push(if activity.events_lost > 0 {
                Span::styled(lost, theme.warn())
            } else {
                Span::raw(lost)
            });
            let of_budget = activity.cost.budget.map_or_else(
                || "unlimited".to_owned(),
                |b| format!("of {:.1} %", b * 100.0),
            );
            let spent = format!(", probes {:.1} % {of_budget}", activity.cost.share * 100.0);
            spans.push(Span::raw(spent));
        }
        None => spans.push(Span::styled("no probes", theme.quiet())),
    }
    Line::from(spans)
}

fn tab_line(app: &App) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, tab) in Tab::ALL.into_iter().enumerate() {
        let name = format!(" {} {} ", index + 1, tab.name());
        let style = if tab == app.tab && !app.help {
            app.theme.chosen()
        } else {
            app.theme.quiet()
        };
        spans.push(Span::styled(name, style));
    }
    let style = if app.help {
        app.theme.chosen()
    } else {
        app.theme.quiet()
    };
    spans.push(Span::styled(" ? Help ", style));
    Line::from(spans)
}

fn footer(app: &App) -> Line<'static> {
    let view = app.view.as_deref();
    if let Some(ended) = view.and_then(|view| view.ended.as_ref()) {
        let text = format!(" {ended}: what is shown is the last sample. e export, q quit ");
        return Line::styled(text, app.theme.bad());
    }
    if let Some(note) = &app.note {
        return Line::styled(note.clone(), app.theme.warn());
    }
    if let Some(notice) = view.and_then(|view| view.notices.first()) {
        return Line::styled(notice.clone(), app.theme.warn());
    }
    let own = match app.tab {
        Tab::Sizes => "s sort  S reverse  ",
        Tab::Pages => "arrows move  + - zoom  0 fit  ",
        _ => "",
    };
    Line::styled(
        format!("q quit  ? help  p pause  w walk now  e export  {own}↑↓ scroll  Tab next"),
        app.theme.quiet(),
    )
}

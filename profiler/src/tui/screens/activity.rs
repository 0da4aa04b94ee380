//! What the probes saw: rates, lifetimes, size classes, the probes themselves.

use profiler_core::activity::{Activity, ClassActivity, ProbeState};
use profiler_core::columns::{TextColumn, cells, headings};
use profiler_core::units::{bytes, count, nanoseconds};
use profiler_core::view::{ActivitySource, View};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::wrapped;
use crate::export::sentences;
use crate::hints::Hint;
use crate::tui::app::App;

/// Characters of a line's title.
const TITLE: TextColumn = TextColumn::left("", 12);
/// Columns of a probe; its state takes the remaining width.
const FUNCTION: TextColumn = TextColumn::left("probe", 25);
const HITS: TextColumn = TextColumn::right("hits", 7);
const STATE: TextColumn = TextColumn::left("state", 8);
const GAP: &str = "  ";

/// The screen's lines.
pub(in crate::tui) fn lines(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    let (title, hint) = match view.activity_source() {
        ActivitySource::Sampled(activity) => {
            let mut lines = rates(app, activity);
            lines.push(Line::default());
            lines.extend(classes(app, activity));
            lines.push(Line::default());
            lines.extend(probes(app, activity, width));
            return lines;
        }
        ActivitySource::Recorded(what_if) => (
            Hint::RecordsNoRates.words(),
            sentences::of_recording(what_if),
        ),
        ActivitySource::NotRequested => (
            "Allocations are not recorded.",
            "No probes were requested. Walks and residency work without.".to_owned(),
        ),
        ActivitySource::Attaching => (
            "Allocations are not recorded yet.",
            "Probes are being attached.".to_owned(),
        ),
        ActivitySource::NoProbes => (
            "Allocations are not recorded.",
            Hint::NoRates.words().to_owned(),
        ),
    };
    let mut lines = vec![Line::styled(title, app.theme.title())];
    let others = view.notices.iter();
    for notice in others.filter(|notice| *notice != Hint::RecordsAll.words()) {
        lines.extend(wrapped(notice, width, app.theme.warn()));
    }
    lines.extend(wrapped(&hint, width, app.theme.quiet()));
    lines
}

fn rates(app: &App, activity: &Activity) -> Vec<Line<'static>> {
    let armed = activity.armed_ns as f64 / activity.elapsed_ns.max(1) as f64;
    let lifetimes = &activity.lifetimes;
    let at = |quantile: f64| nanoseconds(lifetimes.value_at_quantile(quantile));
    let lived = if lifetimes.is_empty() {
        "no block was both allocated and freed yet".to_owned()
    } else {
        format!(
            "p50 {}  p90 {}  p99 {}  longest {}",
            at(0.5),
            at(0.9),
            at(0.99),
            nanoseconds(lifetimes.max())
        )
    };
    let title = |text: &str| Span::styled(TITLE.cell(text), app.theme.title());
    vec![
        Line::from(vec![
            title("rates"),
            Span::raw(format!(
                "{} malloc/s  {} free/s  {}/s",
                count(activity.alloc_rate as u64),
                count(activity.free_rate as u64),
                bytes(activity.alloc_byte_rate as u64)
            )),
        ]),
        Line::from(vec![
            title("recorded"),
            Span::raw(format!(
                "{} allocs of {}, {} frees ({} of older blocks)",
                count(activity.allocs),
                bytes(activity.alloc_bytes),
                count(activity.frees),
                count(activity.frees_of_older)
            )),
        ]),
        Line::from(vec![title("sampled"), Span::raw(sampled(armed))]),
        Line::from(vec![title("lifetimes"), Span::raw(lived)]),
        Line::from(vec![
            title("cost"),
            Span::raw(format!(
                "{:.1} % of one core now; {} probe hits, {} each",
                activity.cost.share * 100.0,
                count(activity.cost.hits),
                nanoseconds(activity.cost.ns_per_hit as u64)
            )),
        ]),
        Line::from(vec![title("probes"), states(app, activity)]),
        Line::from(vec![
            title("lost"),
            Span::styled(
                format!("{} events", count(activity.events_lost)),
                if activity.events_lost > 0 {
                    app.theme.warn()
                } else {
                    app.theme.quiet()
                },
            ),
        ]),
    ]
}

/// The share of the time in which calls were recorded, and what that means for the counts.
fn sampled(share: f64) -> String {
    let text = format!("{:.1} % of the time", share * 100.0);
    // From here on the factor shows as more than 1.0.
    if share > 0.0 && share < 0.95 {
        format!("{text}: for totals, multiply counts by {:.1}", 1.0 / share)
    } else {
        text
    }
}

/// How many probes work.
fn states(app: &App, activity: &Activity) -> Span<'static> {
    let count = |wanted: fn(&ProbeState) -> bool| {
        let states = activity.probes.iter().map(|probe| &probe.state);
        states.filter(|state| wanted(state)).count()
    };
    let failed = count(|state| matches!(state, ProbeState::Failed(_)));
    let text = format!(
        "{} firing, {} silent, {failed} failed (listed below)",
        count(|state| *state == ProbeState::Firing),
        count(|state| *state == ProbeState::Silent),
    );
    if failed > 0 {
        Span::styled(text, app.theme.warn())
    } else {
        Span::raw(text)
    }
}

fn probes(app: &App, activity: &Activity, width: u16) -> Vec<Line<'static>> {
    let row = |function: &str, hits: &str, state: &str, about: &str| {
        let (function, hits) = (FUNCTION.cell(function), HITS.cell(hits));
        format!("{function}{hits}{GAP}{}{about}", STATE.cell(state))
    };
    let heading = row(FUNCTION.title, HITS.title, STATE.title, "site");
    let mut lines = vec![Line::styled(heading, app.theme.title())];
    let indent = " ".repeat(row("", "", "", "").len());
    for probe in &activity.probes {
        let (state, about, style) = match &probe.state {
            ProbeState::Firing => ("firing", &probe.site, Style::new()),
            ProbeState::Silent => ("silent", &probe.site, app.theme.quiet()),
            ProbeState::Failed(reason) => ("failed", reason, app.theme.bad()),
        };
        let text = row(&probe.function, &count(probe.hits), state, about);
        let options = textwrap::Options::new(usize::from(width)).subsequent_indent(&indent);
        let wrapped = textwrap::wrap(&text, options);
        lines.extend(
            wrapped
                .into_iter()
                .map(|line| Line::styled(line.into_owned(), style)),
        );
    }
    if let Some(probe) = activity.probes.first() {
        let text = format!(
            "probed object: {}; silent: attached, no call recorded yet",
            probe.object
        );
        lines.extend(wrapped(&text, width, app.theme.quiet()));
    }
    lines
}

fn classes(app: &App, activity: &Activity) -> Vec<Line<'static>> {
    let up_to = ClassActivity::UP_TO;
    let titles = headings(&ClassActivity::SHOWN, "");
    let heading = format!("{}{titles}", up_to.heading(""));
    let mut lines = vec![Line::styled(heading, app.theme.title())];
    lines.extend(activity.classes.iter().map(|class| {
        let figures = cells(&ClassActivity::SHOWN, class, "");
        Line::raw(format!("{}{figures}", up_to.cell(class)))
    }));
    lines
}

//! The verdict, the ledger, RSS and live bytes over time.

use profiler_core::columns::TextColumn;
use profiler_core::report::LedgerRow;
use profiler_core::units::{bytes, percent};
use profiler_core::view::{Point, View};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph};

use super::{bar, wrapped};
use crate::tui::app::App;

/// Rows that the chart needs to say anything.
const CHART_ROWS: u16 = 5;
/// From this width on the metrics are next to the ledger.
const WIDE: u16 = 116;
/// In the ledger: a class's bytes in memory.
const BYTES: TextColumn = TextColumn::right("bytes", LedgerRow::COLUMNS[0].width);
/// In the metrics next to it.
const LABEL: TextColumn = TextColumn::left("", 26);
const FIGURE: TextColumn = TextColumn::right("", 12);
/// Of a curve: its name and its present value.
const CURVE: TextColumn = TextColumn::left("", 6);
const NOW: TextColumn = TextColumn::right("", 10);
/// Between columns.
const GAP: &str = "  ";
/// Columns that the metrics take.
const BESIDE: u16 = (GAP.len() + LABEL.width + FIGURE.width) as u16;
/// Metrics shown next to the ledger: the most important ones, so that there is space for the chart.
const METRICS: usize = 17;

/// Draws the screen.
pub(in crate::tui) fn draw(app: &App, view: &View, frame: &mut Frame, area: Rect) {
    let verdict = wrapped(&view.report.verdict, area.width, app.theme.strong());
    let ledger_width = if area.width >= WIDE {
        area.width - BESIDE
    } else {
        area.width
    };
    let ledger = ledger(app, view, ledger_width);
    let beside = if area.width >= WIDE {
        metrics(app, view)
    } else {
        Vec::new()
    };
    let taken = verdict.len() + ledger.len().max(beside.len());
    // A chart if there is space for one, else a line for each curve.
    let spare = usize::from(area.height).saturating_sub(taken + 1);
    let below = if spare >= usize::from(CHART_ROWS) {
        Constraint::Fill(1)
    } else {
        Constraint::Length(2)
    };
    let heights = [
        Constraint::Length(verdict.len() as u16),
        Constraint::Max(ledger.len().max(beside.len()) as u16 + 1),
        below,
    ];
    let [top, middle, bottom] = Layout::vertical(heights).areas(area);
    frame.render_widget(Paragraph::new(verdict), top);
    if area.width >= WIDE {
        let [left, right] =
            Layout::horizontal([Constraint::Length(ledger_width), Constraint::Min(0)])
                .areas(middle);
        frame.render_widget(Paragraph::new(ledger), left);
        frame.render_widget(Paragraph::new(beside), right);
    } else {
        frame.render_widget(Paragraph::new(ledger), middle);
    }
    if bottom.height >= CHART_ROWS {
        chart(app, view, frame, bottom);
    } else {
        frame.render_widget(Paragraph::new(sparks(app, view, bottom.width)), bottom);
    }
}

/// RSS and live bytes over time, a line each.
fn sparks(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let room = usize::from(width).saturating_sub(CURVE.width + NOW.width + GAP.len());
    let recent = view.history.len().saturating_sub(room);
    let recent = &view.history[recent..];
    let top = recent
        .iter()
        .map(|point| point.rss_bytes.max(point.shown_live_bytes().unwrap_or(0)))
        .max()
        .unwrap_or(0)
        .max(1);
    let line = |name: &str, style, values: Vec<Option<u64>>| {
        let now = values.last().copied().flatten();
        let curve: String = values
            .into_iter()
            .map(|value| match value {
                Some(value) => STEPS[(value as f64 / top as f64 * 7.0).round() as usize % 8],
                None => ' ',
            })
            .collect();
        let now = now.map_or_else(|| "unknown".to_owned(), bytes);
        Line::from(vec![
            Span::raw(CURVE.cell(name) + &NOW.cell(&now) + GAP),
            Span::styled(curve, style),
        ])
    };
    let (rss_style, live_style) = app.theme.curves();
    let rss = recent.iter().map(|point| Some(point.rss_bytes)).collect();
    let live = recent.iter().map(Point::shown_live_bytes).collect();
    vec![line("RSS", rss_style, rss), line("live", live_style, live)]
}

fn ledger(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    let rss = view.report.kernel.rss_bytes;
    let extra = |row: &LedgerRow| {
        let part = |name, amount| match amount {
            0 => String::new(),
            amount => format!(" {name} {}", bytes(amount)),
        };
        part("swapped", row.swapped_bytes) + &part("shared", row.shared_bytes)
    };
    let extras = view.report.shown_ledger().map(|row| extra(row).len()).max();
    // Bars take the width that the words leave.
    let [in_memory, ..] = LedgerRow::COLUMNS;
    let (class, share) = (LedgerRow::CLASS, LedgerRow::SHARE);
    let taken = class.width + 1 + in_memory.width + share.width + GAP.len();
    let cells = usize::from(width).saturating_sub(taken + extras.unwrap_or(0));
    let cells = cells.clamp(8, 60);
    let titles = class.cell("where RSS is") + " " + &BYTES.heading() + &share.heading();
    let mut lines = vec![Line::styled(
        format!("{titles}{GAP}resident"),
        app.theme.title(),
    )];
    for row in view.report.shown_ledger() {
        let style = app.theme.ledger(row.class);
        let bar = bar(row.resident_bytes, rss, cells);
        lines.push(Line::from(vec![
            Span::styled(class.cell(row.class.name()) + " ", style),
            Span::raw(in_memory.cell(row) + &share.cell(&percent(row.resident_bytes, rss)) + GAP),
            Span::styled(format!("{bar:<cells$}"), style),
            Span::styled(extra(row), app.theme.quiet()),
        ]));
    }
    lines
}

fn metrics(app: &App, view: &View) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(
        "  metrics (6 explains each)",
        app.theme.title(),
    )];
    lines.extend(view.report.metrics.iter().take(METRICS).map(|metric| {
        let label: String = metric.id.label().chars().take(LABEL.width).collect();
        Line::raw(GAP.to_owned() + &LABEL.cell(&label) + &FIGURE.cell(&metric.text()))
    }));
    lines
}

fn chart(app: &App, view: &View, frame: &mut Frame, area: Rect) {
    let Some((first, last)) = view.history.first().zip(view.history.last()) else {
        return;
    };
    let seconds = |ns: u64| ns.saturating_sub(first.time_ns) as f64 / 1e9;
    let rss: Vec<_> = view
        .history
        .iter()
        .map(|p| (seconds(p.time_ns), p.rss_bytes as f64))
        .collect();
    let live: Vec<_> = view
        .history
        .iter()
        .filter_map(|p| Some((seconds(p.time_ns), p.shown_live_bytes()? as f64)))
        .collect();
    let top = rss
        .iter()
        .chain(&live)
        .map(|point| point.1)
        .fold(1.0, f64::max)
        * 1.1;
    let span = seconds(last.time_ns).max(1.0);
    let (rss_style, live_style) = app.theme.curves();
    let curve = |name: &'static str, marker, style, points| {
        Dataset::default()
            .name(name)
            .marker(marker)
            .graph_type(GraphType::Line)
            .style(style)
            .data(points)
    };
    // Different marks, so that the curves differ without colour.
    let chart = Chart::new(vec![
        curve("RSS", Marker::Braille, rss_style, &rss),
        curve("live", Marker::Dot, live_style, &live),
    ])
    .block(
        Block::new()
            .borders(Borders::TOP)
            .border_style(app.theme.quiet())
            .title(format!("RSS (line) and live bytes (dots), {span:.0} s")),
    )
    .x_axis(Axis::default().bounds([0.0, span]))
    .y_axis(
        Axis::default()
            .bounds([0.0, top])
            .labels([Line::raw("0 B"), Line::raw(bytes(top as u64))]),
    )
    .legend_position(None);
    frame.render_widget(chart, area);
}

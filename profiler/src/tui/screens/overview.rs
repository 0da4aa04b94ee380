//! The verdict, the ledger, RSS and live bytes over time.

use profiler_core::report::{LedgerClass, Metric};
use profiler_core::units::{bytes, count, percent};
use profiler_core::view::View;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph};

use super::{bar, wrapped};
use crate::tui::app::App;

/// Rows that the chart needs to say anything.
const CHART_ROWS: u16 = 5;
/// From this width on the metrics stand beside the ledger.
const WIDE: u16 = 116;

/// Draws the screen.
pub(in crate::tui) fn draw(app: &App, view: &View, frame: &mut Frame, area: Rect) {
    let verdict = wrapped(&view.report.verdict, area.width, app.theme.strong());
    let ledger_width = if area.width >= WIDE {
        area.width - 46
    } else {
        area.width
    };
    let ledger = ledger(app, view, ledger_width);
    let heights = [
        Constraint::Length(verdict.len() as u16),
        Constraint::Length(ledger.len() as u16 + 1),
        Constraint::Min(CHART_ROWS),
    ];
    let [top, middle, bottom] = Layout::vertical(heights).areas(area);
    frame.render_widget(Paragraph::new(verdict), top);
    if area.width >= WIDE {
        let [left, right] =
            Layout::horizontal([Constraint::Length(ledger_width), Constraint::Min(0)])
                .areas(middle);
        frame.render_widget(Paragraph::new(ledger), left);
        frame.render_widget(Paragraph::new(metrics(app, view)), right);
    } else {
        frame.render_widget(Paragraph::new(ledger), middle);
    }
    chart(app, view, frame, bottom);
}

fn ledger(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    let rss = view.report.kernel.rss_bytes;
    let cells = usize::from(width).saturating_sub(64).max(8);
    let mut lines = vec![Line::styled(
        format!(
            "{:<19}{:>10}{:>8}  resident",
            "where RSS is", "bytes", "of RSS"
        ),
        app.theme.title(),
    )];
    for row in &view.report.ledger {
        // Unknown is always shown.
        let shown = row.resident_bytes + row.swapped_bytes > 0 || row.class == LedgerClass::Unknown;
        if !shown {
            continue;
        }
        let mut extra = String::new();
        if row.swapped_bytes > 0 {
            extra += &format!(" swapped {}", bytes(row.swapped_bytes));
        }
        if row.shared_bytes > 0 {
            extra += &format!(" shared {}", bytes(row.shared_bytes));
        }
        let style = app.theme.ledger(row.class);
        let bar = bar(row.resident_bytes, rss, cells);
        lines.push(Line::from(vec![
            Span::styled(format!("{:<19}", row.class.name()), style),
            Span::raw(format!(
                "{:>10}{:>8}  ",
                bytes(row.resident_bytes),
                percent(row.resident_bytes, rss)
            )),
            Span::styled(format!("{bar:<cells$}"), style),
            Span::styled(extra, app.theme.quiet()),
        ]));
    }
    lines
}

fn metrics(app: &App, view: &View) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled("metrics (? explains them)", app.theme.title())];
    lines.extend(
        view.report
            .metrics
            .iter()
            .map(|metric| Line::raw(format!("{:<26}{:>12}", metric.name, value(metric)))),
    );
    lines
}

/// A metric's value in its unit.
pub(super) fn value(metric: &Metric) -> String {
    match metric.value {
        None => "unknown".into(),
        Some(value) if metric.name.ends_with("_bytes") => bytes(value as u64),
        Some(value) if value.fract() == 0.0 && value >= 2.0 => count(value as u64),
        Some(value) => format!("{value:.2}"),
    }
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
        .filter_map(|p| Some((seconds(p.time_ns), p.live_bytes? as f64)))
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

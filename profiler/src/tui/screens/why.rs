//! Why: the verdict, the packing bound drawn next to the actual pages, the findings, the
//! explanation.

use profiler_core::columns::{self, Column, TextColumn};
use profiler_core::heap::Allocator;
use profiler_core::prediction::{Effect, Needs, NeedsRow, Predictions};
use profiler_core::report::{FragReport, Packing};
use profiler_core::units::bytes;
use profiler_core::view::View;
use ratatui::text::{Line, Span};

use super::wrapped;
use crate::tui::app::App;
use crate::tui::theme::Theme;

/// Rows of each drawing of pages.
const ROWS: usize = 4;
/// Of a metric.
const LABEL: TextColumn = TextColumn::left("", 34);
const FIGURE: TextColumn = TextColumn::right("", 11);
/// Of a prediction, next to the drawing of its band: there is no space for the middle value.
const FIGURES: [Column<NeedsRow>; 2] = [NeedsRow::BAND, NeedsRow::RSS];
/// A drawing of fewer columns shows nothing.
const LEAST_DRAWN: usize = 8;
/// Between columns.
const GAP: &str = "  ";

/// The screen's lines.
pub(in crate::tui) fn lines(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    let report = &*view.report;
    let theme = app.theme;
    let mut lines = wrapped(&report.verdict, width, theme.strong());
    if let Some(predictions) = &report.predictions {
        lines.push(Line::default());
        lines.extend(predicted(theme, predictions, report.taken_at_ns, width));
    }
    if let Some(packing) = &report.packing {
        lines.push(Line::default());
        lines.extend(drawing(theme, report, packing, width));
    }
    for finding in &report.findings {
        lines.push(Line::default());
        lines.push(Line::from(vec![
            Span::styled(format!("{}  ", finding.heading()), theme.title()),
            Span::styled(
                format!("confidence {}", finding.confidence.name()),
                theme.confidence(finding.confidence),
            ),
        ]));
        lines.extend(wrapped(&finding.claim, width, theme.strong()));
        lines.extend(wrapped(
            &finding.advice(),
            width,
            ratatui::style::Style::new(),
        ));
    }
    lines.push(Line::default());
    lines.push(Line::styled("Summary", theme.title()));
    lines.extend(wrapped(
        &report.explanation,
        width,
        ratatui::style::Style::new(),
    ));
    lines.push(Line::default());
    lines.push(Line::styled("Metrics", theme.title()));
    for metric in &report.metrics {
        let (label, help) = (metric.id.label(), metric.id.help());
        let figures = LABEL.cell(label) + &FIGURE.cell(&metric.text()) + GAP;
        let text = format!("{figures}{help}");
        let indent = " ".repeat(figures.chars().count());
        let options = textwrap::Options::new(usize::from(width)).subsequent_indent(&indent);
        let wrapped = textwrap::wrap(&text, options);
        lines.extend(wrapped.into_iter().map(|line| Line::raw(line.into_owned())));
    }
    lines
}

/// What other allocators and settings would need, one per line.
fn predicted(
    theme: Theme,
    predictions: &Predictions,
    walked_at_ns: u64,
    width: u16,
) -> Vec<Line<'static>> {
    let Some(check) = &predictions.self_check else {
        let why = predictions.trouble.as_deref().unwrap_or("under way");
        return wrapped(&format!("Predictions: {why}"), width, theme.quiet());
    };
    let pending = match predictions.pending {
        0 => String::new(),
        pending => format!(", {pending} more not replayed yet"),
    };
    // It is replayed once, and walks continue.
    let (walk, then) = match predictions.before(walked_at_ns) {
        None => ("this walk".to_owned(), "malloc has"),
        Some(before) => (format!("the walk {before} earlier"), "malloc had"),
    };
    let rss = predictions.rss_bytes;
    let of_rss = rss.map_or_else(String::new, |rss| format!(" of {} RSS", bytes(rss)));
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("Predicted from {walk}  "), theme.title()),
        Span::raw(format!("{then} {}{of_rss}, ", bytes(check.measured_bytes))),
        Span::styled(
            format!(
                "its replay is off by {:+.1} %{pending}",
                check.error() * 100.0
            ),
            theme.quiet(),
        ),
    ])];
    let titles = NeedsRow::NAME.heading() + &columns::headings(&FIGURES, " ");
    lines.push(Line::styled(format!("{GAP}{titles}"), theme.quiet()));
    let most = predictions.effects().map(|(_, needs, _)| needs.high_bytes);
    let most = most.max().unwrap_or(0).max(check.measured_bytes).max(1);
    for (prediction, needs, effect) in predictions.ranked() {
        let style = match effect {
            Effect::Saves => theme.strong(),
            Effect::Costs | Effect::NoLess | Effect::Same | Effect::Unclear => theme.quiet(),
        };
        let title = NeedsRow::NAME.cell(&prediction.title());
        let row = columns::cells(&FIGURES, &predictions.row(prediction), " ");
        let figures = format!("{GAP}{title}{row}");
        let taken = figures.chars().count() + NeedsRow::EFFECT.width + 2 * GAP.len();
        let columns = usize::from(width).saturating_sub(taken).min(40);
        let drawn = match columns {
            LEAST_DRAWN.. => GAP.to_owned() + &band(needs, check.measured_bytes, most, columns),
            _ => String::new(),
        };
        lines.push(Line::from(vec![
            Span::styled(figures, style),
            Span::styled(drawn, style),
            Span::styled(format!("{GAP}{}", effect.words()), style),
        ]));
    }
    lines
}

/// A band on a scale up to `most` bytes, with a mark at malloc's present size.
fn band(needs: Needs, now: u64, most: u64, columns: usize) -> String {
    let at = |bytes: u64| {
        let scaled = u128::from(bytes) * columns.saturating_sub(1) as u128 / u128::from(most);
        scaled as usize
    };
    (0..columns)
        .map(|column| match column {
            _ if column == at(now) => '│',
            _ if (at(needs.low_bytes)..=at(needs.high_bytes)).contains(&column) => '▬',
            _ => '·',
        })
        .collect()
}

/// Two drawings at one scale: malloc's present pages, fullest first, and the pages that the same
/// live blocks would fill in jemalloc's slabs.
fn drawing(theme: Theme, report: &FragReport, packing: &Packing, width: u16) -> Vec<Line<'static>> {
    let half = (usize::from(width) - 3) / 2;
    let most = packing.present_bytes.max(packing.packed_bytes).max(1);
    let cell = most.div_ceil((half * ROWS) as u64).max(1);
    let page_bytes = report.host.page_size.bytes();
    let mut now: Vec<(f64, u64)> = report
        .page_occupancy
        .iter()
        .filter(|row| row.allocator != Allocator::Pymalloc)
        .map(|row| {
            let full = f64::from(row.min_bytes + row.max_bytes) / 2.0 / page_bytes as f64;
            (full, row.resident_pages * page_bytes)
        })
        .collect();
    now.reverse();
    let packed_full = packing.live_bytes as f64 / packing.packed_bytes.max(1) as f64;
    let left = cells(&now, cell);
    let right = cells(&[(packed_full, packing.packed_bytes)], cell);
    let mut lines = vec![Line::from(vec![
        Span::styled(
            format!(
                "{:<half$}",
                format!("malloc's pages now: {}", bytes(packing.present_bytes))
            ),
            theme.title(),
        ),
        Span::raw(" │ "),
        Span::styled(
            format!(
                "{}, lower bound: {}",
                Packing::ALLOCATOR.name(),
                bytes(packing.packed_bytes)
            ),
            theme.title(),
        ),
    ])];
    let row = |cells: &[f64], row: usize| -> Vec<Span<'static>> {
        let mut spans: Vec<_> = cells
            .iter()
            .skip(row * half)
            .take(half)
            .map(|&full| {
                let glyph = match full {
                    f if f <= 0.01 => "○",
                    f if f <= 0.25 => "░",
                    f if f <= 0.5 => "▒",
                    f if f <= 0.75 => "▓",
                    _ => "█",
                };
                Span::styled(glyph, theme.fullness(full))
            })
            .collect();
        spans.push(Span::raw(" ".repeat(half - spans.len())));
        spans
    };
    for index in 0..ROWS {
        let mut spans = row(&left, index);
        spans.push(Span::raw(" │ "));
        spans.extend(row(&right, index));
        lines.push(Line::from(spans));
    }
    let note = format!(
        "Each cell is {}. On the right: the same live blocks packed into jemalloc's size classes and slabs: a lower bound, not a prediction; half-full slabs, caches, \
         metadata and pages not yet purged add to it.",
        bytes(cell)
    );
    lines.extend(wrapped(&note, width, theme.quiet()));
    lines
}

/// How full each cell of `cell` bytes is, for amounts of pages with their fullness.
fn cells(amounts: &[(f64, u64)], cell: u64) -> Vec<f64> {
    let mut cells = Vec::new();
    let mut open = 0u64;
    for &(full, amount) in amounts {
        open += amount;
        while open >= cell {
            cells.push(full);
            open -= cell;
        }
    }
    if open > 0 {
        cells.push(amounts.last().map_or(0.0, |last| last.0));
    }
    cells
}

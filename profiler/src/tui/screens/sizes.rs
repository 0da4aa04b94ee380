//! Size classes, live and free.

use profiler_core::report::SizeClassRow;
use profiler_core::units::{bytes, count};
use profiler_core::view::View;
use ratatui::text::{Line, Span};

use super::bar;
use crate::tui::app::App;

/// What the table is sorted by.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
enum Column {
    #[default]
    Size,
    LiveBlocks,
    LiveBytes,
    FreeBlocks,
    FreeBytes,
}

/// The order of the table.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::tui) struct Sort {
    column: Column,
    reversed: bool,
}

impl Sort {
    /// Sorts by the next column.
    pub(in crate::tui) fn next(&mut self) {
        self.column = match self.column {
            Column::Size => Column::LiveBlocks,
            Column::LiveBlocks => Column::LiveBytes,
            Column::LiveBytes => Column::FreeBlocks,
            Column::FreeBlocks => Column::FreeBytes,
            Column::FreeBytes => Column::Size,
        };
        // Sizes rise, amounts fall, until reversed.
        self.reversed = false;
    }

    /// Turns the order round.
    pub(in crate::tui) fn reverse(&mut self) {
        self.reversed = !self.reversed;
    }

    fn key(self, row: &SizeClassRow) -> u64 {
        match self.column {
            Column::Size => row.class.upper_bytes(),
            Column::LiveBlocks => u64::MAX - row.live_blocks,
            Column::LiveBytes => u64::MAX - row.live_bytes,
            Column::FreeBlocks => u64::MAX - row.free_blocks,
            Column::FreeBytes => u64::MAX - row.free_bytes,
        }
    }
}

/// The screen's lines.
pub(in crate::tui) fn lines(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    let mut rows: Vec<_> = view.report.size_classes.iter().collect();
    rows.sort_by_key(|row| (app.sort.key(row), row.allocator));
    if app.sort.reversed {
        rows.reverse();
    }
    let most = rows
        .iter()
        .map(|row| row.live_bytes + row.free_bytes)
        .max()
        .unwrap_or(0);
    let cells = usize::from(width).saturating_sub(66).max(8);
    let head = |name: &str, column: Column, width: usize| {
        let mark = match (app.sort.column == column, app.sort.reversed) {
            (false, _) => "",
            (true, false) => "*",
            (true, true) => "*r",
        };
        format!("{:>width$}", format!("{name}{mark}"))
    };
    let mut lines = vec![Line::styled(
        format!(
            "{:<10}{}{}{}{}{}  live █ free ░",
            "allocator",
            head("up to", Column::Size, 11),
            head("blocks", Column::LiveBlocks, 10),
            head("live", Column::LiveBytes, 12),
            head("free", Column::FreeBlocks, 9),
            head("free bytes", Column::FreeBytes, 12),
        ),
        app.theme.title(),
    )];
    lines.extend(rows.into_iter().map(|row| {
        let live = bar(row.live_bytes, most, cells);
        let rest = cells - live.chars().count().min(cells);
        let free = (row.free_bytes as f64 / most.max(1) as f64 * cells as f64).round() as usize;
        Line::from(vec![
            Span::raw(format!(
                "{:<10}{:>11}{:>10}{:>12}{:>9}{:>12}  ",
                row.allocator.name(),
                bytes(row.class.upper_bytes()),
                count(row.live_blocks),
                bytes(row.live_bytes),
                count(row.free_blocks),
                bytes(row.free_bytes),
            )),
            Span::styled(live, app.theme.fullness(1.0)),
            Span::styled("░".repeat(free.min(rest)), app.theme.fullness(0.0)),
        ])
    }));
    if lines.len() == 1 {
        lines.push(Line::raw("No heap was walked: see Why for the reason."));
    }
    lines
}

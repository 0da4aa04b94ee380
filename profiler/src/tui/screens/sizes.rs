//! Size classes, live and free.

use profiler_core::columns::{self, Column, TextColumn};
use profiler_core::report::SizeClassRow;
use profiler_core::view::View;
use ratatui::text::{Line, Span};

use super::bar;
use crate::tui::app::App;

/// The columns of figures, in their order.
const COLUMNS: [Column<SizeClassRow>; 5] = {
    let [live_blocks, live_bytes, free_blocks, free_bytes] = SizeClassRow::SHOWN;
    [
        SizeClassRow::UP_TO,
        live_blocks,
        live_bytes,
        free_blocks,
        free_bytes,
    ]
};

const ALLOCATOR: TextColumn = TextColumn::left("allocator", 10);
/// Between the figures and the bars.
const GAP: &str = "  ";

/// The order of the table.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::tui) struct Sort {
    /// The column by which it is sorted.
    column: usize,
    reversed: bool,
}

impl Sort {
    /// Sorts by the next column.
    pub(in crate::tui) fn next(&mut self) {
        self.column = (self.column + 1) % COLUMNS.len();
        // Sizes rise, amounts fall, until reversed.
        self.reversed = false;
    }

    /// Turns the order round.
    pub(in crate::tui) fn reverse(&mut self) {
        self.reversed = !self.reversed;
    }

    fn key(self, row: &SizeClassRow) -> u64 {
        let value = COLUMNS[self.column].amount(row).unwrap_or(0);
        if self.column == 0 {
            value
        } else {
            u64::MAX - value
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
    let figures: usize = COLUMNS.iter().map(|column| column.width).sum();
    let taken = ALLOCATOR.width + figures + GAP.len();
    let cells = usize::from(width).saturating_sub(taken).max(8);
    let titles = COLUMNS.iter().enumerate().map(|(at, column)| {
        column.heading(match (app.sort.column == at, app.sort.reversed) {
            (false, _) => "",
            (true, false) => "*",
            (true, true) => "*r",
        })
    });
    let titles: String = titles.collect();
    let mut lines = vec![Line::styled(
        format!("{}{titles}{GAP}live █ free ░", ALLOCATOR.heading()),
        app.theme.title(),
    )];
    lines.extend(rows.into_iter().map(|row| {
        let live = bar(row.live_bytes, most, cells);
        let rest = cells - live.chars().count().min(cells);
        let free = (row.free_bytes as f64 / most.max(1) as f64 * cells as f64).round() as usize;
        Line::from(vec![
            Span::raw(
                ALLOCATOR.cell(row.allocator.name()) + &columns::cells(&COLUMNS, row, "") + GAP,
            ),
            Span::styled(live, app.theme.fullness(1.0)),
            Span::styled("░".repeat(free.min(rest)), app.theme.fullness(0.0)),
        ])
    }));
    if lines.len() == 1 {
        lines.push(Line::raw("No heap was walked: Why has the reason."));
    }
    lines
}

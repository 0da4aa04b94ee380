//! The visible part of the map of the heap: cursor and zoom.

use crossterm::event::KeyCode;
use profiler_core::addr::{AddrRange, PAGE_SIZE};
use profiler_core::report::{MapExtent, MapPage};

/// Most pages in one cell: 2^16, that is 256 MiB.
const MAX_ZOOM: u32 = 16;

/// The cursor on the map, as a page counted over all extents in order, and the zoom.
#[derive(Clone, Debug, Default)]
pub(super) struct MapView {
    page: u64,
    /// Pages per cell, as an exponent of two; `None` shows everything that fits.
    zoom: Option<u32>,
}

/// A cell of the map: some pages of one extent.
#[derive(Copy, Clone, Debug)]
pub(super) struct Cell<'a> {
    pub(super) extent: &'a MapExtent,
    pub(super) range: AddrRange,
    pub(super) pages: &'a [MapPage],
}

/// The visible part of the map.
pub(super) struct Shown<'a> {
    /// Cells from the first visible row on, at most as many as fit.
    pub(super) cells: Vec<Cell<'a>>,
    /// Index of the cursor in `cells`.
    pub(super) cursor: usize,
    /// The number of cells above the first visible row, and in total.
    pub(super) before: u64,
    pub(super) total: u64,
    /// Pages in a cell.
    pub(super) pages_a_cell: u64,
}

impl Cell<'_> {
    /// Resident pages, swapped pages, and live bytes on both.
    pub(super) fn sums(&self) -> (u64, u64, u64) {
        self.pages
            .iter()
            .fold((0, 0, 0), |(resident, swapped, live), page| {
                (
                    resident + u64::from(page.state.is_resident()),
                    swapped + u64::from(page.state.is_swapped()),
                    live + if page.state.has_data() {
                        u64::from(page.live_bytes)
                    } else {
                        0
                    },
                )
            })
    }
}

impl MapView {
    /// Moves the cursor or zooms on a map drawn in `columns` × `rows`. Left and right move by a
    /// cell, up and down by a row, PgUp and PgDn by all rows.
    pub(super) fn press(&mut self, code: KeyCode, map: &[MapExtent], columns: u16, rows: u16) {
        let (columns, rows) = (u64::from(columns.max(1)), u64::from(rows.max(1)));
        let total: u64 = map.iter().map(|extent| extent.pages.len() as u64).sum();
        let zoom = self.zoom.unwrap_or_else(|| fitting(map, columns * rows));
        let cell = 1u64 << zoom;
        let row = cell * columns;
        let on = |by: u64| self.page.saturating_add(by);
        let back = |by: u64| self.page.saturating_sub(by);
        match code {
            KeyCode::Right | KeyCode::Char('l') => self.page = on(cell),
            KeyCode::Left => self.page = back(cell),
            KeyCode::Down | KeyCode::Char('j') => self.page = on(row),
            KeyCode::Up | KeyCode::Char('k') => self.page = back(row),
            KeyCode::PageDown => self.page = on(row * rows),
            KeyCode::PageUp => self.page = back(row * rows),
            KeyCode::Home => self.page = 0,
            KeyCode::End => self.page = total,
            KeyCode::Char('+' | '=') => self.zoom = Some(zoom.saturating_sub(1)),
            KeyCode::Char('-') => self.zoom = Some((zoom + 1).min(MAX_ZOOM)),
            KeyCode::Char('0') => self.zoom = None,
            _ => {}
        }
        self.page = self.page.min(total.saturating_sub(1));
    }

    /// The cells to draw in `columns` × `rows`.
    pub(super) fn visible_part<'a>(
        &self,
        map: &'a [MapExtent],
        columns: u16,
        rows: u16,
    ) -> Shown<'a> {
        let (columns, rows) = (u64::from(columns.max(1)), u64::from(rows.max(1)));
        let zoom = self.zoom.unwrap_or_else(|| fitting(map, columns * rows));
        let pages_a_cell = 1u64 << zoom;
        let cells_of = |extent: &MapExtent| (extent.pages.len() as u64).div_ceil(pages_a_cell);
        let total: u64 = map.iter().map(cells_of).sum();
        let mut cursor = 0;
        let mut page = self.page;
        for extent in map {
            let pages = extent.pages.len() as u64;
            if page < pages {
                cursor += page / pages_a_cell;
                break;
            }
            page -= pages;
            cursor += cells_of(extent);
        }
        let cursor = cursor.min(total.saturating_sub(1));
        let all_rows = total.div_ceil(columns);
        let first_row = (cursor / columns)
            .saturating_sub(rows / 2)
            .min(all_rows.saturating_sub(rows));
        let before = first_row * columns;
        let mut cells = Vec::new();
        let mut index = 0u64;
        for extent in map {
            let count = cells_of(extent);
            let from = before.saturating_sub(index);
            for cell in from..count {
                if cells.len() as u64 == columns * rows {
                    break;
                }
                cells.extend(self.cell(extent, cell * pages_a_cell, pages_a_cell));
            }
            index += count;
        }
        Shown {
            cells,
            cursor: (cursor - before) as usize,
            before,
            total,
            pages_a_cell,
        }
    }

    fn cell<'a>(&self, extent: &'a MapExtent, first: u64, count: u64) -> Option<Cell<'a>> {
        let end = (first + count).min(extent.pages.len() as u64);
        let pages = extent.pages.get(first as usize..end as usize)?;
        let start = extent.range.start().checked_add(first * PAGE_SIZE)?;
        let range = AddrRange::with_len(start, (end - first) * PAGE_SIZE)?;
        Some(Cell {
            extent,
            range,
            pages,
        })
    }
}

/// The smallest zoom at which the entire map takes at most `cells` cells.
fn fitting(map: &[MapExtent], cells: u64) -> u32 {
    let count = |zoom: u32| -> u64 {
        map.iter()
            .map(|extent| (extent.pages.len() as u64).div_ceil(1 << zoom))
            .sum()
    };
    (0..MAX_ZOOM)
        .find(|&zoom| count(zoom) <= cells)
        .unwrap_or(MAX_ZOOM)
}

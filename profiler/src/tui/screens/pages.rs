//! Pages by live bytes, and the map of the heap.

use profiler_core::addr::PAGE_SIZE;
use profiler_core::columns::TextColumn;
use profiler_core::heap::Allocator;
use profiler_core::report::{HugeOccupancyRow, OccupancyRow};
use profiler_core::units::{bytes, count, percent};
use profiler_core::view::View;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::bar;
use crate::tui::app::App;
use crate::tui::map_view::{Cell, Shown};
use crate::tui::theme::Theme;

/// Columns of the histogram on the left: a range of bytes or shares, how many there are, and a bar.
const LEFT: u16 = 36;
const RANGE: TextColumn = TextColumn::right("", 9);
const PAGES: TextColumn = TextColumn::right("", 8);

/// The areas of the histogram, the map's heading and the map.
fn areas(area: Rect) -> [Rect; 3] {
    let columns = [
        Constraint::Length(LEFT),
        Constraint::Length(1),
        Constraint::Min(0),
    ];
    let [left, _, right] = Layout::horizontal(columns).areas(area);
    let [head, map] = Layout::vertical([Constraint::Length(3), Constraint::Min(0)]).areas(right);
    [left, head, map]
}

/// The part of the screen that the map is drawn in.
pub(in crate::tui) fn map_area(area: Rect) -> Rect {
    areas(area)[2]
}

/// Draws the screen.
pub(in crate::tui) fn draw(app: &App, view: &View, frame: &mut Frame, area: Rect) {
    if view.report.map.is_empty() {
        let text = "No heap was walked, so the content of pages is unknown: Why has the reason.";
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let [left, head, map] = areas(area);
    let shown = app
        .map
        .visible_part(&view.report.map, map.width, map.height);
    frame.render_widget(Paragraph::new(heading(app, &shown)), head);
    frame.render_widget(Paragraph::new(cells(app.theme, &shown, map.width)), map);
    frame.render_widget(Paragraph::new(histogram(app, view, left.height)), left);
}

fn heading(app: &App, shown: &Shown<'_>) -> Vec<Line<'static>> {
    let size = bytes(shown.pages_a_cell * PAGE_SIZE);
    let end = shown.before + shown.cells.len() as u64;
    let mut first = format!("map: {size} per cell");
    if end - shown.before < shown.total {
        first += &format!(", {}-{end} of {}", shown.before + 1, shown.total);
    }
    let mut lines = vec![Line::styled(first, app.theme.title())];
    let Some(cell) = shown.cells.get(shown.cursor) else {
        return lines;
    };
    let (resident, swapped, live) = cell.sums();
    let pages = cell.pages.len();
    lines.push(Line::raw(format!(
        "{:#x}-{:#x} {} {}",
        cell.range.start().get(),
        cell.range.end().get(),
        cell.extent.allocator.name(),
        cell.extent.arena,
    )));
    let mut of_pages = format!("{}/{} pages in RSS", count(resident), count(pages as u64));
    if swapped > 0 {
        of_pages += &format!(", {} in swap", count(swapped));
    }
    if resident + swapped > 0 {
        of_pages += &format!(", {} live", percent(live, (resident + swapped) * PAGE_SIZE));
    }
    lines.push(Line::raw(of_pages));
    lines
}

fn cells(theme: Theme, shown: &Shown<'_>, width: u16) -> Vec<Line<'static>> {
    let width = usize::from(width.max(1));
    let rows = shown.cells.chunks(width).enumerate();
    rows.map(|(row, cells)| {
        let spans = cells.iter().enumerate().map(|(column, cell)| {
            let (glyph, style) = appearance(theme, cell);
            let here = row * width + column == shown.cursor;
            let style = if here {
                style.add_modifier(Modifier::REVERSED)
            } else {
                style
            };
            Span::styled(glyph, style)
        });
        Line::from(spans.collect::<Vec<_>>())
    })
    .collect()
}

/// A glyph that shows fullness without colour, and its colour.
fn appearance(theme: Theme, cell: &Cell<'_>) -> (&'static str, Style) {
    let (resident, swapped, live) = cell.sums();
    if resident + swapped == 0 {
        return ("·", theme.quiet());
    }
    let full = live as f64 / ((resident + swapped) * PAGE_SIZE) as f64;
    if swapped > resident {
        return ("s", theme.swapped());
    }
    let glyph = match full {
        0.0 => "○",
        f if f <= 0.25 => "░",
        f if f <= 0.5 => "▒",
        f if f <= 0.75 => "▓",
        _ => "█",
    };
    (glyph, theme.fullness(full))
}

/// One line of the histogram: a range of live bytes or shares, how many there are, how full they
/// are, and how many are in swap.
struct Bucket {
    label: String,
    resident: u64,
    full: f64,
    swapped: u64,
}

fn histogram(app: &App, view: &View, height: u16) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let theme = app.theme;
    let legend = [
        Line::raw("○ empty ░ ▒ ▓ █ fuller by quarters"),
        Line::raw("· not resident  s swapped"),
    ];
    let heaps = &view.report.heaps;
    let room = usize::from(height).saturating_sub(legend.len()) / heaps.len().max(1);
    for heap in heaps {
        let (what, buckets) = if app.by_huge {
            ("2 MiB ranges by live share", by_huge(view, heap.allocator))
        } else {
            ("pages by live bytes", by_page(view, heap.allocator, room))
        };
        let title = format!("{}: {what}", heap.allocator.name());
        lines.push(Line::styled(title, theme.title()));
        let most = buckets.iter().map(|bucket| bucket.resident).max();
        for bucket in &buckets {
            let label = RANGE.cell(&bucket.label) + &PAGES.cell(&count(bucket.resident)) + " ";
            let bar = bar(bucket.resident, most.unwrap_or(0), 12);
            let mut spans = vec![
                Span::raw(label),
                Span::styled(bar, theme.fullness(bucket.full)),
            ];
            if bucket.swapped > 0 {
                spans.push(Span::styled(
                    format!(" s{}", count(bucket.swapped)),
                    theme.swapped(),
                ));
            }
            lines.push(Line::from(spans));
        }
    }
    lines.extend(legend);
    lines
}

/// Pages by live bytes in at most `room` lines: if there are too many, adjacent buckets are merged,
/// except the empty pages.
fn by_page(view: &View, allocator: Allocator, room: usize) -> Vec<Bucket> {
    let rows = view.report.page_occupancy.iter();
    let rows: Vec<_> = rows.filter(|row| row.allocator == allocator).collect();
    let join = rows
        .len()
        .saturating_sub(1)
        .div_ceil(room.saturating_sub(2).max(1))
        .max(1);
    let groups = rows.iter().take(1).map(std::slice::from_ref);
    let groups = groups.chain(rows.get(1..).unwrap_or_default().chunks(join));
    let bucket = |group: &[&OccupancyRow]| {
        let (first, last) = (group.first()?, group.last()?);
        let label = if first.min_bytes == last.max_bytes {
            first.min_bytes.to_string()
        } else {
            format!("{}-{}", first.min_bytes, last.max_bytes)
        };
        Some(Bucket {
            label,
            resident: group.iter().map(|row| row.resident_pages).sum(),
            full: f64::from(first.min_bytes + last.max_bytes) / 2.0 / PAGE_SIZE as f64,
            swapped: group.iter().map(|row| row.swapped_pages).sum(),
        })
    };
    groups.filter_map(bucket).collect()
}

/// Ranges of 2 MiB by their live share; the tenths that none has are left out.
fn by_huge(view: &View, allocator: Allocator) -> Vec<Bucket> {
    let rows = view.report.huge_occupancy.iter();
    let rows = rows.filter(|row| row.allocator == allocator && row.ranges > 0);
    let bucket = |row: &HugeOccupancyRow| Bucket {
        label: match row.max_percent {
            0 => "0 %".to_owned(),
            most => format!("{}-{most} %", most - 10),
        },
        resident: row.ranges,
        full: f64::from(row.max_percent.saturating_sub(5)) / 100.0,
        swapped: 0,
    };
    rows.map(bucket).collect()
}

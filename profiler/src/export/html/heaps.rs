//! Each heap: arenas, size classes, pages and settings.

use std::cmp::Reverse;

use maud::{Markup, html};
use profiler_core::report::{ArenaReport, FragReport, HeapReport, OccupancyRow, SizeClassRow};
use profiler_core::text::visible;
use profiler_core::units::{bytes, count};

use super::Section;
use super::table::{Row, rest, table};
use crate::export::sentences;

/// Rows of a table at most.
const ROWS: usize = 24;

/// All heaps; `None` if none was walked.
pub(super) fn section(report: &FragReport) -> Option<Section> {
    if report.heaps.is_empty() {
        return None;
    }
    let body = html! {
        @for heap in &report.heaps {
            article {
                h3 { (visible(heap.title())) }
                p {
                    (bytes(heap.live_bytes)) " in " (count(heap.live_blocks)) " live blocks, "
                    (bytes(heap.free_bytes)) " free, " (bytes(heap.cached_bytes)) " cached"
                    @if heap.mapped_large_blocks > 0 {
                        ", and " (bytes(heap.mapped_large_bytes)) " in " (count(heap.mapped_large_blocks))
                        " large blocks, each with a mapping of its own; " (bytes(heap.mapped_large_resident_bytes))
                        " of that resident"
                    }
                    "."
                }
                @for sentence in sentences::of_heap(heap) {
                    p { (visible(&sentence)) }
                }
                (pages(report, heap))
                (size_classes(report, heap))
                (arenas(heap))
                (settings(heap))
            }
        }
    };
    Some(Section {
        id: "heaps",
        title: "Heaps",
        body,
    })
}

fn folded(title: &str, is_open: bool, body: &Markup) -> Markup {
    html! {
        details open[is_open] { summary { (title) } (body) }
    }
}

fn pages(report: &FragReport, heap: &HeapReport) -> Markup {
    let own = report.page_occupancy.iter();
    let own: Vec<&OccupancyRow> = own.filter(|row| row.allocator == heap.allocator).collect();
    let all: u64 = own.iter().map(|row| row.resident_pages).sum();
    let rows: Vec<_> = own
        .iter()
        .map(|row| {
            let name = match (row.min_bytes, row.max_bytes) {
                (min, max) if min == max => format!("{min} bytes live"),
                (min, max) => format!("{min} to {max} bytes live"),
            };
            Row::new(name, row.resident_pages, all, *row)
        })
        .collect();
    let columns: Vec<_> = OccupancyRow::COLUMNS.iter().collect();
    let body = table("pages with", &columns, &rows);
    html! { @if all > 0 { (folded("How full its pages are", true, &body)) } }
}

fn size_classes(report: &FragReport, heap: &HeapReport) -> Markup {
    let own = report.size_classes.iter();
    let mut own: Vec<&SizeClassRow> = own.filter(|row| row.allocator == heap.allocator).collect();
    own.sort_by_key(|row| Reverse(row.live_bytes + row.free_bytes));
    let all: u64 = own.iter().map(|row| row.live_bytes + row.free_bytes).sum();
    let mut shown = own.clone();
    shown.truncate(ROWS);
    shown.sort_by_key(|row| row.class.upper_bytes());
    let rows: Vec<_> = shown
        .iter()
        .map(|row| {
            let name = format!("up to {}", bytes(row.class.upper_bytes()));
            Row::new(name, row.live_bytes + row.free_bytes, all, *row)
        })
        .collect();
    let columns: Vec<_> = SizeClassRow::SHOWN.iter().collect();
    let body = html! {
        (table("size class", &columns, &rows))
        (rest(own.len(), rows.len(), "size classes"))
    };
    html! { @if !own.is_empty() { (folded("Size classes", true, &body)) } }
}

fn arenas(heap: &HeapReport) -> Markup {
    let mut own: Vec<&ArenaReport> = heap.arenas.iter().collect();
    own.sort_by_key(|arena| Reverse(arena.resident_bytes));
    let all: u64 = own.iter().map(|arena| arena.resident_bytes).sum();
    let rows: Vec<_> = own
        .iter()
        .take(ROWS)
        .map(|arena| {
            let name = format!("{} {}", arena.arena.id, arena.arena.kind.name());
            Row::new(name, arena.resident_bytes, all, *arena)
        })
        .collect();
    let columns: Vec<_> = ArenaReport::SHOWN.iter().collect();
    let body = html! {
        (table("arena", &columns, &rows))
        (rest(own.len(), rows.len(), "arenas"))
    };
    html! { @if !own.is_empty() { (folded("Arenas", own.len() > 1, &body)) } }
}

fn settings(heap: &HeapReport) -> Markup {
    let body = html! {
        div.wide { table {
            thead { tr { th scope="col" { "name" } th scope="col" { "value" } th scope="col" { "default" } } }
            tbody {
                @for setting in &heap.settings {
                    tr {
                        th scope="row" {
                            (visible(&setting.name)) @if setting.is_counter { " (counted)" }
                        }
                        td { (visible(setting.value_text())) }
                        td { @if let Some(default) = setting.default_text() { (visible(default)) } }
                    }
                }
            }
        } }
    };
    html! { @if !heap.settings.is_empty() { (folded("Settings in effect", false, &body)) } }
}

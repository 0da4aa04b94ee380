//! The heaps in the report for people: arenas, settings, size classes, pages.

use profiler_core::columns::{TextColumn, cells, headings};
use profiler_core::report::{ArenaReport, FragReport, HeapReport, OccupancyRow, SizeClassRow};
use profiler_core::units::{bytes, count, percent};

use super::{BAR, TOP_ROWS, Text, bar};
use crate::export::sentences;
use crate::hints::Hint;

const ARENA: TextColumn = TextColumn::left("arena", 12);
/// Of a size class's block bytes, those that are live.
const LIVE_SHARE: TextColumn = TextColumn::right("live share", 11);
/// For pages by live bytes.
const LIVE_BYTES: TextColumn = TextColumn::right("live bytes", 12);
const SHARE: TextColumn = TextColumn::right("share", 8);
/// Size classes shown of each allocator.
const TOP_CLASSES: usize = 8;

pub(super) fn heap(text: &mut Text, heap: &HeapReport) {
    text.title(&format!(
        "HEAP {}: {} in {} live blocks, {} free, {} cached",
        heap.title(),
        bytes(heap.live_bytes),
        count(heap.live_blocks),
        bytes(heap.free_bytes),
        bytes(heap.cached_bytes)
    ));
    if heap.mapped_large_blocks > 0 {
        text.line(&format!(
            "  and {} in {} large blocks, each with a mapping of its own; {} of that resident",
            bytes(heap.mapped_large_bytes),
            count(heap.mapped_large_blocks),
            bytes(heap.mapped_large_resident_bytes)
        ));
    }
    let titles = headings(&ArenaReport::SHOWN, " ");
    text.line(&format!("  {}{titles}", ARENA.heading()));
    let mut arenas: Vec<_> = heap.arenas.iter().collect();
    arenas.sort_by_key(|arena| std::cmp::Reverse(arena.resident_bytes));
    for report in arenas.iter().take(TOP_ROWS) {
        let arena = format!("{} {}", report.arena.id, report.arena.kind.name());
        let figures = cells(&ArenaReport::SHOWN, report, " ");
        text.line(&format!("  {}{figures}", ARENA.cell(&arena)));
    }
    if let Some(rest) = arenas.len().checked_sub(TOP_ROWS + 1) {
        text.line(&format!(
            "  and {} smaller arenas ({})",
            rest + 1,
            Hint::AllArenas.words()
        ));
    }
    for sentence in sentences::of_heap(heap) {
        text.paragraph("  ", &sentence);
    }
    text.blank();
}

pub(super) fn size_classes(text: &mut Text, report: &FragReport, heap: &HeapReport) {
    let rows = report.size_classes.iter();
    let mut rows: Vec<&SizeClassRow> = rows.filter(|row| row.allocator == heap.allocator).collect();
    if rows.is_empty() {
        return;
    }
    let all: u64 = rows.iter().map(|row| row.live_bytes + row.free_bytes).sum();
    rows.sort_by_key(|row| std::cmp::Reverse(row.live_bytes + row.free_bytes));
    rows.truncate(TOP_CLASSES);
    let shown: u64 = rows.iter().map(|row| row.live_bytes + row.free_bytes).sum();
    rows.sort_by_key(|row| row.class.upper_bytes());
    text.line(&format!(
        "  largest size classes of {} ({} of its block bytes)",
        heap.allocator.name(),
        percent(shown, all)
    ));
    let up_to = SizeClassRow::UP_TO;
    let titles = headings(&SizeClassRow::SHOWN, " ");
    text.line(&format!(
        "  {}{titles} {}",
        up_to.heading(""),
        LIVE_SHARE.heading()
    ));
    for row in rows {
        let figures = cells(&SizeClassRow::SHOWN, row, " ");
        let live = percent(row.live_bytes, row.live_bytes + row.free_bytes);
        text.line(&format!(
            "  {}{figures} {}",
            up_to.cell(row),
            LIVE_SHARE.cell(&live)
        ));
    }
    text.blank();
}

pub(super) fn occupancy(text: &mut Text, report: &FragReport, heap: &HeapReport) {
    let rows: Vec<_> = report
        .page_occupancy
        .iter()
        .filter(|row| row.allocator == heap.allocator)
        .collect();
    let resident: u64 = rows.iter().map(|row| row.resident_pages).sum();
    let swapped: u64 = rows.iter().map(|row| row.swapped_pages).sum();
    if resident + swapped == 0 {
        return;
    }
    text.line(&format!(
        "  pages of {} by live bytes on them",
        heap.allocator.name()
    ));
    let [in_memory, in_swap] = OccupancyRow::COLUMNS;
    text.line(&format!(
        "  {} {} {}  {} {}",
        LIVE_BYTES.heading(),
        in_memory.heading(""),
        SHARE.heading(),
        BAR.heading(),
        in_swap.heading("")
    ));
    for row in rows {
        let range = match (row.min_bytes, row.max_bytes) {
            (min, max) if min == max => min.to_string(),
            (min, max) => format!("{min}-{max}"),
        };
        text.line(&format!(
            "  {} {} {}  {} {}",
            LIVE_BYTES.cell(&range),
            in_memory.cell(row),
            SHARE.cell(&percent(row.resident_pages, resident)),
            BAR.cell(&bar(row.resident_pages, resident, BAR.width)),
            in_swap.cell(row)
        ));
    }
    let mut deciles = report.occupancy_deciles.iter();
    if let Some(deciles) = deciles.find(|deciles| deciles.allocator == heap.allocator) {
        let [tenth, .., nine_tenths] = deciles.live_bytes;
        text.line(&format!(
            "  live bytes on a page: 10th percentile {tenth}, median {}, 90th percentile {nine_tenths}",
            deciles.live_bytes[4]
        ));
    }
    huge_ranges(text, report, heap);
    text.blank();
}

/// How full the aligned ranges of 2 MiB are: what huge pages would hold, or do.
fn huge_ranges(text: &mut Text, report: &FragReport, heap: &HeapReport) {
    let rows = || {
        let rows = report.huge_occupancy.iter();
        rows.filter(|row| row.allocator == heap.allocator)
    };
    let all: u64 = rows().map(|row| row.ranges).sum();
    let half: u64 = rows()
        .filter(|row| row.max_percent <= 50)
        .map(|row| row.ranges)
        .sum();
    let huge: u64 = rows().map(|row| row.huge_bytes).sum();
    if all > 0 {
        text.line(&format!(
            "  of {} ranges of 2 MiB, {} are at most half live; {} are in huge pages",
            count(all),
            count(half),
            bytes(huge)
        ));
    }
}

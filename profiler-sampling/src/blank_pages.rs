//! Pages that are resident only because they are part of a huge page.
//!
//! The kernel fills a huge page (2 MiB) with zeros when its first byte is written, and all of it is resident
//! from then on. Which of its pages the program wrote, the page table does not say: it has one dirty bit for
//! the whole. What is left is their content, read while the target runs.

use profiler_core::addr::{AddrRange, PAGE_SIZE};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::TargetMemory;
use profiler_core::residency::{PageState, ResidencyMap};
use profiler_core::span::SpanState;

/// Live blocks in huge pages of fewer bytes are not looked at.
const LEAST_BYTES: u64 = 4 << 20;
/// No more is read, in bytes: some 0.3 s.
const MOST_BYTES: u64 = 1 << 30;
/// Read at a time, in bytes.
const PIECE: u64 = 2 << 20;
/// What a page holds that nobody wrote.
const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// Pages of live blocks that lie in huge pages and hold nothing but zeros, ascending. They are read where they
/// are resident, which changes nothing in the target.
pub(crate) fn find(
    memory: &impl TargetMemory,
    heaps: &[HeapSnapshot],
    residency: &ResidencyMap,
) -> Vec<AddrRange> {
    let to_read = live_in_huge_pages(heaps, residency);
    let bytes: u64 = to_read.iter().map(AddrRange::len).sum();
    let mut blank = Vec::new();
    if bytes < LEAST_BYTES {
        return blank;
    }
    let mut buffer = Vec::new();
    let mut left = MOST_BYTES;
    for range in to_read {
        let mut at = range.start();
        while at < range.end() && left > 0 {
            let len = PIECE.min(range.end().get() - at.get());
            buffer.resize(len as usize, 0);
            // What is unmapped meanwhile is not looked at.
            if memory.read(at, &mut buffer).is_ok() {
                let pages = buffer.chunks_exact(PAGE_SIZE as usize).zip(0..);
                let zeros = pages.filter(|(page, _)| *page == ZEROS);
                let range_of = |number: u64| {
                    AddrRange::with_len(at.checked_add(number * PAGE_SIZE)?, PAGE_SIZE)
                };
                blank.extend(zeros.filter_map(|(_, number)| range_of(number)));
            }
            left = left.saturating_sub(len);
            let Some(next) = at.checked_add(len) else {
                break;
            };
            at = next;
        }
    }
    blank
}

/// Whole pages of live blocks, in anonymous huge pages that no other process has; ascending, apart.
fn live_in_huge_pages(heaps: &[HeapSnapshot], residency: &ResidencyMap) -> Vec<AddrRange> {
    let is_own = |state: PageState| {
        state.is_huge() && state.is_resident() && !state.is_file() && !state.is_shared()
    };
    let extents = heaps.iter().flat_map(|heap| &heap.extents);
    let spans = extents.flat_map(|extent| extent.spans.iter(extent.range.start()));
    let live = spans.filter(|span| span.state == SpanState::Live);
    let pages = live.filter_map(|span| {
        let start = span.range.start().align_up(PAGE_SIZE)?;
        AddrRange::new(start, span.range.end().align_down(PAGE_SIZE))
    });
    let huge = pages.flat_map(|pages| residency.runs_in(pages));
    let mut all: Vec<AddrRange> = huge
        .filter(|run| is_own(run.state))
        .map(|run| run.range)
        .collect();
    all.sort_unstable();
    // A heap inside another's block lies in both.
    let mut end = None;
    all.retain(|range| {
        let is_apart = end.is_none_or(|end| end <= range.start());
        end = end.max(Some(range.end()));
        is_apart
    });
    all
}

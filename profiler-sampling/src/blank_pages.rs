//! Pages that are resident only because they are part of a huge page.
//!
//! The kernel fills a huge page (2 MiB) with zeros when its first byte is written, and all of it is
//! resident from then on. The page table does not say which 4 KiB pages the program wrote: it has
//! one dirty bit for the whole huge page. The only evidence left is their content, which is read
//! while the target runs.

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::{ResidentMemory, TargetMemory};
use profiler_core::residency::{Mapping, MappingKind, PageState, ResidencyMap};
use profiler_core::span::SpanState;
use profiler_target::{ReadTime, Target};

/// Heaps with fewer bytes of live blocks in huge pages are not examined.
const LEAST_BYTES: u64 = 4 << 20;
/// No more is read, in bytes: some 0.3 s.
const MAX_BYTES: u64 = 1 << 30;
/// Read at a time, in bytes.
const PIECE: u64 = 2 << 20;
/// The contents of a page that nobody wrote.
const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// Pages of live blocks that are in huge pages and contain only zeros, ascending. The target runs
/// meanwhile, so the present pages are determined again before each piece is read: reading brings
/// no page into memory.
pub(crate) fn find(
    target: &Target,
    heaps: &[HeapSnapshot],
    residency: &ResidencyMap,
    time: &ReadTime,
) -> Vec<AddrRange> {
    let to_read = live_in_huge_pages(heaps, residency);
    let bytes: u64 = to_read.iter().map(AddrRange::len).sum();
    let mut blank = Vec::new();
    if bytes < LEAST_BYTES {
        return blank;
    }
    let mut buffer = Vec::new();
    let mut left = MAX_BYTES;
    for piece in to_read.iter().flat_map(pieces) {
        if time.has_passed() {
            break;
        }
        let Some(rest) = left.checked_sub(piece.len()) else {
            break;
        };
        left = rest;
        let mapping = Mapping::private(piece, MappingKind::Anonymous);
        let Ok(now) = target.residency(&[mapping]) else {
            break;
        };
        let memory = ResidentMemory::new(target.memory(), &now);
        for run in now.runs_in(piece).filter(|run| is_own_huge(run.state)) {
            buffer.resize(run.range.len() as usize, 0);
            // Memory that was unmapped meanwhile is skipped.
            if memory.read(run.range.start(), &mut buffer).is_ok() {
                blank.extend(zeros(run.range.start(), &buffer));
            }
        }
    }
    blank
}

/// A range, some MiB at a time.
fn pieces(range: &AddrRange) -> impl Iterator<Item = AddrRange> + use<> {
    let range = *range;
    (0..range.len().div_ceil(PIECE)).filter_map(move |number| {
        let start = range.start().checked_add(number * PIECE)?;
        let end = start.checked_add(PIECE)?.min(range.end());
        AddrRange::new(start, end)
    })
}

/// Pages of nothing but zeros among those that were read from `start` on.
fn zeros(start: RemoteAddr, read: &[u8]) -> impl Iterator<Item = AddrRange> + '_ {
    let pages = (0..).zip(read.chunks_exact(PAGE_SIZE as usize));
    let pages = pages.filter(|(_, page)| *page == ZEROS);
    pages.filter_map(move |(number, _)| {
        AddrRange::with_len(start.checked_add(number * PAGE_SIZE)?, PAGE_SIZE)
    })
}

/// In an anonymous huge page that no other process has.
fn is_own_huge(state: PageState) -> bool {
    state.is_huge() && state.is_resident() && !state.is_file() && !state.is_shared()
}

/// Whole pages of live blocks, in anonymous huge pages that no other process has; ascending, apart.
fn live_in_huge_pages(heaps: &[HeapSnapshot], residency: &ResidencyMap) -> Vec<AddrRange> {
    let extents = heaps.iter().flat_map(|heap| &heap.extents);
    let spans = extents.flat_map(|extent| extent.spans.iter(extent.range.start()));
    let live = spans.filter(|span| span.state == SpanState::Live);
    let pages = live.filter_map(|span| {
        let start = span.range.start().align_up(PAGE_SIZE)?;
        AddrRange::new(start, span.range.end().align_down(PAGE_SIZE))
    });
    let huge = pages.flat_map(|pages| residency.runs_in(pages));
    let mut all: Vec<AddrRange> = huge
        .filter(|run| is_own_huge(run.state))
        .map(|run| run.range)
        .collect();
    all.sort_unstable();
    // A heap inside another heap's block is in both.
    let mut end = None;
    all.retain(|range| {
        let is_apart = end.is_none_or(|end| end <= range.start());
        end = end.max(Some(range.end()));
        is_apart
    });
    all
}

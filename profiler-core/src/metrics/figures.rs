//! Single figures: ratios and sums that say how the heap stands.

use crate::addr::PAGE_SIZE;
use crate::heap::Allocator;
use crate::metrics::pages::PageSlice;
use crate::report::{HeapReport, LedgerClass, LedgerRow, Metric};
use crate::sample::Sample;

/// What is counted over the heap's pages for the figures. Bytes are of resident pages unless said.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Figures {
    heap_bytes: u64,
    malloc_bytes: u64,
    live_bytes: u64,
    pymalloc_bytes: u64,
    pymalloc_live_bytes: u64,
    held_by_64: u64,
    held_by_512: u64,
    held_by_one: u64,
}

impl Figures {
    /// Counts the pages of a slice.
    pub(crate) fn page(&mut self, slice: &PageSlice) {
        let (pages, bytes) = (slice.pages(), slice.range.len());
        let taken = slice.state.is_resident() || slice.state.is_swapped();
        if taken && slice.owner.allocator != Allocator::Pymalloc {
            self.malloc_bytes += bytes;
        }
        if !slice.state.is_resident() {
            return;
        }
        let live = slice.tally.live();
        self.heap_bytes += bytes;
        self.live_bytes += pages * live;
        if slice.owner.allocator == Allocator::Pymalloc {
            self.pymalloc_bytes += bytes;
            self.pymalloc_live_bytes += pages * live;
        }
        if live > 0 {
            self.held_by_64 += if live <= 64 { bytes } else { 0 };
            self.held_by_512 += if live <= 512 { bytes } else { 0 };
            let one = slice.tally.live_blocks == 1 && live <= PAGE_SIZE / 2;
            self.held_by_one += if one { bytes } else { 0 };
        }
    }

    /// Resident and swapped bytes of pages that a malloc (not pymalloc) owns.
    pub(crate) fn malloc_bytes(&self) -> u64 {
        self.malloc_bytes
    }
}

/// All metrics, the most telling first. `trimmable` is what a trim would return, in bytes.
pub(crate) fn metrics(
    sample: &Sample,
    figures: &Figures,
    ledger: &[LedgerRow],
    heaps: &[HeapReport],
    trimmable: u64,
) -> Vec<Metric> {
    let row = |class: LedgerClass| ledger[class as usize];
    let walked = !heaps.is_empty();
    let known = |value: u64| walked.then_some(value as f64);
    let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let metric = |name, value, help| Metric { name, value, help };
    let fragments = [
        LedgerClass::Cached,
        LedgerClass::FreeTrimmable,
        LedgerClass::FreeStuck,
        LedgerClass::FreePinned,
        LedgerClass::Top,
        LedgerClass::PymallocFree,
    ];
    let swap_fragments: u64 = fragments.map(|class| row(class).swapped_bytes).iter().sum();
    let resident_fragments: u64 = fragments
        .map(|class| row(class).resident_bytes)
        .iter()
        .sum();
    let thread_arenas = heaps
        .iter()
        .flat_map(|h| &h.arenas)
        .filter(|a| a.arena.id != 0);
    let idle = thread_arenas.map(|a| a.resident_bytes.saturating_sub(a.arena.live_bytes));
    let malloc = || heaps.iter().filter(|h| h.allocator != Allocator::Pymalloc);
    let floor = figures.live_bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE;
    vec![
        metric(
            "utilisation",
            ratio(figures.live_bytes, figures.heap_bytes),
            "live bytes of each resident heap byte; below 0.7 something wastes pages",
        ),
        metric(
            "fragmentation_bytes",
            known(resident_fragments),
            "resident heap bytes that hold nothing live: all that a perfect allocator could save",
        ),
        metric(
            "pinned_free_bytes",
            known(row(LedgerClass::FreePinned).resident_bytes),
            "free bytes on pages kept by live blocks; only another allocator or shorter-lived \
             blocks cure it",
        ),
        metric(
            "trim_returnable_bytes",
            known(trimmable),
            "what malloc_trim(0) would return now, to the page; if large, trim after each peak",
        ),
        metric(
            "stuck_free_bytes",
            known(row(LedgerClass::FreeStuck).resident_bytes),
            "whole free pages that no trim returns",
        ),
        metric(
            "cached_bytes",
            known(row(LedgerClass::Cached).resident_bytes),
            "freed blocks kept in tcache and fastbins; small unless there are many threads",
        ),
        metric(
            "compaction_floor_bytes",
            known(floor),
            "the fewest whole pages that hold the same live bytes: no allocator gets below it",
        ),
        metric(
            "held_by_64_bytes_pages",
            known(figures.held_by_64 / PAGE_SIZE),
            "resident pages kept by 64 live bytes or fewer; many of them are the cheapest to free",
        ),
        metric(
            "held_by_512_bytes_pages",
            known(figures.held_by_512 / PAGE_SIZE),
            "resident pages kept by 512 live bytes or fewer",
        ),
        metric(
            "held_by_one_block_pages",
            known(figures.held_by_one / PAGE_SIZE),
            "resident pages kept by one block that fills less than half",
        ),
        metric(
            "pymalloc_utilisation",
            ratio(figures.pymalloc_live_bytes, figures.pymalloc_bytes),
            "live bytes of each resident byte of Python's small-object arenas; jemalloc does not \
             change it",
        ),
        metric(
            "heap_share_of_rss",
            walked
                .then(|| ratio(figures.heap_bytes, sample.kernel.rss_bytes))
                .flatten(),
            "how much of RSS is heap at all; below 0.5 look at files and libraries first",
        ),
        metric(
            "swap_fragmentation_bytes",
            known(swap_fragments),
            "bytes in swap that hold nothing live: harmless to leave there",
        ),
        metric(
            "malloc_arenas",
            malloc()
                .next()
                .map(|_| malloc().map(|h| h.arenas.len()).sum::<usize>() as f64),
            "arenas of malloc; far more than busy threads: lower MALLOC_ARENA_MAX",
        ),
        metric(
            "largest_idle_arena_bytes",
            idle.max().map(|bytes| bytes as f64),
            "resident and not live in the idlest thread arena",
        ),
        metric(
            "internal_slop_bytes",
            None,
            "bytes in live blocks that were not asked for: a walk cannot know what was asked for",
        ),
    ]
}

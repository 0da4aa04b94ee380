//! Single figures: ratios and sums that say how the heap stands.

use crate::addr::PAGE_SIZE;
use crate::heap::Allocator;
use crate::metrics::huge::HUGE_PAGE;
use crate::metrics::malloc_resident;
use crate::metrics::pages::{PageSlice, Use};
use crate::report::{HeapReport, HugeOccupancyRow, LedgerClass, LedgerRow, Metric};
use crate::sample::Sample;
use crate::span::{Span, SpanState};

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
    occupied: u64,
}

impl Figures {
    /// Counts the pages of a slice.
    pub(crate) fn page(&mut self, slice: &PageSlice) {
        let (pages, bytes) = (slice.pages(), slice.range.len());
        let taken = slice.state.is_resident() || slice.state.is_swapped();
        if taken && slice.owner.allocator != Allocator::Pymalloc {
            // Blocks that could not be read are in no packing, so their bytes are not either.
            self.malloc_bytes += bytes - pages * slice.tally.of(Use::Unknown);
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
            self.occupied += bytes;
            self.held_by_64 += if live <= 64 { bytes } else { 0 };
            self.held_by_512 += if live <= 512 { bytes } else { 0 };
            let one = slice.tally.live_blocks == 1 && live <= PAGE_SIZE / 2;
            self.held_by_one += if one { bytes } else { 0 };
        }
    }

    /// Resident and swapped bytes of pages that a malloc (not pymalloc) owns, without those whose
    /// use could not be told.
    pub(crate) fn malloc_bytes(&self) -> u64 {
        self.malloc_bytes
    }
}

/// glibc's mmap threshold before it adapts (`malloc/malloc.c`, `DEFAULT_MMAP_THRESHOLD_MIN`).
const INITIAL_MMAP_THRESHOLD: u64 = 128 << 10;

/// Resident bytes of free chunks so large that a fixed mmap threshold would have given the blocks
/// mappings of their own.
fn large_free(sample: &Sample) -> u64 {
    let heaps = sample.heaps.iter();
    let extents = heaps
        .filter(|heap| heap.allocator == Allocator::Glibc)
        .flat_map(|heap| &heap.extents);
    let spans = extents.flat_map(|extent| extent.spans.iter(extent.range.start()));
    let large = spans
        .filter(|span| span.state == SpanState::Free && span.range.len() > INITIAL_MMAP_THRESHOLD);
    let resident = |span: Span| {
        let runs = sample.residency.runs_in(span.range);
        let resident = runs.filter(|run| run.state.is_resident());
        resident.map(|run| run.range.len()).sum::<u64>()
    };
    large.map(resident).sum()
}

/// All metrics, the most telling first. `trimmable` is what a trim would return, in bytes.
pub(crate) fn metrics(
    sample: &Sample,
    figures: &Figures,
    ledger: &[LedgerRow],
    heaps: &[HeapReport],
    huge: &[HugeOccupancyRow],
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
        .filter(|h| h.allocator == Allocator::Glibc)
        .flat_map(|h| &h.arenas)
        .filter(|a| a.arena.id != 0);
    let idle = thread_arenas.map(|a| a.resident_bytes.saturating_sub(a.arena.live_bytes));
    let malloc = || heaps.iter().filter(|h| h.allocator != Allocator::Pymalloc);
    let floor = |page: u64| figures.live_bytes.div_ceil(page) * page;
    let occupied_huge = huge.iter().filter(|row| row.max_percent > 0);
    let occupied_huge: u64 = occupied_huge.map(|row| row.resident_bytes).sum();
    let backed: u64 = huge.iter().map(|row| row.huge_bytes).sum();
    let grows = || malloc().flat_map(|h| &h.arenas);
    let swap_unknown = row(LedgerClass::Unknown).swapped_bytes;
    let fork = sample.fork;
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
            known(floor(PAGE_SIZE)),
            "the fewest whole pages that hold the same live bytes: no allocator gets below it",
        ),
        metric(
            "compaction_floor_2m_bytes",
            known(floor(HUGE_PAGE)),
            "the same in huge pages of 2 MiB",
        ),
        metric(
            "purge_floor_bytes",
            known(figures.occupied),
            "resident pages that hold anything live: what is left when every free page is \
             returned and no block moves",
        ),
        metric(
            "purge_floor_2m_bytes",
            known(occupied_huge),
            "the same when memory can only be returned 2 MiB at a time (huge pages)",
        ),
        metric(
            "large_free_bytes",
            known(large_free(sample)),
            "resident in free chunks above 128 KiB, glibc's first mmap threshold: with the threshold \
             fixed they would have gone back when they were freed",
        ),
        metric(
            "huge_backed_bytes",
            known(backed),
            "resident heap bytes in huge pages; with much free memory in them, try \
             transparent_hugepage=madvise",
        ),
        metric(
            "below_highest_live_bytes",
            known(grows().map(|a| a.below_highest_live_bytes).sum()),
            "free bytes below the highest live block of brk and thread heaps: an automatic trim \
             never reaches them",
        ),
        metric(
            "top_pinned_bytes",
            known(grows().map(|a| a.top_pinned_bytes).sum()),
            "free pages that would return by themselves, were it not for a few blocks (4 KiB in \
             all) above them",
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
            "malloc_resident_bytes",
            Some(malloc_resident(&sample.residency, &sample.heaps).resident_bytes as f64),
            "what malloc has resident, by a definition that holds under every allocator: the \
             figure by which replays are compared",
        ),
        metric(
            "swap_fragmentation_bytes",
            known(swap_fragments),
            "bytes in swap known to hold nothing live: harmless to leave there",
        ),
        metric(
            "swap_unknown_bytes",
            known(swap_unknown),
            "bytes in swap that were not read, so that any part of them may be fragmentation too",
        ),
        metric(
            "fork_shared_bytes",
            fork.map(|fork| fork.shared_bytes as f64),
            "resident anonymous bytes still shared with the parent since the fork",
        ),
        metric(
            "fork_copied_bytes",
            fork.map(|fork| fork.copied_bytes as f64),
            "resident anonymous bytes that both have a copy of their own of: sharing that writes \
             broke (gc.freeze() before forking keeps more)",
        ),
        metric(
            "mem_fragmentation_ratio",
            ratio(sample.kernel.rss_bytes, figures.live_bytes),
            "Redis's name: RSS ÷ live bytes; above 1.5 look at the ledger",
        ),
        metric(
            "allocator_frag_ratio",
            ratio(figures.occupied, figures.live_bytes),
            "Redis's name, jemalloc's active ÷ allocated: pages in use ÷ live bytes; what only \
             moving blocks cures",
        ),
        metric(
            "allocator_rss_ratio",
            ratio(figures.heap_bytes, figures.occupied),
            "Redis's name, jemalloc's resident ÷ active: heap pages ÷ pages in use; what a purge \
             or trim cures",
        ),
        metric(
            "rss_overhead_ratio",
            ratio(sample.kernel.rss_bytes, figures.heap_bytes),
            "Redis's name: RSS ÷ heap pages; far above 1, the memory is not the heap's",
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

//! Single figures: ratios and sums that say how the heap stands.

use crate::addr::PAGE_SIZE;
use crate::allocator::MMAP_THRESHOLDS;
use crate::heap::Allocator;
use crate::metrics::huge::HUGE_PAGE;
use crate::metrics::malloc_resident;
use crate::metrics::pages::{PageSlice, Use};
use crate::metrics::{Metric, MetricId};
use crate::report::{HeapReport, HugeOccupancyRow, LedgerClass, LedgerPart, LedgerRow};
use crate::sample::Sample;
use crate::span::{Span, SpanState};
use crate::units::Value;

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
        if slice.state.has_data() && slice.owner.allocator != Allocator::Pymalloc {
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

    /// Live bytes on resident heap pages; `None` when no heap has any.
    pub(crate) fn live_bytes(&self) -> Option<u64> {
        (self.heap_bytes > 0).then_some(self.live_bytes)
    }

    /// Resident and swapped bytes of pages that a malloc (not pymalloc) owns, without those whose
    /// use could not be determined.
    pub(crate) fn malloc_bytes(&self) -> u64 {
        self.malloc_bytes
    }
}

/// Resident bytes of free chunks so large that a fixed mmap threshold would have given the blocks
/// mappings of their own.
fn large_free(sample: &Sample) -> u64 {
    let heaps = sample.heaps.iter();
    let extents = heaps
        .filter(|heap| heap.allocator == Allocator::Glibc)
        .flat_map(|heap| &heap.extents);
    let spans = extents.flat_map(|extent| extent.spans.iter(extent.range.start()));
    let large = spans.filter(|span| {
        span.state == SpanState::Free && span.range.len() > *MMAP_THRESHOLDS.start()
    });
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
    let known = |value: u64| walked.then_some(value);
    // A core says of its pages only whether they are there.
    let of_page_table = |value: u64| known(value).filter(|_| !sample.kernel.is_core);
    let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let whole = |id, value: Option<u64>| Metric {
        id,
        value: value.map(Value::Whole),
    };
    let fraction = |id, value: Option<f64>| Metric {
        id,
        value: value.map(Value::Fraction),
    };
    let fragments = || {
        let classes = LedgerClass::ALL.into_iter();
        classes.filter(|class| class.part() == LedgerPart::Fragmentation)
    };
    let swap_fragments: u64 = fragments().map(|class| row(class).swapped_bytes).sum();
    let resident_fragments: u64 = fragments().map(|class| row(class).resident_bytes).sum();
    let thread_arenas = heaps
        .iter()
        .filter(|h| h.allocator == Allocator::Glibc)
        .flat_map(|h| &h.arenas)
        .filter(|a| a.arena.id != 0);
    let idle = thread_arenas.map(|a| a.resident_bytes.saturating_sub(a.arena.live_bytes));
    let malloc = || heaps.iter().filter(|heap| heap.serves_malloc());
    let floor = |page: u64| figures.live_bytes.div_ceil(page) * page;
    let occupied_huge = huge.iter().filter(|row| row.max_percent > 0);
    let occupied_huge: u64 = occupied_huge.map(|row| row.resident_bytes).sum();
    let backed: u64 = huge.iter().map(|row| row.huge_bytes).sum();
    let blank = sample.residency.runs().iter();
    let blank = blank.filter(|run| run.state.is_blank());
    let blank = blank.map(|run| run.range.len()).sum();
    let grows = || malloc().flat_map(|h| &h.arenas);
    let swap_unknown = row(LedgerClass::Unknown).swapped_bytes;
    let fork = sample.fork;
    vec![
        fraction(
            MetricId::Utilisation,
            ratio(figures.live_bytes, figures.heap_bytes),
        ),
        whole(MetricId::FragmentationBytes, known(resident_fragments)),
        whole(
            MetricId::PinnedFreeBytes,
            known(row(LedgerClass::FreePinned).resident_bytes),
        ),
        whole(MetricId::TrimReturnableBytes, known(trimmable)),
        whole(
            MetricId::StuckFreeBytes,
            known(row(LedgerClass::FreeStuck).resident_bytes),
        ),
        whole(
            MetricId::CachedBytes,
            known(row(LedgerClass::Cached).resident_bytes),
        ),
        whole(MetricId::CompactionFloorBytes, known(floor(PAGE_SIZE))),
        whole(MetricId::CompactionFloor2mBytes, known(floor(HUGE_PAGE))),
        whole(MetricId::PurgeFloorBytes, known(figures.occupied)),
        whole(MetricId::PurgeFloor2mBytes, known(occupied_huge)),
        whole(MetricId::LargeFreeBytes, known(large_free(sample))),
        whole(MetricId::HugeBackedBytes, of_page_table(backed)),
        whole(MetricId::BlankBytes, of_page_table(blank)),
        whole(
            MetricId::BelowHighestLiveBytes,
            known(grows().map(|a| a.below_highest_live_bytes).sum()),
        ),
        whole(
            MetricId::TopPinnedBytes,
            known(grows().map(|a| a.top_pinned_bytes).sum()),
        ),
        whole(
            MetricId::HeldBy64BytesPages,
            known(figures.held_by_64 / PAGE_SIZE),
        ),
        whole(
            MetricId::HeldBy512BytesPages,
            known(figures.held_by_512 / PAGE_SIZE),
        ),
        whole(
            MetricId::HeldByOneBlockPages,
            known(figures.held_by_one / PAGE_SIZE),
        ),
        fraction(
            MetricId::PymallocUtilisation,
            ratio(figures.pymalloc_live_bytes, figures.pymalloc_bytes),
        ),
        fraction(
            MetricId::HeapShareOfRss,
            walked
                .then(|| ratio(figures.heap_bytes, sample.kernel.rss_bytes))
                .flatten(),
        ),
        whole(
            MetricId::MallocResidentBytes,
            Some(malloc_resident(&sample.residency, &sample.heaps).resident_bytes),
        ),
        whole(
            MetricId::SwapFragmentationBytes,
            of_page_table(swap_fragments),
        ),
        whole(MetricId::SwapUnknownBytes, of_page_table(swap_unknown)),
        whole(
            MetricId::ForkSharedBytes,
            fork.map(|fork| fork.shared_bytes),
        ),
        whole(
            MetricId::ForkCopiedBytes,
            fork.map(|fork| fork.copied_bytes),
        ),
        fraction(
            MetricId::MemFragmentationRatio,
            ratio(sample.kernel.rss_bytes, figures.live_bytes),
        ),
        fraction(
            MetricId::AllocatorFragRatio,
            ratio(figures.occupied, figures.live_bytes),
        ),
        fraction(
            MetricId::AllocatorRssRatio,
            ratio(figures.heap_bytes, figures.occupied),
        ),
        fraction(
            MetricId::RssOverheadRatio,
            ratio(sample.kernel.rss_bytes, figures.heap_bytes),
        ),
        whole(
            MetricId::MallocArenas,
            malloc()
                .next()
                .map(|_| malloc().map(|h| h.arenas.len() as u64).sum()),
        ),
        whole(MetricId::LargestIdleArenaBytes, idle.max()),
        whole(MetricId::InternalSlopBytes, None),
    ]
}

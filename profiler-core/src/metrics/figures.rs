//! Single figures: ratios and sums that describe the state of the heap.

use crate::allocator::MMAP_THRESHOLDS;
use crate::fork::ForkSharing;
use crate::heap::Allocator;
use crate::metrics::huge::HUGE_PAGE;
use crate::metrics::malloc_resident;
use crate::metrics::pages::{PageSlice, Use};
use crate::metrics::{Metric, MetricId};
use crate::sample::Sample;
use crate::span::{Span, SpanState};
use crate::tables::{
    ArenaReport, HeapReport, HugeOccupancyRow, LedgerClass, LedgerPart, LedgerRow,
};
use crate::units::Value;

/// Sums over the heap's pages for the figures, in bytes of resident pages unless stated otherwise.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct PageTotals {
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

impl PageTotals {
    /// Counts the pages of a slice.
    pub(crate) fn page(&mut self, slice: &PageSlice) {
        let (pages, bytes) = (slice.pages(), slice.range.len());
        if slice.state.has_data() && slice.owner.allocator != Allocator::Pymalloc {
            // Unreadable blocks are in no packing, so their bytes are left out too.
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
            let one = slice.tally.live_blocks == 1 && live <= slice.page_size.bytes() / 2;
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

/// Resident bytes of free chunks that are large enough that, with a fixed mmap threshold, their
/// blocks would have had mappings of their own. `None` if glibc serves no heap: other allocators
/// have no such threshold.
fn large_free(sample: &Sample) -> Option<u64> {
    let heaps = sample.heaps.iter();
    let mut heaps = heaps
        .filter(|heap| heap.allocator == Allocator::Glibc)
        .peekable();
    heaps.peek()?;
    let extents = heaps.flat_map(|heap| &heap.extents);
    let spans = extents.flat_map(|extent| extent.spans.iter(extent.range.start()));
    let large = spans.filter(|span| {
        span.state == SpanState::Free && span.range.len() > *MMAP_THRESHOLDS.start()
    });
    let resident = |span: Span| {
        let runs = sample.residency.runs_in(span.range);
        let resident = runs.filter(|run| run.state.is_resident());
        resident.map(|run| run.range.len()).sum::<u64>()
    };
    Some(large.map(resident).sum())
}

/// The input of one sample's metrics.
pub(crate) struct MetricInputs<'a> {
    pub(crate) sample: &'a Sample,
    pub(crate) figures: &'a PageTotals,
    pub(crate) ledger: &'a [LedgerRow],
    pub(crate) heaps: &'a [HeapReport],
    pub(crate) huge: &'a [HugeOccupancyRow],
    /// Bytes that a trim would return.
    pub(crate) trimmable: u64,
}

impl MetricInputs<'_> {
    fn row(&self, class: LedgerClass) -> LedgerRow {
        self.ledger[class as usize]
    }

    /// A sum over the classes of the ledger that are fragmentation.
    fn fragmentation(&self, bytes: fn(&LedgerRow) -> u64) -> u64 {
        let classes = LedgerClass::ALL.into_iter();
        let fragments = classes.filter(|class| class.part() == LedgerPart::Fragmentation);
        fragments.map(|class| bytes(&self.row(class))).sum()
    }

    /// The heaps that serve malloc.
    fn mallocs(&self) -> impl Iterator<Item = &HeapReport> {
        self.heaps.iter().filter(|heap| heap.serves_malloc())
    }

    /// A sum over malloc's arenas.
    fn of_arenas(&self, bytes: fn(&ArenaReport) -> u64) -> u64 {
        self.mallocs()
            .flat_map(|heap| &heap.arenas)
            .map(bytes)
            .sum()
    }

    /// The number of malloc's arenas; `None` if none of its heaps was walked.
    fn malloc_arenas(&self) -> Option<u64> {
        let counts = self.mallocs().map(|heap| heap.arenas.len() as u64);
        counts.reduce(|all, one| all + one)
    }

    /// Resident bytes that are not live in the idlest of glibc's thread arenas.
    fn largest_idle_arena(&self) -> Option<u64> {
        let glibc = self.heaps.iter();
        let glibc = glibc.filter(|heap| heap.allocator == Allocator::Glibc);
        let threads = glibc.flat_map(HeapReport::thread_arenas);
        threads.map(ArenaReport::idle_bytes).max()
    }

    /// Bytes of pages that hold nothing but zeros.
    fn blank_bytes(&self) -> u64 {
        let runs = self.sample.residency.runs().iter();
        let blank = runs.filter(|run| run.state.is_blank());
        blank.map(|run| run.range.len()).sum()
    }

    /// Resident bytes of the ranges of 2 MiB that hold anything live.
    fn occupied_huge_bytes(&self) -> u64 {
        let occupied = self.huge.iter().filter(|row| row.max_percent > 0);
        occupied.map(|row| row.resident_bytes).sum()
    }

    /// All metrics of one sample, in the order of their declaration.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let all = MetricId::ALL.iter();
        all.filter_map(|&id| self.metric(id)).collect()
    }

    /// One metric; `None` if it belongs to a session and not to a sample. Every metric's value is
    /// computed only here, and the compiler reports a missing one.
    fn metric(&self, id: MetricId) -> Option<Metric> {
        use MetricId as Id;
        let of = self.figures;
        let rss = self.sample.kernel.rss_bytes;
        let page_bytes = self.sample.residency.page_size().bytes();
        let value = match id {
            Id::Utilisation => ratio(of.live_bytes, of.heap_bytes),
            Id::FragmentationBytes => self.known(self.fragmentation(|row| row.resident_bytes)),
            Id::PinnedFreeBytes => self.resident(LedgerClass::FreePinned),
            Id::TrimReturnableBytes => self.known(self.trimmable),
            Id::StuckFreeBytes => self.resident(LedgerClass::FreeStuck),
            Id::CachedBytes => self.resident(LedgerClass::Cached),
            Id::CompactionFloorBytes => self.floor(page_bytes),
            Id::CompactionFloor2mBytes => self.floor(HUGE_PAGE),
            Id::PurgeFloorBytes => self.known(of.occupied),
            Id::PurgeFloor2mBytes => self.known(self.occupied_huge_bytes()),
            Id::LargeFreeBytes => large_free(self.sample).and_then(|bytes| self.known(bytes)),
            Id::HugeBackedBytes => self.of_page_table(self.huge_backed_bytes()),
            Id::BlankBytes => self.of_page_table(self.blank_bytes()),
            Id::BelowHighestLiveBytes => {
                self.known(self.of_arenas(|arena| arena.below_highest_live_bytes))
            }
            Id::TopPinnedBytes => self.known(self.of_arenas(|arena| arena.top_pinned_bytes)),
            Id::HeldBy64BytesPages => self.known(of.held_by_64 / page_bytes),
            Id::HeldBy512BytesPages => self.known(of.held_by_512 / page_bytes),
            Id::HeldByOneBlockPages => self.known(of.held_by_one / page_bytes),
            Id::PymallocUtilisation => ratio(of.pymalloc_live_bytes, of.pymalloc_bytes),
            Id::HeapShareOfRss => ratio(of.heap_bytes, rss).filter(|_| self.is_walked()),
            Id::MallocResidentBytes => Some(Value::Whole(self.malloc_resident_bytes())),
            Id::SwapFragmentationBytes => {
                self.of_page_table(self.fragmentation(|row| row.swapped_bytes))
            }
            Id::SwapUnknownBytes => {
                self.of_page_table(self.row(LedgerClass::Unknown).swapped_bytes)
            }
            Id::ForkSharedBytes => self.of_fork(|fork| fork.shared_bytes),
            Id::ForkCopiedBytes => self.of_fork(|fork| fork.copied_bytes),
            Id::MemFragmentationRatio => ratio(rss, of.live_bytes),
            Id::AllocatorFragRatio => ratio(of.occupied, of.live_bytes),
            Id::AllocatorRssRatio => ratio(of.heap_bytes, of.occupied),
            Id::RssOverheadRatio => ratio(rss, of.heap_bytes),
            Id::MallocArenas => self.malloc_arenas().map(Value::Whole),
            Id::LargestIdleArenaBytes => self.largest_idle_arena().map(Value::Whole),
            Id::InternalSlopBytes => None,
            Id::JohnstoneWilson1
            | Id::JohnstoneWilson2
            | Id::JohnstoneWilson3
            | Id::JohnstoneWilson4 => return None,
        };
        Some(Metric { id, value })
    }

    fn is_walked(&self) -> bool {
        !self.heaps.is_empty()
    }

    /// A value that is known if a heap was walked.
    fn known(&self, value: u64) -> Option<Value> {
        self.is_walked().then_some(Value::Whole(value))
    }

    /// A value that is known if a heap of a live process was walked: a core only shows whether a
    /// page exists.
    fn of_page_table(&self, value: u64) -> Option<Value> {
        self.known(value).filter(|_| !self.sample.kernel.is_core)
    }

    fn resident(&self, class: LedgerClass) -> Option<Value> {
        self.known(self.row(class).resident_bytes)
    }

    /// The smallest number of whole pages of this size that could hold the live bytes.
    fn floor(&self, page: u64) -> Option<Value> {
        self.known(self.figures.live_bytes.div_ceil(page) * page)
    }

    fn huge_backed_bytes(&self) -> u64 {
        self.huge.iter().map(|row| row.huge_bytes).sum()
    }

    fn malloc_resident_bytes(&self) -> u64 {
        malloc_resident(&self.sample.residency, &self.sample.heaps).resident_bytes
    }

    fn of_fork(&self, bytes: fn(&ForkSharing) -> u64) -> Option<Value> {
        let fork = self.sample.fork.as_ref();
        fork.map(|fork| Value::Whole(bytes(fork)))
    }
}

fn ratio(part: u64, whole: u64) -> Option<Value> {
    (whole > 0).then(|| Value::Fraction(part as f64 / whole as f64))
}

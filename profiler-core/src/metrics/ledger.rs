//! The ledger: every resident and swapped byte in one class, summing to the kernel's account.

use crate::addr::AddrRange;
use crate::metrics::pages::{PageSlice, Use};
use crate::residency::{Mapping, MappingKind, PageState};
use crate::sample::Sample;
use crate::tables::{LedgerClass, LedgerRow};

/// Adds pages up into classes.
pub(crate) struct Ledger<'a> {
    sample: &'a Sample,
    rows: [LedgerRow; LedgerClass::ALL.len()],
    /// Bytes that a trim would return: resident, not zero, by heap.
    pub(crate) trimmable: Vec<u64>,
    next_trimmable: Vec<usize>,
}

impl<'a> Ledger<'a> {
    /// A ledger in which every page belongs to its mapping's class, before heaps claim theirs.
    pub(crate) fn new(sample: &'a Sample) -> Self {
        let rows = LedgerClass::ALL.map(LedgerRow::empty);
        let heaps = sample.heaps.len();
        let mut ledger = Self {
            sample,
            rows,
            trimmable: vec![0; heaps],
            next_trimmable: vec![0; heaps],
        };
        for mapping in sample.residency.mappings() {
            for run in sample.residency.runs_in(mapping.range) {
                let class = class_of(mapping, run.state);
                ledger.add(class, run.range.len(), run.state);
            }
        }
        ledger
    }

    /// Moves claimed pages from their mapping's class to the classes given by the heap for each
    /// byte. Returns how many of these bytes a trim would return.
    pub(crate) fn page(&mut self, slice: &PageSlice) -> u64 {
        if !slice.state.is_resident() && !slice.state.is_swapped() {
            return 0;
        }
        let Some(mapping) = self.sample.residency.mapping_at(slice.range.start()) else {
            return 0;
        };
        let class = class_of(mapping, slice.state);
        let (pages, page_bytes) = (slice.pages(), slice.page_size.bytes());
        let tally = &slice.tally;
        self.take(class, slice.range.len(), slice.state);
        self.add(class, pages * (page_bytes - tally.claimed()), slice.state);
        if slice.owner.is_private {
            let bytes = pages * tally.claimed();
            self.add(LedgerClass::PrivateHeap, bytes, slice.state);
            return self.given_back(slice);
        }
        let plain = [
            (Use::Live, LedgerClass::Live),
            (Use::Header, LedgerClass::AllocatorMetadata),
            (Use::Metadata, LedgerClass::AllocatorMetadata),
            (Use::Top, LedgerClass::Top),
            (Use::Unknown, LedgerClass::Unknown),
            (Use::PymallocLive, LedgerClass::PymallocLive),
            (Use::PymallocFree, LedgerClass::PymallocFree),
            (Use::Large, LedgerClass::LargeMapped),
        ];
        for (what, class) in plain {
            self.add(class, pages * tally.of(what), slice.state);
        }
        let trimmable = self.trimmable_in(slice);
        let free = tally.of(Use::Free) + tally.of(Use::Retained);
        let cached = tally.of(Use::Cached);
        // A trim consolidates fastbin chunks, so pages that it returns may also contain cached
        // bytes.
        let given_back = trimmable / page_bytes;
        self.add(
            LedgerClass::FreeTrimmable,
            given_back * (free + cached),
            slice.state,
        );
        let kept = pages - given_back;
        self.add(LedgerClass::Cached, kept * cached, slice.state);
        let class = match free == page_bytes {
            true => LedgerClass::FreeStuck,
            false => LedgerClass::FreePinned,
        };
        self.add(class, kept * free, slice.state);
        self.note_trimmable(slice, trimmable)
    }

    /// Bytes of the slice in memory that the heap's trim would return, added up.
    fn given_back(&mut self, slice: &PageSlice) -> u64 {
        let trimmable = self.trimmable_in(slice);
        self.note_trimmable(slice, trimmable)
    }

    fn note_trimmable(&mut self, slice: &PageSlice, trimmable: u64) -> u64 {
        if !slice.state.is_resident() {
            return 0;
        }
        self.trimmable[slice.owner.heap] += trimmable;
        trimmable
    }

    /// Bytes of the slice that the heap's trim would return.
    fn trimmable_in(&mut self, slice: &PageSlice) -> u64 {
        let ranges = &self.sample.heaps[slice.owner.heap].trimmable;
        let next = &mut self.next_trimmable[slice.owner.heap];
        while ranges
            .get(*next)
            .is_some_and(|r| r.end() <= slice.range.start())
        {
            *next += 1;
        }
        let mut rest = Some(slice.range);
        let mut bytes = 0;
        for range in ranges[*next..]
            .iter()
            .take_while(|range| range.start() < slice.range.end())
        {
            // Ranges that overlap count once.
            let Some(part) = rest.and_then(|rest| rest.intersect(range)) else {
                continue;
            };
            bytes += part.len();
            rest = AddrRange::new(part.end(), slice.range.end());
        }
        bytes
    }

    /// The rows, in the order of [`LedgerClass::ALL`], made to sum to the kernel's account: what
    /// the kernel counts beyond the page tables is unknown. The second value says when the page
    /// tables hold more than the kernel counts, which no row can express.
    pub(crate) fn finish(mut self) -> (Vec<LedgerRow>, Option<String>) {
        let sum = |rows: &[LedgerRow], of: fn(&LedgerRow) -> u64| rows.iter().map(of).sum::<u64>();
        let resident = sum(&self.rows, |row| row.resident_bytes);
        let swapped = sum(&self.rows, |row| row.swapped_bytes);
        let kernel = &self.sample.kernel;
        let unknown = self.row(LedgerClass::Unknown);
        unknown.resident_bytes += kernel.rss_bytes.saturating_sub(resident);
        unknown.swapped_bytes += kernel.swap_bytes.saturating_sub(swapped);
        let over = (resident.saturating_sub(kernel.rss_bytes))
            .max(swapped.saturating_sub(kernel.swap_bytes));
        let complaint = (over > 0).then(|| {
            format!(
                "the page tables hold {resident} resident and {swapped} swapped bytes, the kernel \
                 counts {} and {}: the target changed meanwhile, or pages are counted elsewhere",
                kernel.rss_bytes, kernel.swap_bytes
            )
        });
        (self.rows.to_vec(), complaint)
    }

    fn row(&mut self, class: LedgerClass) -> &mut LedgerRow {
        // The rows are in the order of the classes' numbers.
        &mut self.rows[class as usize]
    }

    fn add(&mut self, class: LedgerClass, bytes: u64, state: PageState) {
        let row = self.row(class);
        if state.is_resident() {
            row.resident_bytes += bytes;
            row.shared_bytes += if state.is_shared() { bytes } else { 0 };
        } else if state.is_swapped() {
            row.swapped_bytes += bytes;
        }
    }

    fn take(&mut self, class: LedgerClass, bytes: u64, state: PageState) {
        let row = self.row(class);
        if state.is_resident() {
            row.resident_bytes = row.resident_bytes.saturating_sub(bytes);
            let shared = if state.is_shared() { bytes } else { 0 };
            row.shared_bytes = row.shared_bytes.saturating_sub(shared);
        } else if state.is_swapped() {
            row.swapped_bytes = row.swapped_bytes.saturating_sub(bytes);
        }
    }
}

/// The class of a mapping's pages that no heap claims. Pages of a private file mapping that the
/// program wrote to stay with their file.
fn class_of(mapping: &Mapping, state: PageState) -> LedgerClass {
    match mapping.kind {
        MappingKind::Stack => LedgerClass::Stacks,
        MappingKind::SharedAnonymous(_) => LedgerClass::SharedMemory,
        MappingKind::File(_) if mapping.is_tmpfs && state.is_file() => LedgerClass::SharedMemory,
        MappingKind::File(_) | MappingKind::Special(_) => LedgerClass::File,
        MappingKind::Brk | MappingKind::Anonymous | MappingKind::NamedAnonymous(_) => {
            LedgerClass::OtherAnonymous
        }
    }
}

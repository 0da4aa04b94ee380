//! Figures and residency of heaps and their arenas.

use crate::heap::{ExtentKind, HeapSnapshot};
use crate::metrics::pages::PageSlice;
use crate::metrics::pins::Pins;
use crate::residency::{NeverWritten, PageAccount};
use crate::sample::Sample;
use crate::tables::{ArenaReport, HeapReport, Setting};

/// Resident, swapped and trimmable bytes of one arena's extents.
#[derive(Copy, Clone, Debug, Default)]
struct Residency {
    resident: u64,
    swapped: u64,
    live_resident: u64,
    trimmable: u64,
}

/// Sums over a heap as a whole.
#[derive(Copy, Clone, Debug, Default)]
struct WholeHeap {
    large_resident: u64,
    untouched: NeverWritten,
}

/// Sums pages by arena. Large blocks with mappings of their own belong to no arena and are summed
/// by heap.
pub(crate) struct ArenaResidency {
    arenas: Vec<Vec<Residency>>,
    heaps: Vec<WholeHeap>,
    account: PageAccount,
}

impl ArenaResidency {
    /// One sum for each arena of each heap.
    pub(crate) fn new(sample: &Sample) -> Self {
        let arenas = sample
            .heaps
            .iter()
            .map(|h| vec![Residency::default(); h.arenas.len()]);
        Self {
            arenas: arenas.collect(),
            heaps: vec![WholeHeap::default(); sample.heaps.len()],
            account: sample.residency.account(),
        }
    }

    /// Adds the pages of a slice, `trimmable` bytes of which a trim would return.
    pub(crate) fn page(&mut self, slice: &PageSlice, trimmable: u64) {
        let live = slice.pages() * slice.tally.live();
        let heap = &mut self.heaps[slice.owner.heap];
        heap.untouched.add(self.account.written(slice.state), live);
        if slice.owner.kind == ExtentKind::LargeMapped {
            heap.large_resident += if slice.state.is_resident() { live } else { 0 };
            return;
        }
        let arenas = &mut self.arenas[slice.owner.heap];
        if let Some(arena) = arenas.get_mut(slice.owner.arena as usize) {
            if slice.state.is_resident() {
                arena.resident += slice.range.len();
                arena.live_resident += live;
            } else if slice.state.is_swapped() {
                arena.swapped += slice.range.len();
            }
            arena.trimmable += trimmable;
        }
    }
}

fn settings(heap: &HeapSnapshot, is_forked: bool) -> Vec<Setting> {
    let default = |name: &str| {
        let mut defaults = heap.defaults.iter();
        defaults
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let listed = &heap.allocator.row().listed;
    let settings = heap.settings.iter();
    let is_lost = |name: &str, value: &str| {
        let serves = heap.library.is_none();
        is_forked && serves && value == "true" && listed.lost_by_fork.contains(&name)
    };
    let lost = settings
        .clone()
        .filter(|(name, value)| is_lost(name, value));
    let lost = lost.map(|(name, _)| Setting {
        name: format!("{name} since the fork"),
        value: "without effect".to_owned(),
        default: None,
        is_bytes: false,
        is_counter: true,
    });
    let settings = settings
        .map(|(name, value)| Setting {
            name: name.clone(),
            value: value.clone(),
            default: default(name),
            is_bytes: listed.bytes.contains(&name.as_str()),
            is_counter: listed.counters.contains(&name.as_str()),
        })
        .chain(lost);
    settings.collect()
}

/// The heaps of a sample in figures.
pub(crate) fn heaps(sample: &Sample, residency: &ArenaResidency, pins: &Pins) -> Vec<HeapReport> {
    let report = |(number, (heap, of_arenas)): (usize, (&HeapSnapshot, &Vec<Residency>))| {
        let whole = residency.heaps.get(number).copied().unwrap_or_default();
        let (mapped_large_blocks, mapped_large_bytes) = heap.large_mapped();
        HeapReport {
            allocator: heap.allocator,
            version: heap.version.clone(),
            library: heap.library.clone(),
            arenas: heap
                .arenas
                .iter()
                .zip(of_arenas)
                .zip(0..)
                .map(|((arena, of), index)| {
                    let pins = pins.of_arena(number, index);
                    ArenaReport {
                        arena: arena.clone(),
                        resident_bytes: of.resident,
                        swapped_bytes: of.swapped,
                        live_resident_bytes: of.live_resident,
                        trimmable_bytes: of.trimmable,
                        pinned_free_bytes: pins.pinned_free_bytes,
                        below_highest_live_bytes: pins.below_highest_live_bytes,
                        top_pinned_bytes: pins.top_free_bytes,
                    }
                })
                .collect(),
            live_bytes: heap.total(|a| a.live_bytes),
            live_blocks: heap.total(|a| a.live_blocks),
            free_bytes: heap.total(|a| a.free_bytes),
            cached_bytes: heap.total(|a| a.cached_bytes),
            mapped_large_bytes,
            mapped_large_blocks,
            mapped_large_resident_bytes: whole.large_resident,
            untouched_bytes: whole.untouched.known(),
            settings: settings(heap, sample.is_forked()),
            requested: heap.requested().map(<[_]>::to_vec),
            checks: heap.checks.clone(),
            confidence: heap.confidence,
        }
    };
    sample
        .heaps
        .iter()
        .zip(&residency.arenas)
        .enumerate()
        .map(report)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
    use crate::arena::ArenaKind;
    use crate::heap::{Allocator, Arena, Extent};
    use crate::report::FragReport;
    use crate::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
    use crate::span::{SpanList, SpanState};
    use crate::tables::LedgerClass;

    fn pages(first: u64, pages: u64) -> AddrRange {
        let start = RemoteAddr::new(first * PAGE_SIZE);
        AddrRange::with_len(start, pages * PAGE_SIZE).expect("a range")
    }

    fn extent(range: AddrRange, kind: ExtentKind) -> Extent {
        let mut spans = SpanList::default();
        spans.push(range.len(), SpanState::Live);
        Extent {
            range,
            kind,
            arena: 0,
            block_header_bytes: 0,
            spans,
        }
    }

    /// A block of ten pages in the main arena, three of them in memory, and one of a hundred pages
    /// with a mapping of its own, two of them in memory and one in swap.
    fn sample() -> Sample {
        let (brk, large) = (pages(16, 10), pages(1024, 100));
        let mut heap = HeapSnapshot::new(Allocator::Glibc, "2.36");
        heap.arenas = vec![Arena {
            id: 0,
            kind: ArenaKind::Main,
            live_blocks: 1,
            live_bytes: brk.len(),
            system_bytes: brk.len(),
            ..Arena::default()
        }];
        heap.extents = vec![
            extent(brk, ExtentKind::Brk),
            extent(large, ExtentKind::LargeMapped),
        ];
        let mut residency = ResidencyMap::new(vec![
            Mapping::private(brk, MappingKind::Brk),
            Mapping::private(large, MappingKind::Anonymous),
        ]);
        for (range, state) in [
            (pages(18, 3), PageState::PRESENT),
            (pages(1024, 2), PageState::PRESENT),
            (pages(1050, 1), PageState::SWAPPED),
        ] {
            residency.push_run(PageRun { range, state });
        }
        let mut sample = Sample {
            residency,
            heaps: vec![heap],
            ..Sample::default()
        };
        sample.kernel.rss_bytes = 5 * PAGE_SIZE;
        sample.kernel.swap_bytes = PAGE_SIZE;
        sample
    }

    #[test]
    fn what_was_asked_for_and_never_touched_is_told_from_what_is_in_memory() {
        let report = FragReport::from_sample(&sample());
        let heap = &report.heaps[0];
        assert_eq!(heap.live_bytes, 10 * PAGE_SIZE);
        assert_eq!(heap.mapped_large_bytes, 100 * PAGE_SIZE);
        assert_eq!(heap.arenas[0].live_resident_bytes, 3 * PAGE_SIZE);
        assert_eq!(heap.arenas[0].idle_bytes(), 0, "all that is there is live");
        assert_eq!(heap.mapped_large_resident_bytes, 2 * PAGE_SIZE);
        assert_eq!(heap.untouched_bytes, Some((7 + 97) * PAGE_SIZE));
        assert_eq!(report.live_bytes(), Some(110 * PAGE_SIZE));
        assert_eq!(report.live_resident_bytes(), Some(5 * PAGE_SIZE));
        // What compares with RSS is never more, and each live byte is somewhere.
        let ledger = [LedgerClass::Live, LedgerClass::LargeMapped];
        let ledger = ledger.map(|class| report.resident_bytes(class));
        assert_eq!(report.live_resident_bytes(), Some(ledger.iter().sum()));
        assert_eq!(
            report
                .live_resident_bytes()
                .zip(report.untouched_bytes())
                .map(|(live, untouched)| live + untouched + PAGE_SIZE),
            report.live_bytes()
        );
    }

    #[test]
    fn of_a_core_nobody_knows_what_was_touched() {
        let mut sample = sample();
        sample.residency = sample.residency.of_account(PageAccount::Core);
        let report = FragReport::from_sample(&sample);
        assert_eq!(report.heaps[0].untouched_bytes, None);
        assert_eq!(report.untouched_bytes(), None);
    }
}

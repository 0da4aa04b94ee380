//! Heaps and their arenas in figures, with their residency.

use crate::heap::{ExtentKind, HeapSnapshot};
use crate::metrics::pages::PageSlice;
use crate::metrics::pins::Pins;
use crate::sample::Sample;
use crate::tables::{ArenaReport, HeapReport, Setting};

/// Resident, swapped and trimmable bytes of one arena's extents.
#[derive(Copy, Clone, Debug, Default)]
struct Residency {
    resident: u64,
    swapped: u64,
    trimmable: u64,
}

/// Adds pages up by arena. Large blocks with mappings of their own belong to none.
pub(crate) struct ArenaResidency {
    arenas: Vec<Vec<Residency>>,
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
        }
    }

    /// Adds the pages of a slice, `trimmable` bytes of which a trim would return.
    pub(crate) fn page(&mut self, slice: &PageSlice, trimmable: u64) {
        if slice.owner.kind == ExtentKind::LargeMapped {
            return;
        }
        let arenas = &mut self.arenas[slice.owner.heap];
        if let Some(arena) = arenas.get_mut(slice.owner.arena as usize) {
            if slice.state.is_resident() {
                arena.resident += slice.range.len();
            } else if slice.state.is_swapped() {
                arena.swapped += slice.range.len();
            }
            arena.trimmable += trimmable;
        }
    }
}

fn settings(heap: &HeapSnapshot) -> Vec<Setting> {
    let default = |name: &str| {
        let mut defaults = heap.defaults.iter();
        defaults
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let listed = &heap.allocator.row().listed;
    let settings = heap.settings.iter();
    settings
        .map(|(name, value)| Setting {
            name: name.clone(),
            value: value.clone(),
            default: default(name),
            is_bytes: listed.bytes.contains(&name.as_str()),
            is_counter: listed.counters.contains(&name.as_str()),
        })
        .collect()
}

/// The heaps of a sample in figures.
pub(crate) fn heaps(sample: &Sample, residency: &ArenaResidency, pins: &Pins) -> Vec<HeapReport> {
    let report = |(number, (heap, of_arenas)): (usize, (&HeapSnapshot, &Vec<Residency>))| {
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
            settings: settings(heap),
            requested: heap.requested.clone(),
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

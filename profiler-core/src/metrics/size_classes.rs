//! Blocks by size class, live and free.

use std::collections::BTreeMap;

use crate::heap::Allocator;
use crate::metrics::pins::Pins;
use crate::sample::Sample;
use crate::size_class::{LINEAR_LIMIT, SizeClass};
use crate::span::SpanState;
use crate::tables::SizeClassRow;

/// The size classes in use, by allocator, then size. Sizes are block sizes as the allocator
/// counts them (glibc: chunk sizes).
pub(crate) fn size_classes(sample: &Sample, pins: &Pins) -> Vec<SizeClassRow> {
    let mut rows: BTreeMap<Allocator, Vec<SizeClassRow>> = BTreeMap::new();
    for heap in sample.heaps.iter().filter(|heap| heap.library.is_none()) {
        let allocator = heap.allocator;
        let rows = rows.entry(allocator).or_insert_with(|| empty(allocator));
        for extent in &heap.extents {
            for span in extent.spans.iter(extent.range.start()) {
                let bytes = span.range.len();
                // A free pool is not a block: pymalloc's blocks end at 512 bytes.
                if allocator == Allocator::Pymalloc && bytes > LINEAR_LIMIT {
                    continue;
                }
                let row = &mut rows[SizeClass::of(bytes).0 as usize];
                match span.state {
                    SpanState::Live => {
                        row.live_blocks += 1;
                        row.live_bytes = row.live_bytes.saturating_add(bytes);
                    }
                    SpanState::Cached | SpanState::Free => {
                        row.free_blocks += 1;
                        row.free_bytes = row.free_bytes.saturating_add(bytes);
                    }
                    _ => {}
                }
            }
        }
    }
    rows.into_values()
        .flatten()
        .map(|row| SizeClassRow {
            pinned_free_bytes: pins.of_class(row.allocator, row.class),
            ..row
        })
        .filter(|row| row.live_blocks + row.free_blocks > 0)
        .collect()
}

fn empty(allocator: Allocator) -> Vec<SizeClassRow> {
    let row = |index| SizeClassRow {
        allocator,
        class: SizeClass(index as u16),
        live_blocks: 0,
        live_bytes: 0,
        free_blocks: 0,
        free_bytes: 0,
        pinned_free_bytes: 0,
    };
    (0..SizeClass::COUNT).map(row).collect()
}

//! Pages by how many live bytes they hold.

use std::collections::BTreeMap;

use crate::heap::Allocator;
use crate::metrics::pages::PageSlice;
use crate::report::OccupancyRow;

/// Fewest and most live bytes of each bucket: empty pages and full pages apart.
const BUCKETS: [(u32, u32); 13] = [
    (0, 0),
    (1, 64),
    (65, 128),
    (129, 256),
    (257, 512),
    (513, 1024),
    (1025, 1536),
    (1537, 2048),
    (2049, 2560),
    (2561, 3072),
    (3073, 3584),
    (3585, 4095),
    (4096, 4096),
];

/// Counts pages into buckets, by allocator.
#[derive(Default)]
pub(crate) struct Occupancy {
    pages: BTreeMap<Allocator, [(u64, u64); BUCKETS.len()]>,
}

impl Occupancy {
    /// Counts the pages of a slice.
    pub(crate) fn page(&mut self, slice: &PageSlice) {
        let live = slice.tally.live() as u32;
        let bucket = BUCKETS.partition_point(|&(_, most)| most < live);
        let row = &mut self.pages.entry(slice.owner.allocator).or_default()[bucket];
        if slice.state.is_resident() {
            row.0 += slice.pages();
        } else if slice.state.is_swapped() {
            row.1 += slice.pages();
        }
    }

    /// All buckets of each allocator that has pages.
    pub(crate) fn rows(&self) -> Vec<OccupancyRow> {
        let rows = self.pages.iter().flat_map(|(&allocator, counts)| {
            BUCKETS.iter().zip(counts).map(
                move |(&(min_bytes, max_bytes), &(resident_pages, swapped_pages))| OccupancyRow {
                    allocator,
                    min_bytes,
                    max_bytes,
                    resident_pages,
                    swapped_pages,
                },
            )
        });
        rows.collect()
    }
}

//! Pages by how many live bytes they hold.

use std::collections::BTreeMap;

use crate::addr::PAGE_SIZE;
use crate::heap::Allocator;
use crate::metrics::pages::PageSlice;
use crate::tables::{OccupancyDeciles, OccupancyRow};

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
    pages: BTreeMap<Allocator, Pages>,
}

/// Pages of one allocator.
struct Pages {
    /// Resident and swapped ones by bucket.
    buckets: [(u64, u64); BUCKETS.len()],
    /// Resident ones by their live bytes.
    resident: Vec<u64>,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            buckets: Default::default(),
            resident: vec![0; PAGE_SIZE as usize + 1],
        }
    }
}

impl Occupancy {
    /// Counts the pages of a slice.
    pub(crate) fn page(&mut self, slice: &PageSlice) {
        let live = slice.tally.live() as u32;
        let bucket = BUCKETS.partition_point(|&(_, most)| most < live);
        let pages = self.pages.entry(slice.owner.allocator).or_default();
        let row = &mut pages.buckets[bucket];
        if slice.state.is_resident() {
            row.0 += slice.pages();
            pages.resident[live as usize] += slice.pages();
        } else if slice.state.is_swapped() {
            row.1 += slice.pages();
        }
    }

    /// All buckets of each allocator that has pages.
    pub(crate) fn rows(&self) -> Vec<OccupancyRow> {
        let rows = self.pages.iter().flat_map(|(&allocator, pages)| {
            BUCKETS.iter().zip(&pages.buckets).map(
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

    /// The deciles of each allocator that has resident pages.
    pub(crate) fn deciles(&self) -> Vec<OccupancyDeciles> {
        let of = |(&allocator, pages): (&Allocator, &Pages)| {
            let all: u64 = pages.resident.iter().sum();
            let mut below = 0;
            let mut live_bytes = [0; 9];
            let mut next = 0;
            for (live, count) in pages.resident.iter().enumerate() {
                below += count;
                // The tenth of the pages numbered `next` ends here, rounded up to whole pages.
                while next < live_bytes.len() && below * 10 >= all * (next as u64 + 1) && all > 0 {
                    live_bytes[next] = live as u16;
                    next += 1;
                }
            }
            (all > 0).then_some(OccupancyDeciles {
                allocator,
                live_bytes,
            })
        };
        self.pages.iter().filter_map(of).collect()
    }
}

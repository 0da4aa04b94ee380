//! Pages by the number of live bytes on them.

use std::collections::BTreeMap;

use crate::addr::{PAGE_SIZE, PageSize};
use crate::heap::Allocator;
use crate::metrics::pages::PageSlice;
use crate::tables::{OccupancyDeciles, OccupancyRow};

/// The smallest and largest number of live bytes in each bucket; empty pages and full pages have
/// their own. For larger pages the bounds scale with the page size, so that a bucket is the same
/// share of a page.
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

/// The bounds of a bucket with pages of this size.
fn bounds(bucket: usize, page_size: PageSize) -> (u32, u32) {
    let units = page_size.units() as u32;
    let most = |bucket: usize| match BUCKETS[bucket] {
        (fewest, most) if fewest == most => most * units,
        (_, most) if u64::from(most) == PAGE_SIZE - 1 => page_size.bytes() as u32 - 1,
        (_, most) => most * units,
    };
    match bucket {
        0 => (0, 0),
        bucket => (most(bucket - 1) + 1, most(bucket)),
    }
}

/// Pages of one allocator.
struct Pages {
    page_size: PageSize,
    /// Resident and swapped ones by bucket.
    buckets: [(u64, u64); BUCKETS.len()],
    /// Resident ones by their live bytes.
    resident: Vec<u64>,
}

impl Pages {
    fn new(page_size: PageSize) -> Self {
        Self {
            page_size,
            buckets: Default::default(),
            resident: vec![0; page_size.bytes() as usize + 1],
        }
    }
}

impl Occupancy {
    /// Counts the pages of a slice.
    pub(crate) fn page(&mut self, slice: &PageSlice) {
        let live = slice.tally.live() as u32;
        let page_size = slice.page_size;
        let bucket = (0..BUCKETS.len() - 1).find(|bucket| live <= bounds(*bucket, page_size).1);
        let bucket = bucket.unwrap_or(BUCKETS.len() - 1);
        let pages = self.pages.entry(slice.owner.allocator);
        let pages = pages.or_insert_with(|| Pages::new(page_size));
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
            (0..).zip(&pages.buckets).map(move |(bucket, counts)| {
                let (min_bytes, max_bytes) = bounds(bucket, pages.page_size);
                let &(resident_pages, swapped_pages) = counts;
                OccupancyRow {
                    allocator,
                    min_bytes,
                    max_bytes,
                    resident_pages,
                    swapped_pages,
                }
            })
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
                    live_bytes[next] = live as u32;
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

//! 2 MiB ranges: how full each is, and whether a huge page backs it.

use std::collections::BTreeMap;

use crate::heap::Allocator;
use crate::metrics::pages::PageSlice;
use crate::tables::HugeOccupancyRow;

/// The size of a huge page with 4 KiB pages. Ranges of this size are counted on all kernels:
/// kernels with larger pages have larger huge pages, which no heap fills.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;
/// Nothing live, then tenths.
const BUCKETS: usize = 11;

/// One 2 MiB range; bytes are of resident pages that a heap claims a byte of.
#[derive(Copy, Clone, Debug, Default)]
struct Range {
    resident: u64,
    huge: u64,
    live: u64,
}

#[derive(Copy, Clone, Debug, Default)]
struct Bucket {
    ranges: u64,
    resident: u64,
    huge: u64,
}

/// Sums pages by the 2 MiB range that contains them.
#[derive(Default)]
pub(crate) struct HugeRanges {
    open: Option<(u64, Allocator, Range)>,
    buckets: BTreeMap<Allocator, [Bucket; BUCKETS]>,
}

impl HugeRanges {
    /// Counts the pages of a slice; slices ascend.
    pub(crate) fn page(&mut self, slice: &PageSlice) {
        if !slice.state.is_resident() {
            return;
        }
        let live_a_page = slice.tally.live();
        let (mut at, end) = (slice.range.start().get(), slice.range.end().get());
        while at < end {
            let number = at / HUGE_PAGE;
            let here = end.min((number + 1).saturating_mul(HUGE_PAGE)) - at;
            if self.open.is_none_or(|(open, ..)| open != number) {
                self.close();
                self.open = Some((number, slice.owner.allocator, Range::default()));
            }
            if let Some((_, _, range)) = &mut self.open {
                range.resident += here;
                range.huge += if slice.state.is_huge() { here } else { 0 };
                range.live += here / slice.page_size.bytes() * live_a_page;
            }
            at += here;
        }
    }

    fn close(&mut self) {
        let Some((_, allocator, range)) = self.open.take() else {
            return;
        };
        // The live share of the whole range: what an aligned huge page there would contain.
        let tenth = (range.live * 10)
            .div_ceil(HUGE_PAGE)
            .min(BUCKETS as u64 - 1);
        let bucket = &mut self.buckets.entry(allocator).or_default()[tenth as usize];
        bucket.ranges += 1;
        bucket.resident += range.resident;
        bucket.huge += range.huge;
    }

    /// All buckets of each allocator that has resident pages.
    pub(crate) fn finish(mut self) -> Vec<HugeOccupancyRow> {
        self.close();
        let rows = self.buckets.iter().flat_map(|(&allocator, buckets)| {
            (0..)
                .zip(buckets)
                .map(move |(tenth, bucket)| HugeOccupancyRow {
                    allocator,
                    max_percent: tenth * 10,
                    ranges: bucket.ranges,
                    resident_bytes: bucket.resident,
                    huge_bytes: bucket.huge,
                })
        });
        rows.collect()
    }
}

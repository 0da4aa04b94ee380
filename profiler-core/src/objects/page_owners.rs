//! The holder with the most live bytes on each page, for the map of the heap.

use super::nesting::NOBODY;
use super::pins::parts;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};

/// The most ranges: in a heap with more pages several pages are merged into one range.
const MAX_RANGES: u64 = 1 << 18;

/// Consecutive pages on which the same holder has the most live bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PageOwner {
    /// Whole pages of 4096 bytes.
    pub range: AddrRange,
    /// The innermost holder, as an index into [`Census::holders`](super::Census::holders).
    pub holder: u32,
}

/// Adds up live bytes by holder, page by page.
pub(super) struct PageTally {
    /// The number of pages treated as one cell.
    pages_a_cell: u64,
    /// The current cell, by its number.
    cell: u64,
    /// Live bytes in it by holder.
    here: Vec<(u16, u64)>,
    ranges: Vec<PageOwner>,
}

impl PageTally {
    /// For heaps with `pages` pages in total.
    pub(super) fn new(pages: u64) -> Self {
        Self {
            pages_a_cell: pages.div_ceil(MAX_RANGES).max(1),
            cell: 0,
            here: Vec::new(),
            ranges: Vec::new(),
        }
    }

    /// Adds a live block of a holder, or of [`NOBODY`]. Blocks of an extent are added by ascending
    /// address.
    pub(super) fn add(&mut self, block: AddrRange, holder: u16) {
        for (page, bytes) in parts(block) {
            let cell = page / self.pages_a_cell;
            if cell != self.cell {
                self.end_cell();
                self.cell = cell;
            }
            match self.here.iter_mut().find(|(of, _)| *of == holder) {
                Some((_, sum)) => *sum += u64::from(bytes),
                None => self.here.push((holder, bytes.into())),
            }
        }
    }

    fn end_cell(&mut self) {
        let most = self.here.iter().max_by_key(|(_, bytes)| *bytes);
        let most = most.map_or(NOBODY, |(holder, _)| *holder);
        self.here.clear();
        let size = self.pages_a_cell * PAGE_SIZE;
        let start = RemoteAddr::new(self.cell.saturating_mul(size));
        if most == NOBODY {
            return;
        }
        let Some(range) = AddrRange::with_len(start, size) else {
            return;
        };
        let holder = u32::from(most);
        match self.ranges.last_mut() {
            Some(last) if last.holder == holder && last.range.end() == start => {
                last.range = AddrRange::new(last.range.start(), range.end()).unwrap_or(last.range);
            }
            _ => self.ranges.push(PageOwner { range, holder }),
        }
    }

    /// The ranges, by address.
    pub(super) fn finish(mut self) -> Vec<PageOwner> {
        self.end_cell();
        self.ranges.sort_unstable_by_key(|of| of.range.start());
        self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x5555_0000_0000;

    fn block(at: u64, len: u64) -> AddrRange {
        AddrRange::with_len(RemoteAddr::new(BASE + at), len).expect("in the address space")
    }

    #[test]
    fn a_page_is_whose_most_of_it_is() {
        let mut tally = PageTally::new(4);
        tally.add(block(0, 1000), 1);
        tally.add(block(1000, 600), 0);
        tally.add(block(1600, 600), 1);
        // From the middle of the first page to the middle of the third.
        tally.add(block(2200, 8000), 0);
        tally.add(block(10_200, 100), 7);
        tally.add(block(10_300, 1000), NOBODY);
        let ranges = tally.finish();
        let expected = PageOwner {
            range: block(0, 3 * PAGE_SIZE),
            holder: 0,
        };
        assert_eq!(ranges, [expected]);
    }

    #[test]
    fn heaps_come_in_any_order_and_what_nobody_holds_is_left_out() {
        let mut tally = PageTally::new(4);
        tally.add(block(8 * PAGE_SIZE, 10), 2);
        tally.add(block(PAGE_SIZE, 10), 1);
        tally.add(block(2 * PAGE_SIZE, 10), NOBODY);
        let ranges = tally.finish();
        let holders: Vec<(u64, u32)> = ranges
            .iter()
            .map(|of| (of.range.start().get() - BASE, of.holder))
            .collect();
        assert_eq!(holders, [(PAGE_SIZE, 1), (8 * PAGE_SIZE, 2)]);
    }

    #[test]
    fn of_a_large_heap_several_pages_are_one() {
        let pages = 3 * MAX_RANGES;
        let mut tally = PageTally::new(pages);
        for page in 0..pages {
            tally.add(block(page * PAGE_SIZE, PAGE_SIZE), (page / 3 % 2) as u16);
        }
        let ranges = tally.finish();
        assert!(ranges.len() as u64 <= MAX_RANGES + 1, "{}", ranges.len());
        let sum: u64 = ranges.iter().map(|of| of.range.len()).sum();
        assert!(sum >= pages * PAGE_SIZE);
    }
}

//! Index of the live blocks of all walked heaps: finds the block that contains an address.

use std::iter::Peekable;

use hashbrown::HashMap;

use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::allocator::Allocator;
use crate::claims::claims;
use crate::heap::HeapSnapshot;
use crate::span::GRANULE;

/// Adjacent extents with no larger gap share a run, so that there are few runs to search.
const MAX_GAP: u64 = 4 << 20;
/// Addresses of a run are within this many bytes of its start: the reach of a 32-bit offset.
const MAX_RUN: u64 = GRANULE << 32;
/// The most blocks: they have 32-bit numbers, the last of which are reserved for names and roots.
const MAX_BLOCKS: usize = u32::MAX as usize - (1 << 24);

/// Neighbouring pages that hold blocks.
#[derive(Debug)]
struct Run {
    /// The start of the first page.
    start: u64,
    /// The end of the last block.
    end: u64,
    /// The first block.
    first: u32,
    /// The index into [`BlockIndex::pages`] of the first page.
    page: usize,
}

/// The length of a block of at least this many granules is stored separately.
const LONG: u8 = u8::MAX;

/// All live blocks, ascending by address and numbered from 0, in 5 bytes each: their starts and lengths in
/// the granules of spans.
#[derive(Debug, Default)]
pub(super) struct BlockIndex {
    runs: Vec<Run>,
    /// The number of the first block that begins in this page of a run or after it, with one more
    /// entry at a run's end.
    pages: Vec<u32>,
    /// The start of each block, in granules from its run's start.
    starts: Vec<u32>,
    /// How long each is, in granules, or [`LONG`].
    lens: Vec<u8>,
    /// The lengths of long blocks in granules, of which there are few; a length over 32 GiB is
    /// stored as 32 GiB.
    long: HashMap<u32, u32>,
    /// The allocator of the blocks from this number on, up to the next entry.
    owners: Vec<(u32, Allocator)>,
    /// Blocks for which there was no number.
    left_out: u64,
}

impl BlockIndex {
    /// The blocks of these heaps, inner ones after outer ones. A block that an inner allocator carves
    /// up is none itself.
    pub(super) fn of(heaps: &[HeapSnapshot]) -> Self {
        let mut index = Self::default();
        // An extent that inner heaps cut up has several claims, with theirs between.
        let mut open: HashMap<_, Peekable<_>> = HashMap::new();
        for claim in claims(heaps) {
            let heap = &heaps[claim.heap];
            let extent = &heap.extents[claim.extent];
            let key = (claim.heap, claim.extent);
            let blocks = open
                .entry(key)
                .or_insert_with(|| extent.live_blocks().peekable());
            if index
                .owners
                .last()
                .is_none_or(|last| last.1 != heap.allocator)
            {
                index
                    .owners
                    .push((index.starts.len() as u32, heap.allocator));
            }
            while let Some(block) = blocks.next_if(|b| b.start() < claim.range.end()) {
                if claim.range.encloses(&block) {
                    index.push(block);
                }
            }
            if claim.range.end() >= extent.range.end() {
                open.remove(&key);
            }
        }
        if let Some(run) = index.runs.last() {
            let pages = run.end.div_ceil(PAGE_SIZE) - run.start / PAGE_SIZE;
            let (page, blocks) = (run.page, index.starts.len() as u32);
            index.pages.resize(page + pages as usize + 1, blocks);
        }
        index
    }

    fn push(&mut self, block: AddrRange) {
        let (start, end) = (block.start().get(), block.end().get());
        let number = self.starts.len() as u32;
        if self.starts.len() >= MAX_BLOCKS || start % GRANULE != 0 || block.is_empty() {
            self.left_out += 1;
            return;
        }
        let continues = self.runs.last().is_some_and(|run| {
            start >= run.end && start - run.end <= MAX_GAP && end - run.start <= MAX_RUN
        });
        if !continues {
            if let Some(run) = self.runs.last() {
                if start < run.end {
                    self.left_out += 1;
                    return;
                }
                let pages = run.end.div_ceil(PAGE_SIZE) - run.start / PAGE_SIZE;
                self.pages.resize(run.page + pages as usize + 1, number);
            }
            let start = start - start % PAGE_SIZE;
            self.runs.push(Run {
                start,
                end: start,
                first: number,
                page: self.pages.len(),
            });
        }
        let Some(run) = self.runs.last_mut() else {
            return;
        };
        let page = run.page + ((start - run.start) / PAGE_SIZE) as usize;
        if self.pages.len() <= page {
            self.pages.resize(page + 1, number);
        }
        run.end = end;
        self.starts.push(((start - run.start) / GRANULE) as u32);
        let granules = block.len() / GRANULE;
        match u8::try_from(granules) {
            Ok(short) if short < LONG => self.lens.push(short),
            _ => {
                self.lens.push(LONG);
                self.long
                    .insert(number, granules.min(u32::MAX.into()) as u32);
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Blocks of the heaps that are not in the index, because there are too many or they overlap.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The bytes of a block.
    #[inline]
    pub(super) fn bytes(&self, block: u32) -> u64 {
        let granules = match self.lens[block as usize] {
            LONG => self.long.get(&block).copied().unwrap_or(0),
            short => short.into(),
        };
        u64::from(granules) * GRANULE
    }

    /// The addresses of a block.
    pub(super) fn range(&self, block: u32) -> AddrRange {
        let after = self.runs.partition_point(|run| run.first <= block);
        let start = match after.checked_sub(1) {
            Some(run) => self.runs[run].start + u64::from(self.starts[block as usize]) * GRANULE,
            None => 0,
        };
        AddrRange::with_len(RemoteAddr::new(start), self.bytes(block)).unwrap_or_default()
    }

    /// Blocks with their addresses, ascending.
    pub(super) fn ranges<'b>(
        &'b self,
        blocks: impl Iterator<Item = u32> + 'b,
    ) -> impl Iterator<Item = (u32, AddrRange)> + 'b {
        let mut run = 0;
        blocks.map(move |block| {
            if run == 0 {
                run = self.runs.partition_point(|run| run.first <= block);
            }
            while self.runs.get(run).is_some_and(|next| next.first <= block) {
                run += 1;
            }
            let start = self.runs[run - 1].start + u64::from(self.starts[block as usize]) * GRANULE;
            let range = AddrRange::with_len(RemoteAddr::new(start), self.bytes(block));
            (block, range.unwrap_or_default())
        })
    }

    /// The first block that begins at or after this address.
    pub(super) fn first_from(&self, addr: u64) -> u32 {
        let run = self.runs.partition_point(|run| run.end <= addr);
        let Some(of) = self.runs.get(run) else {
            return self.starts.len() as u32;
        };
        let end = self
            .runs
            .get(run + 1)
            .map_or(self.starts.len(), |next| next.first as usize);
        let granules = addr.saturating_sub(of.start).div_ceil(GRANULE);
        let blocks = &self.starts[of.first as usize..end];
        of.first + blocks.partition_point(|&start| u64::from(start) < granules) as u32
    }

    /// Blocks that have a byte on the page at this address.
    pub(super) fn on_page(&self, page: u64) -> impl Iterator<Item = u32> + '_ {
        let before = self.at(page).map(|(block, _)| block);
        let first = before.unwrap_or_else(|| self.first_from(page));
        let blocks = self.ranges(first..self.len() as u32);
        let on_it = blocks.take_while(move |(_, range)| range.start().get() < page + PAGE_SIZE);
        on_it.map(|(block, _)| block)
    }

    /// All blocks in order, each with its allocator.
    pub(super) fn with_allocators(&self) -> impl Iterator<Item = (u32, Allocator)> + '_ {
        let ends = self.owners.iter().skip(1).map(|(first, _)| *first);
        let ends = ends.chain([self.len() as u32]);
        let runs = self.owners.iter().zip(ends);
        runs.flat_map(|(&(first, allocator), end)| (first..end).map(move |one| (one, allocator)))
    }

    /// The block that holds this address.
    #[inline]
    pub(super) fn at(&self, addr: u64) -> Option<(u32, u64)> {
        let run = self.runs.partition_point(|run| run.end <= addr);
        let run = self.runs.get(run)?;
        let offset = addr.checked_sub(run.start)?;
        let page = run.page + (offset / PAGE_SIZE) as usize;
        let (low, high) = (
            *self.pages.get(page)? as usize,
            *self.pages.get(page + 1)? as usize,
        );
        let granule = (offset / GRANULE) as u32;
        let after = low
            + self
                .starts
                .get(low..high)?
                .partition_point(|&s| s <= granule);
        // A block that begins on an earlier page may extend to here.
        let block = after.checked_sub(1).filter(|&b| b >= run.first as usize)?;
        let into = offset - u64::from(self.starts[block]) * GRANULE;
        (into < self.bytes(block as u32)).then_some((block as u32, into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Extent, ExtentKind};
    use crate::span::SpanState;

    /// The start of an extent, the bytes of its blocks' headers, and its spans.
    type Parts<'a> = (u64, u64, &'a [(u64, SpanState)]);

    fn heap(allocator: Allocator, extents: &[Parts<'_>]) -> HeapSnapshot {
        let mut heap = HeapSnapshot::new(allocator, "");
        for &(start, header, parts) in extents {
            let spans = parts.iter().copied().collect();
            let extent = Extent::of_spans(ExtentKind::Region, RemoteAddr::new(start), spans);
            heap.extents.push(Extent {
                block_header_bytes: header,
                ..extent.expect("low")
            });
        }
        heap
    }

    #[test]
    fn each_address_is_in_the_block_that_holds_it_and_in_no_other() {
        use SpanState::{Free, Live};
        let outer: &[_] = &[
            (0x20, Live),
            (0x20, Free),
            (0x30_000, Live),
            (0x40, Live),
            (0x9000, Live),
            (0x10, Live),
        ];
        let far: &[_] = &[(0x18, Live), (0xff8, Free), (0x8, Live)];
        let inner: &[_] = &[(0x10, Live), (0x10, Live), (0x20, Free), (0x1000, Live)];
        let heaps = [
            heap(
                Allocator::Glibc,
                &[(0x10_000, 8, outer), (0x7000_0000, 0, far)],
            ),
            heap(Allocator::Pymalloc, &[(0x20_000, 0, inner)]),
        ];
        let index = BlockIndex::of(&heaps);
        let expected = [
            (0x10_008, 0x18, Allocator::Glibc),
            (0x20_000, 0x10, Allocator::Pymalloc),
            (0x20_010, 0x10, Allocator::Pymalloc),
            (0x20_040, 0x1000, Allocator::Pymalloc),
            (0x40_048, 0x38, Allocator::Glibc),
            (0x40_088, 0x8ff8, Allocator::Glibc),
            (0x49_088, 0x8, Allocator::Glibc),
            (0x7000_0000, 0x18, Allocator::Glibc),
            (0x7000_1010, 0x8, Allocator::Glibc),
        ];
        assert_eq!(index.len(), expected.len());
        let all: Vec<_> = index.ranges(0..index.len() as u32).collect();
        let owned: Vec<_> = index.with_allocators().collect();
        assert_eq!(owned.len(), expected.len());
        for (number, (start, len, allocator)) in expected.into_iter().enumerate() {
            let number = number as u32;
            let range = index.range(number);
            assert_eq!((range.start().get(), range.len()), (start, len));
            assert_eq!(all[number as usize], (number, range));
            assert_eq!(owned[number as usize], (number, allocator));
            assert_eq!(index.first_from(start), number);
            assert_eq!(index.first_from(start + 1), number + 1);
            for into in [0, len / 2, len - 1] {
                assert_eq!(index.at(start + into), Some((number, into)), "{start:#x}");
            }
            let outside = index.at(start + len);
            assert!(outside.is_none_or(|(block, into)| block == number + 1 && into == 0));
            assert_ne!(index.at(start - 1).map(|(block, _)| block), Some(number));
        }
        for none in [0, 0x10_040, 0x30_000, 0x6000_0000, u64::MAX] {
            assert_eq!(index.at(none), None, "{none:#x}");
        }
    }
}

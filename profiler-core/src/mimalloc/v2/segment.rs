//! Segments: 32 MiB-aligned runs of 64 KiB slices, with a header that describes each slice.

use crate::addr::{AddrRange, HEAP_END, RemoteAddr};
use crate::memory::TargetMemory;
use crate::mimalloc::blocks::{Blocks, Keys};
use crate::mimalloc::number;

use super::layout::{HUGE_BLOCK, Layout, SEGMENT, SLICE, SLICES, Start};

/// The largest header, in bytes. The page after it is a guard page in secure builds.
pub(super) const HEADER: usize = 60 << 10;

/// A segment under one layout.
pub(super) struct Segment<'a> {
    pub(super) addr: u64,
    pub(super) layout: &'static Layout,
    /// Its cookie with its address removed: the same for all segments of one mimalloc.
    pub(super) key: u64,
    /// The number of all its slices.
    pub(super) slices: u64,
    /// The number of slices occupied by its header.
    info: u64,
    /// The number of slices described by its header.
    entries: u64,
    /// Whether it contains only one block.
    pub(super) huge: bool,
    /// Pages in use.
    pub(super) used: u64,
    /// The owner; 0 if it was abandoned or returned to its arena.
    pub(super) thread: u64,
    bytes: &'a [u8],
}

/// What some slices of a segment are.
pub(super) enum Part {
    /// Never used, or free again.
    Unused(u64),
    /// A page, and its heap's address.
    Page(Blocks, u64),
    /// A page of this many bytes whose header no mimalloc could have written.
    Damaged(u64),
}

impl<'a> Segment<'a> {
    /// Reads the header of a segment at `addr`, if it is one with this layout. `bytes` may end
    /// early; then pages must not be requested.
    pub(super) fn parse(addr: u64, bytes: &'a [u8], layout: &'static Layout) -> Option<Self> {
        let of = layout.segment;
        let word = |at| number(bytes, at, 8);
        let segment = Self {
            addr,
            layout,
            key: word(of.cookie) ^ addr,
            slices: word(of.segment_slices),
            info: word(of.info_slices),
            entries: word(of.slice_entries),
            huge: number(bytes, of.kind, 4) == 1,
            used: word(of.used),
            thread: word(of.thread_id),
            bytes,
        };
        let sound = number(bytes, of.kind, 4) <= 1
            && segment.key != 0
            && word(of.cookie) != 0
            && (1..=16).contains(&segment.info)
            && segment.slices > segment.info
            && segment.slices <= 1 << 30
            && (segment.huge || segment.slices == SLICES)
            // Secure builds have a guard in the last slice.
            && (0..=1).contains(&segment.slices.min(SLICES).wrapping_sub(segment.entries))
            && segment.used <= segment.entries;
        sound.then_some(segment)
    }

    /// Its address range.
    pub(super) fn range(&self) -> Option<AddrRange> {
        AddrRange::with_len(RemoteAddr::new(self.addr), self.slices * SLICE)
    }

    /// Bytes before the first page.
    pub(super) fn header_bytes(&self) -> u64 {
        self.info * SLICE
    }

    /// Whether it was returned to where it came from while its header still exists.
    pub(super) fn is_freed(&self) -> bool {
        self.used == 0 && self.thread == 0
    }

    /// The parts after the header, in order; `None` if the slices do not add up.
    pub(super) fn parts(&self) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        let mut slice = self.info;
        // Only a huge segment's page continues after the last entry.
        while slice < self.entries {
            let at = self.layout.segment.slices + slice as usize * self.layout.page;
            let page = self.bytes.get(at..at + self.layout.page)?;
            let count = number(page, 0, 4);
            let end = slice.checked_add(count).filter(|&end| end <= self.slices)?;
            let is_first = number(page, 4, 4) == 0;
            if count == 0 || !is_first {
                return None;
            }
            parts.push(self.part(slice, count, at, page));
            slice = end;
        }
        let rest = self.slices.checked_sub(slice)?;
        if rest > 0 {
            parts.push(Part::Unused(rest * SLICE));
        }
        Some(parts)
    }

    fn part(&self, slice: u64, count: u64, at: usize, page: &[u8]) -> Part {
        let layout = self.layout;
        let field = |(at, len): (usize, usize)| number(page, at, len);
        let word = |at| number(page, at, 8);
        let bytes = count * SLICE;
        let area = self.addr + slice * SLICE;
        let size = match field(layout.block_size) {
            0 => return Part::Unused(bytes),
            HUGE_BLOCK if layout.block_size.1 == 4 => bytes,
            size => size,
        };
        let start = match layout.start {
            Start::Field(at) => word(at),
            Start::Fixed if size <= 1024 => area + 384,
            Start::Blocks if size <= 64 => area + 3 * size,
            Start::Blocks if size <= 512 => area + size,
            Start::Fixed | Start::Blocks => area,
        };
        let keys = layout.keys.map(|keys| Keys {
            keys: [word(keys), word(keys + 8)],
            null: self.addr + at as u64,
        });
        let blocks = Blocks {
            area: area..area + bytes,
            start,
            size,
            capacity: number(page, 10, 2),
            reserved: number(page, 12, 2),
            used: field(layout.used),
            free: [word(16), word(layout.local_free)],
            // The two lowest bits say how another thread may free.
            thread_free: word(layout.thread_free) & !3,
            keys,
        };
        let heap = word(layout.heap);
        if blocks.is_possible() && heap.is_multiple_of(8) && heap < HEAP_END {
            Part::Page(blocks, heap)
        } else {
            Part::Damaged(bytes)
        }
    }

    /// The current state of a page, if it still has the same memory.
    pub(super) fn renewed<M: TargetMemory>(&self, memory: &M, page: &Blocks) -> Option<Blocks> {
        let slice = page.area.start.checked_sub(self.addr)? / SLICE;
        let count = (page.area.end - page.area.start) / SLICE;
        let at = self.layout.segment.slices + slice as usize * self.layout.page;
        let mut bytes = vec![0; self.layout.page];
        let place = RemoteAddr::new(self.addr).checked_add(at as u64)?;
        memory.read(place, &mut bytes).ok()?;
        let is_same = number(&bytes, 0, 4) == count && number(&bytes, 4, 4) == 0;
        match self.part(slice, count, at, &bytes) {
            Part::Page(blocks, _) if is_same => Some(blocks),
            _ => None,
        }
    }

    /// How many pages the layout explains, and how many it does not.
    pub(super) fn score(&self) -> Option<(u64, u64)> {
        let parts = self.parts()?;
        let (mut fit, mut unfit) = (0, 0);
        for part in &parts {
            match part {
                Part::Page(blocks, _) if blocks.lists_fit() => fit += 1,
                Part::Page(..) | Part::Damaged(_) => unfit += 1,
                Part::Unused(_) => {}
            }
        }
        Some((fit, unfit))
    }
}

/// The addresses in `range` where a segment can begin.
pub(super) fn places(range: AddrRange) -> impl Iterator<Item = RemoteAddr> {
    let first = range.start().align_up(SEGMENT);
    std::iter::successors(first, |at| at.checked_add(SEGMENT))
        .take_while(move |&at| range.contains(at))
}

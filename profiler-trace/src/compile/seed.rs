//! The heap that existed when a recording began, as operations.
//!
//! For the C library's own malloc, the free chunks are allocated and freed again, so that its heap
//! gets its old shape. Any other allocator would pack the live blocks densely, which its real
//! history would not have allowed: for those, each gap is filled with blocks that it may once have
//! held, in two ways (`docs/prediction.md`), and then time passes until they have purged.

use std::collections::BTreeMap;
use std::io;

use fastrand::Rng;
use profiler_common::program::{Only, Op, OpCode};
use profiler_core::addr::PAGE_SIZE;
use profiler_core::allocator::{GlibcSetting, MMAP_THRESHOLDS};
use profiler_core::glibc::{CHUNK_HEADER, MIN_CHUNK, WHOLE_HEADER};

use super::fill::{Neighbours, room};
use super::settle::{SETTLING_NS, settle};
use super::{Compiler, Sink, free, is_large, op, touch};
use crate::trace::{SeedBlock, TraceDescription};

/// By how much a threshold may exceed the blocks that raised it.
pub const THRESHOLD_ROUNDING: u64 = 2 * PAGE_SIZE;

/// What is known of the heap of the seed.
#[derive(Clone, Debug)]
pub(super) struct SeedHeap {
    /// Whether it is glibc's: its free blocks are chunks that shape the heap, those of others are
    /// regions of slabs.
    is_glibc: bool,
    /// glibc's mmap threshold, to which it had grown.
    mmap_threshold: u64,
}

impl SeedHeap {
    pub(super) fn of(description: &TraceDescription) -> Self {
        let threshold = description.glibc_setting(GlibcSetting::MmapThreshold);
        Self {
            is_glibc: description.is_glibc(),
            mmap_threshold: threshold
                .unwrap_or(0)
                .clamp(*MMAP_THRESHOLDS.start(), *MMAP_THRESHOLDS.end()),
        }
    }
}

/// One way to fill gaps.
struct Fill {
    only: Only,
    /// Whether small blocks must fill a gap exactly; else it is filled as one large block.
    exactly: bool,
    /// Gaps of at least this many bytes held large blocks.
    large_from: u64,
    /// How many blocks it may still take: other free memory is not filled.
    left: u32,
}

/// Blocks of a fill at most.
const MAX_BLOCKS: u32 = 1 << 24;

/// A block to be freed once everything is allocated.
struct Freed {
    thread: u32,
    slot: u32,
    only: Only,
}

impl Compiler {
    /// Allocates what was there, and frees what was free.
    pub(super) fn end_seed(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        let blocks = std::mem::take(&mut self.seed);
        if blocks.is_empty() {
            return Ok(());
        }
        let mut fills = self.fills(&blocks);
        let mut random = Rng::with_seed(1);
        let mut neighbours: BTreeMap<u32, Neighbours> = BTreeMap::new();
        let (mut shape, mut filled) = (Vec::new(), Vec::new());
        let mut rest = blocks.as_slice();
        while let Some(block) = rest.first() {
            let gap = self.gap(rest);
            rest = &rest[gap.blocks.max(1)..];
            // The arena's number stands for the thread that allocates from it.
            let thread = block.arena;
            if self.process_of(thread, sink)?.is_none() {
                continue;
            }
            self.switch(thread, sink)?;
            let neighbours = neighbours.entry(thread).or_default();
            if block.live {
                self.seed_live(block, sink)?;
                if !has_own_mapping(block) {
                    neighbours.note(block.bytes.saturating_add(CHUNK_HEADER).max(MIN_CHUNK));
                }
                continue;
            }
            let of_gap = &blocks[blocks.len() - rest.len() - gap.blocks..][..gap.blocks];
            let (only, as_it_was) = match self.seed_heap.is_glibc {
                true => (Only::C_LIBRARY, &mut shape),
                false => (Only::ALL, &mut filled),
            };
            for block in of_gap {
                as_it_was.push(self.seed_free(thread, block.bytes, only, sink)?);
            }
            for fill in &mut fills {
                let piece = self.seed_heap.mmap_threshold - THRESHOLD_ROUNDING;
                let small = fill.is_small(gap.bytes, neighbours);
                let mut left = gap.bytes;
                while left >= MIN_CHUNK && fill.left > 0 {
                    let room = room(left, piece);
                    let chunk = match small {
                        true => neighbours.draw(room, &mut random),
                        false => room,
                    };
                    filled.push(self.seed_free(thread, chunk - CHUNK_HEADER, fill.only, sink)?);
                    left -= chunk;
                    fill.left -= 1;
                }
            }
        }
        let threads: Vec<u32> = neighbours.into_keys().collect();
        // In one order they would be freed as no program frees. Threads take turns once each.
        random.shuffle(&mut filled);
        filled.sort_by_key(|freed| freed.thread);
        for freed in shape.into_iter().chain(filled) {
            self.switch(freed.thread, sink)?;
            sink.push(Op {
                only: freed.only,
                ..free(freed.slot)
            })?;
            self.processes[0].give_slot(freed.slot);
        }
        let slot = self.processes[0].take_slot();
        settle(&threads, slot, self.clock_ns, self.current, sink)?;
        self.processes[0].give_slot(slot);
        self.settled_ns = SETTLING_NS;
        Ok(())
    }

    /// The two fills of a heap of glibc's; another's free regions are known by their sizes.
    fn fills(&self, blocks: &[SeedBlock]) -> Vec<Fill> {
        if !self.seed_heap.is_glibc {
            return Vec::new();
        }
        let threshold = self.seed_heap.mmap_threshold;
        let large = threshold - THRESHOLD_ROUNDING;
        let (mut all, mut of_large) = (0u64, 0u64);
        let mut rest = blocks;
        while let Some(block) = rest.first() {
            let gap = self.gap(rest);
            rest = &rest[gap.blocks.max(1)..];
            if gap.bytes >= large {
                of_large = of_large.saturating_add(gap.bytes);
            }
            if !has_own_mapping(block) {
                all = all.saturating_add(gap.bytes.max(block.bytes));
            }
        }
        let has_grown = threshold > *MMAP_THRESHOLDS.start();
        let from = |condition: bool, bytes| if condition { bytes } else { u64::MAX };
        vec![
            Fill {
                only: Only::FIRST_FILL,
                exactly: false,
                large_from: from(has_grown && of_large >= all / 2, large),
                left: MAX_BLOCKS,
            },
            Fill {
                only: Only::SECOND_FILL,
                exactly: true,
                large_from: from(has_grown, *MMAP_THRESHOLDS.start()),
                left: MAX_BLOCKS,
            },
        ]
    }

    /// The free blocks that follow one another at the start of `blocks`.
    fn gap(&self, blocks: &[SeedBlock]) -> Gap {
        let mut gap = Gap::default();
        let mut end = None;
        for block in blocks.iter().take_while(|block| !block.live) {
            let follows = end.is_none_or(|(arena, end)| (arena, end) == (block.arena, block.addr));
            if !follows {
                break;
            }
            let chunk = block.bytes.saturating_add(CHUNK_HEADER);
            end = Some((block.arena, block.addr.saturating_add(chunk)));
            gap.blocks += 1;
            gap.bytes = gap.bytes.saturating_add(chunk);
        }
        gap
    }

    fn seed_live(&mut self, block: &SeedBlock, sink: &mut impl Sink) -> io::Result<()> {
        let process = &mut self.processes[0];
        let slot = process.take_slot();
        let touch = process.put_touch(block.bytes, sink)?;
        sink.push(op(OpCode::ALLOC, block.bytes, slot))?;
        process.insert_seeded(block.addr, slot, block.bytes, touch);
        self.summary.seed_blocks += 1;
        self.summary.seed_bytes = self.summary.seed_bytes.saturating_add(block.bytes);
        self.add_live(block.bytes);
        Ok(())
    }

    /// A block that was free. It has pages: a free block without pages is not part of the seed.
    fn seed_free(
        &mut self,
        thread: u32,
        bytes: u64,
        only: Only,
        sink: &mut impl Sink,
    ) -> io::Result<Freed> {
        let slot = self.processes[0].take_slot();
        if is_large(bytes) {
            sink.push(Op {
                only,
                ..touch(bytes)
            })?;
        }
        sink.push(Op {
            only,
            ..op(OpCode::ALLOC, bytes, slot)
        })?;
        Ok(Freed { thread, slot, only })
    }
}

/// Free blocks that follow one another.
#[derive(Copy, Clone, Debug, Default)]
struct Gap {
    blocks: usize,
    /// Their bytes, headers included.
    bytes: u64,
}

impl Fill {
    /// Whether a gap held small blocks.
    fn is_small(&self, gap: u64, neighbours: &Neighbours) -> bool {
        gap < self.large_from && (!self.exactly || neighbours.tile(gap))
    }
}

/// Whether a live glibc block seems to be an mmapped chunk: those say nothing about the content of
/// gaps.
fn has_own_mapping(block: &SeedBlock) -> bool {
    block.live
        && block.addr % PAGE_SIZE == WHOLE_HEADER
        && block.bytes >= *MMAP_THRESHOLDS.start() - PAGE_SIZE
}

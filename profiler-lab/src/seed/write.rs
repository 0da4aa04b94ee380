//! Writes the operations for a walked heap.

use std::io;

use fastrand::Rng;
use profiler_common::program::{MAX_SLOTS, MAX_THREADS, Op, OpCode};
use profiler_core::addr::{AddrRange, PAGE_SIZE};
use profiler_core::allocator::{Allocator, GlibcSetting, MMAP_THRESHOLDS};
use profiler_core::glibc::MIN_CHUNK;
use profiler_core::heap::Extent;
use profiler_trace::compile::{
    Neighbours, Sink, THRESHOLD_ROUNDING, op, parts_with_pages, room, set_mmap_threshold, settle,
};

use super::blocks::{Stretch, StretchKind, WalkedHeap};
use super::history::{Fill, FillThreads, FreeOrder, LargeGaps, Overlap};

/// How a heap becomes a program.
#[derive(Copy, Clone, Debug)]
pub struct SeedOptions {
    /// What gaps are filled with.
    pub fill: Fill,
    /// The order in which that is freed.
    pub order: FreeOrder,
    /// How large gaps are treated.
    pub large: LargeGaps,
    /// Of a glibc chunk, how many bytes less than the most were asked for, 0 to 15.
    pub slack: u8,
    /// Whether the fill of several arenas is there at once.
    pub overlap: Overlap,
    /// Which threads had the fill.
    pub threads: FillThreads,
    /// Whether the program continues after the fill was freed, so that allocators purge.
    pub goes_on: bool,
    /// The seed of the random numbers.
    pub random: u64,
}

impl SeedOptions {
    /// What [`Default`] gives.
    pub const DEFAULT: Self = Self {
        fill: Fill::Neighbours,
        order: FreeOrder::Random,
        large: LargeGaps::ByShare,
        slack: 0,
        overlap: Overlap::Together,
        threads: FillThreads::OfArenas,
        goes_on: true,
        random: 1,
    };
}

impl Default for SeedOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A summary of what was written.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Written {
    /// Threads of the program, the first included.
    pub threads: u32,
    /// Slots that it needs.
    pub slots: u32,
    /// Bytes that are live at its end, as requested.
    pub live_bytes: u64,
    /// The most bytes that were touched at once.
    pub peak_bytes: u64,
}

/// The slot of blocks that are never freed: the place of the last of them does not matter.
const KEPT: u32 = 0;
/// The slot of the blocks that make time pass.
const PASSING: u32 = 1;
/// The first slot of the fill.
const FIRST: u32 = 2;
/// At most this many bytes of its arena's fill belonged to a thread that is idle now: thread caches
/// hold no more.
pub const MOST_OF_IDLE: u64 = 4 << 20;
/// No thread caches hold larger blocks (jemalloc's `tcache_max`).
const MOST_CACHED: f64 = 32_768.0;
const LEAST_CACHED: f64 = 32.0;
/// The most idle threads that are replayed.
const MOST_IDLE: u32 = 1024;
/// Threads take turns after this many bytes of blocks, because their blocks were live at the same
/// time.
const TURN_BYTES: u64 = 256 << 10;

/// Writes the program of a heap, at whose end the heap is as it was.
///
/// # Errors
/// Those of the sink.
pub fn write(
    heap: &WalkedHeap<'_>,
    options: &SeedOptions,
    sink: &mut impl Sink,
) -> io::Result<Written> {
    let threshold = heap.setting(GlibcSetting::MmapThreshold).unwrap_or(PIECE);
    let threshold = threshold.clamp(PIECE, *MMAP_THRESHOLDS.end());
    let of_threshold = threshold - THRESHOLD_ROUNDING;
    let is_mostly = |most, share| heap.share_of_gaps(of_threshold, most) >= share;
    let mut writer = Writer {
        heap,
        options,
        sink,
        random: Rng::with_seed(options.random),
        header: heap.header_bytes(),
        piece: of_threshold,
        large_from: match options.large {
            _ if threshold <= PIECE => u64::MAX,
            LargeGaps::LargeBlocks => PIECE,
            // Nearly all that is free are gaps of sizes that the program had in one block.
            LargeGaps::ByShare if heap.share_of_free(PIECE, 4 * threshold) >= NEARLY_ALL => PIECE,
            // Where most large gaps are larger still, they may have been anything.
            LargeGaps::ByShare
                if is_mostly(u64::MAX, MOSTLY) && is_mostly(4 * threshold, MOSTLY / 2.0) =>
            {
                of_threshold
            }
            // Nothing else leaves gaps of just this size.
            LargeGaps::AsOthers if is_mostly(4 * threshold, ALMOST_ALL) => of_threshold,
            LargeGaps::ByShare | LargeGaps::AsOthers => u64::MAX,
        },
        written: Written {
            threads: 1,
            slots: FIRST,
            ..Written::default()
        },
        kept_bytes: 0,
        fill_bytes: 0,
        thread: 0,
    };
    writer.write()?;
    Ok(writer.written)
}

/// Shares of a heap.
const MOSTLY: f64 = 0.5;
const NEARLY_ALL: f64 = 0.8;
const ALMOST_ALL: f64 = 0.9;
/// Larger blocks have their own mapping at first.
const PIECE: u64 = *MMAP_THRESHOLDS.start();

struct Writer<'a, S> {
    heap: &'a WalkedHeap<'a>,
    options: &'a SeedOptions,
    sink: &'a mut S,
    random: Rng,
    /// Bytes of a block's header.
    header: u64,
    /// The largest block of a fill.
    piece: u64,
    /// Gaps of at least this many bytes count as former large blocks.
    large_from: u64,
    written: Written,
    /// Touched bytes of what is allocated now: the blocks that stay, and the fill.
    kept_bytes: u64,
    fill_bytes: u64,
    /// The thread that has the turn.
    thread: u32,
}

/// One arena in progress: a thread allocates its contents.
struct Arena<'a> {
    thread: u32,
    extents: Vec<&'a Extent>,
    stretches: Box<dyn Iterator<Item = Stretch> + 'a>,
    neighbours: Neighbours,
    /// Slots to be freed, of blocks whose size was known, and of others.
    cached: Vec<u32>,
    fill: Vec<u32>,
    /// Bytes of these that were touched.
    filled: u64,
    /// Threads of the process that use it.
    users: u32,
}

impl<'a, S: Sink> Writer<'a, S> {
    fn write(&mut self) -> io::Result<()> {
        self.mapped()?;
        self.threshold()?;
        let heap = *self.heap;
        let mut arenas = Vec::new();
        let arena_numbers = heap.arenas();
        if arena_numbers.len() >= MAX_THREADS as usize {
            return Err(too_many("arenas"));
        }
        for (number, arena) in arena_numbers.into_iter().enumerate() {
            let thread = number as u32;
            if thread > 0 {
                self.push(op(OpCode::SPAWN, 0, thread))?;
                self.written.threads += 1;
            }
            let mut extents: Vec<&Extent> = heap.extents(arena).collect();
            extents.reverse();
            arenas.push(Arena {
                thread,
                extents,
                stretches: Box::new(std::iter::empty()),
                neighbours: Neighbours::default(),
                cached: Vec::new(),
                fill: Vec::new(),
                filled: 0,
                users: heap.threads_of(arena),
            });
        }
        if self.options.overlap == Overlap::OneByOne {
            for arena in &mut arenas {
                while self.turn(arena)? {}
                self.free(std::slice::from_mut(arena))?;
            }
            return self.end(&arenas);
        }
        let mut going: Vec<&mut Arena<'_>> = arenas.iter_mut().collect();
        while !going.is_empty() {
            let mut left = Vec::new();
            for arena in going {
                if self.turn(arena)? {
                    left.push(arena);
                }
            }
            going = left;
        }
        self.free(&mut arenas)?;
        self.end(&arenas)
    }

    /// What becomes of the threads, once all fill was freed.
    fn end(&mut self, arenas: &[Arena<'_>]) -> io::Result<()> {
        match self.options.threads {
            FillThreads::OfArenas => self.settle(arenas.len() as u32),
            FillThreads::EachAndIdle => {
                for arena in arenas {
                    self.idle_threads(arena)?;
                }
                self.settle(1)
            }
        }
    }

    /// Each thread that uses an arena has as much free memory as the arena had, and frees it.
    fn idle_threads(&mut self, arena: &Arena<'_>) -> io::Result<()> {
        let bytes = arena.filled.min(MOST_OF_IDLE);
        for number in 0..arena.users.min(MOST_IDLE) {
            let thread = match number {
                0 => arena.thread,
                _ if self.written.threads >= MAX_THREADS => return Ok(()),
                _ => {
                    let thread = self.written.threads;
                    self.push(op(OpCode::SPAWN, 0, thread))?;
                    self.written.threads += 1;
                    thread
                }
            };
            self.switch(thread)?;
            let mut left = bytes;
            let mut slots = 0;
            while left > 0 {
                // As many of each order of magnitude: nobody knows which sizes a thread had.
                let size = LEAST_CACHED * (MOST_CACHED / LEAST_CACHED).powf(self.random.f64());
                let size = (size as u64).min(left);
                self.idle_block(size, slots)?;
                (left, slots) = (left - size, slots + 1);
            }
            for slot in 0..slots {
                self.push(op(OpCode::FREE, 0, FIRST + slot))?;
            }
            self.fill_bytes = 0;
        }
        Ok(())
    }

    /// A block in one of the slots of the fill, all of which was freed.
    fn idle_block(&mut self, bytes: u64, number: u32) -> io::Result<()> {
        let slot = FIRST.saturating_add(number);
        if slot >= MAX_SLOTS {
            return Err(too_many("free blocks"));
        }
        self.written.slots = self.written.slots.max(slot + 1);
        self.push(op(OpCode::ALLOC, bytes, slot))?;
        self.fill_bytes = self.fill_bytes.saturating_add(bytes);
        self.note_peak();
        Ok(())
    }

    /// Blocks that have their own mapping, before the threshold rises above them.
    fn mapped(&mut self) -> io::Result<()> {
        let heap = *self.heap;
        for (range, bytes) in heap.large_mapped() {
            self.live(range, bytes)?;
        }
        Ok(())
    }

    /// Sets glibc's `mmap_threshold` to its present value, if it has grown.
    fn threshold(&mut self) -> io::Result<()> {
        let heap = *self.heap;
        match GlibcSetting::MmapThreshold.grown(|wanted| heap.setting(wanted)) {
            Some(bytes) => set_mmap_threshold(bytes, PASSING, self.sink),
            None => Ok(()),
        }
    }

    /// Gives a thread its turn. Returns whether it has more to do.
    fn turn(&mut self, arena: &mut Arena<'a>) -> io::Result<bool> {
        self.switch(arena.thread)?;
        let mut done = 0;
        while done < TURN_BYTES {
            let Some(stretch) = arena.stretches.next() else {
                let Some(extent) = arena.extents.pop() else {
                    return Ok(false);
                };
                arena.stretches = Box::new(self.heap.stretches(extent));
                continue;
            };
            done += stretch.range.len();
            match stretch.kind {
                StretchKind::Live => {
                    arena.neighbours.note(stretch.range.len());
                    let bytes = self.asked(stretch.range.len());
                    self.live(stretch.range, bytes)?;
                }
                _ if self.options.fill == Fill::Dense => {}
                StretchKind::Cached => {
                    let slot = self.block(self.asked(stretch.range.len()), None)?;
                    arena.cached.push(slot);
                    arena.filled += stretch.range.len();
                }
                StretchKind::Free if self.heap.allocator() != Allocator::Glibc => {
                    let slot = self.block(stretch.range.len(), None)?;
                    arena.fill.push(slot);
                    arena.filled += stretch.range.len();
                }
                StretchKind::Free | StretchKind::Top => self.gap(arena, &stretch)?,
            }
        }
        Ok(true)
    }

    /// Fills a gap. Its parts without pages are not touched: they were given back, or never used.
    fn gap(&mut self, arena: &mut Arena<'a>, stretch: &Stretch) -> io::Result<()> {
        let range = stretch.range;
        let mut at = range.start();
        for part in parts_with_pages(range, self.heap.residency) {
            self.absent(arena, part.start().get() - at.get())?;
            self.fill(arena, part.len())?;
            at = part.end();
        }
        match stretch.kind {
            // The untouched end of an arena is not a block.
            StretchKind::Top => Ok(()),
            _ => self.absent(arena, range.end().get() - at.get()),
        }
    }

    /// Fills bytes that have pages.
    fn fill(&mut self, arena: &mut Arena<'a>, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        arena.filled += bytes;
        let was_small = match self.options.fill {
            Fill::Whole | Fill::Dense => false,
            _ if bytes >= self.large_from => false,
            Fill::Neighbours => true,
            Fill::Exact => arena.neighbours.tile(bytes),
        };
        while left >= MIN_CHUNK {
            let room = room(left, self.piece);
            let size = match was_small {
                true => arena.neighbours.draw(room, &mut self.random),
                false => room,
            };
            let slot = self.block(self.asked(size), None)?;
            arena.fill.push(slot);
            left -= size;
        }
        Ok(())
    }

    /// Fills bytes that have no pages.
    fn absent(&mut self, arena: &mut Arena<'a>, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        while left >= MIN_CHUNK {
            let size = room(left, self.piece);
            let slot = self.block(self.asked(size), Some(0))?;
            arena.fill.push(slot);
            left -= size;
        }
        Ok(())
    }

    /// The requested size of a block of `bytes`, which includes its header.
    fn asked(&self, bytes: u64) -> u64 {
        let header = self.header;
        match self.heap.allocator() {
            // Requests for 15 bytes less get the same chunk.
            Allocator::Glibc => bytes.saturating_sub(header + u64::from(self.options.slack)),
            _ => bytes.saturating_sub(header),
        }
    }

    fn live(&mut self, range: AddrRange, bytes: u64) -> io::Result<()> {
        let touched = (range.len() >= PAGE_SIZE).then(|| self.heap.written(range).min(bytes));
        self.touch(touched.filter(|touched| *touched < bytes))?;
        self.push(op(OpCode::ALLOC, bytes, KEPT))?;
        self.written.live_bytes = self.written.live_bytes.saturating_add(bytes);
        self.kept_bytes = self.kept_bytes.saturating_add(touched.unwrap_or(bytes));
        self.note_peak();
        Ok(())
    }

    fn note_peak(&mut self) {
        let now = self.kept_bytes.saturating_add(self.fill_bytes);
        self.written.peak_bytes = self.written.peak_bytes.max(now);
    }

    /// A block that will be freed. Returns its slot.
    fn block(&mut self, bytes: u64, touched: Option<u64>) -> io::Result<u32> {
        let slot = self.written.slots;
        if slot >= MAX_SLOTS {
            return Err(too_many("free blocks"));
        }
        self.written.slots += 1;
        self.touch(touched)?;
        self.push(op(OpCode::ALLOC, bytes, slot))?;
        self.fill_bytes = self.fill_bytes.saturating_add(touched.unwrap_or(bytes));
        self.note_peak();
        Ok(slot)
    }

    fn touch(&mut self, touched: Option<u64>) -> io::Result<()> {
        match touched {
            Some(bytes) => self.push(op(OpCode::TOUCH, bytes, 0)),
            None => Ok(()),
        }
    }

    /// Frees the fill: blocks that are in caches first, which then are full.
    fn free(&mut self, arenas: &mut [Arena<'_>]) -> io::Result<()> {
        for arena in arenas.iter_mut() {
            match self.options.order {
                FreeOrder::Random => self.random.shuffle(&mut arena.fill),
                FreeOrder::Address => {}
                FreeOrder::Reverse => arena.fill.reverse(),
            }
        }
        for arena in arenas.iter() {
            self.switch(arena.thread)?;
            for slot in &arena.cached {
                self.push(op(OpCode::FREE, 0, *slot))?;
            }
        }
        for arena in arenas.iter() {
            self.switch(arena.thread)?;
            for slot in &arena.fill {
                self.push(op(OpCode::FREE, 0, *slot))?;
            }
        }
        self.fill_bytes = 0;
        Ok(())
    }

    /// Lets allocators that purge over time do so.
    fn settle(&mut self, threads: u32) -> io::Result<()> {
        if self.options.goes_on {
            // Each of an allocator's own arenas is used by one of these.
            let threads: Vec<u32> = (0..threads).collect();
            settle(&threads, PASSING, 0, 0, self.sink)?;
            self.thread = 0;
        }
        self.switch(0)
    }

    fn switch(&mut self, thread: u32) -> io::Result<()> {
        if self.thread != thread {
            self.thread = thread;
            self.push(op(OpCode::SWITCH, 0, thread))?;
        }
        Ok(())
    }

    fn push(&mut self, op: Op) -> io::Result<()> {
        self.sink.push(op).map(|_| ())
    }
}

fn too_many(what: &str) -> io::Error {
    let why = format!("it has too many {what}");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

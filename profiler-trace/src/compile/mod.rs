//! Compiles a trace into the program that a player replays, with slots instead of addresses.
//!
//! A program fits every allocator and every setting; it is compiled once. The compiler only keeps a
//! table of the live blocks of each process.

mod fill;
mod objects;
mod process;
mod seed;
mod settle;
mod threads;

use std::io;

use profiler_common::program::{LARGE_BYTES, Only, Op, OpCode, UNKNOWN};

pub use self::fill::{Neighbours, parts_with_pages, room};
use self::process::Process;
use self::seed::SeedHeap;
pub use self::seed::THRESHOLD_ROUNDING;
pub use self::settle::{set_mmap_threshold, settle};
use self::threads::Thread;
use crate::trace::{By, Checkpoint, Event, EventKind, Item, SeedBlock, TraceDescription};

/// The player's clock is set when time has advanced by this many ns.
const CLOCK_STEP_NS: u64 = 100_000;

/// Where operations go.
pub trait Sink {
    /// Appends an operation and returns its number.
    ///
    /// # Errors
    /// If there is no room.
    fn push(&mut self, op: Op) -> io::Result<u64>;

    /// Changes the value of an operation that was appended before, if it has not been played.
    ///
    /// # Errors
    /// If it is out of reach.
    fn patch(&mut self, number: u64, op: Op) -> io::Result<()>;
}

impl Sink for Vec<Op> {
    fn push(&mut self, op: Op) -> io::Result<u64> {
        Vec::push(self, op);
        Ok(self.len() as u64 - 1)
    }

    fn patch(&mut self, number: u64, op: Op) -> io::Result<()> {
        if let Some(at) = self.get_mut(number as usize) {
            *at = op;
        }
        Ok(())
    }
}

/// The contents of a compiled stream, in events of the trace unless stated otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// Blocks of the seed that were live.
    pub seed_blocks: u64,
    /// Their bytes.
    pub seed_bytes: u64,
    /// Bytes of those that were freed since.
    pub seed_gone_bytes: u64,
    /// Bytes requested since the recording began.
    pub allocated_bytes: u64,
    /// The most bytes that were live at once, as requested, over all processes.
    pub peak_live_bytes: u64,
    /// Bytes that are live by now, likewise.
    pub end_live_bytes: u64,
    /// The bytes of large blocks that may or may not have been touched.
    pub uncertain_touch_bytes: u64,
    /// Events lost.
    pub lost: u64,
    /// Frees of blocks that nothing was known of: dropped.
    pub unknown_frees: u64,
    /// Blocks freed because their address was given out again.
    pub implied_frees: u64,
    /// Threads.
    pub threads: u32,
    /// Processes.
    pub processes: u32,
    /// Events that were left out because there were too many threads or processes.
    pub left_out: u64,
    /// The most slots that the processes need, one after the other and together.
    pub slots: u64,
    /// How long the recording took: from its beginning to its last event or checkpoint, in ns.
    pub duration_ns: u64,
    /// Whether a process starts another program, or becomes one.
    pub executes: bool,
    /// Events of Python's object allocator.
    pub object_events: u64,
    /// Calls of `malloc_trim`.
    pub trims: u64,
    /// The processes that ended, once each. In the player the first exists to the end.
    pub ends: Vec<ProcessEnd>,
    /// The processes that were forked and execute no other program, each after its parent.
    pub forks: Vec<ProcessFork>,
}

/// When a process was forked.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ProcessFork {
    /// Its number.
    pub process: u32,
    /// Its parent's, which is less.
    pub parent: u32,
    /// When, in ns as a checkpoint's time.
    pub time_ns: u64,
    /// Objects that its parent had.
    pub objects: ObjectBytes,
}

/// A process's requests to Python's object allocator since the size of its arenas was last known:
/// since its last checkpoint that recorded this, since it was forked, or from its beginning. Each
/// object counts with the bytes that the allocator gives it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct ObjectBytes {
    /// The most that was live at once.
    pub most: u64,
    /// How much more that is than was live then.
    pub grown: u64,
}

/// When a process ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ProcessEnd {
    /// Its number.
    pub process: u32,
    /// Checkpoints, of any process, that the player reaches before.
    pub checkpoints: usize,
}

/// A time at which the player's memory is measured, when the player reaches it: a checkpoint of the
/// trace, or an added one.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramCheckpoint {
    /// What was recorded there; without figures if nothing was.
    pub checkpoint: Checkpoint,
    /// Whether it comes from the trace.
    pub recorded: bool,
    /// When its process began, in ns, as in the checkpoint's own time.
    pub began_ns: u64,
    /// Bytes live there, as requested.
    pub live_bytes: u64,
    /// Of Python's object allocator.
    pub objects: ObjectBytes,
    /// Events before it.
    pub events: u64,
}

/// Compiles a stream, item by item.
#[derive(Debug)]
pub struct Compiler {
    processes: Vec<Process>,
    threads: Vec<Option<Thread>>,
    /// The thread that has the turn.
    current: u32,
    clock_ns: u64,
    /// How long the player's time passed before the recording's began.
    settled_ns: u64,
    seed_heap: SeedHeap,
    /// The seed, until it is complete.
    seed: Vec<SeedBlock>,
    live_bytes: u64,
    summary: Summary,
    checkpoints: Vec<ProgramCheckpoint>,
    checkpoint_bytes: u64,
}

impl Compiler {
    /// A compiler for the stream with this description.
    pub fn new(description: &TraceDescription) -> Self {
        let mut compiler = Self {
            processes: vec![Process::new(0)],
            threads: Vec::new(),
            current: 0,
            clock_ns: 0,
            settled_ns: 0,
            seed_heap: SeedHeap::of(description),
            seed: Vec::new(),
            live_bytes: 0,
            summary: Summary::default(),
            checkpoints: Vec::new(),
            checkpoint_bytes: 0,
        };
        compiler.put_thread(0, 0);
        compiler
    }

    /// Compiles one item.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn item(&mut self, item: Item, sink: &mut impl Sink) -> io::Result<()> {
        match item {
            Item::Seed(blocks) => {
                self.seed.extend(blocks);
                Ok(())
            }
            Item::Event(event) => {
                self.end_seed(sink)?;
                self.event(&event, sink)
            }
            Item::Checkpoint(checkpoint) => {
                self.end_seed(sink)?;
                self.checkpoint(checkpoint, true, sink)
            }
        }
    }

    /// The contents compiled so far.
    pub fn summary(&self) -> Summary {
        Summary {
            threads: self.threads.iter().flatten().count() as u32,
            processes: self.processes.len() as u32,
            slots: {
                let now: u64 = self.processes.iter().map(Process::slots).sum();
                now + self.summary.slots
            },
            end_live_bytes: self.live_bytes,
            uncertain_touch_bytes: {
                let of_each = self.processes.iter().map(|p| p.uncertain_bytes);
                of_each.fold(0, u64::saturating_add)
            },
            ..self.summary.clone()
        }
    }

    /// Bytes live by now in all processes, as requested.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of its tables, including those that a fork by this event's thread would add.
    pub fn table_bytes(&self, forks: Option<u32>) -> u64 {
        let forked = forks.and_then(|thread| self.threads.get(thread as usize)?.as_ref());
        let forked = forked.map(|thread| &self.processes[thread.process as usize]);
        let processes = self.processes.iter().chain(forked);
        let blocks: u64 = processes.map(Process::table_bytes).sum();
        let seed = self.seed.capacity() * size_of::<SeedBlock>();
        blocks + self.checkpoint_bytes + seed as u64
    }

    /// The checkpoints so far, in order: the player reaches the first as number 0.
    pub fn checkpoints(&self) -> &[ProgramCheckpoint] {
        &self.checkpoints
    }

    /// The process of a thread that is known.
    pub fn process_of_thread(&self, thread: u32) -> Option<u32> {
        let thread = self.threads.get(thread as usize)?.as_ref()?;
        Some(thread.process)
    }

    /// The number of processes so far: each process number is less.
    pub fn processes(&self) -> u32 {
        self.processes.len() as u32
    }

    /// Bytes live by now in a process that runs, as requested. The first one runs to the end.
    pub fn live_bytes_of(&self, process: u32) -> Option<u64> {
        let process = self.processes.get(process as usize)?;
        process.alive.then(|| process.live_bytes())
    }

    /// Adds a checkpoint of a process at this time that was not recorded; none if the process has
    /// ended.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn add_checkpoint(
        &mut self,
        process: u32,
        time_ns: u64,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let checkpoint = Checkpoint {
            time_ns,
            process,
            ..Checkpoint::default()
        };
        self.checkpoint(checkpoint, false, sink)
    }

    /// Sets glibc's `mmap_threshold` to its former value, before anything else.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn set_mmap_threshold(&mut self, bytes: u64, sink: &mut impl Sink) -> io::Result<()> {
        let slot = self.processes[0].take_slot();
        set_mmap_threshold(bytes, slot, sink)?;
        self.processes[0].give_slot(slot);
        Ok(())
    }

    fn event(&mut self, event: &Event, sink: &mut impl Sink) -> io::Result<()> {
        self.summary.events += 1;
        self.summary.duration_ns = self.summary.duration_ns.max(event.time_ns);
        if let EventKind::Lost { events } = event.kind {
            self.summary.lost = self.summary.lost.saturating_add(events);
            return Ok(());
        }
        if let EventKind::Begin { process } = event.kind {
            return self.begin(event.thread, process, sink);
        }
        let Some(process) = self.process_of(event.thread, sink)? else {
            self.summary.left_out += 1;
            return Ok(());
        };
        if event.time_ns > self.clock_ns.saturating_add(CLOCK_STEP_NS) {
            self.pass_time(event.time_ns, sink)?;
        }
        match event.kind {
            EventKind::Alloc {
                addr,
                bytes,
                align,
                by,
            } => {
                self.switch(event.thread, sink)?;
                self.alloc(event.thread, addr, bytes, align, by, sink)
            }
            EventKind::Free { addr } => {
                let block = self.take_block(process, addr);
                self.free_if_any(event.thread, process, block, sink)
            }
            EventKind::Realloc { addr } => self.realloc(event.thread, process, addr, sink),
            EventKind::Kept { addr } => {
                let block = self.thread(event.thread).and_then(|t| t.realloc.take());
                if let Some(block) = block {
                    self.processes[process as usize].put_back(addr, block);
                }
                Ok(())
            }
            EventKind::Touched { addr, bytes } => {
                self.processes[process as usize].touched(addr, bytes, sink)
            }
            EventKind::ObjectAlloc { .. }
            | EventKind::ObjectFree { .. }
            | EventKind::ObjectRealloc { .. } => self.object(event, process, sink),
            EventKind::Trim { pad } => self.trim(event.thread, pad, sink),
            EventKind::ThreadEnd => self.end_thread(event.thread, process, sink),
            EventKind::Fork {
                process: new,
                child,
            } => {
                // The child has this thread's arena and caches.
                self.switch(event.thread, sink)?;
                self.fork(process, new, child, sink)
            }
            EventKind::Exec => self.exec(event.thread, process, sink),
            EventKind::Exit => self.exit(process, sink),
            EventKind::Begin { .. } | EventKind::Lost { .. } => Ok(()),
        }
    }

    /// A realloc begins: what follows says where its block goes.
    fn realloc(
        &mut self,
        thread: u32,
        process: u32,
        addr: u64,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let block = self.take_block(process, addr);
        let of_thread = self.thread(thread);
        let before = of_thread.and_then(|t| std::mem::replace(&mut t.realloc, block));
        // The end of the realloc was lost, so nobody knows where its block is now.
        self.free_if_any(thread, process, before, sink)
    }

    fn trim(&mut self, thread: u32, pad: u64, sink: &mut impl Sink) -> io::Result<()> {
        self.summary.trims += 1;
        self.switch(thread, sink)?;
        // Of others the C library's call of this name returns nothing.
        let trim = Op {
            only: Only::C_LIBRARY,
            ..op(OpCode::TRIM, pad, 0)
        };
        sink.push(trim).map(|_| ())
    }

    fn alloc(
        &mut self,
        thread: u32,
        addr: u64,
        bytes: u64,
        align: u8,
        by: By,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let Some(state) = self.thread(thread) else {
            return Ok(());
        };
        let process = state.process;
        let moved = match by {
            By::Realloc => state.realloc.take(),
            By::Malloc | By::Calloc => None,
        };
        // The free of the previous block was lost.
        if let Some(before) = self.processes[process as usize].remove(addr) {
            self.summary.implied_frees += 1;
            self.free(process, &before, sink)?;
        }
        let table = &mut self.processes[process as usize];
        if let Some(block) = &moved {
            table.resized(block, bytes, sink)?;
        }
        let touch = table.put_touch(bytes, sink)?;
        let (code, slot) = match &moved {
            Some(block) => (OpCode::REALLOC, block.slot),
            None => (OpCode::ALLOC, table.take_slot()),
        };
        sink.push(Op {
            value: bytes,
            slot,
            code,
            align,
            zeroed: u8::from(by == By::Calloc),
            only: Only::ALL,
        })?;
        table.insert(addr, slot, bytes, by == By::Calloc, touch);
        if let Some(block) = &moved {
            self.note_gone(process, block);
        }
        let before = moved.map_or(0, |block| block.bytes);
        self.live_bytes = self.live_bytes.saturating_sub(before);
        self.summary.allocated_bytes = self.summary.allocated_bytes.saturating_add(bytes);
        self.add_live(bytes);
        Ok(())
    }

    /// Removes the live block there, which is freed or reallocated; an unknown one is counted.
    fn take_block(&mut self, process: u32, addr: u64) -> Option<process::Block> {
        let block = self.processes[process as usize].remove(addr);
        self.summary.unknown_frees += u64::from(block.is_none());
        block
    }

    /// A thread frees a block, if there is one.
    fn free_if_any(
        &mut self,
        thread: u32,
        process: u32,
        block: Option<process::Block>,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let Some(block) = block else {
            return Ok(());
        };
        self.switch(thread, sink)?;
        self.free(process, &block, sink)
    }

    fn free(
        &mut self,
        process: u32,
        block: &process::Block,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        sink.push(free(block.slot))?;
        self.processes[process as usize].give_slot(block.slot);
        self.live_bytes = self.live_bytes.saturating_sub(block.bytes);
        self.note_gone(process, block);
        Ok(())
    }

    /// Counts the bytes of a freed block that was live before the recording.
    fn note_gone(&mut self, process: u32, block: &process::Block) {
        if block.seeded && process == 0 {
            let gone = self.summary.seed_gone_bytes;
            self.summary.seed_gone_bytes = gone.saturating_add(block.bytes);
        }
    }

    fn add_live(&mut self, bytes: u64) {
        self.live_bytes = self.live_bytes.saturating_add(bytes);
        self.summary.peak_live_bytes = self.summary.peak_live_bytes.max(self.live_bytes);
    }

    fn checkpoint(
        &mut self,
        checkpoint: Checkpoint,
        recorded: bool,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let process = checkpoint.process as usize;
        let Some(state) = self.processes.get(process).filter(|p| p.alive) else {
            return Ok(());
        };
        let (main, began_ns) = (state.main_thread, state.began_ns);
        self.summary.duration_ns = self.summary.duration_ns.max(checkpoint.time_ns);
        if self.clock_ns < checkpoint.time_ns {
            self.pass_time(checkpoint.time_ns, sink)?;
        }
        let state = &mut self.processes[process];
        let (live_bytes, objects) = (state.live_bytes(), state.object_bytes());
        if checkpoint.figures.pymalloc_bytes.is_some() {
            state.arenas_are_known();
        }
        self.switch(main, sink)?;
        sink.push(op(OpCode::CHECKPOINT, self.checkpoints.len() as u64, 0))?;
        let figures = checkpoint.figures.heap_bytes();
        // The player of the program has a copy.
        self.checkpoint_bytes += 2 * (figures + size_of::<ProgramCheckpoint>()) as u64;
        self.checkpoints.push(ProgramCheckpoint {
            checkpoint,
            recorded,
            began_ns,
            live_bytes,
            objects,
            events: self.summary.events,
        });
        Ok(())
    }

    fn pass_time(&mut self, time_ns: u64, sink: &mut impl Sink) -> io::Result<()> {
        self.clock_ns = time_ns;
        let played_ns = time_ns.saturating_add(self.settled_ns);
        sink.push(op(OpCode::CLOCK, played_ns, 0)).map(|_| ())
    }
}

/// An operation with only a value and a slot.
pub fn op(code: OpCode, value: u64, slot: u32) -> Op {
    Op {
        value,
        slot,
        code,
        ..Op::default()
    }
}

fn free(slot: u32) -> Op {
    op(OpCode::FREE, 0, slot)
}

/// Whether a block may stay partly untouched.
fn is_large(bytes: u64) -> bool {
    bytes >= LARGE_BYTES
}

/// The operation before a large block of which `known` bytes are known to be touched.
fn touch(known: u64) -> Op {
    op(OpCode::TOUCH, known, 0)
}

/// Before anything is known.
fn touch_unknown() -> Op {
    touch(UNKNOWN)
}

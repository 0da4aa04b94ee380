//! Traces made up event by event, written by the real recorder.

use std::collections::HashMap;
use std::time::Duration;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_trace::record::{Clock, Normaliser, Recorder, SourceEvent, SourceKind};
use profiler_trace::trace::{By, EventKind, Figures, TraceDescription, Writer};

/// A block of the trace, by its address.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Block(u64);

/// Builds a trace event by event. Addresses are never reused; a thread belongs to process 0 unless
/// it was begun in another.
#[derive(Debug)]
pub struct TraceBuilder {
    recorder: Recorder<Writer<Vec<u8>>>,
    /// The process of each thread, unless it is the first.
    processes: HashMap<u64, u64>,
    resident: Vec<AddrRange>,
    now: Duration,
    next: u64,
}

impl Default for TraceBuilder {
    fn default() -> Self {
        Self::new(&TraceDescription::default())
    }
}

impl TraceBuilder {
    /// Of an empty trace with this description.
    pub fn new(description: &TraceDescription) -> Self {
        let writer = Writer::new(Vec::new(), description).expect("a Vec has room");
        Self {
            recorder: Recorder::new(writer, Normaliser::new(Clock::new(0, 1))),
            processes: HashMap::new(),
            resident: Vec::new(),
            now: Duration::ZERO,
            next: 0x10_0000,
        }
    }

    /// The trace, as the bytes of its file.
    pub fn finish(self) -> Vec<u8> {
        let writer = self.recorder.finish().expect("a Vec has room");
        writer.finish().expect("a Vec has room")
    }

    /// The trace so far. More may be added to it afterwards.
    pub fn bytes(&self) -> Vec<u8> {
        let writer = self.recorder.sink().clone();
        writer.finish().expect("a Vec has room")
    }

    fn now_ns(&self) -> u64 {
        self.now.as_nanos() as u64
    }

    fn process_of(&self, thread: u64) -> u64 {
        self.processes.get(&thread).copied().unwrap_or(0)
    }

    /// Adds any event of a thread.
    pub fn event(&mut self, thread: u64, kind: impl Into<SourceKind>) {
        let event = SourceEvent {
            time_ns: self.now_ns(),
            process: self.process_of(thread),
            thread,
            kind: kind.into(),
        };
        self.recorder.record(&event).expect("a Vec has room");
    }

    fn fresh(&mut self, bytes: u64) -> Block {
        let addr = self.next;
        self.next += (bytes + 0xfff) & !0xfff;
        Block(addr)
    }

    fn give(&mut self, thread: u64, bytes: u64, align: u8, by: By) -> Block {
        let block = self.fresh(bytes);
        let addr = block.0;
        self.event(
            thread,
            EventKind::Alloc {
                addr,
                bytes,
                align,
                by,
            },
        );
        block
    }

    /// A thread allocates a block.
    pub fn alloc(&mut self, thread: u64, bytes: u64) -> Block {
        self.give(thread, bytes, 0, By::Malloc)
    }

    /// The same, aligned to 2 to the power of `align`.
    pub fn aligned(&mut self, thread: u64, bytes: u64, align: u8) -> Block {
        self.give(thread, bytes, align, By::Malloc)
    }

    /// A thread changes the size of a block, which moves.
    pub fn realloc(&mut self, thread: u64, block: Block, bytes: u64) -> Block {
        self.event(thread, EventKind::Realloc { addr: block.0 });
        self.give(thread, bytes, 0, By::Realloc)
    }

    /// A thread frees a block.
    pub fn free(&mut self, thread: u64, block: Block) {
        self.event(thread, EventKind::Free { addr: block.0 });
    }

    /// A thread ends.
    pub fn thread_end(&mut self, thread: u64) {
        self.event(thread, EventKind::ThreadEnd);
    }

    /// A thread forks: the child has one thread.
    pub fn fork(&mut self, parent: u64, process: u64, thread: u64) {
        // The number of the fork, as good as any other.
        let fork = process;
        self.event(parent, SourceKind::Forking { fork });
        let of = self.process_of(parent);
        self.processes.insert(thread, process);
        let kind = SourceKind::Forked {
            process: of,
            thread: parent,
            fork,
        };
        self.event(thread, kind);
    }

    /// A thread begins in a process, which is a new program if it is not known.
    pub fn begin(&mut self, process: u64, thread: u64) {
        self.processes.insert(thread, process);
    }

    /// A program begins in the thread's process.
    pub fn start(&mut self, thread: u64) {
        self.event(thread, SourceKind::Start);
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Takes a checkpoint at which `bytes` of a block are resident.
    pub fn touched(&mut self, block: Block, bytes: u64) {
        let range = AddrRange::with_len(RemoteAddr::new(block.0), bytes);
        self.resident.push(range.expect("in the address space"));
        self.checkpoint(0);
    }

    /// Takes a checkpoint of a process, at which the touched part of its blocks is resident.
    pub fn checkpoint(&mut self, process: u64) {
        let mut residency = ResidencyMap::new(vec![Mapping::private(
            AddrRange::with_len(RemoteAddr::new(0), 1 << 40).expect("in the address space"),
            MappingKind::Anonymous,
        )]);
        for range in &self.resident {
            residency.push_run(PageRun {
                range: *range,
                state: PageState::PRESENT,
            });
        }
        self.measured(process, &residency, Figures::default());
    }

    /// Takes a checkpoint of a process with these measurements.
    pub fn measured(&mut self, process: u64, residency: &ResidencyMap, figures: Figures) {
        let of = self.recorder.normaliser().process(process);
        let (of, now_ns) = (of.expect("it recorded something"), self.now_ns());
        self.recorder
            .checkpoint(&of, now_ns, residency, figures)
            .expect("a Vec has room");
    }
}

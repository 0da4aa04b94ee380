//! Traces made by hand, written by the recorder and compiled by what `replay` uses.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_lab::open::compile;
use profiler_lab::play::ReplayProgram;
use profiler_trace::limits::Meter;
use profiler_trace::record::{Clock, Normaliser, Recorder, SourceEvent, SourceKind};
use profiler_trace::trace::{By, EventKind, Figures, Reader, TraceDescription, Writer};

/// A block of the trace, by its address.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Block(u64);

/// Builds a trace event by event. Addresses are never used again; a thread is of process 0 unless it
/// was begun in another.
pub(crate) struct TraceBuilder {
    recorder: Recorder<Writer<Vec<u8>>>,
    /// The process of each thread, where it is not the first.
    processes: HashMap<u64, u64>,
    resident: Vec<AddrRange>,
    now: Duration,
    next: u64,
}

impl TraceBuilder {
    pub(crate) fn new() -> Self {
        let description = TraceDescription::default();
        let writer = Writer::new(Vec::new(), &description).expect("a Vec has room");
        Self {
            recorder: Recorder::new(writer, Normaliser::new(Clock::new(0, 1))),
            processes: HashMap::new(),
            resident: Vec::new(),
            now: Duration::ZERO,
            next: 0x10_0000,
        }
    }

    /// The trace, compiled. More may be added to it afterwards.
    pub(crate) fn program(&self) -> Arc<ReplayProgram> {
        let writer = self.recorder.sink().clone();
        let bytes = writer.finish().expect("a Vec has room");
        let reader = Reader::new(Cursor::new(bytes)).expect("a trace");
        let compiled = compile(reader, Meter::default());
        compiled.expect("it compiles").program
    }

    fn now_ns(&self) -> u64 {
        self.now.as_nanos() as u64
    }

    fn process_of(&self, thread: u64) -> u64 {
        self.processes.get(&thread).copied().unwrap_or(0)
    }

    pub(crate) fn event(&mut self, thread: u64, kind: impl Into<SourceKind>) {
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

    pub(crate) fn alloc(&mut self, thread: u64, bytes: u64) -> Block {
        self.give(thread, bytes, 0, By::Malloc)
    }

    pub(crate) fn aligned(&mut self, thread: u64, bytes: u64, align: u8) -> Block {
        self.give(thread, bytes, align, By::Malloc)
    }

    pub(crate) fn realloc(&mut self, thread: u64, block: Block, bytes: u64) -> Block {
        self.event(thread, EventKind::Realloc { addr: block.0 });
        self.give(thread, bytes, 0, By::Realloc)
    }

    pub(crate) fn free(&mut self, thread: u64, block: Block) {
        self.event(thread, EventKind::Free { addr: block.0 });
    }

    pub(crate) fn thread_end(&mut self, thread: u64) {
        self.event(thread, EventKind::ThreadEnd);
    }

    /// A thread forks: the child has one thread.
    pub(crate) fn fork(&mut self, parent: u64, process: u64, thread: u64) {
        // Which fork it is, as good as any number.
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

    /// A thread begins in a process, which is a new program when it is not known.
    pub(crate) fn begin(&mut self, process: u64, thread: u64) {
        self.processes.insert(thread, process);
    }

    /// A program begins in the thread's process.
    pub(crate) fn start(&mut self, thread: u64) {
        self.event(thread, SourceKind::Start);
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Takes a checkpoint in which so many bytes of a block are resident.
    pub(crate) fn touched(&mut self, block: Block, bytes: u64) {
        let range = AddrRange::with_len(RemoteAddr::new(block.0), bytes);
        self.resident.push(range.expect("in the address space"));
        self.checkpoint(0);
    }

    pub(crate) fn checkpoint(&mut self, process: u64) {
        let of = self.recorder.normaliser().process(process);
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
        let (of, now_ns) = (of.expect("it recorded something"), self.now_ns());
        self.recorder
            .checkpoint(&of, now_ns, &residency, Figures::default())
            .expect("a Vec has room");
    }
}

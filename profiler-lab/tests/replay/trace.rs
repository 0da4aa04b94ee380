//! Traces made by hand.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use profiler_lab::play::Program;
use profiler_trace::trace::{By, Checkpoint, Event, EventKind, Reader, TraceDescription, Writer};

/// A block of the trace, by its address.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Block(u64);

/// Builds a trace event by event. Addresses are never used again.
pub(crate) struct TraceBuilder {
    writer: Writer<Vec<u8>>,
    now: Duration,
    next: u64,
}

impl TraceBuilder {
    pub(crate) fn new() -> Self {
        let description = TraceDescription::default();
        Self {
            writer: Writer::new(Vec::new(), &description).expect("a Vec has room"),
            now: Duration::ZERO,
            next: 0x10_0000,
        }
    }

    /// The trace, compiled. More may be added to it afterwards.
    pub(crate) fn program(&self) -> Arc<Program> {
        let bytes = self.writer_bytes();
        let reader = Reader::new(Cursor::new(bytes)).expect("a trace");
        Program::compile(reader).expect("it compiles")
    }

    fn writer_bytes(&self) -> Vec<u8> {
        self.writer.clone().finish().expect("a Vec has room")
    }

    pub(crate) fn event(&mut self, thread: u32, kind: EventKind) {
        let event = Event {
            time_ns: self.now.as_nanos() as u64,
            thread,
            kind,
        };
        self.writer.event(&event).expect("a Vec has room");
    }

    fn fresh(&mut self, bytes: u64) -> Block {
        let addr = self.next;
        self.next += (bytes + 0xfff) & !0xfff;
        Block(addr)
    }

    fn give(&mut self, thread: u32, bytes: u64, align: u8, by: By) -> Block {
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

    pub(crate) fn alloc(&mut self, thread: u32, bytes: u64) -> Block {
        self.give(thread, bytes, 0, By::Malloc)
    }

    pub(crate) fn aligned(&mut self, thread: u32, bytes: u64, align: u8) -> Block {
        self.give(thread, bytes, align, By::Malloc)
    }

    pub(crate) fn realloc(&mut self, thread: u32, block: Block, bytes: u64) -> Block {
        self.event(thread, EventKind::Realloc { addr: block.0 });
        self.give(thread, bytes, 0, By::Realloc)
    }

    pub(crate) fn free(&mut self, thread: u32, block: Block) {
        self.event(thread, EventKind::Free { addr: block.0 });
    }

    pub(crate) fn touched(&mut self, thread: u32, block: Block, bytes: u64) {
        self.event(
            thread,
            EventKind::Touched {
                addr: block.0,
                bytes,
            },
        );
    }

    pub(crate) fn thread_end(&mut self, thread: u32) {
        self.event(thread, EventKind::ThreadEnd);
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub(crate) fn checkpoint(&mut self, process: u32) {
        let checkpoint = Checkpoint {
            time_ns: self.now.as_nanos() as u64,
            process,
            figures: Default::default(),
        };
        self.writer.checkpoint(&checkpoint).expect("a Vec has room");
    }
}

//! Python's requests to its object allocator: operations for players that pass them to malloc, as
//! with `PYTHONMALLOC=malloc`. Other players skip them and use the arenas as recorded.

use std::io;

use profiler_common::program::{Only, Op, OpCode};

use super::{Compiler, Sink};
use crate::trace::{By, Event, EventKind};

/// A live block of the object allocator.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Object {
    slot: u32,
    /// Bytes requested.
    pub(super) bytes: u64,
}

impl Compiler {
    /// An event of the object allocator in a process.
    pub(super) fn object(
        &mut self,
        event: &Event,
        process: u32,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        self.summary.object_events += 1;
        let thread = event.thread;
        match event.kind {
            EventKind::ObjectAlloc { addr, bytes, by } => {
                let resized = self.thread(thread).and_then(|t| t.resized.take());
                // It asked malloc for it, whose events have it already.
                let is_mallocs = self.processes[process as usize].has_block(addr);
                match (resized, is_mallocs) {
                    (Some(before), false) => {
                        self.put_object(thread, process, addr, bytes, by, Some(before), sink)
                    }
                    (None, false) => self.put_object(thread, process, addr, bytes, by, None, sink),
                    (Some(before), true) => self.free_object(thread, process, before, sink),
                    (None, true) => Ok(()),
                }
            }
            EventKind::ObjectFree { addr } => {
                match self.take_object(process, addr) {
                    Some(object) => self.free_object(thread, process, object, sink),
                    // Of malloc, whose events have it.
                    None => Ok(()),
                }
            }
            EventKind::ObjectRealloc { addr } => {
                let object = self.take_object(process, addr);
                let known = self.thread(thread);
                let before = known.and_then(|t| std::mem::replace(&mut t.resized, object));
                match before {
                    Some(before) => self.free_object(thread, process, before, sink),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    fn put_object(
        &mut self,
        thread: u32,
        process: u32,
        addr: u64,
        bytes: u64,
        by: By,
        before: Option<Object>,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        self.switch(thread, sink)?;
        let table = &mut self.processes[process as usize];
        let (code, slot) = match before {
            Some(before) => (OpCode::REALLOC, before.slot),
            None => (OpCode::ALLOC, table.take_slot()),
        };
        let object = Object { slot, bytes };
        let lost = table.insert_object(addr, object);
        sink.push(Op {
            value: bytes,
            slot,
            code,
            align: 0,
            zeroed: u8::from(by == By::Calloc),
            only: Only::OBJECTS,
        })?;
        self.add_live(bytes);
        match lost {
            Some(lost) => {
                self.summary.implied_frees += 1;
                self.live_bytes = self.live_bytes.saturating_sub(lost.bytes);
                self.free_object(thread, process, lost, sink)
            }
            None => Ok(()),
        }
    }

    fn take_object(&mut self, process: u32, addr: u64) -> Option<Object> {
        let object = self.processes[process as usize].remove_object(addr)?;
        self.live_bytes = self.live_bytes.saturating_sub(object.bytes);
        Some(object)
    }

    fn free_object(
        &mut self,
        thread: u32,
        process: u32,
        object: Object,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        self.switch(thread, sink)?;
        sink.push(Op {
            slot: object.slot,
            code: OpCode::FREE,
            only: Only::OBJECTS,
            ..Op::default()
        })?;
        self.processes[process as usize].give_slot(object.slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Item, TraceDescription};

    /// Compiles these events of one thread.
    fn compiled(kinds: &[EventKind]) -> (Vec<Op>, Compiler) {
        let mut compiler = Compiler::new(&TraceDescription::default());
        let mut ops: Vec<Op> = Vec::new();
        for kind in kinds {
            let event = Event {
                time_ns: 0,
                thread: 0,
                kind: *kind,
            };
            compiler.item(Item::Event(event), &mut ops).expect("memory");
        }
        (ops, compiler)
    }

    fn object(addr: u64, bytes: u64, by: By) -> EventKind {
        EventKind::ObjectAlloc { addr, bytes, by }
    }

    fn played(ops: &[Op]) -> Vec<(OpCode, u64, u32, Only)> {
        let all = ops.iter();
        all.map(|op| (op.code, op.value, op.slot, op.only))
            .collect()
    }

    #[test]
    fn objects_are_asked_of_malloc_by_those_alone_that_have_no_object_allocator() {
        let (ops, compiler) = compiled(&[
            object(16, 48, By::Malloc),
            object(64, 24, By::Calloc),
            EventKind::ObjectRealloc { addr: 16 },
            object(128, 96, By::Realloc),
            EventKind::ObjectFree { addr: 128 },
        ]);
        let only = Only::OBJECTS;
        assert_eq!(
            played(&ops),
            [
                (OpCode::ALLOC, 48, 0, only),
                (OpCode::ALLOC, 24, 1, only),
                (OpCode::REALLOC, 96, 0, only),
                (OpCode::FREE, 0, 0, only),
            ]
        );
        assert_eq!(ops[1].zeroed, 1);
        let summary = compiler.summary();
        assert_eq!((summary.object_events, summary.end_live_bytes), (5, 24));
        assert_eq!(summary.peak_live_bytes, 120);
        assert_eq!(summary.unknown_frees, 0);
    }

    /// The object allocator asks malloc for what is larger than what it serves itself.
    #[test]
    fn a_block_that_malloc_gave_is_not_asked_of_it_twice() {
        let malloc = EventKind::Alloc {
            addr: 4096,
            bytes: 600,
            align: 0,
            by: By::Malloc,
        };
        let (ops, compiler) = compiled(&[
            // One that it could not serve itself, though it is small enough.
            malloc,
            object(4096, 500, By::Malloc),
            EventKind::ObjectFree { addr: 4096 },
            EventKind::Free { addr: 4096 },
            // A small one grows beyond what it serves.
            object(16, 500, By::Malloc),
            malloc,
            EventKind::ObjectRealloc { addr: 16 },
            object(4096, 600, By::Realloc),
        ]);
        let all = Only::ALL;
        assert_eq!(
            played(&ops),
            [
                (OpCode::ALLOC, 600, 0, all),
                (OpCode::FREE, 0, 0, all),
                (OpCode::ALLOC, 500, 0, Only::OBJECTS),
                (OpCode::ALLOC, 600, 1, all),
                (OpCode::FREE, 0, 0, Only::OBJECTS),
            ]
        );
        assert_eq!(compiler.summary().end_live_bytes, 600);
    }
}

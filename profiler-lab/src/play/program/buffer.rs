//! Operations waiting to be written to a program's file.

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;

use profiler_common::program::{OPS_AT, Op, ProgramHeader};
use profiler_trace::compile::Sink;
use profiler_trace::limits::{Limit, Meter, Stopped};
use zerocopy::IntoBytes;

/// Operations that are written at once.
pub(super) const BUFFERED: usize = 1 << 16;

/// Operations on their way into the file.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) file: File,
    pub(super) published: u64,
    /// Operations whose room was given back.
    pub(super) forgotten: u64,
    pub(super) ops: Vec<Op>,
    pub(super) meter: Meter,
    /// The most bytes that it may take of the file system.
    pub(super) room: u64,
}

impl Buffer {
    /// Whether the file may become as long as it is together with what waits to be written.
    pub(super) fn check_room(&self) -> io::Result<()> {
        let ops = self.published.saturating_sub(self.forgotten) + self.ops.len() as u64;
        let bytes = ops * size_of::<Op>() as u64;
        self.meter.size("the program for players", bytes)?;
        if bytes > self.room {
            return Err(Stopped::Limit {
                what: "the program for players",
                bytes: self.room,
                limit: Limit::TemporaryRoom,
            }
            .into());
        }
        Ok(())
    }

    pub(super) fn publish(&mut self) -> io::Result<()> {
        let at = OPS_AT as u64 + self.published * size_of::<Op>() as u64;
        self.file.write_all_at(self.ops.as_bytes(), at)?;
        self.published += self.ops.len() as u64;
        self.ops.clear();
        let published = offset_of!(ProgramHeader, published) as u64;
        self.file
            .write_all_at(&self.published.to_ne_bytes(), published)
    }
}

/// Where the operations of [`super::ReplayProgram::of_operations`] go.
#[derive(Debug)]
pub struct OperationsSink<'a>(pub(super) &'a mut Buffer);

impl Sink for OperationsSink<'_> {
    fn push(&mut self, op: Op) -> io::Result<u64> {
        let number = self.0.push(op)?;
        if self.0.ops.len() >= BUFFERED {
            self.0.meter.check()?;
            self.0.check_room()?;
            self.0.publish()?;
        }
        Ok(number)
    }

    fn patch(&mut self, number: u64, op: Op) -> io::Result<()> {
        self.0.patch(number, op)
    }
}

impl Sink for Buffer {
    fn push(&mut self, op: Op) -> io::Result<u64> {
        self.ops.push(op);
        let number = self.published + self.ops.len() as u64 - 1;
        // One item can become many operations: all blocks that existed before.
        if self.ops.len() >= 2 * BUFFERED {
            self.check_room()?;
            self.publish()?;
        }
        Ok(number)
    }

    fn patch(&mut self, number: u64, op: Op) -> io::Result<()> {
        match number.checked_sub(self.published) {
            Some(ahead) => {
                if let Some(place) = self.ops.get_mut(ahead as usize) {
                    *place = op;
                }
                Ok(())
            }
            None if number < self.forgotten => Ok(()),
            None => {
                let at = OPS_AT as u64 + number * size_of::<Op>() as u64;
                self.file.write_all_at(op.as_bytes(), at)
            }
        }
    }
}

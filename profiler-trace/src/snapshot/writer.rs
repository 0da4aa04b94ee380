//! Writes a saved session.

use std::io::{self, Write};

use profiler_core::sample::Sample;

use super::wire::Wire;
use super::{NAME, Observation, VERSION, kind, part};
use crate::block;
use crate::varint;

/// Bytes of a record in one block at most.
const PART_BYTES: usize = 1 << 20;
/// zstd's default level: measured, twice as small as the fastest for half the speed.
const LEVEL: i32 = 3;

/// Writes a session, record by record. Each is in the output when the call returns.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    walks: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a session.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut head = NAME.to_vec();
        head.push(VERSION);
        out.write_all(&head)?;
        Ok(Self { out, walks: 0 })
    }

    /// Continues a session that already has `walks` walks.
    pub(super) fn after(walks: u64, out: W) -> Self {
        Self { out, walks }
    }

    /// Says that the file is a black box's.
    pub(super) fn mark(&mut self, fate: u8) -> io::Result<()> {
        self.blocks(kind::BLACK_BOX, &[fate])
    }

    /// The output of a session that is not ended.
    pub(super) fn into_output(self) -> W {
        self.out
    }

    /// Writes a walk: the samples are numbered from 1 on.
    ///
    /// # Errors
    /// Those of the output.
    pub fn walk(&mut self, sample: &Sample) -> io::Result<()> {
        self.walks += 1;
        self.record(kind::WALK, sample)
    }

    /// The output.
    pub fn output(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes the observations made with the last walk. A later observation of the same walk
    /// replaces it, except for the points, which are added.
    ///
    /// # Errors
    /// Those of the output.
    pub fn observe(&mut self, observation: &Observation) -> io::Result<()> {
        self.record(kind::OBSERVATION, observation)
    }

    /// Ends the session, and returns the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.blocks(kind::END, &[])?;
        Ok(self.out)
    }

    /// Writes a value and the number of the walk to which it belongs.
    fn record(&mut self, kind: u8, value: &impl Wire) -> io::Result<()> {
        let mut content = Vec::new();
        varint::put(&mut content, self.walks);
        value.put(&mut content);
        self.blocks(kind, &content)
    }

    fn blocks(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        let count = content.len().div_ceil(PART_BYTES).max(1);
        for number in 0..count {
            let start = number * PART_BYTES;
            let end = content.len().min(start + PART_BYTES);
            let first = if number == 0 { part::FIRST } else { 0 };
            let last = if number + 1 == count { part::LAST } else { 0 };
            let head = [kind, first | last];
            block::write(&mut self.out, LEVEL, &head, &content[start..end])?;
        }
        self.out.flush()
    }
}

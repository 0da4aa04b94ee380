//! Writes a trace.

use std::io::{self, Write};

use super::event::Context;
use super::{
    Checkpoint, Event, Kind, MAGIC, RecordedBy, SeedBlock, TraceDescription, WITH_OBJECTS,
    WITH_TRIMS,
};
use crate::block::{self, MAX_UNPACKED};
use crate::varint::{put, put_signed, put_text};

/// A block of events is written at this many bytes: small enough that a crash loses little.
const BLOCK_BYTES: usize = 1 << 20;
/// zstd's fastest ordinary level: recording must keep up with the program.
const LEVEL: i32 = 1;
/// No event takes more bytes.
const MAX_EVENT_BYTES: usize = 64;

/// Writes a trace, block by block.
#[derive(Clone, Debug)]
pub struct Writer<W> {
    out: W,
    events: Vec<u8>,
    context: Context,
    count: u64,
    kept: u64,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a trace.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W, description: &TraceDescription) -> io::Result<Self> {
        let mut magic = MAGIC;
        // What it will contain is not known yet, only what it may contain.
        if description.recorder == Some(RecordedBy::Preload) {
            magic[7] = WITH_TRIMS;
        } else if description.objects.is_some() {
            magic[7] = WITH_OBJECTS;
        }
        out.write_all(&magic)?;
        let mut content = Vec::new();
        let named = description.named();
        put(&mut content, named.len() as u64);
        for (name, value) in &named {
            put_text(&mut content, name);
            put_text(&mut content, value);
        }
        if content.len() >= MAX_UNPACKED {
            let what = "the description of the program is longer than a block of a trace";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let block = block::write(&mut out, LEVEL, &[Kind::Description as u8], &content)?;
        Ok(Self {
            out,
            events: Vec::with_capacity(BLOCK_BYTES + MAX_EVENT_BYTES),
            context: Context::default(),
            count: 0,
            kept: 0,
            written: MAGIC.len() as u64 + block,
        })
    }

    /// Writes the heap from before the recording, in address order.
    ///
    /// # Errors
    /// Those of the output.
    pub fn seed(&mut self, blocks: &[SeedBlock]) -> io::Result<()> {
        let mut content = Vec::new();
        let mut addr = 0u64;
        for (i, block) in blocks.iter().enumerate() {
            put_signed(&mut content, block.addr.wrapping_sub(addr) as i64);
            addr = block.addr;
            put(&mut content, block.bytes);
            put(
                &mut content,
                u64::from(block.arena) << 1 | u64::from(block.live),
            );
            if content.len() >= BLOCK_BYTES || i + 1 == blocks.len() {
                self.written += block::write(&mut self.out, LEVEL, &[Kind::Seed as u8], &content)?;
                content.clear();
                addr = 0;
            }
        }
        Ok(())
    }

    /// Appends an event.
    ///
    /// # Errors
    /// Those of the output.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.context.put(&mut self.events, event);
        self.count += 1;
        if self.events.len() >= BLOCK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes a checkpoint; the events before it are written first.
    ///
    /// # Errors
    /// Those of the output.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        self.flush()?;
        let mut content = Vec::new();
        put(&mut content, checkpoint.time_ns);
        put(&mut content, checkpoint.process.into());
        let figures = checkpoint.figures.named();
        put(&mut content, figures.len() as u64);
        for (name, value) in figures {
            put_text(&mut content, &name);
            put(&mut content, value);
        }
        self.written += block::write(&mut self.out, LEVEL, &[Kind::Checkpoint as u8], &content)?;
        Ok(())
    }

    /// Writes the events gathered so far as a block, so that a crash does not lose them.
    ///
    /// # Errors
    /// Those of the output.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.events.is_empty() {
            self.written +=
                block::write(&mut self.out, LEVEL, &[Kind::Events as u8], &self.events)?;
            self.events.clear();
            self.context = Context::default();
        }
        self.out.flush()?;
        self.kept = self.count;
        Ok(())
    }

    /// Events that the output has in complete blocks: a reader finds as many, whatever comes next.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Events written so far.
    pub fn events(&self) -> u64 {
        self.count
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.written
    }

    /// Ends the trace where it is, without the end mark: what comes after is not in it.
    ///
    /// # Errors
    /// Those of the output.
    pub fn break_off(mut self) -> io::Result<W> {
        self.flush()?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Ends the trace, and returns the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        block::write(&mut self.out, LEVEL, &[Kind::End as u8], &[])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

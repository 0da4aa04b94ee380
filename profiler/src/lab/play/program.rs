//! The program in its file.

use std::fs::File;
use std::io::{self, Read};
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use profiler_common::program::{OPS_AT, Op, PROGRAM_MAGIC, ProgramHeader};
use profiler_trace::compile::{Compiler, Sink, Stop, Summary};
use profiler_trace::trace::{Description, ReadError, Reader};
use zerocopy::IntoBytes;

/// Operations that are written at once.
const BUFFERED: usize = 1 << 16;

/// Why a trace has no program.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The trace cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is nothing in it to play.
    #[error("the trace holds no event: there is nothing to play")]
    Empty,
    /// The program cannot be written.
    #[error("no room for the program in the folder for temporary files: {0}")]
    Write(#[from] io::Error),
}

/// A trace, compiled.
#[derive(Debug)]
pub struct Program {
    file: ProgramFile,
    compiler: Compiler,
    description: Description,
    trouble: Option<String>,
    whole: bool,
}

impl Program {
    /// Compiles what can be read of a trace.
    ///
    /// # Errors
    /// When nothing of it can be read, or there is no room for the program.
    pub fn compile<R: Read>(mut trace: Reader<R>) -> Result<Self, CompileError> {
        let mut file = ProgramFile::new()?;
        let mut compiler = Compiler::default();
        let mut trouble = None;
        loop {
            match trace.next_item() {
                Ok(Some(item)) => compiler.item(item, &mut file)?,
                Ok(None) => break,
                // What precedes is played.
                Err(error) => {
                    trouble = Some(error.to_string());
                    break;
                }
            }
        }
        let summary = compiler.summary();
        if summary.events == 0 && summary.seed_blocks == 0 {
            return Err(CompileError::Empty);
        }
        file.close()?;
        Ok(Self {
            file,
            compiler,
            description: trace.description().clone(),
            whole: trace.is_whole(),
            trouble,
        })
    }

    /// What the trace says of the program that was recorded.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What it holds.
    pub fn summary(&self) -> Summary {
        self.compiler.summary()
    }

    /// The checkpoints, in order.
    pub fn stops(&self) -> &[Stop] {
        self.compiler.stops()
    }

    /// A checkpoint by its number.
    pub fn stop(&self, number: usize) -> Option<&Stop> {
        self.stops().get(number)
    }

    /// Why the trace was not read to its end.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether the recording was ended well, and all of it was read.
    pub fn is_whole(&self) -> bool {
        self.whole && self.trouble.is_none()
    }

    /// Operations that can be played.
    pub fn published(&self) -> u64 {
        self.file.published
    }

    /// The path by which a player opens it.
    pub(super) fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.file.file.as_raw_fd()
        )
    }
}

/// Operations in an unlinked file.
#[derive(Debug)]
struct ProgramFile {
    file: File,
    published: u64,
    buffer: Vec<Op>,
}

impl ProgramFile {
    fn new() -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        file.set_len(OPS_AT as u64)?;
        file.write_all_at(
            &PROGRAM_MAGIC.to_ne_bytes(),
            offset_of!(ProgramHeader, magic) as u64,
        )?;
        Ok(Self {
            file,
            published: 0,
            buffer: Vec::with_capacity(BUFFERED),
        })
    }

    /// Lets players see what was pushed.
    fn publish(&mut self) -> io::Result<()> {
        let at = OPS_AT as u64 + self.published * size_of::<Op>() as u64;
        self.file.write_all_at(self.buffer.as_bytes(), at)?;
        self.published += self.buffer.len() as u64;
        self.buffer.clear();
        self.file.write_all_at(
            &self.published.to_ne_bytes(),
            offset_of!(ProgramHeader, published) as u64,
        )
    }

    /// Nothing more will follow.
    fn close(&mut self) -> io::Result<()> {
        self.publish()?;
        let closed = 1u32.to_ne_bytes();
        self.file
            .write_all_at(&closed, offset_of!(ProgramHeader, closed) as u64)
    }
}

impl Sink for ProgramFile {
    fn push(&mut self, op: Op) -> io::Result<u64> {
        let number = self.published + self.buffer.len() as u64;
        self.buffer.push(op);
        if self.buffer.len() == BUFFERED {
            self.publish()?;
        }
        Ok(number)
    }

    fn patch(&mut self, number: u64, op: Op) -> io::Result<()> {
        match number.checked_sub(self.published) {
            Some(ahead) => {
                if let Some(place) = self.buffer.get_mut(ahead as usize) {
                    *place = op;
                }
                Ok(())
            }
            None => {
                let at = OPS_AT as u64 + number * size_of::<Op>() as u64;
                self.file.write_all_at(op.as_bytes(), at)
            }
        }
    }
}

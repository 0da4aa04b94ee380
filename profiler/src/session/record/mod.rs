//! `record`: the stream of what a program asks of malloc, into a trace.

mod checkpoint;
mod command;
pub mod describe;
mod preloaded;
mod recording;
mod stream;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub use self::recording::Cut;
use super::Ending;
use super::options::Manner;

/// What `record` does.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// Whom it records.
    pub subject: Recorded,
    /// The file to write.
    pub output: PathBuf,
    /// End after this long; `None` is until the program ends or the user ends it.
    pub duration: Option<Duration>,
    /// How the program is looked at for checkpoints.
    pub manner: Manner,
}

/// Whom a recording is of.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// A program to start, with its arguments.
    Command(Vec<OsString>),
}

/// Why nothing, or not all, was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The command does not start.
    #[error("cannot start {program}: {why}")]
    Start {
        /// The program.
        program: String,
        /// What the kernel said.
        why: io::Error,
    },
    /// The file cannot be made.
    #[error("cannot write to {}: {why}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        why: io::Error,
    },
    /// The file could not be written on.
    #[error(transparent)]
    Cut(#[from] Cut),
    /// The kernel refuses what recording needs.
    #[error("cannot record: {0}")]
    Io(#[from] io::Error),
}

/// Records until the program ends, the duration is over, or a signal ends it.
///
/// # Errors
/// When the program cannot be started, or the file not be written; what was written stays readable.
pub fn record(options: &RecordOptions) -> Result<Ending, RecordError> {
    match &options.subject {
        Recorded::Command(command) => command::record(options, command),
    }
}

/// The monotonic clock, in ns: the one by which recorders tell the time.
fn monotonic_ns() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

//! Errors that end a command.

use std::io;
use std::path::PathBuf;

use profiler_core::text::visible;
use profiler_target::{ErrorKind, OpenError, OutputProblem, host};

use crate::export::ExportError;
use crate::session::convert::ConvertError;
use crate::session::record::RecordError;
use crate::session::replay::ReplayFailure;
use crate::session::saved::SavedError;
use crate::session::{SessionError, kinds};

/// The number of files needed at a time: as many as a player of `replay` may have open; other
/// commands need fewer.
const FILES: usize = 64;

/// Why a command ended with an error.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// What every command reads is not there.
    #[error("/proc is not mounted, which fragscope reads: nothing was run")]
    NoProc,
    /// What every command reads is of other processes.
    #[error(
        "/proc is that of another PID namespace, in which numbers are of other processes: nothing was run"
    )]
    ForeignProc,
    /// The limit of open files is too low to begin.
    #[error(
        "up to {FILES} more files must be open at a time, and the limit allows {left}: nothing was run"
    )]
    FewFiles {
        /// Files that may be opened.
        left: usize,
    },
    /// The output would be written into a file that is read.
    #[error("the standard output goes into {}, which is also an input: nothing was run", visible(.0.display()))]
    PrintsIntoInput(PathBuf),
    /// A subcommand that there is none of.
    #[error("there is no subcommand {}: `fragscope --help` names them", visible(.0))]
    NoSuchCommand(String),
    /// A session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A recording.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A replay.
    #[error(transparent)]
    Replay(#[from] ReplayFailure),
    /// Converting a recording failed.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A saved session.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// An output file's extension is not usable.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Repairing a process failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Printing failed.
    #[error(transparent)]
    Print(#[from] io::Error),
}

impl Failure {
    /// The kind of the error.
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::NoProc => ErrorKind::NoProc,
            Self::ForeignProc => ErrorKind::ForeignProc,
            Self::NoSuchCommand(_) => ErrorKind::Usage,
            Self::FewFiles { .. } => ErrorKind::TooManyFiles,
            Self::PrintsIntoInput(_) => ErrorKind::Output(OutputProblem::Unfit),
            Self::Session(error) => error.kind(),
            Self::Record(error) => error.kind(),
            Self::Replay(error) => error.kind(),
            Self::Convert(error) => error.kind(),
            Self::Saved(error) => error.kind(),
            Self::Export(error) => kinds::of_export(error),
            Self::Open(error) => error.kind(),
            Self::Print(error) => ErrorKind::of_io(error),
        }
    }

    /// Its parts as sentences, each with its kind: each of several files may need a different fix.
    pub(super) fn parts(&self) -> Vec<(String, ErrorKind)> {
        match self {
            Self::Session(SessionError::Outputs(unwritten)) => {
                let parts = unwritten.each().iter();
                let parts = parts.map(|part| (part.to_string(), kinds::of_export(part)));
                parts.collect()
            }
            _ => vec![(self.to_string(), self.kind())],
        }
    }

    /// Whether the reader of our output went away, which ends a command quietly.
    pub(super) fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Session(SessionError::Io(io))
            | Self::Convert(ConvertError::Print(io))
            | Self::Saved(SavedError::Io(io))
            | Self::Print(io) => io.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

/// Checks for what every command needs.
///
/// # Errors
/// What is missing. Otherwise it would show up later as another error, when one of many files
/// cannot be read or opened.
pub(super) fn check_host() -> Result<(), Failure> {
    let left = host::files_left(FILES);
    if left < FILES {
        return Err(Failure::FewFiles { left });
    }
    match host::has_proc() {
        true if host::has_foreign_proc() => Err(Failure::ForeignProc),
        true => Ok(()),
        false => Err(Failure::NoProc),
    }
}

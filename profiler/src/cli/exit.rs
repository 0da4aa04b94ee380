//! Exit codes, the same for every command.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use profiler_lab::play::CompileError;
use profiler_lab::replay::ReplayError;
use profiler_target::{Gone, OpenError};

use crate::export::ExportError;
use crate::session::convert::ConvertError;
use crate::session::doctor::{Check, Grade};
use crate::session::record::RecordError;
use crate::session::replay::ReplayFailure;
use crate::session::saved::SavedError;
use crate::session::{Ending, SessionError};

/// How the command ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Done as asked.
    Done = 0,
    /// Something failed.
    Error = 1,
    /// Wrong usage, by what only the command itself can tell; clap ends with the same code.
    Usage = 2,
    /// Not permitted; the message names the fix.
    NotPermitted = 4,
    /// The target is gone, or of a kind that is not supported.
    TargetGone = 5,
    /// Done, but a file that was read was not whole.
    NotWhole = 6,
    /// Interrupted; what was asked for was saved.
    Interrupted = 130,
}

impl Exit {
    /// The code for an error that ended a command.
    pub(super) fn of_error(error: &(dyn Error + 'static)) -> Self {
        let replay = error.downcast_ref::<ReplayFailure>();
        if let Some(ReplayFailure::Replay(ReplayError { why, .. })) = replay
            && matches!(why, CompileError::Interrupted)
        {
            return Self::Interrupted;
        }
        if let Some(saved) = error.downcast_ref::<SavedError>()
            && saved.is_interrupted()
        {
            return Self::Interrupted;
        }
        let code = match error.downcast_ref::<SessionError>() {
            Some(SessionError::Export(ExportError::UnknownEnding(_))) => return Self::Usage,
            Some(SessionError::Io(io)) => Gone::of(io).map(|_| 5),
            Some(SessionError::Probe(probe)) => Some(probe.exit_code()),
            Some(SessionError::Open(open)) => Some(open.exit_code()),
            Some(SessionError::Core(core)) => Some(core.exit_code()),
            Some(SessionError::Shadows(record)) => Some(record.exit_code()),
            None => match error.downcast_ref::<RecordError>() {
                Some(record) => Some(record.exit_code()),
                None => error.downcast_ref().map(OpenError::exit_code),
            },
            Some(_) => None,
        };
        match code {
            Some(4) => Self::NotPermitted,
            Some(5) => Self::TargetGone,
            _ => Self::Error,
        }
    }

    /// The code for what `doctor` found: an error when anything is missing.
    pub(super) fn of_checks(checks: &[Check]) -> Self {
        if checks.iter().any(|check| check.ok == Grade::Missing) {
            Self::Error
        } else {
            Self::Done
        }
    }
}

impl From<Ending> for Exit {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::Done,
            Ending::Interrupted(_) => Self::Interrupted,
            Ending::TargetGone(_) => Self::TargetGone,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Whether the reader of our output went away, which ends a command quietly.
pub(super) fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(SessionError::Io(io)), _) | (_, Some(ConvertError::Print(io))) => Some(io),
        _ => match error.downcast_ref() {
            Some(SavedError::Io(io)) => Some(io),
            _ => error.downcast_ref::<io::Error>(),
        },
    };
    io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
}

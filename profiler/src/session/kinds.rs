//! Kinds of errors when reading or writing files.

use std::io;

use profiler_lab::play::CompileError;
use profiler_target::{ErrorKind, Limit, OutputProblem};
use profiler_trace::limits::{Incomplete, Limit as ReadLimit, Stopped};
use profiler_trace::whole_file::WriteError;
use profiler_trace::{snapshot, trace};

use super::outputs::Unwritten;
use crate::export::ExportError;

/// Of an error that a file could not be written.
pub(crate) fn of_write(error: &WriteError) -> ErrorKind {
    let problem = match error {
        WriteError::NoFolder { .. } => OutputProblem::NoFolder,
        WriteError::NamesFolder(_)
        | WriteError::NotAFile(_)
        | WriteError::IsInput { .. }
        | WriteError::IsLocks(_)
        | WriteError::MountPoint(_) => OutputProblem::Unfit,
        WriteError::Descriptor(_) => OutputProblem::Descriptor,
        WriteError::Link { .. } | WriteError::IsLink(_) => OutputProblem::Link,
        WriteError::Planted { .. } | WriteError::Owner { .. } => OutputProblem::Foreign,
        WriteError::NotOurFolder { .. } => OutputProblem::SharedFolder,
        WriteError::InUse { pid: Some(pid), .. } if pid.cast_unsigned() == std::process::id() => {
            OutputProblem::NamedTwice
        }
        WriteError::InUse { .. } => OutputProblem::InUse,
        WriteError::Io { source, .. } | WriteError::Cut { source, .. } => return of_output(source),
    };
    ErrorKind::Output(problem)
}

/// Of several: wrong usage before all else, else the first.
pub(crate) fn of_unwritten(unwritten: &Unwritten) -> ErrorKind {
    let kinds = || unwritten.each().iter().map(of_export);
    let usage = kinds().find(|kind| *kind == ErrorKind::UnknownEnding);
    usage.or_else(|| kinds().next()).unwrap_or(ErrorKind::Other)
}

/// Of an error that a view could not be exported.
pub(crate) fn of_export(error: &ExportError) -> ErrorKind {
    match error {
        ExportError::UnknownEnding(_) => ErrorKind::UnknownEnding,
        ExportError::Write(error) => of_write(error),
        ExportError::Format { .. } => ErrorKind::Other,
    }
}

/// Of an error of the system's, met while a file was written.
pub(crate) fn of_output(error: &io::Error) -> ErrorKind {
    ErrorKind::Output(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OutputProblem::NoSpace,
        io::ErrorKind::FileTooLarge => OutputProblem::TooLarge,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OutputProblem::Denied
        }
        io::ErrorKind::StaleNetworkFileHandle => OutputProblem::Replaced,
        // The directory exists but does not accept files, as those of /proc and /sys.
        io::ErrorKind::NotFound => OutputProblem::Unfit,
        _ => return ErrorKind::of_io(error),
    })
}

/// Of an error that a recording could not be read.
pub(crate) fn of_recording(error: &trace::ReadError) -> ErrorKind {
    match error {
        trace::ReadError::IsSession => ErrorKind::IsSession,
        trace::ReadError::Aggregated => ErrorKind::Aggregated,
        trace::ReadError::Stopped(stopped) => of_stop(stopped),
        trace::ReadError::Io(error) => ErrorKind::of_input(error),
        other => ErrorKind::of_causes(other),
    }
}

/// Of an error that a saved session could not be read.
pub(crate) fn of_session(error: &snapshot::ReadError) -> ErrorKind {
    match error {
        snapshot::ReadError::IsRecording => ErrorKind::IsRecording,
        snapshot::ReadError::Stopped(stopped) => of_stop(stopped),
        snapshot::ReadError::Io(error) => ErrorKind::of_input(error),
        other => ErrorKind::of_causes(other),
    }
}

/// Of an error that a recording has no program to play.
pub(crate) fn of_compiling(error: &CompileError) -> ErrorKind {
    match error {
        CompileError::Interrupted => ErrorKind::Interrupted,
        CompileError::Read(error) => of_recording(error),
        CompileError::Empty(incomplete) => {
            incomplete.as_ref().map_or(ErrorKind::Other, of_incomplete)
        }
        CompileError::Write { why } => match ErrorKind::of_io(why) {
            ErrorKind::Other => ErrorKind::Output(OutputProblem::Temporary),
            kind => kind,
        },
    }
}

/// The kind of the reason why a file was not read to its end.
pub(crate) fn of_incomplete(incomplete: &Incomplete) -> ErrorKind {
    incomplete.limit.map_or(ErrorKind::Other, of_limit)
}

fn of_stop(stopped: &Stopped) -> ErrorKind {
    match stopped {
        Stopped::Interrupted => ErrorKind::Interrupted,
        Stopped::Limit { limit, .. } => of_limit(*limit),
    }
}

fn of_limit(limit: ReadLimit) -> ErrorKind {
    match limit {
        ReadLimit::Size => ErrorKind::Limit(Limit::Size),
        ReadLimit::Memory => ErrorKind::Limit(Limit::Memory),
        ReadLimit::TemporaryRoom => ErrorKind::Output(OutputProblem::Temporary),
    }
}

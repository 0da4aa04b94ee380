//! Kinds of errors. Callers decide by the kind; the message is for people.

use std::error::Error;
use std::io;
use std::thread::{self, JoinHandle};

use super::Denial;
use super::proc_dir::{Gone, MemoryShared};

/// The kind of an error. The error's message says what is wrong; what to do about it, and the exit
/// code of the command, follow from the kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// It is not permitted.
    NotPermitted {
        /// What was tried.
        action: Action,
        /// The reason.
        denial: Denial,
    },
    /// `/proc` is not mounted.
    NoProc,
    /// `/proc` belongs to another PID namespace.
    ForeignProc,
    /// `/sys` is not mounted.
    NoSysfs,
    /// There is no process with the given pid.
    NoSuchProcess,
    /// The given pid is that of a thread.
    IsThread {
        /// The process that it belongs to.
        pid: u64,
    },
    /// The target ended, or became another program.
    TargetGone,
    /// A process that runs on has the target's memory.
    MemoryShared,
    /// A process or a program of a kind that cannot be inspected.
    UnsupportedTarget,
    /// The kernel is too old.
    UnsupportedKernel,
    /// Nothing of this target can be probed.
    TargetNotProbeable,
    /// Malloc of this program can only be found by symbols, and it has none.
    NoSymbols,
    /// Breakpoints may have been left in a process.
    BreakpointsLeft {
        /// The process.
        pid: i32,
    },
    /// The file that serves the target's malloc exceeds the limit of bytes read from one file.
    ObjectTooLarge,
    /// A saved session does not contain the Python objects to be compared.
    NoObjects,
    /// This host cannot probe anything.
    HostNotProbeable,
    /// Another process is doing it.
    Busy,
    /// A signal, or the end of the session, came before it was done.
    Interrupted,
    /// The command's arguments are not usable.
    Usage,
    /// No more files may be opened.
    TooManyFiles,
    /// No more threads and processes may run.
    TooManyProcesses,
    /// A file cannot be written at its place.
    Output(OutputProblem),
    /// The extension of an output file is not that of a known format.
    UnknownEnding,
    /// A file that should be a core is not one, or not a usable one.
    Core(CoreProblem),
    /// A saved session was given instead of a recording.
    IsSession,
    /// A recording was given instead of a saved session.
    IsRecording,
    /// A memray recording with aggregated allocations.
    Aggregated,
    /// A file exceeds a limit, itself or unpacked.
    Limit(Limit),
    /// An allocator is not available.
    Allocator(AllocatorProblem),
    /// There is no directory that only the user, or root, can write to.
    NoRuntimeDir {
        /// Whether the user is root.
        root: bool,
    },
    /// There is no terminal to draw a screen on.
    NoScreen,
    /// The file with the settings for pushing profiles cannot be used.
    PushSettings,
    /// An address cannot be used for serving.
    Listen(ListenProblem),
    /// An input file cannot be opened.
    Input(InputProblem),
    /// A program cannot be started.
    Program(ProgramProblem),
    /// Anything else that the system refused, or that was wrong with a file.
    Other,
}

/// Why an address cannot be used for serving.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ListenProblem {
    /// Something else listens there.
    InUse {
        /// The port.
        port: u16,
    },
    /// The port is one of those that not everybody may take.
    Denied,
    /// The address is none of this host.
    NotHere,
    /// It would be reachable from other hosts, which was not requested.
    Remote,
    /// The file with the certificate and the passwords cannot be used.
    WebConfig,
}

/// An action that may not be permitted.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Inspecting a process: reading its memory, and stopping it.
    Inspect,
    /// Loading BPF programs and probing with them.
    Probe,
}

/// The problem with the place of an output file.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum OutputProblem {
    /// Its directory is missing.
    NoFolder,
    /// It is not a place for files.
    Unfit,
    /// It is a link, or behind one that another user may have put there.
    Link,
    /// It represents an open descriptor of a process.
    Descriptor,
    /// Another user's file is there.
    Foreign,
    /// Others can change the contents of a directory that should belong to fragscope alone.
    SharedFolder,
    /// Another process writes there.
    InUse,
    /// It was given twice.
    NamedTwice,
    /// The disk is full.
    NoSpace,
    /// The file would exceed a size limit.
    TooLarge,
    /// The user who runs fragscope may not write there.
    Denied,
    /// Another process removed or replaced the file meanwhile.
    Replaced,
    /// The folder for temporary files takes none, or has no room.
    Temporary,
}

/// Why an input file cannot be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum InputProblem {
    /// There is none at this path.
    Missing,
    /// It is a directory.
    Folder,
    /// The user who runs fragscope may not read it.
    Denied,
}

/// Why a program cannot be started.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ProgramProblem {
    /// There is none of this name.
    Missing,
    /// It exists, but what runs it does not: the interpreter of a script, or the dynamic loader.
    NoInterpreter,
    /// It is a directory.
    Folder,
    /// Its file is not executable.
    NotExecutable,
    /// A directory on the search path cannot be searched.
    Unsearchable,
    /// Its file is not a program.
    NotAProgram,
}

/// What is limited when reading a file.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Limit {
    /// The unpacked size of a recording or a saved session.
    Size,
    /// The memory for its tables.
    Memory,
    /// A mapped file or a shared object.
    File,
}

/// Why an allocator is not available.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum AllocatorProblem {
    /// Its name is unknown.
    UnknownName,
    /// The dynamic loader does not find its file.
    NotFound,
    /// This host does not have it.
    NotInstalled {
        /// The Debian package that contains it.
        package: &'static str,
    },
    /// Only a recording names its file, and the user did not permit loading that.
    OnlyRecorded,
}

/// The problem with a file that should be a core.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum CoreProblem {
    /// It is something else.
    NotACore,
    /// It is compressed.
    Packed(Packer),
    /// It is from an unsupported machine.
    Foreign,
    /// Part of it is missing or damaged.
    Damaged,
    /// It has no memory that could contain a heap.
    NoMemory,
    /// The given program is not the one that ran.
    OtherProgram,
}

/// A program that packs files.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Packer {
    /// zstd.
    Zstd,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// lz4.
    Lz4,
}

impl ErrorKind {
    /// The kind of an error of the system's.
    pub fn of_io(error: &io::Error) -> Self {
        // `errno(3)`: no more for this process, or for the whole system.
        match error.raw_os_error() {
            _ if Gone::of(error).is_some() => Self::TargetGone,
            _ if MemoryShared::of(error).is_some() => Self::MemoryShared,
            _ if NotStarted::is_in(error) => Self::TooManyProcesses,
            Some(libc::EMFILE | libc::ENFILE) => Self::TooManyFiles,
            Some(libc::EFBIG) => Self::Output(OutputProblem::TooLarge),
            _ => Self::Other,
        }
    }

    /// The kind of a system error when opening an input file.
    pub fn of_input(error: &io::Error) -> Self {
        Self::Input(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => InputProblem::Missing,
            io::ErrorKind::IsADirectory => InputProblem::Folder,
            io::ErrorKind::PermissionDenied => InputProblem::Denied,
            _ => return Self::of_io(error),
        })
    }

    /// The kind by an error's causes, if nothing else is known about it.
    pub fn of_causes(error: &(dyn Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| (*error).source());
        causes
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .map(Self::of_io)
            .find(|kind| *kind != Self::Other)
            .unwrap_or(Self::Other)
    }
}

/// A thread or a process was not started, because no more may run.
#[derive(Debug, thiserror::Error)]
#[error("no thread or process could be started, as no more may run")]
struct NotStarted;

impl NotStarted {
    /// Whether an I/O error says this, if only by its number (`fork(2)`, `pthread_create(3)`).
    fn is_in(error: &io::Error) -> bool {
        let is_named = error.get_ref().is_some_and(|inner| inner.is::<Self>());
        is_named || error.raw_os_error() == Some(libc::EAGAIN)
    }
}

/// The error of starting a thread or a process, with a message that says so, because the number
/// alone does not: "Resource temporarily unavailable".
pub fn not_started(error: io::Error) -> io::Error {
    match NotStarted::is_in(&error) {
        true => io::Error::other(NotStarted),
        false => error,
    }
}

/// Starts a thread with this name.
///
/// # Errors
/// When no more threads may run, as in [`not_started`], or there is no memory for it.
pub fn start_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map_err(not_started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("not written")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_limit_of_files_is_found_below_other_errors() {
        let outer = |number| Outer(io::Error::from_raw_os_error(number));
        let kind = |number| ErrorKind::of_causes(&outer(number));
        assert_eq!(kind(libc::EMFILE), ErrorKind::TooManyFiles);
        assert_eq!(kind(libc::ENFILE), ErrorKind::TooManyFiles);
        assert_eq!(kind(libc::EAGAIN), ErrorKind::TooManyProcesses);
        assert_eq!(kind(libc::ENOSPC), ErrorKind::Other);
        let too_large = ErrorKind::Output(OutputProblem::TooLarge);
        assert_eq!(kind(libc::EFBIG), too_large);
    }

    #[test]
    fn a_target_that_is_gone_is_found_in_an_error_of_io() {
        let gone = Outer(Gone::Exited(7).into());
        assert_eq!(ErrorKind::of_causes(&gone), ErrorKind::TargetGone);
    }
}

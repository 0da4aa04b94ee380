//! Kinds of errors. Callers decide by the kind; the message is for people.

use std::error::Error;
use std::io;
use std::thread::{self, JoinHandle};

use super::Denial;
use super::proc_dir::{Gone, MemoryShared};

/// Of what kind an error is. Sentences of errors say what is wrong; what to do about it, and with which
/// code a command ends, follows from the kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// It is not permitted.
    NotPermitted {
        /// What was tried.
        action: Action,
        /// What stands in the way.
        denial: Denial,
    },
    /// `/proc` is not mounted.
    NoProc,
    /// `/proc` is that of another PID namespace.
    ForeignProc,
    /// `/sys` is not mounted.
    NoSysfs,
    /// There is no process of the number given.
    NoSuchProcess,
    /// The number given is that of a thread.
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
    /// A program whose malloc can be found by symbols alone, and it has none.
    NoSymbols,
    /// Breakpoints may have been left in a process.
    BreakpointsLeft {
        /// The process.
        pid: i32,
    },
    /// The file that serves the target's malloc is larger than what is read of one.
    ObjectTooLarge,
    /// A saved session has no objects of Python's, which are to be compared.
    NoObjects,
    /// This host cannot probe anything.
    HostNotProbeable,
    /// Another process is doing it.
    Busy,
    /// A signal, or the end of the session, came before it was done.
    Interrupted,
    /// The command was given what it cannot use.
    Usage,
    /// No more files may be opened.
    TooManyFiles,
    /// No more threads and processes may run.
    TooManyProcesses,
    /// A file cannot be written at its place.
    Output(OutputProblem),
    /// The ending of a file that is to be written is not that of a known format.
    UnknownEnding,
    /// A file that was to be read as a core is none, or not as it is.
    Core(CoreProblem),
    /// A saved session, where a recording was to be read.
    IsSession,
    /// A recording, where a saved session was to be read.
    IsRecording,
    /// A recording of memray's in which allocations are added up.
    Aggregated,
    /// A file has or comes to more than is read.
    Limit(Limit),
    /// An allocator is not to be had.
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
    /// Nobody can be served at an address.
    Listen(ListenProblem),
    /// A file that is to be read cannot be opened.
    Input(InputProblem),
    /// A program cannot be started.
    Program(ProgramProblem),
    /// Anything else that the system refused, or that was wrong with a file.
    Other,
}

/// Why nobody can be served at an address.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ListenProblem {
    /// Somebody else listens there.
    InUse {
        /// The port.
        port: u16,
    },
    /// The port is one of those that not everybody may take.
    Denied,
    /// The address is none of this host.
    NotHere,
    /// Others than this host would reach it, which was not asked for.
    Remote,
    /// The file with the certificate and the passwords cannot be used.
    WebConfig,
}

/// What may not be permitted.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Inspecting a process: reading its memory, and stopping it.
    Inspect,
    /// Loading BPF programs and probing with them.
    Probe,
}

/// What is wrong with the place of a file that is to be written.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum OutputProblem {
    /// Its folder is missing.
    NoFolder,
    /// It is not one for files.
    Unfit,
    /// It is a link, or behind one that another user may have put there.
    Link,
    /// It stands for what a process has open.
    Descriptor,
    /// Somebody else's file lies there.
    Foreign,
    /// Others can change what lies in a folder that is to be fragscope's own.
    SharedFolder,
    /// Another process writes there.
    InUse,
    /// It was given twice.
    NamedTwice,
    /// There is no room.
    NoSpace,
    /// The file would exceed a size limit.
    TooLarge,
    /// The user who runs fragscope may not write there.
    Denied,
    /// Somebody else removed or replaced the file meanwhile.
    Replaced,
    /// The folder for temporary files takes none, or has no room.
    Temporary,
}

/// Why a file that is to be read cannot be opened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum InputProblem {
    /// There is none at this path.
    Missing,
    /// It is a folder.
    Folder,
    /// The user who runs fragscope may not read it.
    Denied,
}

/// Why a program cannot be started.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ProgramProblem {
    /// There is none of this name.
    Missing,
    /// It is there, and what it is run by is not: the interpreter of a script, or the dynamic loader.
    NoInterpreter,
    /// Its file may not be executed.
    NotExecutable,
    /// A folder in which it may be may not be searched.
    Unsearchable,
    /// Its file is not that of a program.
    NotAProgram,
}

/// What is read of a file up to a limit.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Limit {
    /// What a recording or a saved session comes to.
    Size,
    /// The memory for tables of it.
    Memory,
    /// A mapped file or a shared object.
    File,
}

/// Why an allocator is not to be had.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum AllocatorProblem {
    /// Its name is not known.
    UnknownName,
    /// The dynamic loader does not find its file.
    NotFound,
    /// This host does not have it.
    NotInstalled {
        /// Debian's package that it is in.
        package: &'static str,
    },
    /// Only a recording names its file, and the user did not allow to load that.
    OnlyRecorded,
}

/// What is wrong with a file that was to be read as a core.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum CoreProblem {
    /// It is something else.
    NotACore,
    /// It is packed.
    Packed(Packer),
    /// It is of a machine that is not understood.
    Foreign,
    /// Part of it is missing or damaged.
    Damaged,
    /// It has no memory in which a heap could be.
    NoMemory,
    /// The program that was named with it is not the one that ran.
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

    /// The kind of an error of the system's, met when a file was opened that is to be read.
    pub fn of_input(error: &io::Error) -> Self {
        Self::Input(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => InputProblem::Missing,
            io::ErrorKind::IsADirectory => InputProblem::Folder,
            io::ErrorKind::PermissionDenied => InputProblem::Denied,
            _ => return Self::of_io(error),
        })
    }

    /// The kind by what caused an error, where nothing else is known of it.
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
    /// Whether an error of IO says this, if only by its number (`fork(2)`, `pthread_create(3)`).
    fn is_in(error: &io::Error) -> bool {
        let is_named = error.get_ref().is_some_and(|inner| inner.is::<Self>());
        is_named || error.raw_os_error() == Some(libc::EAGAIN)
    }
}

/// An error with which a thread or a process did not start, in words that say so where its number alone would
/// not: "Resource temporarily unavailable".
pub fn not_started(error: io::Error) -> io::Error {
    match NotStarted::is_in(&error) {
        true => io::Error::other(NotStarted),
        false => error,
    }
}

/// Starts a thread of this name.
///
/// # Errors
/// When no more may run, by [`not_started`], or there is no memory for it.
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

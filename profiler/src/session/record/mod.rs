//! `record`: writes the stream of a program's malloc calls into a trace.

mod checkpoint;
mod command;
mod cost;
pub mod describe;
mod lock;
mod output;
mod preloaded;
mod probed;
mod process;
mod seed;
mod source;
mod start_state;
mod trace_file;
mod unrecorded;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use profiler_core::text::visible;
use profiler_probe::ProbeError;
use profiler_probe::plan::PlanError;
use profiler_sampling::SamplingOptions;
use profiler_target::{ErrorKind, Gone, OpenError, ProgramProblem};
use profiler_trace::record::{MAX_PROCESSES, MAX_THREADS};
use profiler_trace::whole_file::{self, NoRuntimeDir, WriteError};

pub(crate) use self::output::Output;
pub use self::preloaded::GivenUp;
pub(crate) use self::probed::ProbedRecording;
pub(crate) use self::process::unless_gone;
pub use self::trace_file::TraceWriteError;
use super::{Ending, kinds, outputs};

/// The interval of draining the ring, which holds 800 ms of the fastest stream that traps can
/// produce.
pub(crate) const DRAIN_INTERVAL: Duration = Duration::from_millis(3);

/// What `record` does.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// What it records.
    pub subject: Recorded,
    /// The file to write.
    pub output: PathBuf,
    /// End after this long; `None` means until the program ends or the user ends it.
    pub duration: Option<Duration>,
    /// How the program is sampled for checkpoints.
    pub sampling: SamplingOptions,
}

/// The subject of a recording.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// A program to start, with its arguments.
    Command {
        /// The program and its arguments.
        command: Vec<OsString>,
        /// Whether requests to Python's object allocator are recorded too.
        objects: bool,
    },
    /// A process that runs already.
    Process {
        /// Its pid.
        pid: i32,
        /// The limit for the probes' cost, as a share of one core's time; the recording ends when
        /// it is exceeded. `None` means no limit.
        budget: Option<f64>,
    },
}

/// Why nothing, or not all, was recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The command does not start.
    #[error("cannot start {}: {why}", visible(program))]
    Start {
        /// The program.
        program: String,
        /// The kernel's error.
        #[source]
        why: io::Error,
    },
    /// The file cannot be made.
    #[error(transparent)]
    Output(#[from] WriteError),
    /// The file could not be written on.
    #[error(transparent)]
    Write(#[from] TraceWriteError),
    /// The ring of a command was closed.
    #[error(
        "the recording ended before its command: {0}; what was recorded up to there is in the file"
    )]
    GivenUp(GivenUp),
    /// There is no place for the recorder.
    #[error(transparent)]
    RuntimeDir(#[from] NoRuntimeDir),
    /// The process ended, or executed another program, before its recording began.
    #[error("nothing was recorded: {0} before its recording began")]
    Gone(Gone),
    /// The process cannot be inspected.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its allocator cannot be probed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The probes cannot be attached.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// Another fragscope is recording it.
    #[error("process {0} is being recorded by another fragscope already")]
    Taken(i32),
    /// The kernel refuses what recording needs, or the process is gone.
    #[error("cannot record: {0}")]
    Io(#[from] io::Error),
}

impl RecordError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(open) => open.kind(),
            Self::Plan(plan) => plan.kind(),
            Self::Probe(probe) => probe.kind(),
            Self::Gone(_) => ErrorKind::TargetGone,
            Self::Taken(_) => ErrorKind::Busy,
            Self::Output(error) => kinds::of_write(error),
            Self::RuntimeDir(error) => ErrorKind::NoRuntimeDir { root: error.root },
            Self::Write(error) => error.kind(),
            Self::Io(error) => ErrorKind::of_io(error),
            Self::Start { program, why } => of_start(program, why),
            other => ErrorKind::of_causes(other),
        }
    }
}

/// The kind of an error of starting this program (execve(2)).
fn of_start(program: &str, why: &io::Error) -> ErrorKind {
    let is_there = program.contains('/') && Path::new(program).exists();
    ErrorKind::Program(match why.kind() {
        io::ErrorKind::NotFound if is_there => ProgramProblem::NoInterpreter,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ProgramProblem::Missing,
        io::ErrorKind::PermissionDenied if !is_found(program) => ProgramProblem::Unsearchable,
        io::ErrorKind::PermissionDenied if Path::new(program).is_dir() => ProgramProblem::Folder,
        io::ErrorKind::PermissionDenied => ProgramProblem::NotExecutable,
        _ if why.raw_os_error() == Some(Errno::ENOEXEC as i32) => ProgramProblem::NotAProgram,
        _ => return ErrorKind::of_io(why),
    })
}

/// Whether a file with this name exists on the PATH, as far as this user can see.
fn is_found(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).exists())
}

/// How a recording ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RecordEnding {
    /// The command ended with this exit code: its own, or 128 plus the number of the signal that
    /// ended it, as in shells.
    Command(u8),
    /// As sessions do.
    Session(Ending),
}

/// Records until the program ends, the duration is over, or a signal ends it.
///
/// # Errors
/// When the program cannot be started, or the file cannot be written; what was written stays
/// readable.
pub fn record(options: &RecordOptions) -> Result<RecordEnding, RecordError> {
    match &options.subject {
        Recorded::Command { command, objects } => command::record(options, command, *objects),
        Recorded::Process { pid, budget } => {
            process::record(options, *pid, *budget).map(RecordEnding::Session)
        }
    }
}

/// Creates the file, which appears when the first bytes are written and then grows: what was
/// written stays readable even if fragscope is killed, and an existing file is kept until then. It
/// must not be one of `inputs`, which are read meanwhile.
fn create(path: &Path, inputs: &[&Path]) -> Result<whole_file::Output, RecordError> {
    Ok(outputs::place(path, inputs)?.begin_growing()?)
}

/// Why events are left out of a recording with too many threads.
fn beyond_limit() -> String {
    format!(
        "the recorded processes have more threads than are followed ({MAX_THREADS} in {MAX_PROCESSES} \
         processes): events of the others are left out and count as lost"
    )
}

/// The monotonic clock, in ns, which recorders use.
fn monotonic_ns() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

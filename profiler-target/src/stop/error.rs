//! Reasons why a target cannot be stopped.

use std::io;
use std::time::Duration;

use nix::unistd::getuid;
use profiler_core::text::visible;

use super::GUARD_NAME;
use crate::kernel_file::kernel_text;
use crate::proc_dir::field;
use crate::stat::Stat;

/// Identifies the tracer for people.
const OF_ANOTHER_SESSION: &str = " (the stop guard of another fragscope)";

/// Why the target was not stopped. In every case it runs on.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Another tracer holds it.
    #[error("the target is already traced by process {tracer}{name}")]
    AlreadyTraced {
        /// The tracer's pid.
        tracer: u64,
        /// Its name in parentheses, or empty.
        name: String,
        /// The thread of the target that it holds, if it is the stop guard of another fragscope,
        /// which will release it.
        guarded: Option<i32>,
    },
    /// The kernel refused.
    #[error("the kernel does not permit stopping the target")]
    NotPermitted,
    /// A thread did not stop in time.
    #[error(
        "thread {tid} of the target (state {state}) did not stop within {limit:?}: it is inside the kernel"
    )]
    TimedOut {
        /// The thread.
        tid: i32,
        /// Its state in `/proc`, `D` for an uninterruptible wait.
        state: char,
        /// How long was waited for it.
        limit: Duration,
    },
    /// None of its threads runs.
    #[error("the target is frozen with its control group, and stays so until somebody thaws that")]
    Frozen,
    /// No guard could be started, and without one nothing would end the stop in time.
    #[error("no process can be started that would end the stop in time ({0})")]
    NoGuard(#[source] io::Error),
    /// Neither the guard nor its replacement answered.
    #[error("the process that holds it was ended by somebody, and the target runs")]
    GuardLost,
    /// fragscope cannot stop itself.
    #[error("fragscope cannot stop itself")]
    Itself,
    /// The target has exited.
    #[error("the target has exited")]
    Gone,
    /// Something else failed.
    #[error("stopping the target failed: {0}")]
    Io(#[from] io::Error),
}

/// Why the target is unreadable: an error of our own does not mean that it has ended.
pub(super) fn gone(error: io::Error) -> StopError {
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    match is_missing || error.raw_os_error() == Some(libc::ESRCH) {
        true => StopError::Gone,
        false => StopError::Io(error),
    }
}

/// `TracerPid` of a thread of the target, if known, is the id of the tracing thread; its process is
/// named.
pub(crate) fn already_traced(thread: u64, tid: i32) -> StopError {
    let status = kernel_text(format!("/proc/{thread}/status")).unwrap_or_default();
    let tracer = field(&status, "Tgid").unwrap_or(thread);
    let comm = kernel_text(format!("/proc/{tracer}/comm")).unwrap_or_default();
    let guarded = (tid != 0 && is_stop_guard(tracer, &comm, &status)).then_some(tid);
    let name = match comm.trim_end() {
        _ if guarded.is_some() => OF_ANOTHER_SESSION.to_owned(),
        "" => String::new(),
        comm => format!(" ({})", visible(comm)),
    };
    StopError::AlreadyTraced {
        tracer,
        name,
        guarded,
    }
}

/// Whether a process is the stop guard of another fragscope, by its name and the other properties
/// of a guard: its own session, and our user or root. A program run by one of these users can have
/// all of them; then waiting for it is useless.
fn is_stop_guard(pid: u64, comm: &str, status: &str) -> bool {
    let session = i32::try_from(pid).ok().and_then(Stat::of);
    let session = session.and_then(|stat| u64::try_from(stat.session).ok());
    let user = field(status, "Uid");
    comm.trim_end().as_bytes() == GUARD_NAME.to_bytes()
        && session == Some(pid)
        && (user == Some(0) || user == Some(getuid().as_raw().into()))
}

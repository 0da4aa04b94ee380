//! Processes that share the memory of a stopped process and keep running.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::proc_dir::{all_pids, have_same_memory, is_of_kernel};
use super::start_thread;
use super::stop::Stopped;

/// Processes that share the memory of a stopped process and are not stopped with it: with
/// `clone(2)`, `CLONE_VM` and without `CLONE_THREAD` a process can share its memory with others.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RunsOn {
    /// None: nothing changes.
    Nobody,
    /// The process with this number, and maybe others.
    Process(i32),
    /// The kernel does not say.
    Unknown,
}

/// The time limit for checking all processes, each of which takes a microsecond. A process blocked
/// in `execve` on a file that does not answer blocks the check (`kcmp_lock` in `kernel/kcmp.c`).
const ASKED_FOR: Duration = Duration::from_millis(20);
/// Whether a thread that asks is held up.
static IS_HELD_UP: AtomicBool = AtomicBool::new(false);

impl RunsOn {
    /// Finds the sharers of this process's memory.
    pub(super) fn with(pid: i32, stopped: &Stopped) -> Self {
        let mut threads = stopped
            .threads()
            .iter()
            .map(|thread| thread.tid.cast_signed());
        let Some(thread) = threads.next() else {
            return Self::Unknown;
        };
        if IS_HELD_UP.load(Ordering::Relaxed) {
            return Self::Unknown;
        }
        let (answer, answered) = mpsc::channel();
        let asking = start_thread("shared-memory", move || {
            // Nothing waits for a late answer.
            let _ = answer.send(Self::ask(pid, thread));
            IS_HELD_UP.store(false, Ordering::Relaxed);
        });
        let answer = asking
            .ok()
            .and_then(|_| answered.recv_timeout(ASKED_FOR).ok());
        IS_HELD_UP.store(answer.is_none(), Ordering::Relaxed);
        answer.unwrap_or(Self::Unknown)
    }

    /// The same, given any thread of that process.
    fn ask(pid: i32, thread: i32) -> Self {
        let (Ok(true), Ok(all)) = (have_same_memory(thread, thread), all_pids()) else {
            return Self::Unknown;
        };
        let mut others = all.filter(|other| *other != pid);
        let runs_on = |other: i32| {
            matches!(have_same_memory(thread, other), Ok(true)) && !is_of_kernel(other)
        };
        match others.find(|other| runs_on(*other)) {
            Some(other) => Self::Process(other),
            None => Self::Nobody,
        }
    }
}

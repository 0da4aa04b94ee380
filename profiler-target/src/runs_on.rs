//! Who runs on with the memory of a process that is stopped.

use super::proc_dir::have_same_memory;
use super::processes::all_pids;
use super::stop::Stopped;

/// Who has the memory of a process that is stopped, and is not stopped with it: by `clone(2)` with `CLONE_VM` and without
/// `CLONE_THREAD` a process can share it with others.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RunsOn {
    /// Nobody: nothing changes.
    Nobody,
    /// The process with this number, and maybe others.
    Process(i32),
    /// The kernel does not say.
    Unknown,
}

impl RunsOn {
    /// Who has the memory of this process besides.
    pub(super) fn with(pid: i32, stopped: &Stopped) -> Self {
        let threads = stopped.threads().iter();
        let Some(thread) = threads.map(|thread| thread.tid.cast_signed()).next() else {
            return Self::Unknown;
        };
        let (Ok(true), Ok(all)) = (have_same_memory(thread, thread), all_pids()) else {
            return Self::Unknown;
        };
        let mut others = all.filter(|other| *other != pid);
        match others.find(|other| matches!(have_same_memory(thread, *other), Ok(true))) {
            Some(other) => Self::Process(other),
            None => Self::Nobody,
        }
    }
}

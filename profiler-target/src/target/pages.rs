//! The pages of a process, and their content.

use std::io;

use profiler_core::addr::AddrRange;
use profiler_core::fork::{self, ForkSharing};
use profiler_core::residency::{Mapping, ResidencyMap};

use super::{Execution, Target};
use crate::Process;
use crate::memory::LiveMemory;
use crate::proc_dir::have_same_memory;
use crate::processes;
use crate::residency::PageSource;
use crate::stop::Stopped;
use crate::{maps, open, residency};

/// What was read of a target.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Reads {
    /// System calls that read its memory.
    pub memory_calls: u64,
    /// Bytes that these gave.
    pub memory_bytes: u64,
    /// Mapped files that were looked into.
    pub files: u64,
}

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

impl Target {
    /// The state of every page of `mappings`.
    ///
    /// # Errors
    /// When it has exited.
    pub fn residency(&self, mappings: &[Mapping]) -> io::Result<ResidencyMap> {
        self.residency_from(mappings, self.pages)
    }

    /// The same by a source of the caller's choice, for tests and comparisons.
    ///
    /// # Errors
    /// When it has exited, or when the kernel has no such source.
    pub fn residency_from(
        &self,
        mappings: &[Mapping],
        source: PageSource,
    ) -> io::Result<ResidencyMap> {
        // The kernel says of one that is exiting that there is no such process.
        residency::read(&self.dir, mappings, source).map_err(|error| self.dir.why(error))
    }

    /// What it still shares with its parent, which must run the same program; `residency` is its
    /// own. `None` when the parent runs another one, or cannot be read.
    pub fn fork_sharing(&self, residency: &ResidencyMap) -> Option<ForkSharing> {
        let (parent, of_parent) = self.parent_pages()?;
        Some(fork::sharing(parent, &of_parent, residency))
    }

    /// The pages of which a write of it or of its parent has made a copy since it was forked; none
    /// where [`Self::fork_sharing`] is not known.
    pub fn copied_since_fork(&self, residency: &ResidencyMap) -> Vec<AddrRange> {
        let of_parent = self.parent_pages();
        of_parent.map_or_else(Vec::new, |(_, of_parent)| {
            fork::copied(&of_parent, residency)
        })
    }

    /// The pages of its parent.
    fn parent_pages(&self) -> Option<(i32, ResidencyMap)> {
        let parent = self.dir.stat().ok()?.ppid;
        let (dir, _) = open::open(parent).ok()?;
        // A fork inherits the auxiliary vector, an exec gets a new one: then nothing was shared.
        if Execution::of(&dir) != self.program {
            return None;
        }
        let mappings = maps::parse(&dir.text("maps").ok()?);
        let of_parent = residency::read(&dir, &mappings, self.pages).ok()?;
        Some((parent, of_parent))
    }

    /// Its memory, by address: of that what is in memory, and what nobody has to answer for.
    pub fn memory(&self) -> LiveMemory {
        if !self.memory.knows_files() {
            // Of one that is gone nothing is read.
            let _ = self.mappings();
        }
        self.memory.clone()
    }

    /// Brings swapped pages back into its memory, and gives how its pages are then.
    ///
    /// # Errors
    /// When it has exited.
    pub fn bring_back(
        &self,
        residency: &ResidencyMap,
        mappings: &[Mapping],
    ) -> io::Result<ResidencyMap> {
        let swapped = residency.runs().iter().filter(|r| r.state.is_swapped());
        for range in swapped.map(|run| run.range) {
            // A page that cannot be read stays as it was, which the next reading shows.
            self.memory().bring_back(range);
        }
        self.residency(mappings)
    }

    /// What was read of it so far.
    pub fn reads(&self) -> Reads {
        let (memory_calls, memory_bytes) = self.memory.counted();
        Reads {
            memory_calls,
            memory_bytes,
            files: self.files.reader.looked(),
        }
    }

    /// Its memory while it is stopped, and who else has that and runs on. The memory is faster to read than that of a process
    /// that runs, and only right as long as the stop lasts. Where others run on each page is looked up before it is read, as
    /// of a process that runs.
    pub fn memory_of(&self, stopped: &Stopped) -> (LiveMemory, RunsOn) {
        let runs_on = self.runs_on(stopped);
        let memory = match runs_on {
            RunsOn::Nobody if !self.has_merged_pages() => {
                self.memory.while_stopped(self.pid(), stopped.state())
            }
            _ => self.memory(),
        };
        (memory, runs_on)
    }

    /// Who else has the memory of this process, which is stopped.
    fn runs_on(&self, stopped: &Stopped) -> RunsOn {
        let threads = stopped.threads().iter();
        let Some(thread) = threads.map(|thread| thread.tid.cast_signed()).next() else {
            return RunsOn::Unknown;
        };
        let (Ok(true), Ok(all)) = (have_same_memory(thread, thread), processes::all_pids()) else {
            return RunsOn::Unknown;
        };
        let mut others = all.filter(|pid| *pid != self.pid());
        match others.find(|pid| matches!(have_same_memory(thread, *pid), Ok(true))) {
            Some(pid) => RunsOn::Process(pid),
            None => RunsOn::Nobody,
        }
    }

    /// Whether KSM may have merged pages of it: unless the kernel says that there are none.
    fn has_merged_pages(&self) -> bool {
        // Linux 6.1 and later; an older kernel's KSM is off for all, or not to be trusted.
        let merged = self.dir.text("ksm_merging_pages").ok();
        let none = merged.is_some_and(|pages| pages.trim() == "0");
        let off = || {
            let run = std::fs::read_to_string("/sys/kernel/mm/ksm/run");
            match run {
                Ok(run) => run.trim() == "0",
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
        };
        !none && !off()
    }
}

//! The pages of a process and their contents.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use profiler_core::addr::AddrRange;
use profiler_core::fork::{self, ForkSharing};
use profiler_core::residency::{Mapping, ResidencyMap};

use super::{Execution, Target};
use crate::Process;
use crate::memory::{LiveMemory, ReadTime};
use crate::residency::PageSource;
use crate::runs_on::RunsOn;
use crate::slices::Slices;
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

    /// Brings swapped pages back into its memory as long as there is time, and gives how its pages are then.
    ///
    /// # Errors
    /// When it has exited.
    pub fn bring_back(
        &self,
        residency: &ResidencyMap,
        mappings: &[Mapping],
        time: &ReadTime,
    ) -> io::Result<ResidencyMap> {
        let memory = self.memory().in_time(time);
        let swapped = residency.runs().iter().filter(|r| r.state.is_swapped());
        for range in swapped.map(|run| run.range) {
            // A page that cannot be read stays as it was, which the next reading shows.
            memory.bring_back(range);
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

    /// Its memory while it is stopped, and only right as long as the stop lasts: faster to read than that of a process that
    /// runs. Where others [run on](Self::runs_on) with it each page is looked up before it is read, as of a process that
    /// runs.
    pub fn memory_of(&self, stopped: &Stopped, runs_on: RunsOn) -> LiveMemory {
        match runs_on {
            RunsOn::Nobody if !self.dir.has_merged_pages() => {
                self.memory.while_stopped(self.pid(), stopped.state())
            }
            _ => self.memory(),
        }
    }

    /// Who else has the memory of this process, which is stopped.
    pub fn runs_on(&self, stopped: &Stopped) -> RunsOn {
        RunsOn::with(self.pid(), stopped)
    }

    /// Makes a stop the first slice of several, each of which lasts for `longest` at most.
    pub fn slices(&self, stopped: Stopped, longest: Duration) -> Arc<Slices> {
        let (dir, guards) = (Arc::clone(&self.dir), Arc::clone(&self.stop_guards));
        let is_unmerged = !self.dir.has_merged_pages();
        Arc::new(Slices::new(dir, guards, stopped, longest, is_unmerged))
    }

    /// Its memory, read in slices.
    pub fn memory_in(&self, slices: &Arc<Slices>) -> LiveMemory {
        self.memory.in_slices(self.pid(), Arc::clone(slices))
    }
}

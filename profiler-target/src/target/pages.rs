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
    /// Mapped files that were inspected.
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

    /// The same from a source chosen by the caller, for tests and comparisons.
    ///
    /// # Errors
    /// When it has exited, or the kernel has no such source.
    pub fn residency_from(
        &self,
        mappings: &[Mapping],
        source: PageSource,
    ) -> io::Result<ResidencyMap> {
        // For an exiting process the kernel reports that there is no such process.
        residency::read(&self.dir, mappings, source).map_err(|error| self.dir.why(error))
    }

    /// Memory that it still shares with its parent, which must run the same program; `residency` is
    /// its own. `None` if the parent runs another program, or is unreadable.
    pub fn fork_sharing(&self, residency: &ResidencyMap) -> Option<ForkSharing> {
        let (parent, of_parent) = self.parent_pages()?;
        Some(fork::sharing(parent, &of_parent, residency))
    }

    /// The pages copied by a write of it or of its parent since it was forked; empty if
    /// [`Self::fork_sharing`] is unknown.
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
        let listed = maps::read(&dir).ok()?;
        if listed.cut.after.is_some() {
            return None;
        }
        let of_parent = residency::read(&dir, &listed.mappings, self.pages).ok()?;
        Some((parent, of_parent))
    }

    /// Its memory, by address: the part that is present and can be read without waiting for
    /// anybody.
    pub fn memory(&self) -> LiveMemory {
        if !self.memory.knows_files() {
            // Nothing is read of a process that is gone.
            let _ = self.mappings();
        }
        self.memory.clone()
    }

    /// Swaps in its swapped pages as long as there is time; returns the resulting page states.
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
            // An unreadable page stays as it was, as the next reading shows.
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

    /// Its memory during a stop, valid only as long as the stop lasts, and faster to read than that
    /// of a running process. If other processes [share it and keep running](Self::runs_on), each
    /// page is looked up before it is read, as in a running process.
    pub fn memory_of(&self, stopped: &Stopped, runs_on: RunsOn) -> LiveMemory {
        match runs_on {
            RunsOn::Nobody if !self.dir.has_merged_pages() => {
                self.memory.while_stopped(self.pid(), stopped.state())
            }
            _ => self.memory(),
        }
    }

    /// Prepares [`Self::runs_on`] while it still runs, so that this takes little of a stop however
    /// many processes the host has.
    pub fn look_for_sharers(&self) {
        self.sharers.look();
    }

    /// The other processes that share the memory of this stopped process.
    pub fn runs_on(&self, stopped: &Stopped) -> RunsOn {
        self.sharers.with(stopped)
    }

    /// Makes a stop the first of several slices, each lasting at most `longest`: only if nobody
    /// [shares its memory and keeps running](Self::runs_on), and that is known.
    pub fn slices(&self, stopped: Stopped, longest: Duration) -> Arc<Slices> {
        let (dir, guards) = (Arc::clone(&self.dir), Arc::clone(&self.stop_guards));
        let sharers = Arc::clone(&self.sharers);
        let is_unmerged = !self.dir.has_merged_pages();
        Arc::new(Slices::new(
            dir,
            guards,
            sharers,
            stopped,
            longest,
            is_unmerged,
        ))
    }

    /// Its memory, read in slices.
    pub fn memory_in(&self, slices: &Arc<Slices>) -> LiveMemory {
        self.memory.in_slices(self.pid(), Arc::clone(slices))
    }
}

//! Observes a target's memory once.

use std::io;
use std::thread;

use profiler_core::completeness::Completeness;
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::{ResidentMemory, TargetMemory};
use profiler_core::parallel::SideThread;
use profiler_core::residency::{Mapping, ResidencyMap};
use profiler_core::sample::KernelCount;
use profiler_core::threads::Thread;
use profiler_target::{LiveMemory, Process, ReadTime, Target};

use super::facts::Facts;
use super::known::KnownFacts;
use super::roots::Roots;
use super::walkers::{self, Input};
use super::walks;

/// What was observed of the target's memory.
pub(crate) struct ObservedMemory {
    pub(crate) kernel: KernelCount,
    pub(crate) residency: ResidencyMap,
    /// The pages after swapped ones were brought back.
    brought_back: Option<ResidencyMap>,
    pub(crate) heaps: Vec<HeapSnapshot>,
}

impl ObservedMemory {
    /// The pages as they should be read.
    pub(crate) fn to_read(&self) -> &ResidencyMap {
        self.brought_back.as_ref().unwrap_or(&self.residency)
    }
}

/// Reads a target's memory once, while it is stopped.
pub(crate) struct Observer<'a> {
    pub(crate) target: &'a Target,
    pub(crate) roots: &'a Roots,
    /// Its threads with their registers, if it is stopped.
    pub(crate) threads: &'a [Thread],
    pub(crate) memory: LiveMemory,
    /// The time for the walk.
    pub(crate) time: &'a ReadTime,
    pub(crate) swap_in: bool,
    /// Whether to give up if a thread is inside malloc, or files must be inspected.
    pub(crate) may_give_up: bool,
}

impl Observer<'_> {
    /// Reads the state of all pages, the kernel's counts, then the heaps; `None` if a thread is
    /// inside malloc or unknown files are mapped, and [`Self::may_give_up`].
    pub(crate) fn observe(
        &self,
        known: &mut KnownFacts,
        completeness: &mut Completeness,
    ) -> io::Result<Option<ObservedMemory>> {
        let mappings = self.target.mappings()?;
        if !known.is_of(&mappings) {
            if self.may_give_up && !self.target.knows_files_of(&mappings) {
                return Ok(None);
            }
            known.renew(self.target, &mappings);
        }
        let facts = &mut known.facts;
        // The stop is shorter if the page states are not needed for that.
        let looks_up_pages = self.memory.looks_up_pages();
        if looks_up_pages && self.is_busy(facts, &ResidencyMap::default()) {
            return Ok(None);
        }
        thread::scope(|scope| {
            // The kernel's count is a separate pass over the page table, so it gets its own thread;
            // but it counts before anything is swapped in.
            let counted = self.swap_in.then(|| self.target.kernel_count());
            let counting = counted
                .is_none()
                .then(|| SideThread::begin(scope, || self.target.kernel_count()));
            let mut residency = self.target.residency(&mappings)?;
            let threads = self.threads;
            for thread in threads {
                residency.mark_stack(thread.stack_pointer);
            }
            if !looks_up_pages && self.is_busy(facts, &residency) {
                return Ok(None);
            }
            let brought_back = match counted {
                Some(Ok(_)) => Some(self.bring_back(&residency, &mappings)?),
                _ => None,
            };
            let to_walk = brought_back.as_ref().unwrap_or(&residency);
            let memory = ResidentMemory::new(&self.memory, to_walk);
            facts.read_python_tables(&memory, to_walk, self.roots);
            let input = Input {
                memory: &memory,
                residency: to_walk,
                facts,
                roots: self.roots,
                threads,
            };
            let heaps = walks::heaps(&input, completeness);
            let kernel = counting.map_or(Ok(KernelCount::default()), SideThread::end);
            Ok(Some(ObservedMemory {
                kernel: counted.unwrap_or(kernel)?,
                residency,
                brought_back,
                heaps,
            }))
        })
    }

    /// Whether a thread is inside malloc, so that the walk is given up.
    fn is_busy(&self, facts: &Facts, residency: &ResidencyMap) -> bool {
        let memory = ResidentMemory::new(&self.memory, residency);
        self.may_give_up && walkers::locked_arenas(&memory, facts, self.roots) > 0
    }

    /// Reads all swapped pages, which brings them back, and gives the state of the pages then. The
    /// sample keeps the state before.
    fn bring_back(
        &self,
        residency: &ResidencyMap,
        mappings: &[Mapping],
    ) -> io::Result<ResidencyMap> {
        let mut now = self.target.bring_back(residency, mappings, self.time)?;
        for thread in self.threads {
            now.mark_stack(thread.stack_pointer);
        }
        Ok(now)
    }
}

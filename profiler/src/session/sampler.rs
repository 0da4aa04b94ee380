//! Taking one sample: stop, residency, the kernel's count, walks, resume.

use std::io;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Instant, SystemTime};

use profiler_core::completeness::{Completeness, Defect};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::ResidentMemory;
use profiler_core::residency::ResidencyMap;
use profiler_core::sample::{Host, Sample};
use profiler_core::threads::Thread;

use super::walks::{self, Facts};
use crate::process::{self, OpenError, Stopped, Target};

/// How often a stop is tried anew when a thread stood inside malloc with an arena's lock held.
const STOP_TRIES: u32 = 3;

/// Whether the target stands still while it is walked.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum StopMode {
    /// All threads are stopped by ptrace for the walk.
    Stop,
    /// The target runs on; the walk may see it half changed.
    NoStop,
}

/// Takes samples of one target.
pub(crate) struct Sampler {
    target: Target,
    host: Host,
}

impl Sampler {
    /// Opens the process `pid`.
    ///
    /// # Errors
    /// What [`Target::open`] refuses.
    pub(crate) fn open(pid: i32) -> Result<Self, OpenError> {
        Ok(Self {
            target: Target::open(pid)?,
            host: process::host(),
        })
    }

    /// The target.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Takes one sample. A target that cannot be stopped (traced by another program, a thread in
    /// an uninterruptible wait) is walked while it runs, and the sample says so.
    ///
    /// # Errors
    /// When `/proc` of the target cannot be read: it is gone, or permission was lost.
    pub(crate) fn take(&self, mode: StopMode) -> io::Result<Sample> {
        let mut tries = 1;
        loop {
            let sample = self.take_once(mode)?;
            let in_allocator = sample.completeness.threads_in_allocator;
            if mode == StopMode::NoStop || in_allocator == 0 || tries == STOP_TRIES {
                return Ok(sample);
            }
            tries += 1;
        }
    }

    fn take_once(&self, mode: StopMode) -> io::Result<Sample> {
        let mut completeness = Completeness::default();
        let mut target = self.target.describe();
        let mut facts = Facts::of(&self.target);

        let began = Instant::now();
        let stopped = match mode {
            StopMode::NoStop => None,
            StopMode::Stop => match self.target.stop() {
                Ok(stopped) => Some(stopped),
                Err(error) => {
                    completeness.defects.push(Defect {
                        addr: None,
                        what: format!("walked without stopping the target: {error}"),
                        bytes: 0,
                    });
                    None
                }
            },
        };
        let threads: &[Thread] = stopped.as_ref().map_or(&[], Stopped::threads);

        // The kernel's count is a pass of its own over the page table, so it gets its own thread.
        let (kernel, seen) = thread::scope(|scope| {
            let kernel = scope.spawn(|| self.target.kernel_count());
            let seen = self.look(&mut facts, threads, &mut completeness);
            let kernel = kernel.join().unwrap_or_else(|panic| resume_unwind(panic));
            (kernel, seen)
        });
        let (kernel, (residency, heaps)) = (kernel?, seen?);
        target.python_malloc = facts.python_malloc(&heaps);
        target.malloc = facts.malloc().or(target.malloc);

        completeness.stopped = stopped.is_some();
        drop(stopped);
        let took = began.elapsed().as_nanos() as u64;
        completeness.walk_ns = took;
        // The stop does not wait for the parent's page tables: the few pages that either writes
        // meanwhile count as copied.
        let fork = self.target.fork_sharing(&residency);
        completeness.stop_ns = if completeness.stopped { took } else { 0 };

        Ok(Sample {
            taken_at_ns: now_ns(),
            host: self.host.clone(),
            target,
            kernel,
            fork,
            residency,
            heaps,
            completeness,
        })
    }

    /// The state of all pages, then the heaps.
    fn look(
        &self,
        facts: &mut Facts,
        threads: &[Thread],
        completeness: &mut Completeness,
    ) -> io::Result<(ResidencyMap, Vec<HeapSnapshot>)> {
        let mut residency = self.target.residency(&self.target.mappings()?)?;
        for thread in threads {
            residency.mark_stack(thread.stack_pointer);
        }
        let memory = ResidentMemory::new(self.target.memory(), &residency);
        facts.look(&memory, &residency);
        let heaps = walks::heaps(&memory, &residency, facts, threads, completeness);
        Ok((residency, heaps))
    }
}

/// Nanoseconds since 1970-01-01 UTC.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

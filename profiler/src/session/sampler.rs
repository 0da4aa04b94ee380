//! Taking one sample: stop, residency, the kernel's count, walks, resume.

use std::io;
use std::time::{Instant, SystemTime};

use profiler_core::completeness::{Completeness, Confidence, Defect};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::ResidentMemory;
use profiler_core::sample::{Host, Sample};
use profiler_core::threads::Thread;
use profiler_core::{glibc, pymalloc};

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
        let target = self.target.describe();
        let python = self.target.python_version();
        let libc = self.target.libc_version();

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

        let mut residency = self.target.residency(&self.target.mappings()?)?;
        for thread in threads {
            residency.mark_stack(thread.stack_pointer);
        }
        let kernel = self.target.kernel_count()?;
        let memory = ResidentMemory::new(self.target.memory(), &residency);
        let libc_data = self.target.libc_data_ranges();
        let context = glibc::Context {
            version: libc,
            threads,
            libc_data,
        };
        let mut heaps = Vec::new();
        match glibc::walk(&memory, &residency, &context) {
            Ok(heap) => heaps.push(heap),
            Err(reason) => not_walked(&mut completeness, "glibc", &reason, target.libc.is_some()),
        }
        match pymalloc::walk(&memory, &residency, &pymalloc::Context { python }) {
            Ok(heap) => heaps.push(heap),
            Err(reason) => not_walked(&mut completeness, "pymalloc", &reason, python.is_some()),
        }

        completeness.stopped = stopped.is_some();
        drop(stopped);
        let took = began.elapsed().as_nanos() as u64;
        completeness.walk_ns = took;
        completeness.stop_ns = if completeness.stopped { took } else { 0 };
        judge(&mut completeness, &heaps);

        Ok(Sample {
            taken_at_ns: now_ns(),
            host: self.host.clone(),
            target,
            kernel,
            residency,
            heaps,
            completeness,
        })
    }
}

/// Nanoseconds since 1970-01-01 UTC.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

/// An allocator that was to be expected and was not walked is a defect; one that was not (pymalloc
/// in a C program) is none.
fn not_walked(
    completeness: &mut Completeness,
    allocator: &str,
    reason: &dyn std::fmt::Display,
    expected: bool,
) {
    if expected {
        completeness.defects.push(Defect {
            addr: None,
            what: format!("{allocator} was not walked: {reason}"),
            bytes: 0,
        });
    }
}

/// Sums up what the walkers said of themselves.
fn judge(completeness: &mut Completeness, heaps: &[HeapSnapshot]) {
    completeness.layout_confidence = heaps
        .iter()
        .map(|heap| heap.confidence)
        .min()
        .unwrap_or(Confidence::None);
    for heap in heaps {
        // glibc: arenas whose mutex was held, so that a thread stood inside malloc.
        let locked = heap.total(|arena| {
            let mut figures = arena.figures.iter();
            figures
                .find(|(name, _)| *name == "locked")
                .map_or(0, |(_, value)| *value)
        });
        completeness.threads_in_allocator += locked as u32;
        completeness.unreadable_bytes += heap.unreadable_bytes;
        completeness.defects.extend(heap.defects.iter().cloned());
    }
}

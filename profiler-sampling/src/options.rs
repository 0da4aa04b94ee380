//! How a live process is sampled, and time limits.

use std::time::Duration;

use profiler_target::{RUNS_BETWEEN, ReadTime, Target};

/// The default limit of a stop in which everything is read.
pub const LONGEST_WHOLE_STOP: Duration = Duration::from_secs(2);
/// The default limit of one of several stops.
pub const LONGEST_SLICE: Duration = Duration::from_millis(20);

/// A walk ends at most this long after its stop unless the user sets a limit: tens of times the
/// usual duration.
const WALK: Duration = Duration::from_secs(10);
/// Time added to `WALK` for each GiB of resident memory.
const WALK_A_GIB: Duration = Duration::from_secs(2);
/// The same for each GiB that is swapped in, page by page from a slow disk.
const SWAP_A_GIB: Duration = Duration::from_secs(60);
/// The same for reading objects, which may run at the lowest priority.
const OBJECTS: Duration = Duration::from_secs(60);
const OBJECTS_A_GIB: Duration = Duration::from_secs(60);

/// How a live process is sampled.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SamplingOptions {
    /// Whether all threads are stopped while the heap is walked; otherwise the walk may see
    /// inconsistent data.
    pub stop: bool,
    /// Swapped pages are brought back to be read; else they are left in swap.
    pub swap_in: bool,
    /// How long a stop lasts at most.
    pub max_stop: Duration,
    /// Whether the rest is read in further stops, between which the target runs for longer than it
    /// was stopped; otherwise it is read while the target runs.
    pub slices: bool,
    /// The time limit of a walk with all its stops, and of reading its objects: the rest is then
    /// unknown. `None` derives it from the resident memory.
    pub max_walk: Option<Duration>,
}

impl SamplingOptions {
    /// The same, for uses that need a walk of one moment.
    pub fn in_one_stop(self) -> Self {
        match self.slices {
            true => Self {
                slices: false,
                max_stop: LONGEST_WHOLE_STOP,
                ..self
            },
            false => self,
        }
    }

    /// The time for a walk of this target, which begins.
    pub(crate) fn walk_time(&self, target: &Target) -> ReadTime {
        let count = target.quick_count().unwrap_or_default();
        ReadTime::from_now(self.longest_walk(count.rss_bytes, count.swap_bytes))
    }

    /// How long a walk of a process with so much memory may take, with all its stops.
    pub(crate) fn longest_walk(&self, rss_bytes: u64, swap_bytes: u64) -> Duration {
        let mut usual = WALK + WALK_A_GIB.mul_f64(gib(rss_bytes));
        if self.swap_in {
            usual += SWAP_A_GIB.mul_f64(gib(swap_bytes));
        }
        self.max_walk.unwrap_or(match self.slices {
            // It runs between them for most of the time.
            true => usual * (1 + RUNS_BETWEEN),
            false => self.max_stop.saturating_add(usual),
        })
    }

    /// The time for reading the objects of one.
    pub(crate) fn objects_time(&self, target: &Target) -> ReadTime {
        let count = target.quick_count().unwrap_or_default();
        let usual = OBJECTS + OBJECTS_A_GIB.mul_f64(gib(count.rss_bytes));
        let usual = usual.saturating_add(self.max_stop);
        ReadTime::from_now(self.max_walk.unwrap_or(usual))
    }
}

/// The time limit for reading a core, which may be on a slow disk.
pub(crate) fn core_time(max_walk: Option<Duration>, resident_bytes: u64) -> ReadTime {
    let usual = OBJECTS + OBJECTS_A_GIB.mul_f64(gib(resident_bytes));
    ReadTime::from_now(max_walk.unwrap_or(usual))
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

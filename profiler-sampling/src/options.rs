//! How a live process is sampled, and for how long.

use std::time::Duration;

use profiler_target::{RUNS_BETWEEN, ReadTime, Target};

/// How long a stop lasts at most in which all is read, unless the user says otherwise.
pub const LONGEST_WHOLE_STOP: Duration = Duration::from_secs(2);
/// The same of one of several stops.
pub const LONGEST_SLICE: Duration = Duration::from_millis(20);

/// A walk goes on for so long after its stop at most, unless the user says otherwise: tens of times what it takes.
const WALK: Duration = Duration::from_secs(10);
/// And for so long more for each GiB that is resident.
const WALK_A_GIB: Duration = Duration::from_secs(2);
/// The same for each GiB that is brought back from swap, page by page from a slow disk.
const SWAP_A_GIB: Duration = Duration::from_secs(60);
/// The same of reading objects, which may run at the lowest priority.
const OBJECTS: Duration = Duration::from_secs(60);
const OBJECTS_A_GIB: Duration = Duration::from_secs(60);

/// How a live process is sampled.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SamplingOptions {
    /// All its threads are stopped while its heap is walked; else the walk may see it half changed.
    pub stop: bool,
    /// Swapped pages are brought back to be read; else they are left in swap.
    pub swap_in: bool,
    /// How long a stop lasts at most.
    pub max_stop: Duration,
    /// What is not read by then is read in further stops, between which the target runs for longer than it
    /// stood; else it is read while the target runs on.
    pub slices: bool,
    /// How long a walk lasts at most, with all its stops, and reading the objects of one: what is not read by then is
    /// unknown. `None` leaves it to what is resident.
    pub max_walk: Option<Duration>,
}

impl SamplingOptions {
    /// The same, for what only a walk of one moment is good for.
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

/// The time for reading a core, which may lie on a slow disk.
pub(crate) fn core_time(max_walk: Option<Duration>, resident_bytes: u64) -> ReadTime {
    let usual = OBJECTS + OBJECTS_A_GIB.mul_f64(gib(resident_bytes));
    ReadTime::from_now(max_walk.unwrap_or(usual))
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

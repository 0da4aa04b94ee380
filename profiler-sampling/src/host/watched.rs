//! What is known of a process from earlier looks.

use std::time::{Duration, Instant};

use profiler_core::host::{Memory, ProcessSample};
use profiler_target::{Listed, MemoryGroups};

use super::super::sampler::Sampler;
use super::super::schedule::WalkSchedule;

/// A process that was no Python is looked into again after this long: it may load one.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What is known of a process.
#[derive(Debug)]
pub(super) struct WatchedProcess {
    pub(super) kind: Kind,
    pub(super) schedule: WalkSchedule,
    pub(super) sampler: Option<Sampler>,
    /// Its command line, when it answered last.
    pub(super) cmdline: Vec<String>,
    /// When it was walked last.
    pub(super) walked: Option<Instant>,
    /// What the kernel counted last in full: `smaps_rollup` goes through all of its page table.
    pub(super) counted: Option<Counted>,
    /// Whether that was at this look.
    pub(super) is_counted_now: bool,
    /// Whether it maps files for which the kernel does not answer itself, when it was looked into.
    pub(super) is_served: bool,
    /// Whether a process of its user did not answer.
    pub(super) is_of_silent_user: bool,
    /// When it did not answer itself, be it for a while.
    pub(super) was_silent: Option<Instant>,
    /// Whether it has answered.
    pub(super) has_answered: bool,
}

/// A full count of a process's memory.
#[derive(Copy, Clone, Debug)]
pub(super) struct Counted {
    pub(super) memory: Memory,
    pub(super) at: Instant,
    /// Processor time that it took.
    pub(super) took: Duration,
}

impl WatchedProcess {
    /// Whether waiting for it may take long.
    pub(super) fn may_be_slow(&self) -> bool {
        self.is_served || self.is_suspect()
    }

    /// Whether it may not answer, because it did not before, or another process of its user did not.
    pub(super) fn is_suspect(&self) -> bool {
        self.was_silent.is_some() || self.is_of_silent_user
    }

    /// Its memory: what was counted in full at this look, else what is quickly read, with what was counted last.
    /// `None` when it has ended.
    fn memory(&mut self, listed: &Listed) -> Option<Memory> {
        let is_counted_now = std::mem::take(&mut self.is_counted_now);
        let Some(Counted {
            memory: counted, ..
        }) = self.counted
        else {
            return listed.quick_memory();
        };
        if is_counted_now {
            return Some(counted);
        }
        let now = listed.quick_memory()?;
        let most = |bytes: Option<u64>| bytes.map(|bytes| bytes.min(now.rss_bytes));
        Some(Memory {
            pss_bytes: most(counted.pss_bytes),
            uss_bytes: most(counted.uss_bytes),
            ..now
        })
    }

    /// What is known of it now; `None` when it ended meanwhile.
    pub(super) fn sample(
        &mut self,
        listed: &Listed,
        groups: &mut MemoryGroups,
    ) -> Option<ProcessSample> {
        let sample = ProcessSample {
            id: listed.id,
            parent: listed.parent,
            comm: listed.comm.clone(),
            cmdline: self.cmdline.clone(),
            python: match &self.kind {
                Kind::Python(version) => Some(version.clone()),
                _ => None,
            },
            memory: self.memory(listed)?,
            group: groups.of(listed.id.pid),
            age_ns: listed.age_ns(),
        };
        // All that was read is of the process that was listed.
        listed.is_there().then_some(sample)
    }
}

/// What a process is.
#[derive(Debug)]
pub(super) enum Kind {
    /// It runs this Python.
    Python(String),
    /// It runs none.
    Other {
        /// When it was looked into.
        looked: Instant,
    },
    /// It cannot be looked into.
    Closed(String),
    /// It could not be looked into, which may change: fragscope has too many files open, for one.
    Failed {
        /// The error.
        why: String,
        /// When that was.
        looked: Instant,
    },
    /// It is looked into later.
    Deferred(Deferred),
}

/// Why a process was not looked into yet.
#[derive(Copy, Clone, Debug)]
pub(super) enum Deferred {
    /// It was not there before.
    New,
    /// Somebody answers for its files who may keep everybody waiting, as others' did.
    MapsServedFiles,
    /// It did not answer before, or another process of its user did not.
    Suspect,
}

impl Kind {
    /// Whether what it is has to be found out, or found out again.
    pub(super) fn is_to_be_looked_into(&self, now: Instant) -> bool {
        match self {
            Self::Other { looked } | Self::Failed { looked, .. } => now >= *looked + LOOK_AGAIN,
            Self::Deferred(_) => true,
            Self::Python(_) | Self::Closed(_) => false,
        }
    }
}

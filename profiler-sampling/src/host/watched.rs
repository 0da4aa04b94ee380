//! What is known of a process from earlier looks.

use std::time::{Duration, Instant};

use profiler_core::host::{Memory, ProcessSample};
use profiler_target::{Listed, MemoryGroups};

use super::super::sampler::Sampler;
use super::super::schedule::WalkSchedule;
use super::silence::Silence;

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

    /// Takes over whether it, or another process of the user that `user` gives, did not answer not long ago.
    pub(super) fn remember(
        &mut self,
        silence: &Silence,
        user: impl FnOnce() -> Option<u32>,
        now: Instant,
    ) {
        self.is_of_silent_user = silence.is_of(user);
        let is_remembered = |at: &Instant| Silence::is_remembered(*at, now);
        self.was_silent = self.was_silent.filter(is_remembered);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn process(now: Instant) -> WatchedProcess {
        WatchedProcess {
            kind: Kind::Deferred(Deferred::New),
            schedule: WalkSchedule::new(LOOK_AGAIN, None, now),
            sampler: None,
            cmdline: Vec::new(),
            walked: None,
            counted: None,
            is_counted_now: false,
            is_served: false,
            is_of_silent_user: false,
            was_silent: None,
            has_answered: false,
        }
    }

    #[test]
    fn a_process_is_suspect_while_it_or_another_of_its_user_was_silent_not_long_ago() {
        let now = Instant::now();
        let mut silence = Silence::none(now);
        let mut process = process(now);
        process.remember(&silence, || Some(1000), now);
        assert!(!process.is_suspect() && !process.may_be_slow());
        silence.note(Some(1000), now);
        process.remember(&silence, || Some(1000), now);
        assert!(process.is_suspect() && process.may_be_slow());
        process.remember(&silence, || Some(1001), now);
        assert!(!process.is_suspect());
        // It may be anybody's.
        process.remember(&silence, || None, now);
        assert!(process.is_suspect());
        process.was_silent = Some(now);
        process.remember(&silence, || Some(1001), now);
        assert!(process.is_suspect());
        process.remember(&silence, || Some(1001), now + Duration::from_secs(600));
        assert!(!process.is_suspect() && process.was_silent.is_none());
        // Its files alone make it slow, and not suspect.
        process.is_served = true;
        assert!(process.may_be_slow() && !process.is_suspect());
    }

    #[test]
    fn what_was_put_off_is_looked_into_at_once_and_what_is_no_python_after_a_while() {
        let now = Instant::now();
        let is_due = |kind: &Kind, at| kind.is_to_be_looked_into(at);
        for why in [Deferred::New, Deferred::MapsServedFiles, Deferred::Suspect] {
            assert!(is_due(&Kind::Deferred(why), now), "{why:?}");
        }
        let failed = Kind::Failed {
            why: String::new(),
            looked: now,
        };
        for kind in [Kind::Other { looked: now }, failed] {
            assert!(!is_due(&kind, now) && is_due(&kind, now + LOOK_AGAIN));
        }
        let known = [Kind::Python(String::new()), Kind::Closed(String::new())];
        assert!(known.iter().all(|kind| !is_due(kind, now + LOOK_AGAIN)));
    }
}

//! How a target is held during a walk: in one stop, in slices, or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::completeness::{EndedEarly, Slices as SlicesSeen};
use profiler_core::threads::Thread;
use profiler_target::{LiveMemory, RunsOn, SliceTally, Slices, Stopped, Target};

/// How a target is held.
pub(crate) enum Holding {
    /// Not at all: it runs.
    Running,
    /// By one stop; and the process, if any, that shares its memory and keeps running.
    Stop(Stopped, RunsOn),
    /// One stop after the other.
    Slices(Arc<Slices>),
}

/// The outcome.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Held {
    /// How long it was stopped in total; `None` if it was not held.
    pub(crate) stood: Option<Duration>,
    /// How long was waited for it to run in between.
    pub(crate) waited: Duration,
    /// The slices, if there was more than one stop.
    pub(crate) slices: Option<SlicesSeen>,
    /// Why it was resumed before the walk was done, if it was.
    pub(crate) ended_early: Option<EndedEarly>,
}

impl Holding {
    /// Whether it is stopped, at least repeatedly.
    pub(crate) fn is_stopped(&self) -> bool {
        !matches!(self, Self::Running)
    }

    /// The process that shares its memory and keeps running, if there is one.
    pub(crate) fn runs_on(&self) -> Option<i32> {
        match self {
            Self::Stop(_, RunsOn::Process(pid)) => Some(*pid),
            _ => None,
        }
    }

    /// Its threads with their registers, if it is stopped.
    pub(crate) fn threads(&self) -> Vec<Thread> {
        match self {
            Self::Running => Vec::new(),
            Self::Stop(stopped, _) => stopped.threads().to_vec(),
            Self::Slices(slices) => slices.threads(),
        }
    }

    /// Its memory, read in the fastest possible way.
    pub(crate) fn memory(&self, target: &Target) -> LiveMemory {
        match self {
            Self::Running => target.memory(),
            Self::Stop(stopped, runs_on) => target.memory_of(stopped, *runs_on),
            Self::Slices(slices) => target.memory_in(slices),
        }
    }

    /// When it was stopped.
    pub(crate) fn since(&self) -> Option<Instant> {
        match self {
            Self::Running => None,
            Self::Stop(stopped, _) => Some(stopped.since()),
            Self::Slices(slices) => Some(slices.since()),
        }
    }

    /// Resumes it.
    pub(crate) fn end(self) -> Held {
        match self {
            Self::Running => Held::default(),
            Self::Stop(stopped, _) => {
                let outcome = stopped.resume();
                Held {
                    stood: Some(outcome.held),
                    ended_early: outcome.ended_early,
                    ..Held::default()
                }
            }
            Self::Slices(slices) => {
                let tally = slices.end();
                Held {
                    stood: Some(tally.stood),
                    waited: tally.waited,
                    slices: seen(&tally),
                    ended_early: tally.given_up,
                }
            }
        }
    }
}

/// The slices, if the walk is not from one moment.
fn seen(tally: &SliceTally) -> Option<SlicesSeen> {
    tally.has_run.then_some(SlicesSeen {
        number: tally.slices,
        longest_ns: tally.longest.as_nanos() as u64,
        changed_bytes: tally.changed_bytes,
        running_bytes: tally.running_bytes,
    })
}

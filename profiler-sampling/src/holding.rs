//! How a target is held during a walk: in one stop, in slices, or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::completeness::{EndedEarly, Slices as SlicesSeen};
use profiler_core::threads::Thread;
use profiler_target::{LiveMemory, RunsOn, SliceTally, Slices, Stopped, Target};

/// What holds it.
pub(crate) enum Holding {
    /// Nothing: it runs.
    Running,
    /// One stop, and who runs on with its memory.
    Stop(Stopped, RunsOn),
    /// One stop after the other.
    Slices(Arc<Slices>),
}

/// What came of that.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Held {
    /// For how long it stood still in all; `None` if it was not held.
    pub(crate) stood: Option<Duration>,
    /// For how long was waited for it to run in between.
    pub(crate) waited: Duration,
    /// Where there was more than one stop.
    pub(crate) slices: Option<SlicesSeen>,
    /// Why it ran on before the walk was done, if it did.
    pub(crate) ended_early: Option<EndedEarly>,
}

impl Holding {
    /// Whether it stands still, now and then at least.
    pub(crate) fn is_stopped(&self) -> bool {
        !matches!(self, Self::Running)
    }

    /// The process that has its memory and runs on, if there is one.
    pub(crate) fn runs_on(&self) -> Option<i32> {
        match self {
            Self::Stop(_, RunsOn::Process(pid)) => Some(*pid),
            _ => None,
        }
    }

    /// Its threads with their registers, when it stands still.
    pub(crate) fn threads(&self) -> Vec<Thread> {
        match self {
            Self::Running => Vec::new(),
            Self::Stop(stopped, _) => stopped.threads().to_vec(),
            Self::Slices(slices) => slices.threads(),
        }
    }

    /// Its memory, by the fastest way there is.
    pub(crate) fn memory(&self, target: &Target) -> LiveMemory {
        match self {
            Self::Running => target.memory(),
            Self::Stop(stopped, runs_on) => target.memory_of(stopped, *runs_on),
            Self::Slices(slices) => target.memory_in(slices),
        }
    }

    /// Since when it has stood still.
    pub(crate) fn since(&self) -> Option<Instant> {
        match self {
            Self::Running => None,
            Self::Stop(stopped, _) => Some(stopped.since()),
            Self::Slices(slices) => Some(slices.since()),
        }
    }

    /// Lets it run on.
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

/// What slices there were, where what was walked is not of one moment.
fn seen(tally: &SliceTally) -> Option<SlicesSeen> {
    tally.has_run.then_some(SlicesSeen {
        number: tally.slices,
        longest_ns: tally.longest.as_nanos() as u64,
        changed_bytes: tally.changed_bytes,
        running_bytes: tally.running_bytes,
    })
}

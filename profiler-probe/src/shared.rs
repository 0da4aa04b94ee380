//! State shared between a session and its worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use profiler_common::sampling::SamplingCounter;
use profiler_core::live::Tracker;
use profiler_core::sites::{NativeSampling, SiteTable};
use profiler_target::ErrorKind;

use super::growth::GrowthRate;
use super::meter::Meter;

/// What passes between the session and the worker.
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) state: Mutex<State>,
}

/// What the worker has found, protected by the lock.
pub(super) struct State {
    pub(super) tracker: Tracker,
    pub(super) sites: SiteTable,
    /// The sums over all sites at the last look.
    pub(super) sampling: [u64; SamplingCounter::COUNT as usize],
    /// How growth is watched.
    pub(super) growth: GrowthRate,
    /// Windows that were opened.
    pub(super) windows: u64,
    pub(super) meter: Meter,
    /// Events up to this moment have been taken in, on their clock.
    pub(super) taken_until_ns: u64,
    /// Events lost for lack of room in the ring.
    pub(super) lost: u64,
    /// Why a probe is not attached, by probe of the plan.
    pub(super) failed: Vec<Option<String>>,
    /// Why samples have no stacks, if they have none.
    pub(super) no_stacks: Option<String>,
    /// The state of native sampling, if native functions are wanted.
    pub(super) native: Option<NativeSampling>,
    /// Mean bytes between two points of the sample.
    pub(super) mean_bytes: u64,
    /// Why probing ended by itself.
    pub(super) ended: Option<Ended>,
}

/// Why probing ended by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ended {
    /// In words.
    pub(super) why: String,
    /// The kind of the error.
    pub(super) kind: ErrorKind,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Sums stay usable after a panic in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

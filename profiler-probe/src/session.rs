//! Probes on one process, from attaching to detaching.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use profiler_common::sampling::SamplingCounter;
use profiler_core::activity::{Activity, ProbeCost};
use profiler_core::live::Tracker;
use profiler_core::sample::Sample;
use profiler_core::sites::{SiteTable, Sites};
use profiler_target::{ErrorKind, Target};

use super::armed::Armed;
use super::budget::Budget;
use super::calibrate::HitCost;
use super::error::ProbeError;
use super::growth::GrowthRate;
use super::loaded::Loaded;
use super::meter::Meter;
use super::native::NativeStacks;
use super::plan::ProbePlan;
use super::shared::{Ended, Shared, State};
use super::stacks::Stacks;
use super::traps::{Traps, statuses};
use super::worker::{Worker, now_ns};

/// Size of the ring buffer, in bytes: 400 thousand events.
const RING_BYTES: u32 = 16 << 20;

/// How long a walk waits for the events up to its moment. A running worker takes them in sooner.
const TAKEN_WITHIN: Duration = Duration::from_millis(100);

/// Live blocks tracked at a time at most: half a GB of memory.
const MAX_BLOCKS: u64 = 8 << 20;

/// Probes on one process. Dropping it detaches them all and waits until they are gone; if fragscope
/// is killed, the guard that holds them does the same.
pub struct ProbeSession {
    shared: Arc<Shared>,
    plan: ProbePlan,
    traps: Arc<Traps>,
    budget: Budget,
    worker: Option<JoinHandle<()>>,
}

impl ProbeSession {
    /// Measures the cost of a hit here, attaches the probes of `plan` to process `pid`, and begins
    /// to take in events. A probe that cannot be attached is reported in [`Activity::probes`].
    ///
    /// # Errors
    /// If no probe at all can be attached.
    pub fn attach(pid: i32, plan: &ProbePlan, budget: Budget) -> Result<Self, ProbeError> {
        Self::attach_with_ring(pid, plan, budget, RING_BYTES)
    }

    /// Like [`ProbeSession::attach`], which takes from 0.2 s to some seconds on a loaded host, but
    /// ends early if `cancelled` is set meanwhile.
    ///
    /// # Errors
    /// If no probe at all can be attached, or it was cancelled.
    pub fn attach_unless(
        cancelled: &AtomicBool,
        pid: i32,
        plan: &ProbePlan,
        budget: Budget,
    ) -> Result<Self, ProbeError> {
        Self::begin(pid, plan, budget, RING_BYTES, cancelled)
    }

    /// Like [`ProbeSession::attach`], with a ring buffer of `ring_bytes`: a power of two, at least
    /// a page.
    ///
    /// # Errors
    /// If no probe at all can be attached.
    pub fn attach_with_ring(
        pid: i32,
        plan: &ProbePlan,
        budget: Budget,
        ring_bytes: u32,
    ) -> Result<Self, ProbeError> {
        Self::begin(pid, plan, budget, ring_bytes, &AtomicBool::new(false))
    }

    fn begin(
        pid: i32,
        plan: &ProbePlan,
        budget: Budget,
        ring_bytes: u32,
        cancelled: &AtomicBool,
    ) -> Result<Self, ProbeError> {
        let go_on = || match cancelled.load(Ordering::Relaxed) {
            true => Err(ProbeError::Cancelled),
            false => Ok(()),
        };
        budget.check()?;
        let number = u32::try_from(pid).ok().and_then(NonZeroU32::new);
        let number = number.ok_or(ProbeError::Gone(pid))?;
        let mut loaded = Loaded::new(ring_bytes)?;
        go_on()?;
        let cost = HitCost::measure(&mut loaded)?;
        go_on()?;
        let traps = Arc::new(Traps::new(plan, number));
        let attached_at = now_ns();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            state: Mutex::new(State {
                tracker: Tracker::new(attached_at, MAX_BLOCKS),
                sites: SiteTable::default(),
                sampling: [0; SamplingCounter::COUNT as usize],
                growth: GrowthRate::new(attached_at, Vec::new()),
                windows: 0,
                meter: Meter::new(&traps, cost, attached_at),
                taken_until_ns: 0,
                lost: 0,
                failed: vec![None; plan.probes.len()],
                no_stacks: None,
                native: None,
                mean_bytes: 0,
                ended: None,
            }),
        });
        let armed = Armed::new(number, loaded, traps.clone(), plan.probes.len())?;
        let target = Target::open(pid).map_err(|_| ProbeError::Gone(pid))?;
        let native = match plan.native_stacks {
            // It is held for as long as files are read.
            true => Some(Target::open(pid).map_err(|_| ProbeError::Gone(pid))?),
            false => None,
        };
        let native = native.map(|target| NativeStacks::of(target, &plan.object));
        let stacks = Stacks::of(&target, native);
        let mut worker = Worker::new(armed, stacks, shared.clone(), budget)?;
        if plan.watches_growth {
            worker.watch_growth(&target)?;
        }
        worker.attach()?;
        worker.open_window()?;
        let for_thread = Arc::clone(&shared);
        let worker = profiler_target::start_thread("probe events", move || {
            let ended = end_of(|| worker.run());
            for_thread.state().ended = ended;
        })
        .map_err(|source| ProbeError::Host {
            what: "start a thread",
            source,
        })?;
        Ok(Self {
            shared,
            plan: plan.clone(),
            traps,
            budget,
            worker: Some(worker),
        })
    }

    /// What was seen so far. Rates are since the last call.
    pub fn activity(&self) -> Activity {
        let mut state = self.shared.state();
        let probes = statuses(&self.plan, &self.traps, state.meter.hits(), &state.failed);
        let now = now_ns();
        let cost = ProbeCost {
            hits: state.meter.hits().iter().sum(),
            ns_per_hit: state.meter.ns_per_hit(),
            share: state.meter.share(now),
            budget: self.budget.share(),
        };
        let lost = state.lost;
        let ended = state.ended.as_ref().map(|ended| ended.why.clone());
        state.tracker.activity(now, lost, probes, cost, ended)
    }

    /// Where the allocations seen so far came from.
    pub fn sites(&self) -> Sites {
        let state = self.shared.state();
        let now_ns = now_ns();
        let (armed_ns, counted_bytes) = state.tracker.seen(now_ns);
        let sites = state.sites.sites();
        Sites {
            samples_lost: state.sampling[SamplingCounter::Lost as usize],
            sampling_ns: state.sampling[SamplingCounter::Nanoseconds as usize],
            growth: self
                .plan
                .watches_growth
                .then(|| state.growth.state(now_ns, &state.sampling)),
            armed_ns,
            counted_bytes,
            mean_bytes: state.mean_bytes,
            frees_complete: sites.frees_complete && state.windows <= 1 && state.lost == 0,
            no_stacks: state.no_stacks.clone(),
            native: state.native.clone(),
            ..sites
        }
    }

    /// A walk is about to begin, which is given to [`Self::walked`].
    pub fn walk_begins(&self) {
        self.shared.state().sites.walk_begins();
    }

    /// Looks up the blocks that were sampled by the moment of a walk, `at_ns` on the clock of the
    /// events ([`crate::clock_ns`]), in that walk: those that are live there stay. They include
    /// blocks that lived at that moment and were freed since [`Self::walk_begins`].
    pub fn walked(&self, sample: &Sample, at_ns: u64) {
        let began = Instant::now();
        // Events up to that moment are at worst still in the ring.
        while self.shared.state().taken_until_ns <= at_ns && began.elapsed() < TAKEN_WITHIN {
            std::thread::sleep(Duration::from_millis(1));
        }
        let lookup = self.shared.state().sites.lookup(at_ns);
        let found = lookup.in_walk(sample);
        self.shared.state().sites.walked(found);
    }

    /// The kind of the reason for which probing ended by itself ([`Activity::ended`]).
    pub fn ended(&self) -> Option<ErrorKind> {
        let state = self.shared.state();
        state.ended.as_ref().map(|ended| ended.kind.clone())
    }

    /// Removes the probes, waits until they are gone, and returns everything seen.
    pub fn detach(mut self) -> Activity {
        self.stop();
        self.activity()
    }

    /// Like [`Self::detach`], with where the allocations came from.
    pub fn detach_with_sites(mut self) -> (Activity, Sites) {
        self.stop();
        (self.activity(), self.sites())
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            worker.thread().unpark();
            // A thread that panicked has dropped its links on the way, and reported it.
            let _ended = worker.join();
        }
    }
}

impl Drop for ProbeSession {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Why the work of a session's thread ended by itself, including by a panic, which nobody else
/// would notice before the session ends.
fn end_of(work: impl FnOnce() -> Option<Ended>) -> Option<Ended> {
    // What it leaves half done is dropped with it, except for sums.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Some(Ended {
            why: "the thread that takes in their events panicked".to_owned(),
            kind: ErrorKind::Other,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_thread_is_why_the_probes_ended() {
        assert_eq!(end_of(|| None), None);
        let ended = end_of(|| panic!("on purpose"));
        assert!(ended.is_some_and(|ended| ended.why.contains("panicked")));
    }
}

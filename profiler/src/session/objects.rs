//! Python objects in a session: read in the background after a walk, as often as the budget allows.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use profiler_core::heap::HeapSnapshot;
use profiler_core::objects::{Census, Lengths, NoCensus};
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::view::ObjectsState;
use profiler_sampling::{CopiedMemory, Sampler, SamplingOptions, now_ns};
use profiler_target::host;
use profiler_trace::snapshot::Censuses;

use super::options::Budget;

/// The shortest time between two readings: growth over a shorter time is noise.
const LEAST_PAUSE: Duration = Duration::from_secs(10);
/// Threads that read at most.
const THREADS: usize = 4;
/// Memory that reading takes, in bytes for each live block.
const BYTES_A_BLOCK: u64 = 48;

fn live_blocks(sample: &Sample) -> u64 {
    let live = |heap: &HeapSnapshot| heap.total(|arena| arena.live_blocks);
    sample.heaps.iter().map(live).sum()
}

/// Checks that there is enough memory to read the objects of a walk.
///
/// # Errors
/// [`NoCensus::NoRoom`] if there is not.
pub(super) fn room_for(sample: &Sample) -> Result<(), NoCensus> {
    let needs_bytes = live_blocks(sample).saturating_mul(BYTES_A_BLOCK);
    let spare_bytes = host::available_bytes();
    match needs_bytes > spare_bytes / 2 {
        true => Err(NoCensus::NoRoom {
            needs_bytes,
            spare_bytes,
        }),
        false => Ok(()),
    }
}

/// Reads the objects of a session's target, and keeps the last two censuses.
pub(crate) struct ObjectReader {
    sampler: Arc<Sampler>,
    sampling: SamplingOptions,
    pace: Pace,
    running: Option<CensusThread>,
    /// When the next reading may begin by itself.
    not_before: Instant,
    /// Whether one was asked for.
    is_wanted: bool,
    censuses: Censuses,
    /// Of the largest containers of the last census, counted since.
    lengths: Lengths,
    failure: Option<String>,
}

/// A reading under way.
struct CensusThread {
    thread: JoinHandle<()>,
    outcome: Arc<Mutex<Option<Result<Census, NoCensus>>>>,
    began: Instant,
    blocks: u64,
}

impl ObjectReader {
    /// Reads nothing until a walk is offered.
    pub(crate) fn new(sampler: Arc<Sampler>, sampling: SamplingOptions, budget: Budget) -> Self {
        Self {
            sampler,
            sampling,
            pace: Pace::new(budget),
            running: None,
            not_before: Instant::now(),
            is_wanted: false,
            censuses: Censuses::default(),
            lengths: Lengths::default(),
            failure: None,
        }
    }

    /// Requests a reading after the next walk, whatever the budget.
    pub(crate) fn read_now(&mut self) {
        self.is_wanted = true;
    }

    /// Whether the objects of a walk that is made now will be read.
    pub(crate) fn is_due(&self) -> bool {
        self.running.is_none() && (self.is_wanted || Instant::now() >= self.not_before)
    }

    /// Begins to read the objects of a walk, if that is due and no reading is in progress: from the
    /// copy made in its stop, if there is one.
    pub(crate) fn offer(&mut self, sample: &Sample, copied: Option<CopiedMemory>) {
        if !sample.target.is_python() || !self.is_due() {
            return;
        }
        self.is_wanted = false;
        if let Err(why) = room_for(sample) {
            self.failure = Some(why.to_string());
            self.not_before = Instant::now() + LEAST_PAUSE;
            return;
        }
        let blocks = live_blocks(sample);
        let outcome: Arc<Mutex<Option<Result<Census, NoCensus>>>> = Arc::default();
        let (sampler, sample) = (Arc::clone(&self.sampler), sample.clone());
        let (put, sampling) = (Arc::clone(&outcome), self.sampling);
        let spawned = profiler_target::start_thread("objects", move || {
            host::give_way();
            let census = sampler.census(&sample, copied.as_ref(), sampling);
            *put.lock().unwrap_or_else(PoisonError::into_inner) = Some(census);
        });
        match spawned {
            Err(why) => self.failure = Some(format!("no thread could be started: {why}")),
            Ok(thread) => {
                self.running = Some(CensusThread {
                    thread,
                    outcome,
                    began: Instant::now(),
                    blocks,
                });
            }
        }
    }

    /// Counts how many items the largest containers have now.
    pub(crate) fn count(&mut self) {
        self.lengths
            .count(now_ns(), &self.sampler.target().memory());
    }

    /// A report with what was read last, if that is new to it. Takes notice of what has ended.
    pub(crate) fn refresh(&mut self, report: &Arc<FragReport>) -> Arc<FragReport> {
        self.poll();
        let known = report.objects.as_ref().map(|census| census.taken_at_ns);
        match self.censuses.now() {
            Some(now) if known != Some(now.taken_at_ns) => {
                Arc::new(self.apply(FragReport::clone(report)))
            }
            _ => Arc::clone(report),
        }
    }

    /// The report with the last reading.
    pub(crate) fn apply(&self, report: FragReport) -> FragReport {
        self.censuses.apply(report)
    }

    fn poll(&mut self) {
        let Some(done) = self.running.take_if(|running| running.thread.is_finished()) else {
            return;
        };
        let pause = self.pace.pause_after(done.began.elapsed());
        self.not_before = Instant::now() + pause;
        let panicked = done.thread.join().is_err();
        let outcome = done.outcome.lock().map(|mut outcome| outcome.take());
        match outcome.ok().flatten() {
            Some(Ok(mut census)) => {
                self.failure = None;
                let lengths = Lengths::of(&census);
                self.lengths.give_courses(&mut census);
                self.lengths = lengths;
                self.censuses.push(Arc::new(census));
            }
            Some(Err(why)) => self.failure = Some(why.to_string()),
            None if panicked => self.failure = Some("an internal error (panic)".into()),
            None => {}
        }
    }

    /// The state of reading.
    pub(crate) fn state(&self) -> ObjectsState {
        match (&self.running, &self.failure) {
            (Some(running), _) => ObjectsState::Reading {
                blocks: running.blocks,
                elapsed_ns: running.began.elapsed().as_nanos() as u64,
            },
            (None, Some(why)) => ObjectsState::Failed(why.clone()),
            (None, None) => ObjectsState::Planned,
        }
    }
}

/// How often objects are read: readings take no more than the budget's share of a core.
#[derive(Debug)]
struct Pace {
    budget: Budget,
    is_first: bool,
    /// What readings took that no pause has made up for.
    owed: Duration,
}

impl Pace {
    fn new(budget: Budget) -> Self {
        Self {
            budget,
            is_first: true,
            owed: Duration::ZERO,
        }
    }

    /// How long after a reading that took `took` the next one may begin by itself. Growth is known
    /// only after two readings, so the second waits only until growth exceeds noise, and the pause
    /// after it accounts for both.
    fn pause_after(&mut self, took: Duration) -> Duration {
        self.owed += took;
        let is_first = std::mem::take(&mut self.is_first);
        if is_first && took <= LEAST_PAUSE {
            return LEAST_PAUSE;
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let spent = std::mem::take(&mut self.owed) * threads.min(THREADS) as u32;
        let pause = match self.budget {
            Budget::Share(share) => spent.div_f64(share.max(1e-3)),
            Budget::Unlimited => spent,
        };
        pause.max(LEAST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The processor time of readings that took `took`.
    fn spent(took: Duration) -> Duration {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        took * threads.min(THREADS) as u32
    }

    #[test]
    fn readings_are_as_far_apart_as_the_budget_says() {
        let after = |budget, took| Pace::new(budget).pause_after(took);
        let long = SECOND * 60;
        assert_eq!(after(Budget::Share(0.05), long), spent(long) * 20);
        assert_eq!(after(Budget::Unlimited, long), spent(long));
        assert_eq!(after(Budget::Share(1.0), SECOND / 100), LEAST_PAUSE);
    }

    #[test]
    fn a_second_reading_comes_soon_and_is_made_up_for_afterwards() {
        let mut pace = Pace::new(Budget::Share(0.01));
        assert_eq!(pace.pause_after(SECOND), LEAST_PAUSE);
        assert_eq!(pace.pause_after(SECOND), spent(SECOND * 2) * 100);
        assert_eq!(pace.pause_after(SECOND), spent(SECOND) * 100);
    }
}

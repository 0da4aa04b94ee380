//! Takes one sample: stop, residency, the kernel's counts, walks, resume.

use std::io;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use profiler_core::addr::PAGE_SIZE;
use profiler_core::completeness::{Completeness, Defect, EndedEarly, Released, StandStill};
use profiler_core::heap::HeapSnapshot;
use profiler_core::objects::{Census, NoCensus};
use profiler_core::sample::{Host, Sample};
use profiler_core::units::nanoseconds;
use profiler_target::{
    MemoryShared, OpenError, Process, RUNS_BETWEEN, ReadTime, RunsOn, StopError, Stopped, Target,
    group_account, page_size,
};

use super::blank_pages;
use super::copy::{CopiedMemory, CopySpace};
use super::facts::Facts;
use super::holding::Holding;
use super::in_stops::InStops;
use super::known::KnownTarget;
use super::objects::{WalkedTarget, census_since};
use super::observer::{ObservedMemory, Observer};
use super::options::SamplingOptions;
use super::roots::locked;

/// How often a target is stopped, at most, until no thread is inside malloc with an arena's lock
/// held. Each stop but the last ends as soon as that is known, before anything is walked. A failed
/// stop is the last: whatever keeps a thread from stopping lasts longer than malloc's operations.
const STOP_TRIES: u32 = 8;
/// The same for the first slice: during others a thread may be inside malloc too.
const BUSY_TRIES_IN_SLICES: u32 = 4;
/// How long a target runs before it is stopped again: malloc's operations under a lock take less.
const RUN_BETWEEN_STOPS: Duration = Duration::from_millis(1);
/// How often the first slice of a walk is tried.
const SLICE_TRIES: u32 = 5;
/// How often a target that runs on is walked until a walk agrees with the allocators' own account.
const RUNNING_TRIES: u32 = 3;

/// Why a walk is not in slices.
const SHARERS_UNKNOWN: &str = "walked in one stop instead of slices: it is unknown whether another process has the \
    same memory and does not stop with the target";

/// Takes samples of one target.
#[derive(Debug)]
pub struct Sampler {
    target: Target,
    host: Host,
    known: KnownTarget,
    spent: Mutex<InStops>,
}

impl Sampler {
    /// Opens the process `pid`.
    ///
    /// # Errors
    /// What [`Target::open`] refuses.
    pub fn open(pid: i32) -> Result<Self, OpenError> {
        Ok(Self {
            target: Target::open(pid)?,
            host: profiler_target::host(),
            known: KnownTarget::default(),
            spent: Mutex::default(),
        })
    }

    /// What was read of the target during stops so far.
    pub fn read_in_stops(&self) -> InStops {
        *locked(&self.spent)
    }

    /// The target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Takes one sample. A target that cannot be stopped (traced by another program, a thread in an
    /// uninterruptible wait) is walked while it runs, and the sample says so.
    ///
    /// # Errors
    /// When the target's `/proc` cannot be read: it is gone, or permission was lost.
    pub fn take(&self, options: SamplingOptions) -> io::Result<Sample> {
        self.take_at(options, |_| ()).map(|(sample, ())| sample)
    }

    /// Takes one sample, and a copy of the memory that may hold Python objects if the stop has time
    /// for that.
    ///
    /// # Errors
    /// As [`Sampler::take`].
    pub fn take_and_copy(
        &self,
        options: SamplingOptions,
    ) -> io::Result<(Sample, Option<CopiedMemory>)> {
        if options.slices {
            // None of them is of the moment of the walk.
            return self.take(options).map(|sample| (sample, None));
        }
        let space = CopySpace::for_target(&self.target);
        self.take_at(options, |walked| {
            CopiedMemory::of(walked, options.max_stop, &space)
        })
    }

    /// Takes the census of the objects in a sample's blocks while the target runs: of the copy made
    /// in the sample's stop if there is one, else of the blocks' present contents.
    ///
    /// # Errors
    /// When there is nothing to examine.
    pub fn census(
        &self,
        sample: &Sample,
        copied: Option<&CopiedMemory>,
        options: SamplingOptions,
    ) -> Result<Census, NoCensus> {
        if sample.completeness.out_of_time_ns.is_some() {
            return Err(NoCensus::PartOfBlocks);
        }
        let is_of_walk = sample.completeness.stand_still.is_throughout();
        let time = options.objects_time(&self.target);
        match copied.filter(|_| is_of_walk) {
            Some(copied) => copied.census(&self.target, sample, &time),
            None => census_since(&self.target, sample, &time),
        }
    }

    /// Takes one sample, and calls `mark` while the target is still stopped as it was walked: its
    /// result belongs to that moment. For a running target, `mark` is called after its walk.
    ///
    /// # Errors
    /// As [`Sampler::take`].
    pub fn take_at<M>(
        &self,
        options: SamplingOptions,
        mark: impl Fn(&WalkedTarget<'_>) -> M,
    ) -> io::Result<(Sample, M)> {
        let has_no_slices = options.slices && !has_small_pages();
        let options = match has_no_slices {
            true => options.in_one_stop(),
            false => options,
        };
        let mut tries = Tries::new(options);
        let time = options.walk_time(&self.target);
        let mut stopped_ns = 0;
        let mut best: Option<(Quality, (Sample, M))> = None;
        while tries.next() {
            match self.take_once(options, &mut tries, &time, &mark)? {
                Attempt::Busy { stop_ns } => {
                    stopped_ns += stop_ns;
                    let after_a_slice = Duration::from_nanos(stop_ns) * RUNS_BETWEEN;
                    thread::sleep(match options.slices {
                        true => after_a_slice.max(RUN_BETWEEN_STOPS),
                        false => RUN_BETWEEN_STOPS,
                    });
                }
                Attempt::Sample(sample, marked) => {
                    stopped_ns += sample.completeness.stop_ns;
                    let stand_still = sample.completeness.stand_still;
                    let quality = Quality {
                        is_cut: time.was_met(),
                        discrepancy: match stand_still {
                            StandStill::Throughout | StandStill::InSlices(_) => 0,
                            _ => discrepancy(&sample),
                        },
                    };
                    if best.as_ref().is_none_or(|(best, _)| quality < *best) {
                        best = Some((quality, (*sample, marked)));
                    }
                    // Another stop would be as long, and end as early.
                    let was_longest = matches!(
                        stand_still.released(),
                        Some(Released {
                            why: EndedEarly::Overdue,
                            ..
                        })
                    );
                    if quality.discrepancy == 0 || was_longest || time.has_passed() {
                        break;
                    }
                }
            }
        }
        let (quality, (mut sample, marked)) = best.ok_or_else(|| tries.failure())?;
        sample.completeness.stop_ns = stopped_ns;
        if has_no_slices {
            let what = "read in one stop: slices need a kernel whose pages are 4 KiB";
            sample
                .completeness
                .defects
                .push(Defect::of_all(what.to_owned()));
        }
        let began = Instant::now();
        let blank = blank_pages::find(&self.target, &sample.heaps, &sample.residency, &time);
        sample.residency.mark_blank(&blank);
        if quality.is_cut {
            out_of_time(time.longest(), &mut sample.completeness);
        }
        // Reading while the target runs counts as part of the walk for the budget.
        sample.completeness.walk_ns += began.elapsed().as_nanos() as u64;
        Ok((sample, marked))
    }

    fn take_once<M>(
        &self,
        options: SamplingOptions,
        tries: &mut Tries,
        time: &ReadTime,
        mark: &impl Fn(&WalkedTarget<'_>) -> M,
    ) -> io::Result<Attempt<M>> {
        let mut completeness = Completeness::default();
        let mappings = self.target.mappings()?;
        // The search for roots can be made to take arbitrarily long; the walk looks for those not
        // found by then.
        let mut known = self.known.inspect(&self.target, &mappings, &time.half())?;
        let names = self.target.names();
        drop(mappings);

        let began = Instant::now();
        let (holding, held_before) = self.hold(options, tries, &mut completeness);
        if let Some(pid) = holding.runs_on() {
            // A child that is about to execute another program (`vfork`) is gone soon; with other
            // sharers every stop fails.
            if tries.shared_with.replace(pid).is_none() {
                tries.left = tries.left.min(1);
            }
            let held = holding.end();
            let stop_ns = (held.stood.unwrap_or_default() + held_before).as_nanos() as u64;
            return Ok(Attempt::Busy { stop_ns });
        }
        let walk_began = Instant::now();
        let before = self.target.reads();
        let threads = holding.threads();
        let observer = Observer {
            target: &self.target,
            roots: &self.known.roots,
            threads: &threads,
            memory: holding.memory(&self.target).in_time(time),
            time,
            swap_in: options.swap_in,
            may_give_up: holding.is_stopped() && tries.left > 0,
        };
        let observation = observer.observe(&mut known, &mut completeness);
        // If the target was killed or executed another program meanwhile, only a part was observed.
        self.target.check()?;
        let facts = &known.facts;
        let marked = match &observation {
            Ok(Some(observation)) => Some(mark(&WalkedTarget {
                target: &self.target,
                memory: observer.memory.clone(),
                options,
                residency: observation.to_read(),
                heaps: &observation.heaps,
                python_malloc: facts.python_malloc(&observation.heaps),
                stopped: holding.is_stopped(),
                since: holding.since().unwrap_or(walk_began),
            })),
            _ => None,
        };
        if holding.is_stopped() {
            locked(&self.spent).add(before, self.target.reads());
        }
        drop(observer);
        let held = holding.end();
        // Time in which it ran between slices is idle.
        let walk = began.elapsed().saturating_sub(held.waited);
        completeness.walk_ns = walk.as_nanos() as u64;
        let stop = held.stood.unwrap_or_default() + held_before;
        completeness.stop_ns = stop.as_nanos() as u64;
        if let Some(slices) = held.slices {
            completeness.stand_still = StandStill::InSlices(slices);
        }
        if let Some(why) = held.ended_early {
            ended_early(why, &mut completeness);
        }
        let (Some(observation), Some(marked)) = (observation?, marked) else {
            return Ok(Attempt::Busy {
                stop_ns: completeness.stop_ns,
            });
        };
        let sample = self.sample(observation, names, facts, completeness);
        Ok(Attempt::Sample(Box::new(sample), marked))
    }

    /// Stops the target if requested and unless it failed before. If it cannot be stopped, returns
    /// the time for which some of its threads were stopped.
    fn hold(
        &self,
        options: SamplingOptions,
        tries: &mut Tries,
        completeness: &mut Completeness,
    ) -> (Holding, Duration) {
        let mut held = Duration::ZERO;
        if tries.are_stops {
            let stopped;
            (stopped, held) = self.stop(options);
            match stopped {
                Ok((stopped, runs_on)) => {
                    completeness.stand_still = StandStill::Throughout;
                    let holding = match runs_on {
                        RunsOn::Nobody if options.slices => {
                            Holding::Slices(self.target.slices(stopped, options.max_stop))
                        }
                        _ => Holding::Stop(stopped, runs_on),
                    };
                    if runs_on == RunsOn::Unknown && options.slices {
                        let why = Defect::of_all(SHARERS_UNKNOWN.to_owned());
                        completeness.defects.push(why);
                    }
                    return (holding, held);
                }
                Err(error) => tries.run_on(&error),
            }
        }
        let why = tries.why_running.iter().cloned();
        completeness.defects.extend(why.map(Defect::of_all));
        (Holding::Running, held)
    }

    /// Stops the target, and finds out who shares its memory and keeps running; returns the time for
    /// which threads were stopped in vain. A slice is short, and on a busy host threads may take
    /// longer to stop, or the kernel longer to answer: then it is tried again.
    fn stop(&self, options: SamplingOptions) -> (Result<(Stopped, RunsOn), StopError>, Duration) {
        let mut in_vain = Duration::ZERO;
        let mut tries = if options.slices { SLICE_TRIES } else { 1 };
        loop {
            self.target.look_for_sharers();
            let began = Instant::now();
            tries -= 1;
            let stood = match self.target.stop_for(options.max_stop) {
                Ok(stopped) => {
                    let runs_on = self.target.runs_on(&stopped);
                    if tries == 0 || runs_on != RunsOn::Unknown {
                        return (Ok((stopped, runs_on)), in_vain);
                    }
                    stopped.resume().held
                }
                Err(error) if tries == 0 || !matches!(error, StopError::TimedOut { .. }) => {
                    return (Err(error), in_vain + began.elapsed());
                }
                Err(_) => began.elapsed(),
            };
            in_vain += stood;
            thread::sleep(stood * RUNS_BETWEEN);
        }
    }

    /// The sample made from an observation.
    fn sample(
        &self,
        observation: ObservedMemory,
        names: profiler_core::sample::Target,
        facts: &Facts,
        mut completeness: Completeness,
    ) -> Sample {
        let ObservedMemory {
            kernel,
            residency,
            heaps,
            ..
        } = observation;
        if let Some(unread) = self.target.unread_files() {
            completeness.files_over_limit = unread.is_over_limit;
            completeness.defects.push(Defect::of_all(unread.what));
        }
        let mut target = self.target.identify(names, residency.mappings());
        target.python_malloc = facts.python_malloc(&heaps);
        // The stop does not wait for the parent's page tables: the few pages that either writes
        // meanwhile count as copied.
        let fork = self.target.fork_sharing(&residency);
        Sample {
            taken_at_ns: now_ns(),
            host: self.host.clone(),
            target,
            kernel,
            fork,
            residency,
            heaps,
            completeness,
            group: group_account(self.target.pid()),
        }
    }
}

/// Whether the kernel's pages are the smallest there are: reading in slices looks up no others.
fn has_small_pages() -> bool {
    page_size().bytes() == PAGE_SIZE
}

/// Records that a stopped target was resumed before it was walked.
fn ended_early(why: EndedEarly, completeness: &mut Completeness) {
    let after_ns = completeness.stop_ns;
    completeness.stand_still = StandStill::Released(Released { why, after_ns });
    completeness.defects.push(Defect::of_all(format!(
        "the target ran on after {}, {}; the rest was walked while it ran",
        nanoseconds(after_ns),
        why.because()
    )));
}

/// The time for a walk was over before all was read.
pub(crate) fn out_of_time(longest: Duration, completeness: &mut Completeness) {
    let longest_ns = longest.as_nanos() as u64;
    completeness.out_of_time_ns = Some(longest_ns);
    completeness.defects.push(Defect::of_all(format!(
        "the walk ended after {}, before all was read: the rest is unknown",
        nanoseconds(longest_ns)
    )));
}

/// How often a target is still observed in one walk, and how.
struct Tries {
    left: u32,
    /// Whether it is stopped each time.
    are_stops: bool,
    /// Why it is not stopped although it should be.
    why_running: Option<String>,
    /// The process that shared its memory and kept running in one attempt.
    shared_with: Option<i32>,
}

impl Tries {
    fn new(options: SamplingOptions) -> Self {
        let are_stops = options.stop;
        Self {
            left: match are_stops {
                true if options.slices => BUSY_TRIES_IN_SLICES,
                true => STOP_TRIES,
                false => RUNNING_TRIES,
            },
            are_stops,
            why_running: None,
            shared_with: None,
        }
    }

    /// Why none of them gave anything.
    fn failure(&self) -> io::Error {
        match self.shared_with {
            Some(pid) => MemoryShared(pid).into(),
            None => io::Error::other(
                "the target could not be walked: its memory changed in every attempt",
            ),
        }
    }

    /// Whether there is one more, which is begun.
    fn next(&mut self) -> bool {
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }

    /// This and all further attempts observe the running target: the next stop would fail as this
    /// one has, after stopping all threads but one in vain.
    fn run_on(&mut self, error: &StopError) {
        self.are_stops = false;
        // This one is among them.
        self.left = RUNNING_TRIES - 1;
        self.why_running = Some(format!("walked without stopping the target: {error}"));
    }
}

/// How good an attempt was: the less, the better.
#[derive(Copy, Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Quality {
    /// Whether the time limit ended it, so that what it did not read does not contradict it.
    is_cut: bool,
    /// Its difference from the allocators' own accounts.
    discrepancy: u64,
}

/// The result of one attempt.
enum Attempt<M> {
    /// A sample, and the mark made at its moment.
    Sample(Box<Sample>, M),
    /// A thread was inside malloc, files are mapped that were not inspected, or another process
    /// shares its memory and keeps running.
    Busy { stop_ns: u64 },
}

/// How far walks are from the allocators' own accounts, and how much they could not follow; 0
/// when every check holds.
fn discrepancy(sample: &Sample) -> u64 {
    let of_heap = |heap: &HeapSnapshot| {
        let checks = heap.checks.iter();
        let off = checks.map(|check| check.expected.abs_diff(check.found));
        let lost = heap.defects.iter().map(|defect| defect.bytes.max(1));
        off.chain(lost).fold(0, u64::saturating_add)
    };
    let heaps = sample.heaps.iter().map(of_heap);
    heaps.fold(0, u64::saturating_add)
}

/// Nanoseconds since 1970-01-01 UTC.
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

//! Records a running process through probes on its allocator, starting from a walk of its heap.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use profiler_common::RawEvent;
use profiler_core::sample::Sample;
use profiler_probe::plan::ProbePlan;
use profiler_probe::{EventStream, ProbeError, StreamCost};
use profiler_sampling::{Sampler, SamplingOptions, WalkSchedule};
use profiler_target::{Target, TargetState};
use profiler_trace::record::{
    Clock, Normaliser, RecordedProcess, Recorder, SourceEvent, SourceKind,
};
use profiler_trace::trace::TraceDescription;

use super::checkpoint::{self, CheckpointReason, FIRST_INTERVAL, LONGEST_INTERVAL, STOP_SHARE};
use super::cost::{CostSoFar, CostSpans, price};
use super::describe::{Origin, describe};
use super::output::Output;
use super::seed::{self, FreesBeforeWalk};
use super::source;
use super::start_state::{malloc_heap, missing, threads};
use super::{RecordError, TraceWriteError, beyond_limit, monotonic_ns};
use crate::session::Ending;

/// Events taken before signals and the clock are checked.
const EVENTS_PER_DRAIN: usize = 1 << 16;
/// Drains per step: together they take more events than the ring holds.
const DRAINS_PER_STEP: usize = 16;
/// What times are rounded to: a trap takes longer.
const CLOCK_NS: u64 = 1000;
/// The interval of checks whether the target still exists, and of the probes' cost.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// The budget is not applied before this time is over: a burst at the start is not representative.
const BUDGET_APPLIES_AFTER: Duration = Duration::from_secs(2);

/// A process that runs already, being recorded.
pub(crate) struct ProbedRecording<O> {
    sampler: Sampler,
    stream: EventStream,
    recorder: Recorder<O>,
    /// The process, as identified in the recorder.
    process: RecordedProcess,
    sampling: SamplingOptions,
    began: Instant,
    schedule: WalkSchedule,
    longest_interval: Duration,
    next_check: Instant,
    cpu_before: Duration,
    spans: CostSpans,
    /// The probes' cost by the first walk: what they recorded until then is part of the walk and
    /// not an event.
    cost_before: StreamCost,
    /// Whether it executed another program.
    execed: bool,
    /// Events that no BPF program writes; they count as lost.
    invalid: u64,
}

impl<O: Output> ProbedRecording<O> {
    /// Attaches the probes, walks the heap, and begins the trace with it.
    ///
    /// The probes come first: what they record before the walk's stop is in the walk, and what they
    /// record after it is the recording. So nothing is missed in between.
    ///
    /// # Errors
    /// When it cannot be walked or probed.
    pub(crate) fn begin(
        sampler: Sampler,
        plan: &ProbePlan,
        sampling: SamplingOptions,
        begin: impl FnOnce(&TraceDescription) -> Result<O, RecordError>,
    ) -> Result<Self, RecordError> {
        // A block freed in one slice and reallocated in the next would be there twice, or not at
        // all.
        let sampling = sampling.in_one_stop();
        let mut stream = EventStream::attach(sampler.target().pid(), plan)?;
        let meanwhile = RefCell::new(Meanwhile::new(&mut stream));
        let (sample, (moment, began, started_at)) = sampler.take_at(sampling, |_| {
            let moment = meanwhile.borrow_mut().mark();
            (moment, Instant::now(), jiff::Timestamp::now())
        })?;
        // Events and losses before the walk are covered by the walk.
        let around = meanwhile.into_inner().around(Some(&moment))?;
        let cost_before = stream.cost()?;
        let mut frees = FreesBeforeWalk::default();
        around.before.iter().for_each(|event| frees.note(event));
        let began_ns = moment.time_ns;

        let walked = malloc_heap(&sample, plan);
        let mut blocks = match walked {
            Some(heap) => seed::blocks(heap, &sample.residency),
            None => Vec::new(),
        };
        frees.apply(&mut blocks);
        let target = sampler.target();
        let description = describe(target, &sample.heaps, Origin::Probes, started_at)?;
        let output = begin(&description)?;
        let normaliser = Normaliser::for_lossy_source(Clock::new(began_ns, CLOCK_NS), &blocks);
        let pid = source_number(target);
        let (threads, unknown_arenas) = threads(target, &sample, walked, sampling)?;
        let recorder = Recorder::seeded(output, normaliser, &blocks, pid, &threads)?;
        let process = recorder.normaliser().process(pid);
        let process = process.ok_or_else(|| io::Error::other("the process has no thread"))?;
        let cpu_before = target.cpu_time()?;
        let mut recording = Self {
            sampler,
            stream,
            recorder,
            process,
            sampling,
            began,
            schedule: WalkSchedule::new(FIRST_INTERVAL, Some(STOP_SHARE), began),
            longest_interval: LONGEST_INTERVAL,
            next_check: began + CHECK_INTERVAL,
            cpu_before,
            spans: CostSpans::default(),
            cost_before,
            execed: false,
            invalid: 0,
        };
        recording.record_checkpoint(&sample, began_ns, CheckpointReason::Due)?;
        recording.record(&around.after)?;
        recording.lose(around.lost_after)?;
        let missing = missing(&recording.stream, plan, &sample, malloc_heap(&sample, plan));
        for what in missing.into_iter().chain(unknown_arenas) {
            recording.output_mut().say(&what);
        }
        Ok(recording)
    }

    /// Takes a checkpoint at least this often, as long as stops stay within their share of the
    /// time.
    pub(crate) fn checkpoint_at_least_every(&mut self, longest_interval: Duration) {
        self.longest_interval = longest_interval.max(FIRST_INTERVAL);
    }

    /// When it began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// The output of the recording.
    pub(crate) fn output(&self) -> &O {
        self.recorder.sink()
    }

    /// The output of the recording.
    pub(super) fn output_mut(&mut self) -> &mut O {
        self.recorder.sink_mut()
    }

    /// Records the probes' events since the last call.
    pub(crate) fn record_events(&mut self) -> Result<(), TraceWriteError> {
        let mut events = Vec::new();
        for _ in 0..DRAINS_PER_STEP {
            let taken = self
                .stream
                .drain(EVENTS_PER_DRAIN, |event| events.push(*event));
            self.record(&events)?;
            events.clear();
            self.output_mut().progress()?;
            if taken < EVENTS_PER_DRAIN {
                break;
            }
        }
        Ok(())
    }

    fn record(&mut self, events: &[RawEvent]) -> Result<(), TraceWriteError> {
        for event in events {
            if self.execed {
                // The other program's.
                break;
            }
            let Some(event) = source::of_probe(event, self.process.source as u32) else {
                self.invalid += 1;
                self.recorder.lost(1)?;
                continue;
            };
            self.execed = event.kind == SourceKind::Start;
            self.recorder.record(&event)?;
        }
        Ok(())
    }

    pub(crate) fn checkpoint_if_due(&mut self) -> Result<(), RecordError> {
        if self.schedule.due(Instant::now()) {
            self.take_checkpoint(CheckpointReason::Due)?;
        }
        Ok(())
    }

    /// Takes a checkpoint: the target is stopped, all that the probes gave up to there is recorded,
    /// then the sample.
    pub(crate) fn take_checkpoint(&mut self, reason: CheckpointReason) -> Result<(), RecordError> {
        let began = Instant::now();
        let meanwhile = RefCell::new(Meanwhile::new(&mut self.stream));
        let taken = self
            .sampler
            .take_at(self.sampling, |_| meanwhile.borrow_mut().mark());
        let moment = taken.as_ref().ok().map(|(_, moment)| moment);
        let around = meanwhile.into_inner().around(moment)?;
        self.record(&around.before)?;
        self.lose(around.lost_before)?;
        if let Ok((sample, moment)) = &taken
            && self.sampler.target().state() == TargetState::Same
        {
            self.record_checkpoint(sample, moment.time_ns, reason)?;
        }
        self.record(&around.after)?;
        self.lose(around.lost_after)?;
        // A process that is gone meanwhile is noticed at the next check.
        let Ok((sample, _)) = taken else {
            return Ok(());
        };
        let interval = checkpoint::interval(self.began.elapsed(), self.longest_interval);
        self.schedule.set_interval(interval);
        let stopped = Duration::from_nanos(sample.completeness.stop_ns);
        let now = Instant::now();
        self.schedule.walked(now, stopped, now - began);
        Ok(())
    }

    /// Records that `events` events have been lost so far.
    fn lose(&mut self, events: u64) -> Result<(), TraceWriteError> {
        match events {
            0 => Ok(()),
            _ => self.recorder.lost(events),
        }
    }

    fn record_checkpoint(
        &mut self,
        sample: &Sample,
        now_ns: u64,
        reason: CheckpointReason,
    ) -> Result<(), TraceWriteError> {
        let figures = checkpoint::figures(sample, reason);
        self.recorder
            .checkpoint(&self.process, now_ns, &sample.residency, figures)
    }

    /// Whether the recording must end: the target is gone, or exceeds its budget.
    pub(crate) fn check(&mut self, budget: Option<f64>) -> Result<Option<Ending>, RecordError> {
        if self.execed {
            let how = "the target executed another program";
            return Ok(Some(Ending::TargetGone(how.to_owned())));
        }
        if Instant::now() < self.next_check {
            return Ok(None);
        }
        self.next_check = Instant::now() + CHECK_INTERVAL;
        match self.sampler.target().state() {
            TargetState::Same => {}
            TargetState::Execed => {
                self.execed = true;
                let pid = self.process.source;
                self.recorder.record(&SourceEvent {
                    time_ns: monotonic_ns()?,
                    process: pid,
                    thread: pid,
                    kind: SourceKind::Start,
                })?;
            }
            TargetState::Exited(how) => {
                return Ok(Some(Ending::TargetGone(format!("the target {how}"))));
            }
        }
        let cost = self.cost()?;
        let age = self.began.elapsed();
        let share = cost.spent_ns / age.as_nanos().max(1) as f64;
        let used_ns = self.used_ns();
        let used = used_ns.map(|used| used / age.as_nanos().max(1) as f64);
        let note = used.map_or(String::new(), |used| {
            format!("  probes take {:.0} % of a core", share.min(used) * 100.0)
        });
        self.output_mut().set_progress_note(note);
        let now = self.spans.cost(CostSoFar { age, cost, used_ns });
        self.output_mut().set_cost(now);
        match budget.filter(|budget| share > *budget && age > BUDGET_APPLIES_AFTER) {
            Some(budget) => {
                self.output_mut().say(&format!(
                    "the probes took {:.1} % of a core, more than the budget of {:.1} %: the \
                     recording ends here",
                    share * 100.0,
                    budget * 100.0
                ));
                Ok(Some(Ending::Done))
            }
            None => Ok(None),
        }
    }

    /// The probes' cost to the target since the recording began.
    fn cost(&mut self) -> Result<StreamCost, ProbeError> {
        Ok(self.stream.cost()?.since(&self.cost_before))
    }

    /// The target's processor time since the recording began, in ns.
    fn used_ns(&self) -> Option<f64> {
        let now = self.sampler.target().cpu_time().ok()?;
        let used = now.saturating_sub(self.cpu_before).as_nanos();
        (used > 0).then_some(used as f64)
    }

    /// Ends the recording with a last checkpoint, if there is still something to sample.
    pub(crate) fn finish(mut self, ending: &Ending) -> Result<(), RecordError> {
        match ending {
            Ending::TargetGone(how) => {
                self.record_events()?;
                let lost = self.stream.unreported_losses()?;
                self.lose(lost)?;
                if !self.execed {
                    self.recorder.gone(self.process.source, monotonic_ns()?)?;
                }
                self.output_mut()
                    .say(&format!("{how}: what was recorded is kept"));
            }
            _ => self.take_checkpoint(CheckpointReason::Final)?,
        }
        let mut cost = self.cost()?;
        let used_ns = self.used_ns();
        self.stream.close()?;
        let events = self.output().events();
        let left_out = self.recorder.normaliser().left_out();
        if left_out.beyond_limit > 0 {
            self.output_mut().say(&beyond_limit());
        }
        if self.invalid > 0 {
            let invalid = self.invalid;
            self.output_mut().say(&format!(
                "the probes gave {invalid} invalid events: they are left out and count as lost"
            ));
        }
        let unknown_frees = left_out.unknown_frees;
        // A calibration on a busy machine gives too high a cost, which cannot exceed the processor
        // time used.
        cost.spent_ns = used_ns.map_or(cost.spent_ns, |used| cost.spent_ns.min(used));
        let cost = price(events, cost, self.began.elapsed(), used_ns);
        let left_out = match unknown_frees {
            0 => String::new(),
            1 => "; 1 free of a block that was not known was left out".to_owned(),
            _ => format!("; {unknown_frees} frees of blocks that were not known were left out"),
        };
        self.output_mut().say(&format!("{cost}{left_out}"));
        Ok(self.recorder.finish()?.finish()?)
    }
}

/// The probes' events while a sample is taken: which of possibly several attempts is kept is known
/// only at the end.
struct Meanwhile<'a> {
    stream: &'a mut EventStream,
    events: Vec<RawEvent>,
    lost: u64,
}

/// The moment of an attempt at which the target was stopped for the walk.
struct Moment {
    time_ns: u64,
    /// The number of events before it.
    events: usize,
    /// The number of events lost before it.
    lost: u64,
}

/// The probes' events before and after a moment.
struct Around {
    before: Vec<RawEvent>,
    lost_before: u64,
    after: Vec<RawEvent>,
    lost_after: u64,
}

impl<'a> Meanwhile<'a> {
    fn new(stream: &'a mut EventStream) -> Self {
        let (events, lost) = (Vec::new(), 0);
        Self {
            stream,
            events,
            lost,
        }
    }

    fn mark(&mut self) -> Moment {
        let Self { stream, events, .. } = self;
        stream.drain(usize::MAX, |event| events.push(*event));
        // If they cannot be counted now, they are counted at the end, or that fails too.
        self.lost += self.stream.unreported_losses().unwrap_or(0);
        Moment {
            time_ns: monotonic_ns().unwrap_or_default(),
            events: self.events.len(),
            lost: self.lost,
        }
    }

    /// The events around the moment that was kept. Without a moment, all events come before.
    fn around(mut self, moment: Option<&Moment>) -> Result<Around, ProbeError> {
        let lost = self.lost + self.stream.unreported_losses()?;
        let events = moment.map_or(self.events.len(), |moment| moment.events);
        let lost_before = moment.map_or(lost, |moment| moment.lost);
        let after = self.events.split_off(events);
        Ok(Around {
            before: self.events,
            lost_before,
            after,
            lost_after: lost - lost_before,
        })
    }
}

/// The process's number in events.
fn source_number(target: &Target) -> u64 {
    u64::from(target.pid().cast_unsigned())
}

//! `record --pid P`: a process that runs already, through probes on its allocator, seeded with a
//! walk of its heap.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use profiler_common::RawEvent;
use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_probe::EventStream;
use profiler_probe::plan::ProbePlan;
use profiler_sampling::{Sampler, SamplingOptions, WalkSchedule};
use profiler_target::{Target, TargetState};
use profiler_trace::trace::{Checkpoint, Description, Event, EventKind};
use profiler_trace::whole_file::{Lock, LockError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::begin::{heap, lacks, numbering};
use super::checkpoint::{self, Occasion};
use super::describe::{Recorder, describe};
use super::lock;
use super::output::Output;
use super::preloaded::{FIRST_LOOK, LOOKS, RAREST, STOP_SHARE};
use super::probed::Probed;
use super::recording::{Cut, Recording};
use super::seed::{self, Before};
use super::touched::LargeBlocks;
use super::{RecordError, RecordOptions, create, monotonic_ns};
use crate::say;
use crate::session::Ending;
use crate::session::signals::Signals;

/// Between two looks at the ring: it holds 800 ms of the fastest stream that traps can make.
const NAP: Duration = Duration::from_millis(3);
/// Events taken before signals and the clock are looked at.
const BATCH: usize = 1 << 16;
/// So many of them, more than the ring holds.
const BATCHES: usize = 16;
/// Between two looks at whether the target is still there, and at what the probes cost.
const SLOW: Duration = Duration::from_millis(200);
/// A budget is not judged before so much time is over: a burst at the start says little.
const JUDGED_AFTER: Duration = Duration::from_secs(2);

/// Records the process until it ends, the duration is over, the budget is exceeded or a signal ends
/// it.
///
/// # Errors
/// When it cannot be looked at or probed, or the file not be written.
pub(super) fn record(
    options: &RecordOptions,
    pid: i32,
    budget: Option<f64>,
) -> Result<Ending, RecordError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(options, pid, budget))
}

async fn run(
    options: &RecordOptions,
    pid: i32,
    budget: Option<f64>,
) -> Result<Ending, RecordError> {
    // Before anything is attached, so that a signal never finds the default action.
    let mut signals = Signals::new()?;
    let mut asked = signal(SignalKind::user_defined1())?;
    let target = Target::open(pid)?;
    let begun = tokio::select! {
        biased;
        name = signals.next() => {
            // What was begun on the target is undone when this process ends.
            say::line(format_args!("{name}: ended before the recording began"));
            return Ok(Ending::Interrupted(name));
        }
        begun = begin_aside(options.clone(), pid) => begun,
    };
    let (mut running, _lock) = begun.map_err(|error| unless_gone(&target, error))?;
    running.recording.say(&format!(
        "recording process {pid} into {}; its children are not recorded",
        visible(options.output.display())
    ));

    let deadline = options.duration.map(|duration| running.began + duration);
    let ending = loop {
        tokio::select! {
            biased;
            name = signals.next() => break Ending::Interrupted(name),
            _ = asked.recv() => running.look(Occasion::Asked)?,
            () = tokio::time::sleep(NAP) => {}
        }
        running.take()?;
        running.look_if_due()?;
        if let Some(how) = running.check(budget)? {
            break how;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break Ending::Done;
        }
    };
    running.finish(&ending)?;
    Ok(ending)
}

/// Why recording `target` could not begin: where it is gone, whatever else failed, that is why.
pub(crate) fn unless_gone(target: &Target, error: RecordError) -> RecordError {
    match target.check() {
        Ok(()) => error,
        Err(gone) => RecordError::Gone(gone),
    }
}

/// A recording that has begun, and what keeps others from the same process.
type Begun = (Running<Recording>, Option<Lock>);

/// [`begin`] on a thread of its own: loading the probes and the walk may take seconds, in which a
/// signal is answered.
async fn begin_aside(options: RecordOptions, pid: i32) -> Result<Begun, RecordError> {
    let (report, begun) = oneshot::channel();
    std::thread::Builder::new()
        .name("begin".into())
        .spawn(move || {
            // Whoever left does not want it any more.
            let _ = report.send(begin(&options, pid));
        })?;
    begun
        .await
        .unwrap_or_else(|_| Err(std::io::Error::other("beginning the recording panicked").into()))
}

/// Attaches the probes and begins the file, unless somebody else records the process.
fn begin(options: &RecordOptions, pid: i32) -> Result<Begun, RecordError> {
    let sampler = Sampler::open(pid)?;
    let began_ticks = sampler.target().began_ticks()?;
    let lock = match lock::take(pid, began_ticks) {
        Err(LockError::Held(_)) => return Err(RecordError::Taken(pid)),
        lock => lock,
    };
    let plan = ProbePlan::for_recording(sampler.target())?;
    let output = &options.output;
    let mut running = Running::begin(sampler, &plan, options.manner, |description| {
        // What was in the file is not lost for a recording that cannot begin.
        Ok(Recording::begin(create(output)?, output, description)?)
    })?;
    if let Err(why) = &lock {
        running.recording.say(&format!(
            "nothing keeps a second fragscope from recording process {pid} as well: {why}"
        ));
    }
    Ok((running, lock.ok()))
}

/// A process being recorded.
pub(crate) struct Running<O> {
    sampler: Sampler,
    stream: EventStream,
    probed: Probed,
    large: LargeBlocks,
    recording: O,
    manner: SamplingOptions,
    began: Instant,
    schedule: WalkSchedule,
    rarest: Duration,
    slow_at: Instant,
    cpu_before: Duration,
    /// Whether it became another program.
    execed: bool,
}

impl<O: Output> Running<O> {
    /// Attaches the probes, walks the heap, and begins the trace with it.
    ///
    /// The probes come first: what they tell up to the stop for the walk is in the walk, and what
    /// they tell after it is the recording. So nothing falls between.
    ///
    /// # Errors
    /// When it cannot be walked or probed.
    pub(crate) fn begin(
        sampler: Sampler,
        plan: &ProbePlan,
        manner: SamplingOptions,
        begin: impl FnOnce(&Description) -> Result<O, RecordError>,
    ) -> Result<Self, RecordError> {
        let mut stream = EventStream::attach(sampler.target().pid(), plan)?;
        let moment = RefCell::new((&mut stream, Before::default()));
        let (sample, (began_ns, began, started_at)) = sampler.take_at(manner, || {
            let (stream, before) = &mut *moment.borrow_mut();
            stream.drain(usize::MAX, |told| before.note(told));
            let now = monotonic_ns().unwrap_or_default();
            (now, Instant::now(), jiff::Timestamp::now())
        })?;
        let (_, before) = moment.into_inner();
        // What was lost before the walk is in the walk.
        stream.untold_losses()?;

        let walked = heap(&sample, plan);
        let mut blocks = walked.map(seed::blocks).unwrap_or_default();
        before.settle(&mut blocks);
        let target = sampler.target();
        let description = describe(target, &sample.heaps, Recorder::Probes, started_at);
        let mut recording = begin(&description)?;
        recording.seed(&blocks)?;
        let mut large = LargeBlocks::default();
        for block in blocks.iter().filter(|block| block.live) {
            large.add(block.addr, block.bytes);
        }
        let mut probed = Probed::new(began_ns, &blocks);
        let numbers = numbering(target, &sample, walked, manner)?;
        let mut ended = Vec::new();
        probed.number(&numbers, |event| ended.push(event));
        for event in ended {
            recording.event(&event)?;
        }
        let cpu_before = target.cpu_time()?;
        let mut running = Self {
            sampler,
            stream,
            probed,
            large,
            recording,
            manner,
            began,
            schedule: WalkSchedule::new(FIRST_LOOK, Some(STOP_SHARE), began),
            rarest: RAREST,
            slow_at: began + SLOW,
            cpu_before,
            execed: false,
        };
        running.write_checkpoint(&sample, began_ns, Occasion::Due)?;
        for what in lacks(&running.stream, plan, &sample, heap(&sample, plan)) {
            running.recording.say(what);
        }
        Ok(running)
    }

    /// Takes a checkpoint at least so often, as far as stops stay within their share of the time.
    pub(crate) fn look_every(&mut self, rarest: Duration) {
        self.rarest = rarest.max(FIRST_LOOK);
    }

    /// What takes in the stream.
    pub(crate) fn output(&self) -> &O {
        &self.recording
    }

    /// Writes what was told since.
    pub(crate) fn take(&mut self) -> Result<(), Cut> {
        let mut told = Vec::new();
        for _ in 0..BATCHES {
            let taken = self.stream.drain(BATCH, |event| told.push(*event));
            self.write(&told)?;
            told.clear();
            self.recording.progress()?;
            if taken < BATCH {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, told: &[RawEvent]) -> Result<(), Cut> {
        let mut written = Ok(());
        for event in told {
            if self.execed {
                // The other program's.
                break;
            }
            self.execed = event.kind == RawEvent::EXEC;
            self.probed.events(event, |event| {
                self.large.note(&event.kind);
                if written.is_ok() {
                    written = self.recording.event(&event);
                }
            });
        }
        written
    }

    pub(crate) fn look_if_due(&mut self) -> Result<(), RecordError> {
        if self.schedule.due(Instant::now()) {
            self.look(Occasion::Due)?;
        }
        Ok(())
    }

    /// Takes a checkpoint: the target is stopped, all that was told up to there is written, then
    /// what was seen.
    pub(crate) fn look(&mut self, occasion: Occasion) -> Result<(), RecordError> {
        let began = Instant::now();
        let moment = RefCell::new((&mut self.stream, Vec::new()));
        let taken = self.sampler.take_at(self.manner, || {
            let (stream, told) = &mut *moment.borrow_mut();
            stream.drain(usize::MAX, |event| told.push(*event));
            (monotonic_ns().unwrap_or_default(), stream.untold_losses())
        });
        let (_, told) = moment.into_inner();
        self.write(&told)?;
        // One that is gone meanwhile is found so at the next check.
        let Ok((sample, (now_ns, lost))) = taken else {
            return Ok(());
        };
        let lost = lost?;
        if lost > 0 {
            self.put(now_ns, EventKind::Lost { events: lost })?;
        }
        if self.sampler.target().state() == TargetState::Same {
            self.write_checkpoint(&sample, now_ns, occasion)?;
        }
        let interval = (self.began.elapsed() / LOOKS).clamp(FIRST_LOOK, self.rarest);
        self.schedule.set_interval(interval);
        let stopped = Duration::from_nanos(sample.completeness.stop_ns);
        let now = Instant::now();
        self.schedule.walked(now, stopped, now - began);
        Ok(())
    }

    fn write_checkpoint(
        &mut self,
        sample: &Sample,
        now_ns: u64,
        occasion: Occasion,
    ) -> Result<(), Cut> {
        for touched in self.large.touched(&sample.residency) {
            self.put(now_ns, touched)?;
        }
        self.recording.checkpoint(&Checkpoint {
            time_ns: self.probed.time_ns(now_ns),
            process: 0,
            figures: checkpoint::figures(sample, occasion),
        })
    }

    /// Writes an event of no thread in particular.
    fn put(&mut self, now_ns: u64, kind: EventKind) -> Result<(), Cut> {
        self.recording.event(&Event {
            time_ns: self.probed.time_ns(now_ns),
            thread: 0,
            kind,
        })
    }

    /// Whether the recording must end: the target is gone, or costs more than it may.
    pub(crate) fn check(&mut self, budget: Option<f64>) -> Result<Option<Ending>, RecordError> {
        if self.execed {
            let how = "the target executed another program";
            return Ok(Some(Ending::TargetGone(how.to_owned())));
        }
        if Instant::now() < self.slow_at {
            return Ok(None);
        }
        self.slow_at = Instant::now() + SLOW;
        match self.sampler.target().state() {
            TargetState::Same => {}
            TargetState::Execed => {
                self.execed = true;
                self.put(monotonic_ns()?, EventKind::Exec)?;
            }
            TargetState::Exited(how) => {
                return Ok(Some(Ending::TargetGone(format!("the target {how}"))));
            }
        }
        let cost = self.stream.cost()?;
        let age = self.began.elapsed();
        let share = cost.spent_ns / age.as_nanos().max(1) as f64;
        self.recording.remark(match self.used_ns() {
            Some(used_ns) => format!(
                "  probes take {:.0} % of its processor time",
                (cost.spent_ns / used_ns).min(1.0) * 100.0
            ),
            None => String::new(),
        });
        match budget.filter(|budget| share > *budget && age > JUDGED_AFTER) {
            Some(budget) => {
                self.recording.say(format!(
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

    /// The target's processor time since the recording began, in ns.
    fn used_ns(&self) -> Option<f64> {
        let now = self.sampler.target().cpu_time().ok()?;
        let used = now.saturating_sub(self.cpu_before).as_nanos();
        (used > 0).then_some(used as f64)
    }

    /// Ends the recording with a last checkpoint, if there is still something to look at.
    pub(crate) fn finish(mut self, ending: &Ending) -> Result<(), RecordError> {
        match ending {
            Ending::TargetGone(how) => {
                self.take()?;
                if !self.execed {
                    self.put(monotonic_ns()?, EventKind::Exit)?;
                }
                self.recording
                    .say(format!("{how}: what was recorded is kept"));
            }
            _ => self.look(Occasion::Last)?,
        }
        let cost = self.stream.cost()?;
        let used_ns = self.used_ns();
        self.stream.close()?;
        let (events, left_out) = (self.recording.events(), self.probed.left_out());
        // A calibration on a busy machine tells too much: more than all it cannot have been.
        let spent_ns = used_ns.map_or(cost.spent_ns, |used| cost.spent_ns.min(used));
        let each = spent_ns / events.max(1) as f64;
        let of_its_time = used_ns.map_or(String::new(), |used| {
            let part = spent_ns / used * 100.0;
            format!(", {part:.0} % of its processor time meanwhile")
        });
        self.recording.say(format!(
            "the probes took {each:.0} ns of the target per event{of_its_time}; {left_out} frees of \
             blocks that were not known were left out"
        ));
        Ok(self.recording.finish()?)
    }
}

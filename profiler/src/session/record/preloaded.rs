//! From the ring of preloaded recorders into the trace, with checkpoints of each process.
//!
//! Nothing here waits: each step takes what there is, and samples one process at the most, so that
//! whoever calls can answer a signal between two of them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use profiler_core::sample::Sample;
use profiler_sampling::{Sampler, SamplingOptions, WalkSchedule};
use profiler_target::{
    Member, Next, ProcessTree, RecordRing, SUSPENDED, TargetState, children_of, host,
};
use profiler_trace::record::{Clock, Normaliser, RecordedProcess, Recorder, SourceKind};

use super::checkpoint::{self, CheckpointReason, FIRST_CHECKPOINT, RAREST, STOP_SHARE};
use super::output::Output;
use super::trace_file::TraceFile;
use super::unrecorded::Unrecorded;
use super::{TraceWriteError, beyond_limit, monotonic_ns, source};

/// So many processes get checkpoints: each takes descriptors, of which fragscope has 1024 mostly.
const MOST_SAMPLED: usize = 128;
/// So many processes are looked for at once when the command has ended: of forged ones there may be
/// many.
const MOST_LEFT: usize = 128;
/// Of so many it is looked at once what they execute.
const MOST_WATCHED: usize = 32;
/// Writing an event takes nanoseconds: whether the thread that claimed a slot lives is asked when
/// it takes so long.
const SUSPICIOUS: Duration = Duration::from_millis(10);
/// Where one was given up, others were killed with it, most likely.
const MORE_SUSPICIOUS: Duration = Duration::from_millis(1);
/// So long events are taken at once, at the most, before a signal can be answered.
const TURN: Duration = Duration::from_millis(50);
/// After so many events it is asked how long that took; of a fork at once, which takes longer than
/// other events.
const TURN_CHECKED: usize = 64;
/// What is still being written at the end is waited for so long.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The stream of one command.
pub(crate) struct PreloadedRecording {
    ring: RecordRing,
    tree: ProcessTree,
    recorder: Recorder<TraceFile>,
    sampling: SamplingOptions,
    began: Instant,
    schedule: WalkSchedule,
    /// The processes that are sampled.
    known: HashMap<u32, Known>,
    /// Those that are to be sampled, and why.
    waiting: VecDeque<(RecordedProcess, CheckpointReason)>,
    /// How long a process stood still in this round of checkpoints, at the most.
    round: Round,
    /// What was observed of a process, until the events before that moment are recorded.
    observation: Option<Observation>,
    /// Invalid events that are not recorded as lost yet. No recorder writes such: a kind, a number, a
    /// size or an alignment that does not exist.
    damaged: u64,
    /// Whether it was reported that there are any.
    is_damaged: bool,
    /// Whether it was reported that there are too many threads.
    is_beyond_limit: bool,
    is_crowded: bool,
    /// Whether it was reported that there are no descriptors left.
    is_short_of_files: bool,
    unrecorded: Unrecorded,
    /// From this process on it is looked at next what they execute.
    watch_from: u32,
    /// From this one on they are looked for when the command has ended.
    seek_from: u32,
    /// Those found in the round so far, and in the last whole one.
    seeking: Survivors,
    survivors: Option<Survivors>,
    /// Whether events that are claimed and not written are not waited for any more.
    is_over: bool,
}

/// Processes that outlive the command.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Survivors {
    /// How many.
    pub(crate) count: usize,
    /// The first of them.
    pub(crate) first: Option<u32>,
}

/// A process of the tree, and the means to sample it.
struct Known {
    member: Member,
    sampler: Option<Sampler>,
}

#[derive(Copy, Clone)]
struct Round {
    began: Instant,
    stopped: Duration,
}

struct Observation {
    of: RecordedProcess,
    what: Observed,
    time_ns: u64,
    /// Events up to this number were claimed before.
    moment: u64,
}

/// Why a recording ends before its command.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GivenUp {
    /// A program closed the ring.
    #[error("fragscope did not run for 2 s while a program waited, or a program closed the ring")]
    Closed,
    /// fragscope ran, but took no events.
    #[error(
        "fragscope did not come for events for 10 s while a program waited: what it did meanwhile, \
         writing the file or looking at a process, took so long"
    )]
    Absent,
    /// Programs damage the ring.
    #[error("the recorded programs damaged the shared ring")]
    Damaged,
    /// Programs claim events and do not write them.
    #[error(
        "threads that began to write an event and did not finish it (suspended, or in a program \
         that damages the ring) held up the others for 10 s in all"
    )]
    Unfinished,
}

enum Observed {
    Sample(Box<Sample>, CheckpointReason),
    /// It is no more.
    Gone,
}

impl PreloadedRecording {
    /// Begins; `began_ns` is the time on the monotonic clock at which the command was started.
    pub(crate) fn new(
        ring: RecordRing,
        tree: ProcessTree,
        file: TraceFile,
        began_ns: u64,
        sampling: SamplingOptions,
        unrecorded: Unrecorded,
    ) -> Self {
        let began = Instant::now();
        Self {
            ring,
            tree,
            recorder: Recorder::new(file, Normaliser::new(Clock::new(began_ns, 1))),
            sampling,
            began,
            schedule: WalkSchedule::new(FIRST_CHECKPOINT, Some(STOP_SHARE), began),
            known: HashMap::new(),
            waiting: VecDeque::new(),
            round: Round {
                began,
                stopped: Duration::ZERO,
            },
            observation: None,
            damaged: 0,
            is_damaged: false,
            is_beyond_limit: false,
            is_crowded: false,
            is_short_of_files: false,
            unrecorded,
            watch_from: 0,
            seek_from: 0,
            seeking: Survivors::default(),
            survivors: None,
            is_over: false,
        }
    }

    /// Records up to `most` events, and samples a process when one is due; whether there was anything
    /// to do.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn step(&mut self, most: usize) -> Result<bool, TraceWriteError> {
        let taken = self.take(most)?;
        if self.observation.is_none() {
            if self.waiting.is_empty() && self.schedule.due(Instant::now()) {
                self.start_checkpoints(CheckpointReason::Due);
            }
            self.sample_next();
        }
        self.recorder.sink_mut().progress()?;
        Ok(taken > 0 || self.is_taking_checkpoints())
    }

    /// Records up to `most` events, for about as long as [`TURN`]; gives how many there were.
    fn take(&mut self, most: usize) -> Result<usize, TraceWriteError> {
        // Nothing that is taken now was written later.
        let mut now_ns = 0;
        let mut taken = 0;
        let mut is_fork = false;
        let until = Instant::now() + TURN;
        while taken < most {
            if (is_fork || taken % TURN_CHECKED == TURN_CHECKED - 1) && Instant::now() >= until {
                break;
            }
            is_fork = false;
            if self
                .observation
                .as_ref()
                .is_some_and(|observation| self.ring.tail() >= observation.moment)
            {
                self.record_observation()?;
            }
            match self.ring.take() {
                Next::Empty => {
                    // Nothing is claimed: what was observed comes next, whatever moment the head said.
                    if self.observation.is_some() {
                        self.record_observation()?;
                    }
                    break;
                }
                Next::Event(event) => {
                    if event.time_ns > now_ns {
                        now_ns = monotonic_ns().unwrap_or(now_ns);
                    }
                    match source::of_ring(&event, now_ns) {
                        None => self.damaged += 1,
                        Some(sound) => {
                            is_fork = sound.kind == SourceKind::Forking;
                            if sound.kind == SourceKind::Start {
                                self.unrecorded.began(event.process, event.time_ns);
                            }
                            self.recorder.record(&sound)?;
                        }
                    }
                }
                Next::Damaged => self.recorder.lost(1)?,
                Next::Claimed {
                    thread,
                    waited,
                    follows_abandoned,
                } => {
                    let suspicious = if follows_abandoned {
                        MORE_SUSPICIOUS
                    } else {
                        SUSPICIOUS
                    };
                    let may_come = waited < suspicious
                        || waited < SUSPENDED && self.tree.has_thread(thread, waited);
                    if may_come && !self.is_over {
                        break;
                    }
                    self.ring.abandon();
                    self.recorder.lost(1)?;
                }
            }
            taken += 1;
        }
        self.report_left_out()?;
        Ok(taken)
    }

    /// From now on a checkpoint of each process is taken, for this reason.
    pub(crate) fn start_checkpoints(&mut self, reason: CheckpointReason) {
        let running = self.recorder.normaliser().running();
        self.waiting = running
            .into_iter()
            .map(|process| (process, reason))
            .collect();
        self.round = Round {
            began: Instant::now(),
            stopped: Duration::ZERO,
        };
        self.schedule_next();
    }

    /// Whether checkpoints are under way.
    pub(crate) fn is_taking_checkpoints(&self) -> bool {
        self.observation.is_some() || !self.waiting.is_empty()
    }

    fn sample_next(&mut self) {
        let Some((process, reason)) = self.waiting.pop_front() else {
            return;
        };
        self.sample(process, reason);
        if self.waiting.is_empty() {
            self.schedule_next();
        }
    }

    /// The next round of checkpoints comes when it is time, by what this one took.
    fn schedule_next(&mut self) {
        let interval = checkpoint::interval(self.began.elapsed(), RAREST);
        self.schedule.set_interval(interval);
        let now = Instant::now();
        let Round { began, stopped } = self.round;
        self.schedule.walked(now, stopped, now - began);
    }

    /// Samples one process. It says of itself who it is: only one that descends from fragscope is
    /// touched.
    fn sample(&mut self, process: RecordedProcess, reason: CheckpointReason) {
        let pid = pid(&process);
        if let Some(known) = self.known.get(&pid)
            && !known.member.is_alive()
        {
            self.known.remove(&pid);
            self.gone(process);
            return;
        }
        if !self.known.contains_key(&pid) {
            let Some(member) = self.tree.member(pid) else {
                match is_process(pid) {
                    true => self.report_if_short_of_files(),
                    false => self.gone(process),
                }
                return;
            };
            if self.known.len() >= MOST_SAMPLED {
                self.known.retain(|_, known| known.member.is_alive());
            }
            if self.known.len() >= MOST_SAMPLED {
                if !std::mem::replace(&mut self.is_crowded, true) {
                    self.recorder.sink_mut().say(&format!(
                        "checkpoints are taken of {MOST_SAMPLED} processes at most: the others are \
                         recorded without"
                    ));
                }
                return;
            }
            let sampler = None;
            self.known.insert(pid, Known { member, sampler });
        }
        let Some(known) = self.known.get_mut(&pid) else {
            return;
        };
        match known.sampler.as_ref().map(|one| one.target().state()) {
            Some(TargetState::Same) => {}
            // What was known is of another program.
            _ => known.sampler = Sampler::open(pid as i32).ok(),
        }
        // While the member lives its number is its own: so what was opened by number is the member.
        let Some(sampler) = known.sampler.as_ref().filter(|_| known.member.is_alive()) else {
            self.report_if_short_of_files();
            return;
        };
        // Gone in the midst: its own last events follow, or the next round finds it so.
        let taken = sampler.take_at(self.sampling, |_| (self.ring.head(), now_ns()));
        let stopped = taken
            .as_ref()
            .is_ok_and(|(sample, _)| sample.completeness.stopped);
        if self.sampling.stop && !stopped {
            self.report_if_short_of_files();
        }
        if let Ok((sample, (moment, time_ns))) = taken {
            let stopped = Duration::from_nanos(sample.completeness.stop_ns);
            self.round.stopped = self.round.stopped.max(stopped);
            self.observation = Some(Observation {
                of: process,
                what: Observed::Sample(Box::new(sample), reason),
                time_ns,
                moment,
            });
        }
    }

    /// Records what was observed of a process: all events before it are recorded.
    fn record_observation(&mut self) -> Result<(), TraceWriteError> {
        let Some(observation) = self.observation.take() else {
            return Ok(());
        };
        let (of, time_ns) = (observation.of, observation.time_ns);
        match observation.what {
            Observed::Gone => self.recorder.gone(of.source, time_ns),
            Observed::Sample(sample, reason) => {
                let figures = checkpoint::figures(&sample, reason);
                self.recorder
                    .checkpoint(&of, time_ns, &sample.residency, figures)
            }
        }
    }

    /// A process is no more: its end comes after what it wrote before.
    fn gone(&mut self, process: RecordedProcess) {
        self.observation = Some(Observation {
            of: process,
            what: Observed::Gone,
            time_ns: now_ns(),
            moment: self.ring.head(),
        });
    }

    /// Looks at what some of the recorded processes execute: the next ones each time.
    pub(crate) fn watch(&mut self) {
        let (some, from) = next_of(
            &self.recorder.normaliser().running(),
            self.watch_from,
            MOST_WATCHED,
        );
        self.watch_from = from;
        for process in some {
            let pid = pid(&process);
            self.unrecorded.look_at(pid, &self.tree);
            for child in children_of(pid) {
                self.unrecorded.look_at(child, &self.tree);
            }
        }
    }

    /// The recorded processes that live, other than `command`: those that a daemon leaves behind. Some
    /// of them are looked for each time; `None` until all were.
    pub(crate) fn survivors(&mut self, command: u32) -> Option<Survivors> {
        let (some, from) = next_of(
            &self.recorder.normaliser().running(),
            self.seek_from,
            MOST_LEFT,
        );
        self.seek_from = from;
        for pid in some.iter().map(pid).filter(|pid| *pid != command) {
            if self.tree.member(pid).is_some() {
                self.seeking.count += 1;
                self.seeking.first.get_or_insert(pid);
            }
        }
        if from == 0 {
            self.survivors = Some(std::mem::take(&mut self.seeking));
        }
        self.survivors
    }

    /// Whether a forked child is expected that has not recorded anything.
    pub(crate) fn expects_children(&self) -> bool {
        self.recorder.normaliser().expected_children() > 0
    }

    /// Takes note of the ends of processes whose parents ended before them, but for `command`.
    pub(crate) fn reap(&self, command: u32) {
        self.tree.reap(command);
    }

    fn report_left_out(&mut self) -> Result<(), TraceWriteError> {
        let damaged = std::mem::take(&mut self.damaged);
        if damaged > 0 && !std::mem::replace(&mut self.is_damaged, true) {
            self.recorder.sink_mut().say(
                "a recorded process writes invalid events: they are left out and count as lost",
            );
        }
        if !self.is_beyond_limit && self.recorder.normaliser().beyond_limit() > 0 {
            self.is_beyond_limit = true;
            self.recorder.sink_mut().say(&beyond_limit());
        }
        match damaged {
            0 => Ok(()),
            events => self.recorder.lost(events),
        }
    }

    /// Reports once why samples fail, when it is because fragscope may open nothing more.
    fn report_if_short_of_files(&mut self) {
        if !self.is_short_of_files && host::is_short_of_files() {
            self.is_short_of_files = true;
            self.recorder.sink_mut().say(
                "fragscope can open hardly any more files (`ulimit -n`): processes are recorded \
                 without checkpoints, or with checkpoints that do not stop them",
            );
        }
    }

    /// Why nothing more is recorded, when the ring is closed.
    pub(crate) fn given_up(&self) -> Option<GivenUp> {
        let why = if self.ring.is_out_of_patience() {
            GivenUp::Unfinished
        } else if self.ring.is_beyond_mending() {
            GivenUp::Damaged
        } else if self.ring.is_left_alone() {
            GivenUp::Absent
        } else {
            GivenUp::Closed
        };
        self.ring.is_closed().then_some(why)
    }

    /// Says something on stderr.
    pub(crate) fn say(&mut self, what: &str) {
        self.recorder.sink_mut().say(what);
    }

    /// Whether nothing was recorded at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.head() == 0
    }

    /// Ends the recording with all that was written before now: programs that still run go on
    /// without it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(mut self) -> Result<(), TraceWriteError> {
        self.ring.close();
        let (end, deadline) = (self.ring.head(), Instant::now() + LAST_WORDS);
        while self.ring.tail() < end {
            self.is_over = Instant::now() >= deadline;
            let left = (end - self.ring.tail()) as usize;
            if self.take(left)? == 0 {
                // Nothing is claimed, whatever the head says.
                if self.is_over {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if self
            .observation
            .as_ref()
            .is_some_and(|observation| self.ring.tail() >= observation.moment)
        {
            self.record_observation()?;
        }
        if self.recorder.normaliser().has_any()
            && let Some(sentence) = self.unrecorded.sentence()
        {
            self.recorder.sink_mut().say(&sentence);
        }
        self.recorder.finish()?.finish()
    }
}

/// Up to `most` of the processes from this number on, and the number from which to go on; 0 at the
/// end.
fn next_of(all: &[RecordedProcess], from: u32, most: usize) -> (Vec<RecordedProcess>, u32) {
    let mut rest = all.iter().filter(|one| one.process >= from);
    let some = rest.by_ref().take(most).copied().collect();
    (some, rest.next().map_or(0, |next| next.process))
}

/// Whether some process has this number.
fn is_process(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// The kernel's number of a process, as the ring has it.
fn pid(process: &RecordedProcess) -> u32 {
    process.source as u32
}

/// The time on the monotonic clock, which does not fail.
fn now_ns() -> u64 {
    monotonic_ns().unwrap_or_default()
}

//! Checkpoints of the processes that write into a ring: one of them is sampled at a time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use profiler_core::sample::Sample;
use profiler_sampling::{Sampler, SamplingOptions, WalkSchedule};
use profiler_target::{Member, ProcessTree, RecordRing, TargetState, host};
use profiler_trace::record::{RecordedProcess, Recorder, TraceSink};

use super::{is_process, now_ns, pid};
use crate::session::record::checkpoint::{
    self, CheckpointReason, FIRST_INTERVAL, LONGEST_INTERVAL, STOP_SHARE,
};

/// So many processes get checkpoints: each takes descriptors, of which fragscope has 1024 mostly.
const MOST_SAMPLED: usize = 128;

/// When processes are sampled, and what was found.
pub(super) struct Checkpoints {
    sampling: SamplingOptions,
    began: Instant,
    schedule: WalkSchedule,
    /// The processes that are sampled.
    known: HashMap<u32, Known>,
    /// Those that are to be sampled, and why.
    waiting: VecDeque<(RecordedProcess, CheckpointReason)>,
    round: Round,
    /// What was observed of a process, until the events before that moment are recorded.
    observation: Option<Observation>,
    /// Whether it was reported that there are more processes than are sampled.
    is_crowded: bool,
    /// Whether it was reported that there are no descriptors left.
    is_short_of_files: bool,
}

/// A process of the tree, and the means to sample it.
struct Known {
    member: Member,
    sampler: Option<Sampler>,
}

/// One checkpoint of each process.
#[derive(Copy, Clone)]
struct Round {
    began: Instant,
    /// How long a process was stopped in it, at most.
    stopped: Duration,
}

/// What was found of a process.
pub(super) struct Observation {
    of: RecordedProcess,
    what: Observed,
    time_ns: u64,
    /// Events up to this number were claimed before.
    moment: u64,
}

enum Observed {
    Sample(Box<Sample>, CheckpointReason),
    /// It is no more.
    Gone,
}

impl Observation {
    /// Records it: all events before it are recorded.
    pub(super) fn record<S: TraceSink>(self, recorder: &mut Recorder<S>) -> Result<(), S::Error> {
        let Self { of, time_ns, .. } = self;
        match self.what {
            Observed::Gone => recorder.gone(of.source, time_ns),
            Observed::Sample(sample, reason) => {
                let figures = checkpoint::figures(&sample, reason);
                recorder.checkpoint(&of, time_ns, &sample.residency, figures)
            }
        }
    }
}

impl Checkpoints {
    /// Of a recording that begins now.
    pub(super) fn new(sampling: SamplingOptions, began: Instant) -> Self {
        Self {
            sampling,
            began,
            schedule: WalkSchedule::new(FIRST_INTERVAL, Some(STOP_SHARE), began),
            known: HashMap::new(),
            waiting: VecDeque::new(),
            round: Round {
                began,
                stopped: Duration::ZERO,
            },
            observation: None,
            is_crowded: false,
            is_short_of_files: false,
        }
    }

    /// Whether it is time for a round of them, and none is under way.
    pub(super) fn are_due(&self) -> bool {
        !self.are_under_way() && self.schedule.due(Instant::now())
    }

    /// Whether a round is under way.
    pub(super) fn are_under_way(&self) -> bool {
        self.observation.is_some() || !self.waiting.is_empty()
    }

    /// From now on one of each of these processes is taken, for this reason.
    pub(super) fn start(&mut self, running: Vec<RecordedProcess>, reason: CheckpointReason) {
        let running = running.into_iter();
        self.waiting = running.map(|process| (process, reason)).collect();
        self.round = Round {
            began: Instant::now(),
            stopped: Duration::ZERO,
        };
        self.schedule_next();
    }

    /// What was observed, once all events up to this number are recorded.
    pub(super) fn observed_before(&mut self, tail: u64) -> Option<Observation> {
        self.observation.take_if(|one| tail >= one.moment)
    }

    /// What was observed, whatever moment the ring's head gave: nothing is claimed before it.
    pub(super) fn observed(&mut self) -> Option<Observation> {
        self.observation.take()
    }

    /// Samples the next process, unless what was observed of the last one is not recorded.
    pub(super) fn sample_next(
        &mut self,
        ring: &RecordRing,
        tree: &ProcessTree,
        report: &mut impl FnMut(&str),
    ) {
        if self.observation.is_some() {
            return;
        }
        let Some((process, reason)) = self.waiting.pop_front() else {
            return;
        };
        self.observation = self.sample(process, reason, ring, tree, report);
        if self.waiting.is_empty() {
            self.schedule_next();
        }
    }

    /// The next round comes when it is time, by what this one took.
    fn schedule_next(&mut self) {
        let interval = checkpoint::interval(self.began.elapsed(), LONGEST_INTERVAL);
        self.schedule.set_interval(interval);
        let now = Instant::now();
        let Round { began, stopped } = self.round;
        self.schedule.walked(now, stopped, now - began);
    }

    /// Samples one process. It says of itself who it is: only one that descends from fragscope is
    /// touched.
    fn sample(
        &mut self,
        process: RecordedProcess,
        reason: CheckpointReason,
        ring: &RecordRing,
        tree: &ProcessTree,
        report: &mut impl FnMut(&str),
    ) -> Option<Observation> {
        let pid = pid(&process);
        match self.known.get(&pid).map(|known| known.member.is_alive()) {
            Some(true) => {}
            Some(false) => {
                self.known.remove(&pid);
                return Some(gone(process, ring));
            }
            None => {
                let Some(member) = tree.member(pid) else {
                    if !is_process(pid) {
                        return Some(gone(process, ring));
                    }
                    self.report_if_short_of_files(report);
                    return None;
                };
                if !self.has_room(report) {
                    return None;
                }
                let sampler = None;
                self.known.insert(pid, Known { member, sampler });
            }
        }
        let known = self.known.get_mut(&pid)?;
        match known.sampler.as_ref().map(|one| one.target().state()) {
            Some(TargetState::Same) => {}
            // What was known is of another program.
            _ => known.sampler = Sampler::open(pid as i32).ok(),
        }
        // While the member lives its number is its own: so what was opened by number is the member.
        let Some(sampler) = known.sampler.as_ref().filter(|_| known.member.is_alive()) else {
            self.report_if_short_of_files(report);
            return None;
        };
        // Gone meanwhile: its own last events follow, or the next round finds it so.
        let taken = sampler.take_at(self.sampling, |_| (ring.head(), now_ns()));
        let stopped = taken
            .as_ref()
            .is_ok_and(|(sample, _)| sample.completeness.stand_still.is_throughout());
        if self.sampling.stop && !stopped {
            self.report_if_short_of_files(report);
        }
        let (sample, (moment, time_ns)) = taken.ok()?;
        let stopped = Duration::from_nanos(sample.completeness.stop_ns);
        self.round.stopped = self.round.stopped.max(stopped);
        Some(Observation {
            of: process,
            what: Observed::Sample(Box::new(sample), reason),
            time_ns,
            moment,
        })
    }

    /// Whether another process may be sampled.
    fn has_room(&mut self, report: &mut impl FnMut(&str)) -> bool {
        if self.known.len() >= MOST_SAMPLED {
            self.known.retain(|_, known| known.member.is_alive());
        }
        let has_room = self.known.len() < MOST_SAMPLED;
        if !has_room && !std::mem::replace(&mut self.is_crowded, true) {
            report(&format!(
                "checkpoints are taken of {MOST_SAMPLED} processes at most: the others are \
                 recorded without"
            ));
        }
        has_room
    }

    /// Reports once why samples fail, when it is because fragscope may open nothing more.
    fn report_if_short_of_files(&mut self, report: &mut impl FnMut(&str)) {
        if !self.is_short_of_files && host::is_short_of_files() {
            self.is_short_of_files = true;
            report(
                "fragscope can open hardly any more files (`ulimit -n`): processes are recorded \
                 without checkpoints, or with checkpoints that do not stop them",
            );
        }
    }
}

/// A process is no more: its end comes after what it wrote before.
fn gone(process: RecordedProcess, ring: &RecordRing) -> Observation {
    Observation {
        of: process,
        what: Observed::Gone,
        time_ns: now_ns(),
        moment: ring.head(),
    }
}

//! Checkpoints of the processes that write into a ring: when one is taken, and where among the events it
//! belongs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_sampling::{SamplingOptions, WalkSchedule};
use profiler_target::{ProcessTree, RecordRing};
use profiler_trace::record::RecordedProcess;

use super::pid;
use super::sampling::{Observation, Poll, Request, SamplingThread};
use crate::session::record::checkpoint::{
    self, CheckpointReason, FIRST_INTERVAL, LONGEST_INTERVAL, STOP_SHARE,
};

/// When processes are sampled, and what was found.
pub(super) struct Checkpoints {
    sampling: SamplingOptions,
    began: Instant,
    schedule: WalkSchedule,
    /// The processes that are to be sampled, and why.
    waiting: VecDeque<(RecordedProcess, CheckpointReason)>,
    round: Round,
    thread: SamplingThread,
    /// Requests made of it.
    requests: u64,
    /// Whether the last of them is under way. Then what comes after the moment of the sample is held back.
    is_sampling: bool,
    /// Of which process that was or is.
    sampled: Option<u32>,
    /// What was observed of a process, until the events before that moment are recorded.
    observation: Option<Observation>,
}

/// One checkpoint of each process.
#[derive(Copy, Clone)]
struct Round {
    began: Instant,
    /// How long a process was stopped in it, at most.
    stopped: Duration,
}

impl Checkpoints {
    /// Of a recording of this tree into this ring that begins now.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn new(
        sampling: SamplingOptions,
        tree: Arc<ProcessTree>,
        ring: &RecordRing,
        began: Instant,
    ) -> io::Result<Self> {
        Ok(Self {
            sampling,
            began,
            schedule: WalkSchedule::new(FIRST_INTERVAL, Some(STOP_SHARE), began),
            waiting: VecDeque::new(),
            round: Round {
                began,
                stopped: Duration::ZERO,
            },
            thread: SamplingThread::start(tree, ring.marker())?,
            requests: 0,
            is_sampling: false,
            sampled: None,
            observation: None,
        })
    }

    /// Whether it is time for a round of them, and none is under way.
    pub(super) fn are_due(&self) -> bool {
        !self.are_under_way() && self.schedule.due(Instant::now())
    }

    /// Whether a round is under way.
    pub(super) fn are_under_way(&self) -> bool {
        self.is_sampling || self.observation.is_some() || !self.waiting.is_empty()
    }

    /// Whether one is being taken, or was and is not recorded.
    pub(super) fn is_one_under_way(&self) -> bool {
        self.is_sampling || self.observation.is_some()
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

    /// From now on no process is stopped for longer than this.
    pub(super) fn limit_stops(&mut self, longest: Duration) {
        self.sampling.max_stop = self.sampling.max_stop.min(longest);
    }

    /// Begins no other one of this round.
    pub(super) fn cut_short(&mut self) {
        self.waiting.clear();
    }

    /// What was observed, once all events up to this number are recorded.
    pub(super) fn observed_before(&mut self, tail: u64) -> Option<Observation> {
        self.observation.take_if(|one| tail >= one.moment())
    }

    /// What was observed, whatever moment the ring's head gave: nothing is claimed before it.
    pub(super) fn observed(&mut self) -> Option<Observation> {
        self.observation.take()
    }

    /// Takes in what was sampled, and has the next process sampled unless that is not recorded yet.
    pub(super) fn step(&mut self, ring: &RecordRing, report: &mut impl FnMut(&str)) {
        if self.is_sampling {
            self.take_in(ring, report);
        }
        if self.is_one_under_way() {
            return;
        }
        if let Some((process, reason)) = self.waiting.pop_front() {
            self.requests += 1;
            self.sampled = Some(pid(&process));
            self.is_sampling = self.thread.request(Request {
                number: self.requests,
                process,
                reason,
                sampling: self.sampling,
            });
        }
    }

    fn take_in(&mut self, ring: &RecordRing, report: &mut impl FnMut(&str)) {
        match self.thread.poll(self.requests) {
            Poll::NotYet => return,
            Poll::Sampled(sampled) => {
                sampled.notes.iter().for_each(|note| report(note));
                self.round.stopped = self.round.stopped.max(sampled.stopped);
                self.observation = sampled.observation;
            }
            Poll::Gone => {
                report("the thread that samples ended: there are no more checkpoints");
                self.waiting.clear();
            }
        }
        self.is_sampling = false;
        // Up to the moment of what was observed all is recorded before it, as the reader goes there.
        ring.release();
        if self.waiting.is_empty() {
            self.schedule_next();
        }
    }

    /// Whether what the ring holds back waits for a sample.
    pub(super) fn holds(&self) -> bool {
        self.is_sampling
    }

    /// The process that is being sampled now.
    pub(super) fn sampled_now(&self) -> Option<u32> {
        self.sampled.filter(|_| self.is_sampling)
    }

    /// Waits for no sample any more: what is being sampled is left out.
    pub(super) fn abandon(&mut self, ring: &RecordRing) {
        self.waiting.clear();
        self.is_sampling = false;
        ring.release();
    }

    /// The next round comes when it is time, by what this one took.
    fn schedule_next(&mut self) {
        let interval = checkpoint::interval(self.began.elapsed(), LONGEST_INTERVAL);
        self.schedule.set_interval(interval);
        let now = Instant::now();
        let Round { began, stopped } = self.round;
        self.schedule.walked(now, stopped, now - began);
    }
}

//! Checkpoints of the processes that write into a ring: when one is taken, and where among the
//! events it belongs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_common::ring::UNREAD_FOR_NS;
use profiler_sampling::{SamplingOptions, WalkSchedule};
use profiler_target::{ProcessTree, RecordRing, ThreadState, resident_bytes};
use profiler_trace::record::RecordedProcess;

use super::sampling::{Poll, ProcessObservation, Request, Sampled, SamplingThread};
use super::{is_process, next_of, pid};
use crate::session::record::checkpoint::{
    self, CheckpointReason, FIRST_INTERVAL, LONGEST_INTERVAL, REGULAR_STOP_SHARE, STOP_SHARE,
};

/// The sizes of processes are compared at this interval.
const COMPARED_EVERY: Duration = Duration::from_millis(5);
/// At most this many processes are compared at a time, in turn; each takes some microseconds.
const COMPARED_AT_ONCE: usize = 8;
/// At most this many processes' earlier sizes are kept.
const MAX_COMPARED: usize = 64;
/// A process with less resident memory is not made to wait at its end.
const LEAST_AWAITED_BYTES: u64 = 16 << 20;
/// A process that announced its end but still runs this long after it was released did not end,
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// and is heard once more, not oftener.
const MAX_ENDINGS: u32 = 2;
/// At most this many processes wait behind the one that is being sampled: workers of a pool end
/// together.
const MAX_WAITING_ENDINGS: usize = 3;
/// A process that was asked to end but runs this long afterwards ignored the request: an
/// interpreter at a terminal.
const OBEYS_WITHIN: Duration = Duration::from_secs(30);
/// A change of a process's memory justifies a sample from this many bytes on,
const CHANGED_BYTES: u64 = 4 << 20;
/// and this share of the previous size.
const CHANGED_SHARE: f64 = 0.05;

/// When processes are sampled, and what was found.
pub(super) struct Checkpoints {
    sampling: SamplingOptions,
    tree: Arc<ProcessTree>,
    began: Instant,
    schedule: WalkSchedule,
    /// The processes to sample, and why.
    waiting: VecDeque<(RecordedProcess, CheckpointReason)>,
    last_round: LastRound,
    endings: Endings,
    resident: Resident,
    round: Round,
    thread: SamplingThread,
    /// The number of requests to it.
    requests: u64,
    /// Whether the last request is in progress. Then events after the sample's moment are held
    /// back.
    is_sampling: bool,
    /// The process of that request.
    sampled: Option<u32>,
    /// What was observed of a process, until the events before that moment are recorded.
    observation: Option<ProcessObservation>,
    /// The same for processes found to have ended, oldest first.
    gone: VecDeque<ProcessObservation>,
}

/// The round in which all processes get their final checkpoint, after the recording or its command
/// was asked to end. Afterwards programs free what they had, which is not measured, unless they do
/// not end.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum LastRound {
    NotYet,
    UnderWay,
    /// Since then.
    Over(Instant),
}

/// A process that announces its end.
#[derive(Copy, Clone)]
pub(super) struct Ends {
    pub(super) process: RecordedProcess,
    /// The thread that announces it, and waits for the answer without a system call.
    pub(super) thread: u32,
    /// The number that the answer is to have.
    pub(super) asked: u32,
    /// How long ago that was.
    pub(super) ago: Duration,
}

/// A process that waited after announcing its end.
struct Waited {
    pid: u32,
    thread: u32,
    /// Whether its thread has written something since: it waited as long as it may, and is freeing
    /// what it had.
    went_on: bool,
}

/// Ending processes: each waits until it was sampled.
#[derive(Default)]
struct Endings {
    /// Each with the time since which it waits.
    waiting: VecDeque<(Ends, Instant)>,
    /// The process being sampled.
    current: Option<(Ends, Instant)>,
    /// The process being sampled, or last sampled: the sample shows its state at its end, unless it
    /// continued before.
    sampled: Option<Waited>,
    /// How long processes waited, except the first.
    waited: Duration,
    /// Processes that wait or waited, by their numbers in the trace, and when they were released:
    /// afterwards they free what they had.
    known: HashMap<u32, Option<Instant>>,
    /// How often each was heard.
    heard: HashMap<u32, u32>,
    /// Those that are to say when they end.
    awaited: HashSet<u32>,
    /// The process from which the next search for large ones starts.
    look_from: u32,
    looked: Option<Instant>,
}

/// The resident size of each process when it was last sampled, or first compared, and when that was
/// last done.
#[derive(Default)]
struct Resident {
    bytes: HashMap<u32, u64>,
    compared: Option<Instant>,
    /// The process from which the next comparison starts.
    compare_from: u32,
    /// How long processes were stopped for samples, all together.
    stopped: Duration,
}

/// One checkpoint of each process.
#[derive(Copy, Clone)]
struct Round {
    began: Instant,
    /// The longest stop of a process in it.
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
            tree: Arc::clone(&tree),
            began,
            schedule: WalkSchedule::new(FIRST_INTERVAL, Some(REGULAR_STOP_SHARE), began),
            waiting: VecDeque::new(),
            last_round: LastRound::NotYet,
            endings: Endings::default(),
            resident: Resident::default(),
            round: Round {
                began,
                stopped: Duration::ZERO,
            },
            thread: SamplingThread::start(tree, ring)?,
            requests: 0,
            is_sampling: false,
            sampled: None,
            observation: None,
            gone: VecDeque::new(),
        })
    }

    /// How long the recording has lasted.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether a round of them is due, and none is in progress.
    pub(super) fn are_due(&self) -> bool {
        !self.are_under_way() && !self.is_in_last_round() && self.schedule.due(Instant::now())
    }

    /// Whether a round is under way.
    pub(super) fn are_under_way(&self) -> bool {
        self.is_one_under_way()
            || !self.waiting.is_empty()
            || !self.endings.waiting.is_empty()
            || !self.gone.is_empty()
    }

    /// Whether one is being taken, or was and is not recorded.
    pub(super) fn is_one_under_way(&self) -> bool {
        self.is_sampling || self.observation.is_some()
    }

    fn is_in_last_round(&self) -> bool {
        self.last_round != LastRound::NotYet
    }

    /// Takes a checkpoint of each of these processes, for this reason; but none during the final
    /// round, and after that only on request: whoever requests one knows that the program
    /// continues.
    pub(super) fn start(&mut self, running: Vec<RecordedProcess>, reason: CheckpointReason) {
        self.last_round = match (self.last_round, reason) {
            (LastRound::NotYet, CheckpointReason::Final) => LastRound::UnderWay,
            (LastRound::NotYet, _) | (LastRound::Over(_), CheckpointReason::Requested) => {
                LastRound::NotYet
            }
            (LastRound::UnderWay | LastRound::Over(_), _) => return,
        };
        let running = running.into_iter();
        let running = running.filter(|one| !self.endings.known.contains_key(&one.process));
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

    /// What was observed, one process after another, as soon as all events up to this number are
    /// recorded.
    pub(super) fn observed_before(&mut self, tail: u64) -> Option<ProcessObservation> {
        let is_due = |one: &mut ProcessObservation| tail >= one.moment();
        let gone = self.gone.pop_front_if(is_due);
        gone.or_else(|| {
            let observation = self.observation.take_if(is_due)?;
            let waited = self.endings.sampled.take();
            Some(match waited.is_some_and(|one| one.went_on) {
                true => observation.of_what_goes_on(),
                false => observation,
            })
        })
    }

    /// This thread of this process has written an event, so it is not waiting.
    pub(super) fn wrote(&mut self, by: u32, thread: u32, ring: &RecordRing) {
        if let Some(waited) = &mut self.endings.sampled {
            waited.went_on |= waited.pid == by && waited.thread == thread;
        }
        let is_it = |(one, _): &(Ends, Instant)| pid(&one.process) == by && one.thread == thread;
        // Mostly there is none.
        let at = self.endings.waiting.iter().position(is_it);
        if let Some(went_on) = at.and_then(|at| self.endings.waiting.remove(at)) {
            self.endings.let_go(&went_on, ring);
        }
    }

    /// The same regardless of the ring's head: nothing is claimed before it.
    pub(super) fn observed(&mut self) -> Option<ProcessObservation> {
        self.observed_before(u64::MAX)
    }

    /// Removes processes that wait to be sampled but have ended: a program that forks much has
    /// thousands of them, and they need not be sampled.
    fn take_gone(&mut self, ring: &RecordRing) {
        for _ in 0..MAX_COMPARED {
            let is_gone =
                |(one, _): &mut (RecordedProcess, CheckpointReason)| !is_process(pid(one));
            let Some((process, _)) = self.waiting.pop_front_if(is_gone) else {
                return;
            };
            // It will write nothing more.
            self.gone
                .push_back(ProcessObservation::gone(process, ring.head()));
        }
    }

    /// The last round is over, or there was none: nothing ended.
    fn follow_last_round(&mut self) {
        self.last_round = match self.last_round {
            LastRound::UnderWay if !self.are_under_way() => LastRound::Over(Instant::now()),
            LastRound::Over(since) if since.elapsed() >= OBEYS_WITHIN => LastRound::NotYet,
            as_it_is => as_it_is,
        };
    }

    /// Takes in a sample, and requests that of the next process, unless this one is not recorded
    /// yet.
    pub(super) fn step(&mut self, ring: &RecordRing, report: &mut impl FnMut(&str)) {
        if self.is_sampling {
            self.take_in(ring, report);
        }
        if self.is_one_under_way() {
            return;
        }
        self.take_gone(ring);
        self.follow_last_round();
        let ending = self.endings.waiting.pop_front();
        self.endings.current = ending;
        self.endings.sampled = ending.map(|(ending, _)| Waited {
            pid: pid(&ending.process),
            thread: ending.thread,
            went_on: false,
        });
        let ending = ending.map(|(ending, _)| (ending.process, CheckpointReason::Final));
        if let Some((process, reason)) = ending.or_else(|| self.waiting.pop_front()) {
            self.requests += 1;
            self.sampled = Some(pid(&process));
            self.is_sampling = self.thread.request(Request {
                number: self.requests,
                process,
                reason,
                sampling: self.sampling,
            });
            if !self.is_sampling {
                self.let_current_go(ring);
            }
        }
    }

    /// A process announces its end, and asks whether to wait until it was sampled.
    pub(super) fn ends(&mut self, ending: Ends, ring: &RecordRing) {
        let number = ending.process.process;
        // Another of its threads announced it already, and waits.
        if self.endings.known.get(&number) == Some(&None) {
            return;
        }
        if !self.ends_itself(&ending) {
            ring.let_go(pid(&ending.process), ending.asked);
            return;
        }
        *self.endings.heard.entry(number).or_default() += 1;
        // From now on it frees what it had, which is not sampled.
        self.waiting.retain(|(other, _)| other.process != number);
        if self.may_wait(&ending) {
            ring.hold(pid(&ending.process), ending.asked);
            self.endings.known.insert(number, None);
            self.endings.waiting.push_back((ending, Instant::now()));
        } else {
            self.endings.let_go(&(ending, Instant::now()), ring);
        }
    }

    /// Whether the process itself announces it, and was asked to: any program can write that into
    /// the ring in the name of any other, and a child that shares its parent's memory does so while
    /// the parent's thread waits for it.
    fn ends_itself(&self, ending: &Ends) -> bool {
        let number = ending.process.process;
        let heard = self.endings.heard.get(&number).copied().unwrap_or(0);
        let pid = pid(&ending.process);
        ending.ago.as_nanos() < UNREAD_FOR_NS.into()
            && self.endings.awaited.contains(&number)
            && !self.endings.known.contains_key(&number)
            && heard < MAX_ENDINGS
            && ThreadState::of(pid, ending.thread) == ThreadState::Runs
            && self.tree.member(pid).is_some()
    }

    /// Whether an ending process may wait until it was sampled.
    fn may_wait(&self, ending: &Ends) -> bool {
        let number = ending.process.process;
        let allowed = self.began.elapsed().mul_f64(STOP_SHARE);
        // The first process is what was recorded; of others there may be thousands.
        let is_first = number == 0 && self.endings.heard.get(&number) == Some(&1);
        let has_time =
            self.endings.waited <= allowed && self.endings.waiting.len() < MAX_WAITING_ENDINGS;
        !matches!(self.last_round, LastRound::Over(_)) && (is_first || has_time)
    }

    /// Releases the ending process that was sampled, or will not be.
    fn let_current_go(&mut self, ring: &RecordRing) {
        if let Some(ending) = self.endings.current.take() {
            self.endings.let_go(&ending, ring);
        }
    }

    /// Makes large processes announce their ends; each call handles a part of them.
    pub(super) fn await_endings(
        &mut self,
        running: impl FnOnce() -> Vec<RecordedProcess>,
        ring: &RecordRing,
    ) {
        let now = Instant::now();
        let is_soon = |before| now - before < COMPARED_EVERY;
        if self.endings.looked.is_some_and(is_soon) {
            return;
        }
        self.endings.looked = Some(now);
        let tree = Arc::clone(&self.tree);
        let is_member = |pid| tree.member(pid).is_some();
        self.endings.look(&running(), ring, now, is_member);
    }

    fn take_in(&mut self, ring: &RecordRing, report: &mut impl FnMut(&str)) {
        match self.thread.poll(self.requests) {
            Poll::NotYet => return,
            Poll::Sampled(sampled) => {
                sampled.notes.iter().for_each(|note| report(note));
                self.round.stopped = self.round.stopped.max(sampled.stopped);
                self.resident.take_in(&sampled);
                self.observation = sampled.observation;
            }
            Poll::Gone => {
                report("the thread that samples ended: there are no more checkpoints");
                self.waiting.clear();
            }
        }
        self.is_sampling = false;
        self.let_current_go(ring);
        // Everything up to the observation's moment is recorded before it, as the reader gets
        // there.
        ring.release();
        if self.waiting.is_empty() {
            self.schedule_next();
        }
    }

    /// Whether events held back in the ring wait for a sample.
    pub(super) fn holds(&self) -> bool {
        self.is_sampling
    }

    /// The process whose checkpoint is being taken, or was taken and is not recorded yet.
    pub(super) fn concerned(&self) -> Option<u32> {
        self.sampled.filter(|_| self.is_one_under_way())
    }

    /// The process that is being sampled now.
    pub(super) fn sampled_now(&self) -> Option<u32> {
        self.sampled.filter(|_| self.is_sampling)
    }

    /// Stops waiting for samples: the one in progress is left out.
    pub(super) fn abandon(&mut self, ring: &RecordRing) {
        self.waiting.clear();
        self.is_sampling = false;
        self.let_current_go(ring);
        for ending in std::mem::take(&mut self.endings.waiting) {
            self.endings.let_go(&ending, ring);
        }
        ring.release();
    }

    /// Whether one of these processes has changed in size enough since its last sample that another
    /// sample is due early, as long as stops stay within their share of the time.
    pub(super) fn have_changed(&mut self, running: impl FnOnce() -> Vec<RecordedProcess>) -> bool {
        let now = Instant::now();
        let is_soon = |before| now - before < COMPARED_EVERY;
        if self.are_under_way()
            || self.is_in_last_round()
            || self.resident.compared.is_some_and(is_soon)
            || self.resident.stopped > self.began.elapsed().mul_f64(STOP_SHARE)
        {
            return false;
        }
        self.resident.compared = Some(now);
        let running = running();
        let from = self.resident.compare_from;
        let (compared, from) = next_of(&running, from, COMPARED_AT_ONCE);
        self.resident.compare_from = from;
        compared.iter().any(|one| {
            !self.endings.known.contains_key(&one.process) && self.resident.has_changed(one)
        })
    }

    /// Schedules the next round by the cost of this one.
    fn schedule_next(&mut self) {
        let interval = checkpoint::interval(self.began.elapsed(), LONGEST_INTERVAL);
        self.schedule.set_interval(interval);
        let now = Instant::now();
        let Round { began, stopped } = self.round;
        self.schedule.walked(now, stopped, now - began);
    }
}

impl Endings {
    fn let_go(&mut self, (ending, since): &(Ends, Instant), ring: &RecordRing) {
        let number = ending.process.process;
        ring.let_go(pid(&ending.process), ending.asked);
        self.known.insert(number, Some(Instant::now()));
        if number != 0 || self.heard.get(&number) > Some(&1) {
            self.waited += since.elapsed();
        }
    }

    fn look(
        &mut self,
        running: &[RecordedProcess],
        ring: &RecordRing,
        now: Instant,
        is_member: impl Fn(u32) -> bool,
    ) {
        let (some, from) = next_of(running, self.look_from, COMPARED_AT_ONCE);
        self.look_from = from;
        for one in some {
            match self.known.get(&one.process) {
                Some(Some(let_go)) if now - *let_go > ENDS_WITHIN => {
                    self.known.remove(&one.process);
                    self.awaited.remove(&one.process);
                }
                Some(_) => continue,
                None => {}
            }
            let is_large = || resident_bytes(pid(&one)) >= Some(LEAST_AWAITED_BYTES);
            if !self.awaited.contains(&one.process) && is_large() && is_member(pid(&one)) {
                self.awaited.insert(one.process);
                ring.await_ending(pid(&one));
            }
        }
    }
}

impl Resident {
    fn take_in(&mut self, sampled: &Sampled) {
        self.stopped += sampled.stopped;
        if let Some((process, bytes)) = sampled
            .observation
            .as_ref()
            .and_then(ProcessObservation::resident)
        {
            self.make_room_for(process);
            self.bytes.insert(process, bytes);
        }
    }

    fn make_room_for(&mut self, process: u32) {
        if self.bytes.len() >= MAX_COMPARED && !self.bytes.contains_key(&process) {
            self.bytes.clear();
        }
    }

    /// Whether a process has changed enough since it was sampled, or if it never was, since it was
    /// first compared: children may end before the next round.
    fn has_changed(&mut self, process: &RecordedProcess) -> bool {
        let Some(now) = resident_bytes(pid(process)) else {
            return false;
        };
        self.make_room_for(process.process);
        let before = *self.bytes.entry(process.process).or_insert(now);
        let change = now.abs_diff(before);
        change >= CHANGED_BYTES && change as f64 >= before as f64 * CHANGED_SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_was_never_sampled_has_changed_once_it_has_grown() {
        let own = RecordedProcess {
            source: std::process::id().into(),
            process: 7,
            main_thread: 7,
        };
        let mut resident = Resident::default();
        assert!(!resident.has_changed(&own), "it was not seen before");
        let before = resident.bytes[&own.process];
        let grown = vec![1u8; before as usize + CHANGED_BYTES as usize];
        assert!(resident.has_changed(&own), "{} bytes more", grown.len());
    }
}

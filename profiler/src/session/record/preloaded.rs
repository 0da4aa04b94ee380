//! From the ring of preloaded recorders into the trace, with checkpoints of each process.
//!
//! Nothing here waits: each step takes what there is, and looks at one process at the most, so that
//! whoever calls can answer a signal between two of them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use profiler_common::ring::kind;
use profiler_core::sample::Sample;
use profiler_sampling::{Sampler, SamplingOptions, WalkSchedule};
use profiler_target::{
    Member, Next, ProcessTree, RecordRing, SUSPENDED, TargetState, children_of, host,
};
use profiler_trace::trace::{Checkpoint, Event, EventKind};

use super::checkpoint::{self, Occasion};
use super::monotonic_ns;
use super::recording::{Cut, Recording};
use super::stream::{LeftOut, Running, Stream};
use super::touched::LargeBlocksOfAll;
use super::unrecorded::Unrecorded;

/// Share of the time for which checkpoints may stop a process.
pub(super) const STOP_SHARE: f64 = 0.03;
/// The first checkpoint comes so early; the time between them grows with the recording.
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(50);
/// A recording gets about so many checkpoints each time its length doubles.
pub(super) const LOOKS: u32 = 50;
/// Time between two checkpoints at the most.
pub(super) const RAREST: Duration = Duration::from_secs(10);
/// So many processes get checkpoints: each takes descriptors, of which fragscope has 1024 mostly.
const MOST_LOOKED_AT: usize = 128;
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
/// What is still being written at the end is waited for so long.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The stream of one command.
pub(crate) struct Preloaded {
    ring: RecordRing,
    tree: ProcessTree,
    stream: Stream,
    recording: Recording,
    manner: SamplingOptions,
    began: Instant,
    schedule: WalkSchedule,
    /// The processes that are looked at.
    known: HashMap<u32, Known>,
    /// Those that are to be looked at, and why.
    to_look_at: VecDeque<(Running, Occasion)>,
    /// How long a process stood still in this round of looks, at the most.
    round: Round,
    /// What was seen of a process, until the events before that moment are written.
    seen: Option<Seen>,
    large: LargeBlocksOfAll,
    /// Of what was left out, this much is written in the trace.
    said: LeftOut,
    is_crowded: bool,
    /// Whether it was said that there are no descriptors left.
    is_short_of_files: bool,
    unrecorded: Unrecorded,
    /// From this process on it is looked at next what they execute.
    watch_from: u32,
    /// From this one on they are looked for when the command has ended.
    seek_from: u32,
    /// Those found in the round so far, and in the last whole one.
    seeking: Left,
    left: Option<Left>,
}

/// Processes that outlive the command.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Left {
    /// How many.
    pub(crate) count: usize,
    /// The first of them.
    pub(crate) first: Option<u32>,
}

/// A process of the tree, and the means to look at it.
struct Known {
    member: Member,
    sampler: Option<Sampler>,
}

#[derive(Copy, Clone)]
struct Round {
    began: Instant,
    stopped: Duration,
}

struct Seen {
    of: Running,
    what: What,
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

enum What {
    Sample(Box<Sample>, Occasion),
    /// It is no more.
    Gone,
}

impl Preloaded {
    /// Begins; `began_ns` is the time on the monotonic clock at which the command was started.
    pub(crate) fn new(
        ring: RecordRing,
        tree: ProcessTree,
        recording: Recording,
        began_ns: u64,
        manner: SamplingOptions,
        unrecorded: Unrecorded,
    ) -> Self {
        let began = Instant::now();
        Self {
            ring,
            tree,
            stream: Stream::new(began_ns),
            recording,
            manner,
            began,
            schedule: WalkSchedule::new(FIRST_LOOK, Some(STOP_SHARE), began),
            known: HashMap::new(),
            to_look_at: VecDeque::new(),
            round: Round {
                began,
                stopped: Duration::ZERO,
            },
            seen: None,
            large: LargeBlocksOfAll::default(),
            said: LeftOut::default(),
            is_crowded: false,
            is_short_of_files: false,
            unrecorded,
            watch_from: 0,
            seek_from: 0,
            seeking: Left::default(),
            left: None,
        }
    }

    /// Writes up to `most` events, and looks at a process when one is due; whether there was
    /// anything to do.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn step(&mut self, most: usize) -> Result<bool, Cut> {
        let taken = self.take(most)?;
        if self.seen.is_none() {
            if self.to_look_at.is_empty() && self.schedule.due(Instant::now()) {
                self.look(Occasion::Due);
            }
            self.look_at_next();
        }
        self.recording.progress();
        Ok(taken > 0 || self.is_looking())
    }

    /// Writes up to `most` events; gives how many there were.
    fn take(&mut self, most: usize) -> Result<usize, Cut> {
        // Nothing that is taken now was written later.
        let mut now_ns = 0;
        let mut taken = 0;
        while taken < most {
            if self
                .seen
                .as_ref()
                .is_some_and(|seen| self.ring.tail() >= seen.moment)
            {
                self.write_seen()?;
            }
            match self.ring.take() {
                Next::Empty => {
                    // Nothing is claimed: what was seen comes next, whatever moment the head said.
                    if self.seen.is_some() {
                        self.write_seen()?;
                    }
                    break;
                }
                Next::Event(event) => {
                    if event.time_ns > now_ns {
                        now_ns = monotonic_ns().unwrap_or(now_ns);
                    }
                    if event.kind == kind::START {
                        self.unrecorded.began(event.process, event.time_ns);
                    }
                    let (recording, mut written) = (&mut self.recording, Ok(()));
                    let mut noted = None;
                    self.stream.events(&event, now_ns, |event| {
                        if written.is_ok() {
                            written = recording.event(&event);
                        }
                        noted = Some(event.kind);
                    });
                    written?;
                    let process = self.stream.process(event.process);
                    if let (Some(process), Some(kind)) = (process, noted) {
                        self.large.note(process, &kind);
                    }
                }
                Next::Damaged => self.lose(1)?,
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
                    if waited < suspicious
                        || waited < SUSPENDED && self.tree.has_thread(thread, waited)
                    {
                        break;
                    }
                    self.ring.abandon();
                    self.lose(1)?;
                }
            }
            taken += 1;
        }
        self.say_what_was_left_out()?;
        Ok(taken)
    }

    /// From now on each process is looked at, for this reason.
    pub(crate) fn look(&mut self, occasion: Occasion) {
        self.to_look_at.clear();
        for running in self.stream.running() {
            self.to_look_at.push_back((running, occasion));
        }
        self.round = Round {
            began: Instant::now(),
            stopped: Duration::ZERO,
        };
        self.schedule_next();
    }

    /// Whether a look is under way.
    pub(crate) fn is_looking(&self) -> bool {
        self.seen.is_some() || !self.to_look_at.is_empty()
    }

    fn look_at_next(&mut self) {
        let Some((running, occasion)) = self.to_look_at.pop_front() else {
            return;
        };
        self.look_at(running, occasion);
        if self.to_look_at.is_empty() {
            self.schedule_next();
        }
    }

    /// Looks at all again when it is time, by what this round took.
    fn schedule_next(&mut self) {
        let interval = (self.began.elapsed() / LOOKS).clamp(FIRST_LOOK, RAREST);
        self.schedule.set_interval(interval);
        let now = Instant::now();
        let Round { began, stopped } = self.round;
        self.schedule.walked(now, stopped, now - began);
    }

    /// Looks at one process. It says of itself who it is: only one that descends from fragscope is
    /// touched.
    fn look_at(&mut self, running: Running, occasion: Occasion) {
        let pid = running.pid;
        if let Some(known) = self.known.get(&pid)
            && !known.member.is_alive()
        {
            self.known.remove(&pid);
            self.gone(running);
            return;
        }
        if !self.known.contains_key(&pid) {
            let Some(member) = self.tree.member(pid) else {
                match is_process(pid) {
                    true => self.say_if_short_of_files(),
                    false => self.gone(running),
                }
                return;
            };
            if self.known.len() >= MOST_LOOKED_AT {
                self.known.retain(|_, known| known.member.is_alive());
            }
            if self.known.len() >= MOST_LOOKED_AT {
                if !std::mem::replace(&mut self.is_crowded, true) {
                    self.recording.say(&format!(
                        "checkpoints are taken of {MOST_LOOKED_AT} processes at most: the others are \
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
            self.say_if_short_of_files();
            return;
        };
        // Gone in the midst: its own last words follow, or the next look finds it so.
        let taken = sampler.take_at(self.manner, || self.ring.head());
        let stopped = taken
            .as_ref()
            .is_ok_and(|(sample, _)| sample.completeness.stopped);
        if self.manner.stop && !stopped {
            self.say_if_short_of_files();
        }
        if let Ok((sample, moment)) = taken {
            let stopped = Duration::from_nanos(sample.completeness.stop_ns);
            self.round.stopped = self.round.stopped.max(stopped);
            self.seen = Some(Seen {
                of: running,
                what: What::Sample(Box::new(sample), occasion),
                time_ns: self.now_ns(),
                moment,
            });
        }
    }

    /// Writes what was seen of a process: all events before it are written.
    fn write_seen(&mut self) -> Result<(), Cut> {
        let Some(seen) = self.seen.take() else {
            return Ok(());
        };
        let (sample, occasion) = match seen.what {
            What::Sample(sample, occasion) => (sample, occasion),
            What::Gone => {
                let end = self.stream.gone(seen.of.pid, seen.time_ns);
                return end.map_or(Ok(()), |end| self.recording.event(&end));
            }
        };
        let touched = self.large.touched(seen.of.process, &sample.residency);
        for kind in touched {
            self.recording.event(&Event {
                time_ns: seen.time_ns,
                thread: seen.of.main_thread,
                kind,
            })?;
        }
        self.recording.checkpoint(&Checkpoint {
            time_ns: seen.time_ns,
            process: seen.of.process,
            figures: checkpoint::figures(&sample, occasion),
        })
    }

    /// A process is no more: its end comes after what it wrote before.
    fn gone(&mut self, running: Running) {
        self.seen = Some(Seen {
            of: running,
            what: What::Gone,
            time_ns: self.now_ns(),
            moment: self.ring.head(),
        });
    }

    /// Looks at what some of the recorded processes execute: the next ones each time.
    pub(crate) fn watch(&mut self) {
        let (some, from) = next_of(&self.stream.running(), self.watch_from, MOST_WATCHED);
        self.watch_from = from;
        for running in some {
            self.unrecorded.look_at(running.pid, &self.tree);
            for child in children_of(running.pid) {
                self.unrecorded.look_at(child, &self.tree);
            }
        }
    }

    /// The recorded processes that live, other than `command`: those that a daemon leaves behind. Some
    /// of them are looked for each time; `None` until all were.
    pub(crate) fn left_running(&mut self, command: u32) -> Option<Left> {
        let (some, from) = next_of(&self.stream.running(), self.seek_from, MOST_LEFT);
        self.seek_from = from;
        for running in some.iter().filter(|running| running.pid != command) {
            if self.tree.member(running.pid).is_some() {
                self.seeking.count += 1;
                self.seeking.first.get_or_insert(running.pid);
            }
        }
        if from == 0 {
            self.left = Some(std::mem::take(&mut self.seeking));
        }
        self.left
    }

    /// Whether a child was announced that has not written anything.
    pub(crate) fn expects_children(&self) -> bool {
        self.stream.announced() > 0
    }

    /// Takes note of the ends of processes whose parents ended before them, but for `command`.
    pub(crate) fn reap(&self, command: u32) {
        self.tree.reap(command);
    }

    /// Nanoseconds since the recording began.
    fn now_ns(&self) -> u64 {
        monotonic_ns().map_or(0, |now| self.stream.time_ns(now))
    }

    fn lose(&mut self, events: u64) -> Result<(), Cut> {
        self.recording.event(&Event {
            time_ns: self.now_ns(),
            thread: 0,
            kind: EventKind::Lost { events },
        })
    }

    fn say_what_was_left_out(&mut self) -> Result<(), Cut> {
        let (all, said) = (self.stream.left_out(), self.said);
        if all == said {
            return Ok(());
        }
        self.said = all;
        if said.damaged == 0 && all.damaged > 0 {
            self.recording.say(
                "a recorded process writes invalid events: they are left out and count as lost",
            );
        }
        if said.beyond_limit == 0 && all.beyond_limit > 0 {
            self.recording.say(
                "the recorded processes have more threads than are followed (262144 in 16384 \
                 processes): events of the others are left out and count as lost",
            );
        }
        let events = |of: LeftOut| of.damaged + of.beyond_limit;
        self.lose(events(all) - events(said))
    }

    /// Says once why looks fail, when it is because fragscope may open nothing more.
    fn say_if_short_of_files(&mut self) {
        if !self.is_short_of_files && host::is_short_of_files() {
            self.is_short_of_files = true;
            self.recording.say(
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
        } else {
            GivenUp::Closed
        };
        self.ring.is_closed().then_some(why)
    }

    /// Says something on stderr.
    pub(crate) fn say(&mut self, what: &str) {
        self.recording.say(what);
    }

    /// Whether nothing was recorded at all.
    pub(crate) fn heard_nothing(&self) -> bool {
        self.ring.head() == 0
    }

    /// Ends the recording with all that was written before now: programs that still run go on
    /// without it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(mut self) -> Result<(), Cut> {
        self.ring.close();
        let (end, deadline) = (self.ring.head(), Instant::now() + LAST_WORDS);
        while self.ring.tail() < end {
            let left = (end - self.ring.tail()) as usize;
            if self.take(left)? == 0 {
                if Instant::now() >= deadline {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if self
            .seen
            .as_ref()
            .is_some_and(|seen| self.ring.tail() >= seen.moment)
        {
            self.write_seen()?;
        }
        if self.stream.has_any()
            && let Some(sentence) = self.unrecorded.sentence()
        {
            self.recording.say(&sentence);
        }
        self.recording.finish()
    }
}

/// Up to `most` of the processes from this number on, and the number from which to go on; 0 at the
/// end.
fn next_of(all: &[Running], from: u32, most: usize) -> (Vec<Running>, u32) {
    let mut rest = all.iter().filter(|running| running.process >= from);
    let some = rest.by_ref().take(most).copied().collect();
    (some, rest.next().map_or(0, |next| next.process))
}

/// Whether some process has this number.
fn is_process(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

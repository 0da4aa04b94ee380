//! Moves events from the ring of preloaded recorders into the trace, with checkpoints of each
//! process.
//!
//! Nothing here blocks: each step takes what is available, and processes are sampled on a separate
//! thread, so that the caller can answer a signal between two steps.

mod checkpoints;
mod drain;
mod exits;
mod left;
mod sampling;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_common::ring::Leaves;
use profiler_sampling::SamplingOptions;
use profiler_target::{ProcessTree, RecordRing, children_of};
use profiler_trace::record::{Clock, Normaliser, RecordedProcess, Recorder};

use self::checkpoints::Checkpoints;
use self::exits::Exits;
use super::checkpoint::CheckpointReason;
use super::output::Output;
use super::trace_file::TraceFile;
use super::unrecorded::Unrecorded;
use super::{TraceWriteError, monotonic_ns};

/// When the command has ended, at most this many processes are checked at once: there may be many
/// forged ones.
const MAX_SURVIVORS_CHECKED: usize = 1024;
/// At most this many processes at once are checked for what they execute.
const MAX_WATCHED: usize = 32;
/// How long to wait at the end for events that are still being written.
const END_TIMEOUT: Duration = Duration::from_millis(100);

/// The message if `--objects` recorded nothing.
const NO_OBJECTS: &str = "nothing that Python asks of its object allocator could be recorded: that takes CPython 3.7 or \
                          newer without PYTHONMALLOC (whatever its value), PYTHONDEVMODE and -X dev";

/// The stream of one command.
pub(crate) struct PreloadedRecording {
    ring: RecordRing,
    tree: Arc<ProcessTree>,
    recorder: Recorder<TraceFile>,
    checkpoints: Checkpoints,
    /// Invalid events not yet recorded as lost. No recorder writes such events: with a kind, a
    /// number, a size or an alignment that does not exist.
    damaged: u64,
    /// Whether damage was reported.
    is_damaged: bool,
    /// Whether it was reported that there are too many threads.
    is_beyond_limit: bool,
    unrecorded: Unrecorded,
    /// Events of Python's object allocator, if these are recorded.
    objects: Option<u64>,
    /// The process from which the next check of executed programs starts.
    watch_from: u32,
    exits: Exits,
    /// The process from which the next search starts when the command has ended.
    seek_from: u32,
    /// Processes found in the current round so far, and in the last complete one.
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
    /// Whether there are processes with recorded numbers that are not known to descend from the
    /// command: that cannot be determined at the moment at which a parent ends.
    pub(crate) has_unknown: bool,
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
         writing the file or sampling a process, took so long"
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

impl PreloadedRecording {
    /// Begins; `began_ns` is the start time of the command on the monotonic clock.
    ///
    /// # Errors
    /// When no thread for sampling can be started.
    pub(crate) fn new(
        ring: RecordRing,
        tree: ProcessTree,
        file: TraceFile,
        began_ns: u64,
        sampling: SamplingOptions,
        unrecorded: Unrecorded,
    ) -> io::Result<Self> {
        let tree = Arc::new(tree);
        let checkpoints = Checkpoints::new(sampling, Arc::clone(&tree), &ring, Instant::now())?;
        Ok(Self {
            ring,
            tree,
            recorder: Recorder::new(file, Normaliser::new(Clock::new(began_ns, 1))),
            checkpoints,
            damaged: 0,
            is_damaged: false,
            is_beyond_limit: false,
            unrecorded,
            objects: None,
            watch_from: 0,
            exits: Exits::default(),
            seek_from: 0,
            seeking: Survivors::default(),
            survivors: None,
            is_over: false,
        })
    }

    /// Requests to Python's object allocator are recorded too: if there are none, that will be
    /// reported.
    pub(crate) fn expect_objects(&mut self) {
        self.objects = Some(0);
    }

    /// Records up to `most` events, and has a process sampled when one is due; whether there were any
    /// events.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn step(&mut self, most: usize) -> Result<bool, TraceWriteError> {
        let taken = self.take(most)?;
        let running = || self.recorder.normaliser().running();
        if self.checkpoints.are_due() || self.checkpoints.have_changed(running) {
            self.start_checkpoints(CheckpointReason::Due);
        }
        let running = || self.recorder.normaliser().running();
        self.checkpoints.await_endings(running, &self.ring);
        let (checkpoints, sink) = (&mut self.checkpoints, self.recorder.sink_mut());
        checkpoints.step(&self.ring, &mut |what| sink.say(what));
        sink.progress()?;
        Ok(taken > 0)
    }

    /// From now on a checkpoint of each process is taken, for this reason.
    pub(crate) fn start_checkpoints(&mut self, reason: CheckpointReason) {
        let running = self.recorder.normaliser().running();
        self.checkpoints.start(running, reason);
    }

    /// Whether checkpoints are under way.
    pub(crate) fn is_taking_checkpoints(&self) -> bool {
        self.checkpoints.are_under_way()
    }

    /// From now on no process is stopped for longer than this.
    pub(crate) fn limit_stops(&mut self, longest: Duration) {
        self.checkpoints.limit_stops(longest);
    }

    /// Begins no other checkpoint; whether one is being taken.
    pub(crate) fn cut_checkpoints_short(&mut self) -> bool {
        self.checkpoints.cut_short();
        self.checkpoints.is_one_under_way()
    }

    /// Leaves out the checkpoints that are under way.
    pub(crate) fn abandon_checkpoints(&mut self) {
        self.checkpoints.abandon(&self.ring);
    }

    /// Checks what some of the recorded processes execute: the next ones each time.
    pub(crate) fn watch(&mut self) {
        self.seek_exits();
        let (some, from) = next_of(
            &self.recorder.normaliser().running(),
            self.watch_from,
            MAX_WATCHED,
        );
        self.watch_from = from;
        for process in some {
            let pid = pid(&process);
            self.unrecorded.check(pid, &self.tree);
            // The number may be of any process: programs write the ring's contents.
            if self.tree.member(pid).is_none() {
                continue;
            }
            for child in children_of(pid) {
                self.unrecorded.check(child, &self.tree);
            }
        }
    }

    /// The recorded processes other than `command` that are alive, such as those that a daemon
    /// leaves behind. Each call checks some of them; `None` until all were checked.
    pub(crate) fn survivors(&mut self, command: u32) -> Option<Survivors> {
        let (some, from) = next_of(
            &self.recorder.normaliser().running(),
            self.seek_from,
            MAX_SURVIVORS_CHECKED,
        );
        self.seek_from = from;
        for pid in some.iter().map(pid).filter(|pid| *pid != command) {
            if self.tree.member(pid).is_some() {
                self.seeking.count += 1;
                self.seeking.first.get_or_insert(pid);
            } else if is_process(pid) {
                self.seeking.has_unknown = true;
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

    /// Collects the ends of processes whose parents ended before them, except `command`.
    pub(crate) fn reap(&self, command: u32) {
        self.tree.reap(command);
    }

    /// Why nothing more is recorded, when the ring is closed.
    pub(crate) fn given_up(&self) -> Option<GivenUp> {
        let why = if self.ring.has_waited_too_long() {
            GivenUp::Unfinished
        } else if self.ring.is_too_damaged() {
            GivenUp::Damaged
        } else if self.ring.is_reader_absent() {
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

    /// Programs that still run go on without being recorded.
    pub(crate) fn close(&mut self) {
        self.ring.close();
    }

    /// Ends the recording early, with everything written so far, so that readers of the file know
    /// that there was more.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn break_off(mut self) -> Result<(), TraceWriteError> {
        self.recorder.sink_mut().break_off();
        self.finish()
    }

    /// Ends the recording with everything written so far: programs that still run continue without
    /// it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(mut self) -> Result<(), TraceWriteError> {
        self.close();
        let (end, deadline) = (self.ring.head(), Instant::now() + END_TIMEOUT);
        self.checkpoints.cut_short();
        while self.ring.tail() < end || self.checkpoints.is_one_under_way() {
            let sink = self.recorder.sink_mut();
            self.checkpoints
                .step(&self.ring, &mut |what| sink.say(what));
            self.is_over = Instant::now() >= deadline;
            if self.is_over {
                self.checkpoints.abandon(&self.ring);
            }
            while let Some(observation) = self.checkpoints.observed_before(self.ring.tail()) {
                observation.record(&mut self.recorder)?;
            }
            // At least one: what was written while the ring was closed may precede a checkpoint.
            let left = end.saturating_sub(self.ring.tail()).max(1);
            if self.take(left as usize)? == 0 {
                // Nothing is claimed, whatever the head says.
                if self.is_over {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        while let Some(observation) = self.checkpoints.observed() {
            observation.record(&mut self.recorder)?;
        }
        self.record_last_exits()?;
        self.report_left()?;
        if self.recorder.normaliser().has_any()
            && let Some(sentence) = self
                .unrecorded
                .sentence(self.ring.left(Leaves::NoAddresses))
        {
            self.recorder.sink_mut().say(&sentence);
        }
        if self.objects == Some(0) {
            self.recorder.sink_mut().say(NO_OBJECTS);
        }
        let after_exit = self.recorder.normaliser().left_out().after_exit;
        if after_exit > 0 {
            self.recorder.sink_mut().say(&format!(
                "{after_exit} events of processes that had ended, as they or others wrote, are left \
                 out and count as lost"
            ));
        }
        self.recorder.finish()?.finish()
    }
}

/// Up to `most` of the processes from this number on, and the number from which to continue; 0 at
/// the end.
fn next_of(all: &[RecordedProcess], from: u32, most: usize) -> (Vec<RecordedProcess>, u32) {
    let mut rest = all.iter().filter(|one| one.process >= from);
    let some = rest.by_ref().take(most).copied().collect();
    (some, rest.next().map_or(0, |next| next.process))
}

/// Whether some process has this number.
fn is_process(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// The pid of a process, from the ring.
fn pid(process: &RecordedProcess) -> u32 {
    process.source as u32
}

/// The time on the monotonic clock, which does not fail.
fn now_ns() -> u64 {
    monotonic_ns().unwrap_or_default()
}

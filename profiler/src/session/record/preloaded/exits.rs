//! Which recorded processes have ended.
//!
//! A process that calls `exit` announces it. A process that calls `_exit` does too, but so does a
//! child of `vfork`, which shares its parent's memory and numbers; the kernel knows which of the
//! two it is. The kernel is also asked about processes that announce nothing because a signal or a
//! direct system call ended them. A process that ended between two checks and whose pid was reused
//! meanwhile is not known to have ended.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use profiler_target::{
    ProcessTree, RecordRing, RingEvent, ThreadState, counts_as_here, has_exited,
};
use profiler_trace::record::{MAX_PROCESSES, RecordedProcess};

use super::{next_of, now_ns, pid};
use crate::session::record::checkpoint::STOP_SHARE;

/// The kernel is asked at most this often when processes are forked.
const SOUGHT_EVERY: Duration = Duration::from_millis(2);
/// At most this many processes are checked at a time.
const MAX_SOUGHT: usize = 32;
/// On a busy host, a thread that announces its process's end has this long until it is in the
/// kernel; later events in the ring wait meanwhile. All such waits together take at most
/// [`STOP_SHARE`] of the time.
const LEAVES_WITHIN: Duration = Duration::from_millis(50);

/// At most this many events are searched for one that the thread wrote after announcing its end.
const MAX_READ_AHEAD: u64 = 1 << 14;
/// In a separate PID namespace a program's children have the first pids. Pids below this one are
/// assigned only once, when the host starts (`RESERVED_PIDS`, kernel/pid.c). So a child with such a
/// pid that ended before it was examined belongs to its parent's namespace.
const FIRST_USUAL_PID: u32 = 300;

/// The number that a trace gives the process that writes first.
const COMMAND: u32 = 0;

/// Processes that ended, and one that may be about to.
#[derive(Default)]
pub(super) struct Exits {
    /// The announcement in the last event, until it is known whether it is true, and since when it
    /// waits.
    leaving: Option<(RingEvent, Instant)>,
    /// Total waiting time for such announcements.
    waited: Duration,
    /// Processes found to have ended, until what they wrote before is recorded.
    found: VecDeque<Exit>,
    /// Processes that are in our PID namespace, by the trace's numbers. Only about these the kernel
    /// can be asked.
    known: HashSet<u32>,
    /// From this process on they are sought next.
    from: u32,
    sought: Option<Instant>,
}

/// A process that was found to have ended.
pub(super) struct Exit {
    pub(super) of: RecordedProcess,
    pub(super) time_ns: u64,
    /// Events up to this number were claimed before.
    moment: u64,
}

/// Whether the last event ended its process.
pub(super) enum Leaving {
    /// It did not.
    Nobody,
    /// It did.
    Left(RingEvent),
    /// That is still to be seen.
    Undecided,
}

impl Exits {
    /// This event, the last one taken, announces its process's end.
    pub(super) fn leaves(&mut self, event: &RingEvent) {
        self.leaving = Some((*event, Instant::now()));
    }

    /// Whether it is true, in a recording of this age in which fragscope may be holding a process.
    pub(super) fn leaving(
        &mut self,
        age: Duration,
        held: Option<u32>,
        ring: &RecordRing,
    ) -> Leaving {
        let Some((event, since)) = self.leaving else {
            return Leaving::Nobody;
        };
        let waits = since.elapsed();
        let is_held = held == Some(event.process);
        let has_time =
            is_held || waits < LEAVES_WITHIN && self.waited + waits <= age.mul_f64(STOP_SHARE);
        let leaving = match ThreadState::of(event.process, event.thread) {
            // It may have been the child, after which the process continued, and ended meanwhile.
            ThreadState::Ends => {
                match ring.writes_on(event.process, event.thread, MAX_READ_AHEAD) {
                    Some(false) => Leaving::Left(event),
                    Some(true) | None => Leaving::Nobody,
                }
            }
            ThreadState::Runs if has_time => return Leaving::Undecided,
            // It was the child, or nothing waits for that any more.
            ThreadState::Runs | ThreadState::Waits => Leaving::Nobody,
        };
        self.waited += waits;
        self.leaving = None;
        leaving
    }

    /// A process of this tree begins, forked by the given one. The command may have ended before
    /// anything it wrote was read: its pid is known from starting it.
    pub(super) fn began(
        &mut self,
        process: &RecordedProcess,
        parent: Option<RecordedProcess>,
        tree: &ProcessTree,
    ) {
        let is_as_parent = || {
            let of_known = parent.is_some_and(|parent| self.known.contains(&parent.process));
            of_known && pid(process) >= FIRST_USUAL_PID
        };
        let is_command = process.process == COMMAND && tree.is_command(pid(process));
        let is_known = is_command || counts_as_here(pid(process)).unwrap_or_else(is_as_parent);
        self.learn(process, is_known);
    }

    /// Whether it has ended, and that can be known.
    pub(super) fn has_ended(&mut self, process: &RecordedProcess) -> bool {
        if !self.known.contains(&process.process) {
            let is_known = counts_as_here(pid(process)) == Some(true);
            self.learn(process, is_known);
        }
        self.known.contains(&process.process) && has_exited(pid(process))
    }

    fn learn(&mut self, process: &RecordedProcess, is_known: bool) {
        if !is_known {
            return;
        }
        if self.known.len() >= MAX_PROCESSES {
            self.known.clear();
        }
        self.known.insert(process.process);
    }

    /// Whether enough time has passed since the last search.
    pub(super) fn are_due(&self) -> bool {
        self.sought
            .is_none_or(|then| then.elapsed() >= SOUGHT_EVERY)
    }

    /// Checks some of the processes that run according to their own events.
    pub(super) fn seek(&mut self, running: &[RecordedProcess], ring: &RecordRing) {
        let (some, from) = next_of(running, self.from, MAX_SOUGHT);
        (self.from, self.sought) = (from, Some(Instant::now()));
        for of in some {
            let is_known = self.found.iter().any(|exit| exit.of == of);
            if !is_known && self.has_ended(&of) {
                let (time_ns, moment) = (now_ns(), ring.head());
                self.found.push_back(Exit {
                    of,
                    time_ns,
                    moment,
                });
            }
        }
    }

    /// The next exit, as soon as everything before it, up to this number, is recorded, unless it is
    /// of the waiting process.
    pub(super) fn before(&mut self, tail: u64, waits: Option<u32>) -> Option<Exit> {
        let is_due = |exit: &mut Exit| tail >= exit.moment && waits != Some(pid(&exit.of));
        let exit = self.found.pop_front_if(is_due)?;
        self.known.remove(&exit.of.process);
        Some(exit)
    }
}

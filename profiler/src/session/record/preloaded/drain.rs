//! Moves events from the ring into the trace: what must precede each event, how each is recorded,
//! and which processes will write no more.

use std::time::{Duration, Instant};

use profiler_target::{Next, RingEvent, SUSPENDED_AFTER, process_of};
use profiler_trace::record::SourceKind;
use profiler_trace::trace::EventKind;

use super::checkpoints::Ends;
use super::exits::Leaving;
use super::{PreloadedRecording, now_ns};
use crate::session::record::output::Output;
use crate::session::record::{TraceWriteError, beyond_limit, monotonic_ns, source};

/// Writing an event takes nanoseconds. After this long, it is checked whether the thread that
/// claimed the slot is alive.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(10);
/// After one was given up, others were most likely killed with it.
const CLAIM_TIMEOUT_AFTER_ABANDONED: Duration = Duration::from_millis(1);
/// Events are taken for at most this long before a signal can be answered.
const LONGEST_STEP: Duration = Duration::from_millis(50);
/// The clock is checked after this many events, and immediately after a fork, which takes longer
/// than other events.
const EVENTS_PER_CLOCK_CHECK: usize = 64;

impl PreloadedRecording {
    /// Records up to `most` events, for about [`LONGEST_STEP`]; returns how many there were.
    pub(super) fn take(&mut self, most: usize) -> Result<usize, TraceWriteError> {
        // Nothing that is taken now was written later.
        let mut now_ns = 0;
        let mut taken = 0;
        let mut is_fork = false;
        let until = Instant::now() + LONGEST_STEP;
        while taken < most {
            if (is_fork || taken % EVENTS_PER_CLOCK_CHECK == EVENTS_PER_CLOCK_CHECK - 1)
                && Instant::now() >= until
            {
                break;
            }
            is_fork = false;
            while let Some(observation) = self.checkpoints.observed_before(self.ring.tail()) {
                observation.record(&mut self.recorder)?;
            }
            self.record_exits(self.ring.tail())?;
            if !self.settle_leaving()? {
                break;
            }
            match self.ring.take() {
                // It waits for a sample of the moment before it.
                Next::Held if self.checkpoints.holds() => break,
                // Nothing waits for that sample any more.
                Next::Held => {
                    self.ring.release();
                    continue;
                }
                Next::Empty => {
                    while let Some(observation) = self.checkpoints.observed() {
                        observation.record(&mut self.recorder)?;
                    }
                    break;
                }
                Next::Event(event) => {
                    if event.time_ns > now_ns {
                        now_ns = monotonic_ns().unwrap_or(now_ns);
                    }
                    is_fork = self.record(&event, now_ns)?;
                }
                Next::Damaged => self.recorder.lost(1)?,
                Next::Nothing => {}
                Next::Claimed {
                    thread,
                    waited,
                    follows_abandoned,
                } => {
                    if self.may_come(thread, waited, follows_abandoned) {
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

    /// Records an event that was taken at this time; returns whether it is a fork.
    fn record(&mut self, event: &RingEvent, now_ns: u64) -> Result<bool, TraceWriteError> {
        let Some(sound) = source::of_ring(event, now_ns) else {
            self.damaged += 1;
            return Ok(false);
        };
        self.checkpoints
            .wrote(event.process, event.thread, &self.ring);
        match sound.kind {
            SourceKind::Start => self.unrecorded.began(event.process, event.time_ns),
            // Its pid may be that of a process that has ended.
            SourceKind::Forking { .. } if self.exits.are_due() => self.seek_exits(),
            SourceKind::Leaving => self.exits.leaves(event),
            SourceKind::Event(EventKind::ObjectAlloc { .. }) => {
                self.objects = self.objects.map(|events| events + 1);
            }
            _ => {}
        }
        self.recorder.record(&sound)?;
        if matches!(sound.kind, SourceKind::Start | SourceKind::Forked { .. }) {
            let began = self.recorder.normaliser().process(sound.process);
            let parent = match sound.kind {
                SourceKind::Forked { process, .. } => self.recorder.normaliser().process(process),
                _ => None,
            };
            if let Some(process) = began {
                self.exits.began(&process, parent, &self.tree);
            }
        }
        if sound.kind == SourceKind::Ending {
            let asked = event.addr as u32;
            let now_ns = monotonic_ns().unwrap_or(u64::MAX);
            match self.recorder.normaliser().process(sound.process) {
                Some(process) => {
                    let ending = Ends {
                        process,
                        thread: event.thread,
                        asked,
                        ago: Duration::from_nanos(now_ns.saturating_sub(event.time_ns)),
                    };
                    self.checkpoints.ends(ending, &self.ring);
                }
                None => self.ring.let_go(event.process, asked),
            }
        }
        Ok(matches!(sound.kind, SourceKind::Forking { .. }))
    }

    pub(super) fn seek_exits(&mut self) {
        let running = self.recorder.normaliser().running();
        self.exits.seek(&running, &self.ring);
    }

    /// Whether it is known if the last event, which announces its process's end, is true.
    fn settle_leaving(&mut self) -> Result<bool, TraceWriteError> {
        // Meanwhile it cannot proceed to its end.
        let held = self.checkpoints.sampled_now();
        let age = match self.is_over {
            true => Duration::ZERO,
            false => self.checkpoints.age(),
        };
        match self.exits.leaving(age, held, &self.ring) {
            Leaving::Nobody => Ok(true),
            Leaving::Undecided => Ok(false),
            Leaving::Left(event) => {
                self.recorder.left(event.process.into(), event.time_ns)?;
                Ok(true)
            }
        }
    }

    /// Records the ends of processes of which everything that they wrote, up to this number, is
    /// recorded.
    fn record_exits(&mut self, tail: u64) -> Result<(), TraceWriteError> {
        // An observation of a process precedes its end.
        let concerned = self.checkpoints.concerned();
        while let Some(exit) = self.exits.before(tail, concerned) {
            // Its pid may have been reused by now.
            if self.recorder.normaliser().process(exit.of.source) == Some(exit.of) {
                self.recorder.gone(exit.of.source, exit.time_ns)?;
            }
        }
        Ok(())
    }

    /// All that was written is recorded: whoever has ended has ended now.
    pub(super) fn record_last_exits(&mut self) -> Result<(), TraceWriteError> {
        for process in self.recorder.normaliser().running() {
            if self.exits.has_ended(&process) {
                self.recorder.gone(process.source, now_ns())?;
            }
        }
        Ok(())
    }

    /// Whether the event that this thread claimed `waited` ago may still be written.
    fn may_come(&mut self, thread: u32, waited: Duration, follows_abandoned: bool) -> bool {
        let timeout = match follows_abandoned {
            true => CLAIM_TIMEOUT_AFTER_ABANDONED,
            false => CLAIM_TIMEOUT,
        };
        if self.is_over {
            return false;
        }
        if waited < timeout {
            return true;
        }
        if !self.tree.has_thread(thread, waited) {
            return false;
        }
        // A thread that is stopped for a sample cannot write.
        let is_held = self.checkpoints.sampled_now().is_some_and(|sampled| {
            let process = i32::try_from(thread).ok().and_then(process_of);
            process == Some(sampled)
        });
        if is_held {
            self.ring.excuse_wait();
        }
        is_held || waited < SUSPENDED_AFTER
    }

    fn report_left_out(&mut self) -> Result<(), TraceWriteError> {
        let damaged = std::mem::take(&mut self.damaged);
        if damaged > 0 && !std::mem::replace(&mut self.is_damaged, true) {
            self.recorder.sink_mut().say(
                "a recorded process writes invalid events: they are left out and count as lost",
            );
        }
        if !self.is_beyond_limit && self.recorder.normaliser().left_out().beyond_limit > 0 {
            self.is_beyond_limit = true;
            self.recorder.sink_mut().say(&beyond_limit());
        }
        match damaged {
            0 => Ok(()),
            events => self.recorder.lost(events),
        }
    }
}

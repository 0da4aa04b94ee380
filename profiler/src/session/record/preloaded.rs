//! From the ring of preloaded recorders into the trace, with checkpoints of each process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use profiler_trace::trace::{Checkpoint, Event, EventKind};

use super::checkpoint::{self, Occasion};
use super::recording::{Cut, Recording};
use super::stream::{Running, Stream};
use super::touched::LargeBlocks;
use crate::process::{Next, RecordRing, TargetState};
use crate::session::options::Manner;
use crate::session::sampler::Sampler;
use crate::session::schedule::WalkSchedule;

/// Share of the time for which checkpoints may stop a process.
pub(super) const STOP_SHARE: f64 = 0.03;
/// The first checkpoint comes so early; the time between them grows with the recording.
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(50);
/// A recording gets about so many checkpoints each time its length doubles.
pub(super) const LOOKS: u32 = 50;
/// Time between two checkpoints at the most.
pub(super) const RAREST: Duration = Duration::from_secs(10);

/// The stream of one command.
pub(crate) struct Preloaded {
    ring: RecordRing,
    stream: Stream,
    recording: Recording,
    manner: Manner,
    began: Instant,
    schedule: WalkSchedule,
    samplers: HashMap<u32, Option<Sampler>>,
    /// By the trace's number of the process.
    large: HashMap<u32, LargeBlocks>,
}

impl Preloaded {
    /// Begins; `began_ns` is the time on the monotonic clock at which the command was started.
    pub(crate) fn new(
        ring: RecordRing,
        recording: Recording,
        began_ns: u64,
        manner: Manner,
    ) -> Self {
        let began = Instant::now();
        Self {
            ring,
            stream: Stream::new(began_ns),
            recording,
            manner,
            began,
            schedule: WalkSchedule::new(FIRST_LOOK, Some(STOP_SHARE), began),
            samplers: HashMap::new(),
            large: HashMap::new(),
        }
    }

    /// Writes up to `most` events that were told; gives how many there were.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn take(&mut self, most: usize) -> Result<usize, Cut> {
        self.take_until(u64::MAX, most)
    }

    fn take_until(&mut self, end: u64, most: usize) -> Result<usize, Cut> {
        let mut taken = 0;
        while taken < most && self.ring.tail() < end {
            match self.ring.take() {
                Next::Empty => break,
                Next::Told(told) => {
                    let (recording, mut written) = (&mut self.recording, Ok(()));
                    let mut seen = None;
                    self.stream.events(&told, |event| {
                        if written.is_ok() {
                            written = recording.event(&event);
                        }
                        seen = Some(event.kind);
                    });
                    written?;
                    if let Some(kind) = seen {
                        self.note(told.process, &kind);
                    }
                }
                Next::Abandoned => self.lose(1)?,
            }
            taken += 1;
        }
        Ok(taken)
    }

    /// Follows the large blocks of each process, to look at them.
    fn note(&mut self, pid: u32, kind: &EventKind) {
        let Some(process) = self.stream.process(pid) else {
            return;
        };
        match kind {
            EventKind::Fork { process: child, .. } => {
                let copy = self.large.get(&process).cloned().unwrap_or_default();
                self.large.insert(*child, copy);
            }
            EventKind::Exit => {
                self.large.remove(&process);
            }
            _ => self.large.entry(process).or_default().note(kind),
        }
    }

    /// Writes everything that was told before now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn drain(&mut self) -> Result<(), Cut> {
        self.drain_until(self.ring.head())
    }

    /// Writes everything before the event of this number, waiting for what is still being told.
    fn drain_until(&mut self, end: u64) -> Result<(), Cut> {
        while self.ring.tail() < end {
            if self.take_until(end, usize::MAX)? == 0 {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Takes checkpoints when they are due.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn look_if_due(&mut self) -> Result<(), Cut> {
        if self.schedule.due(Instant::now()) {
            self.look(Occasion::Due)?;
        }
        Ok(())
    }

    /// Takes a checkpoint of each process, now; for this reason.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn look(&mut self, occasion: Occasion) -> Result<(), Cut> {
        let (began, mut stopped) = (Instant::now(), Duration::ZERO);
        for running in self.stream.running() {
            stopped = stopped.max(self.look_at(running, occasion)?);
        }
        let now = Instant::now();
        let interval = (self.began.elapsed() / LOOKS).clamp(FIRST_LOOK, RAREST);
        self.schedule.set_interval(interval);
        self.schedule.walked(now, stopped, now - began);
        Ok(())
    }

    /// Takes a checkpoint of one process; how long it stood still.
    fn look_at(&mut self, running: Running, occasion: Occasion) -> Result<Duration, Cut> {
        let pid = running.pid;
        let known = self.samplers.entry(pid).or_default();
        if let Some(sampler) = known {
            match sampler.target().state() {
                TargetState::Same => {}
                TargetState::Execed => *known = None,
                TargetState::Exited(_) => {
                    self.samplers.remove(&pid);
                    return self.gone(pid);
                }
            }
        }
        if known.is_none() {
            *known = Sampler::open(pid as i32).ok();
        }
        let Some(sampler) = known else {
            self.samplers.remove(&pid);
            if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
                return self.gone(pid);
            }
            return Ok(Duration::ZERO);
        };
        let Ok((sample, moment)) = sampler.take_at(self.manner, || self.ring.head()) else {
            // Gone in the midst: its own last words follow, or the next look finds it so.
            return Ok(Duration::ZERO);
        };
        let time_ns = self.now_ns();
        self.drain_until(moment)?;
        let large = self.large.get_mut(&running.process);
        let touched = large.map_or_else(Vec::new, |large| large.touched(&sample.residency));
        for kind in touched {
            let thread = running.main_thread;
            self.recording.event(&Event {
                time_ns,
                thread,
                kind,
            })?;
        }
        self.recording.checkpoint(&Checkpoint {
            time_ns,
            process: running.process,
            figures: checkpoint::figures(&sample, occasion),
        })?;
        Ok(Duration::from_nanos(sample.completeness.stop_ns))
    }

    /// A process is no more: what it told is written, then its end.
    fn gone(&mut self, pid: u32) -> Result<Duration, Cut> {
        self.drain()?;
        let time_ns = self.now_ns();
        if let Some(event) = self.stream.gone(pid, time_ns) {
            self.recording.event(&event)?;
        }
        Ok(Duration::ZERO)
    }

    /// Nanoseconds since the recording began.
    fn now_ns(&self) -> u64 {
        super::monotonic_ns().map_or(0, |now| self.stream.time_ns(now))
    }

    fn lose(&mut self, events: u64) -> Result<(), Cut> {
        self.recording.event(&Event {
            time_ns: self.now_ns(),
            thread: 0,
            kind: EventKind::Lost { events },
        })
    }

    /// Whether the program took fragscope for dead and tells no more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.ring.is_closed()
    }

    /// Shows how far it is.
    pub(crate) fn progress(&mut self) {
        self.recording.progress();
    }

    /// Whether anything was told at all.
    pub(crate) fn heard_nothing(&self) -> bool {
        self.ring.tail() == 0
    }

    /// Ends the recording: programs that still run go on without it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(self) -> Result<(), Cut> {
        self.ring.close();
        self.recording.finish()
    }
}

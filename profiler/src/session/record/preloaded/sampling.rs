//! The thread that samples recorded processes, one at a time: a walk of a large heap takes long,
//! and neither a signal nor the events of other processes may wait for it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use profiler_core::sample::Sample;
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_target::{Marker, Member, ProcessTree, RecordRing, TargetState, host};
use profiler_trace::record::{RecordedProcess, Recorder, TraceSink};

use super::{is_process, now_ns, pid};
use crate::session::record::checkpoint::{self, CheckpointReason};

/// At most this many processes get checkpoints: each takes file descriptors, of which fragscope
/// usually has 1024.
const MAX_SAMPLED: usize = 128;

/// A request to sample a process.
#[derive(Copy, Clone)]
pub(super) struct Request {
    /// Identifies the answer.
    pub(super) number: u64,
    pub(super) process: RecordedProcess,
    pub(super) reason: CheckpointReason,
    pub(super) sampling: SamplingOptions,
}

/// The answer to a request.
pub(super) struct Sampled {
    /// The request's number.
    pub(super) number: u64,
    /// The observation, if the process could be inspected.
    pub(super) observation: Option<ProcessObservation>,
    /// How long the process was stopped.
    pub(super) stopped: Duration,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// What was found about a process.
pub(super) struct ProcessObservation {
    of: RecordedProcess,
    what: Observed,
    time_ns: u64,
    /// Events up to this number were claimed before.
    moment: u64,
}

enum Observed {
    Sample {
        /// Without the ring.
        sample: Box<Sample>,
        reason: CheckpointReason,
        /// The kernel's resident count, including the ring.
        counted_bytes: u64,
    },
    /// It has ended.
    Gone,
}

impl ProcessObservation {
    /// A process has ended: everything that it wrote was claimed before this number.
    pub(super) fn gone(of: RecordedProcess, moment: u64) -> Self {
        Self {
            of,
            what: Observed::Gone,
            time_ns: now_ns(),
            moment,
        }
    }

    /// The same for a process that was to be sampled at its end and did not wait for that.
    pub(super) fn of_what_goes_on(mut self) -> Self {
        if let Observed::Sample { reason, .. } = &mut self.what {
            *reason = CheckpointReason::Due;
        }
        self
    }

    /// Events up to this number were claimed before.
    pub(super) fn moment(&self) -> u64 {
        self.moment
    }

    /// The resident size of the process, by the kernel, and the process.
    pub(super) fn resident(&self) -> Option<(u32, u64)> {
        match &self.what {
            Observed::Sample { counted_bytes, .. } => Some((self.of.process, *counted_bytes)),
            Observed::Gone => None,
        }
    }

    /// Records it; all events before it are already recorded.
    pub(super) fn record<S: TraceSink>(self, recorder: &mut Recorder<S>) -> Result<(), S::Error> {
        let Self { of, time_ns, .. } = self;
        match self.what {
            Observed::Gone => recorder.gone(of.source, time_ns),
            Observed::Sample { sample, reason, .. } => {
                let figures = checkpoint::figures(&sample, reason);
                recorder.checkpoint(&of, time_ns, &sample.residency, figures)
            }
        }
    }
}

/// The thread's handle. The thread ends when this is dropped, or with the process.
pub(super) struct SamplingThread {
    requests: Sender<Request>,
    sampled: Receiver<Sampled>,
}

/// The present state of a request.
pub(super) enum Poll {
    NotYet,
    Sampled(Sampled),
    /// Nothing will: the thread ended.
    Gone,
}

impl SamplingThread {
    /// Starts it.
    ///
    /// # Errors
    /// When the kernel rejects it.
    pub(super) fn start(tree: Arc<ProcessTree>, ring: &RecordRing) -> io::Result<Self> {
        let (requests, to_sample) = channel();
        let (report, sampled) = channel();
        let mut samplers = Samplers {
            tree,
            marker: ring.marker(),
            ring: ring.file_number()?,
            known: HashMap::new(),
            notes: Vec::new(),
            is_crowded: false,
            is_short_of_files: false,
        };
        profiler_target::start_thread("sampling", move || {
            for request in to_sample {
                // The receiver has ended and no longer needs it.
                if report.send(samplers.sample(request)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, sampled })
    }

    /// Has a process sampled; whether that can be.
    pub(super) fn request(&self, request: Request) -> bool {
        self.requests.send(request).is_ok()
    }

    /// The state of the last request, which has this number.
    pub(super) fn poll(&self, number: u64) -> Poll {
        loop {
            match self.sampled.try_recv() {
                Ok(sampled) if sampled.number == number => return Poll::Sampled(sampled),
                // Nothing waits for that one any more.
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Poll::NotYet,
                Err(TryRecvError::Disconnected) => return Poll::Gone,
            }
        }
    }
}

/// The processes that are sampled, on their thread.
struct Samplers {
    tree: Arc<ProcessTree>,
    marker: Marker,
    /// The file number of the ring.
    ring: u64,
    known: HashMap<u32, Known>,
    /// What to report with the next answer.
    notes: Vec<String>,
    /// Whether it was reported that there are more processes than can be sampled.
    is_crowded: bool,
    /// Whether it was reported that there are no descriptors left.
    is_short_of_files: bool,
}

/// A process of the tree, with its sampler.
struct Known {
    member: Member,
    sampler: Option<Sampler>,
    /// Whether it was reported that it could not be sampled.
    is_refused: bool,
}

impl Samplers {
    fn sample(&mut self, request: Request) -> Sampled {
        let observation = self.observe(request);
        let stopped = match observation.as_ref().map(|one| &one.what) {
            Some(Observed::Sample { sample, .. }) => {
                Duration::from_nanos(sample.completeness.stop_ns)
            }
            Some(Observed::Gone) | None => Duration::ZERO,
        };
        Sampled {
            number: request.number,
            observation,
            stopped,
            notes: std::mem::take(&mut self.notes),
        }
    }

    /// Inspects one process. The process itself claims its identity, so only descendants of
    /// fragscope are touched.
    fn observe(&mut self, request: Request) -> Option<ProcessObservation> {
        let Request {
            process,
            reason,
            sampling,
            ..
        } = request;
        let pid = pid(&process);
        if !self.is_there(pid)? {
            return Some(self.gone(process));
        }
        self.open(pid)?;
        let known = self.known.get(&pid)?;
        // While the member lives its pid is its own, so what was opened by pid is the member.
        let sampler = known.sampler.as_ref().filter(|_| known.member.is_alive())?;
        // Gone meanwhile: its own last events follow, or the next round finds out.
        let taken = sampler.take_at(sampling, |_| (self.marker.mark(), now_ns()));
        let stopped = taken
            .as_ref()
            .is_ok_and(|(sample, _)| sample.completeness.stand_still.is_throughout());
        // The data of a process that ended meanwhile may be incomplete.
        let is_sound = stopped || known.member.is_alive();
        if sampling.stop && !stopped {
            self.report_if_short_of_files();
        }
        let (mut sample, (moment, time_ns)) = match taken {
            Ok(taken) if is_sound => taken,
            Ok(_) => return None,
            Err(error) => {
                self.report_refusal(pid, &error);
                return None;
            }
        };
        let counted_bytes = sample.kernel.rss_bytes;
        checkpoint::leave_out_ring(&mut sample, self.ring);
        Some(ProcessObservation {
            of: process,
            what: Observed::Sample {
                sample: Box::new(sample),
                reason,
                counted_bytes,
            },
            time_ns,
            moment,
        })
    }

    /// Whether such a process exists; it is then known. `None` if it cannot be inspected.
    fn is_there(&mut self, pid: u32) -> Option<bool> {
        match self.known.get(&pid).map(|known| known.member.is_alive()) {
            Some(true) => return Some(true),
            Some(false) => {
                self.known.remove(&pid);
                return Some(false);
            }
            None => {}
        }
        let Some(member) = self.tree.member(pid) else {
            if !is_process(pid) {
                return Some(false);
            }
            self.report_if_short_of_files();
            return None;
        };
        let known = Known {
            member,
            sampler: None,
            is_refused: false,
        };
        self.has_room().then(|| {
            self.known.insert(pid, known);
            true
        })
    }

    /// Opens a known process, unless it is already open and still runs the same program.
    fn open(&mut self, pid: u32) -> Option<()> {
        let known = self.known.get_mut(&pid)?;
        let state = known.sampler.as_ref().map(|one| one.target().state());
        if state == Some(TargetState::Same) {
            return Some(());
        }
        match Sampler::open(pid as i32) {
            Ok(sampler) => known.sampler = Some(sampler),
            Err(error) => {
                known.sampler = None;
                self.report_refusal(pid, &error);
                return None;
            }
        }
        Some(())
    }

    /// A process has ended: its end follows what it wrote before.
    fn gone(&self, process: RecordedProcess) -> ProcessObservation {
        ProcessObservation::gone(process, self.marker.mark())
    }

    /// Whether another process may be sampled.
    fn has_room(&mut self) -> bool {
        if self.known.len() >= MAX_SAMPLED {
            self.known.retain(|_, known| known.member.is_alive());
        }
        let has_room = self.known.len() < MAX_SAMPLED;
        if !has_room && !std::mem::replace(&mut self.is_crowded, true) {
            self.notes.push(format!(
                "checkpoints are taken of {MAX_SAMPLED} processes at most: the others are \
                 recorded without"
            ));
        }
        has_room
    }

    /// Reports once per process why it is not sampled, unless it ended meanwhile.
    fn report_refusal(&mut self, pid: u32, error: &dyn std::error::Error) {
        self.report_if_short_of_files();
        let Some(known) = self.known.get_mut(&pid) else {
            return;
        };
        if known.member.is_alive() && !std::mem::replace(&mut known.is_refused, true) {
            self.notes.push(format!(
                "process {pid} could not be sampled, so that checkpoints of it are missing: {error}"
            ));
        }
    }

    /// Reports once that samples fail because fragscope cannot open more files.
    fn report_if_short_of_files(&mut self) {
        if !self.is_short_of_files && host::is_short_of_files() {
            self.is_short_of_files = true;
            self.notes.push(
                "fragscope can open hardly any more files (`ulimit -n`): processes are recorded \
                 without checkpoints, or with checkpoints that do not stop them"
                    .into(),
            );
        }
    }
}

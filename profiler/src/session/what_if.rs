//! `attach --what-if`: records the worker's events through probes and replays them at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use profiler_core::activity::ProbeCost;
use profiler_core::text::visible;
use profiler_core::view::WhatIf;
use profiler_lab::allocators::PlayableAllocator;
use profiler_lab::failure::Failure;
use profiler_lab::shadow::{Shadows, SharedWhatIf};
use profiler_probe::plan::ProbePlan;
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_target::{Target, as_caller};
use profiler_trace::record::TraceSink;
use profiler_trace::trace::{Checkpoint, Event, Item, SeedBlock};

use super::Ending;
use super::record::{
    DRAIN_INTERVAL, Output, ProbedRecording, RecordError, TraceWriteError, unless_gone,
};

/// The longest interval of checkpoints, which are the only times at which the shadows' memory is
/// known.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// What to compare.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WhatIfOptions {
    /// Allocators by name or path.
    pub allocators: Vec<String>,
    /// A shadow ends when it has more resident bytes than this.
    pub memory_limit: u64,
}

/// Shadows of a worker, fed by a separate thread.
pub(crate) struct WhatIfSession {
    shared: SharedWhatIf,
    remarks: Remarks,
    over: Arc<AtomicBool>,
    begun: Receiver<Result<(), RecordError>>,
    thread: Option<JoinHandle<Result<Ending, RecordError>>>,
    /// Why it ended before the session and its target did.
    ended: Option<String>,
}

/// What was reported about the recording that the shadows replay.
#[derive(Clone, Debug, Default)]
struct Remarks(Arc<Mutex<Vec<String>>>);

impl Remarks {
    fn push(&self, remark: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(format!("what if: {remark}"));
    }

    fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl WhatIfSession {
    /// Begins to follow the process.
    ///
    /// # Errors
    /// When an allocator is not available, in one sentence.
    pub(crate) fn start(
        pid: i32,
        options: &WhatIfOptions,
        sampling: SamplingOptions,
    ) -> Result<Self, Failure> {
        let find = |name: &String| {
            PlayableAllocator::find(name).map_err(|error| Failure {
                why: format!("{}: {error}", visible(name)),
                kind: error.kind(),
            })
        };
        let find_all = || {
            options
                .allocators
                .iter()
                .map(find)
                .collect::<Result<_, _>>()
        };
        let found: Result<Vec<PlayableAllocator>, Failure> =
            as_caller(find_all).map_err(|error| error.to_string())?;
        let allocators = found?;
        let memory_limit = options.memory_limit;
        let (shared, remarks) = (SharedWhatIf::default(), Remarks::default());
        let over = Arc::new(AtomicBool::new(false));
        let (for_thread, end) = ((shared.clone(), remarks.clone()), Arc::clone(&over));
        let (report, begun) = channel();
        let thread = profiler_target::start_thread("what-if", move || {
            let recording = match begin(pid, &allocators, memory_limit, sampling, for_thread) {
                Ok(recording) => recording,
                Err(error) => {
                    // The receiver may have ended.
                    let _ = report.send(Err(error));
                    return Ok(Ending::Done);
                }
            };
            // As above.
            let _ = report.send(Ok(()));
            follow(recording, &end)
        })
        .map_err(|error| error.to_string())?;
        Ok(Self {
            shared,
            remarks,
            over,
            begun,
            thread: Some(thread),
            ended: None,
        })
    }

    /// Waits until the worker is followed.
    ///
    /// # Errors
    /// Why it cannot be: what the kernel or the target does not permit.
    pub(crate) fn wait_until_begun(&mut self) -> Result<(), RecordError> {
        // A thread that panicked reports that when it is joined.
        self.begun.recv().unwrap_or(Ok(()))
    }

    /// The present results.
    pub(crate) fn get(&self) -> WhatIf {
        WhatIf {
            ended: self.ended.clone(),
            ..self.shared.get()
        }
    }

    /// What was reported about the recording that the shadows replay.
    pub(crate) fn notices(&self) -> Vec<String> {
        self.remarks.all()
    }

    /// Handles its end, if it has ended by itself.
    pub(crate) fn poll(&mut self) {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.wait();
        }
    }

    /// Ends it: removes the probes and the shadows.
    pub(crate) fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.wait();
    }

    fn wait(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let is_wanted = !self.over.load(Ordering::Relaxed);
        self.ended = match thread.join() {
            Ok(Ok(Ending::Done)) => is_wanted.then(|| "no shadow is left".to_owned()),
            // The session reports that the target is gone.
            Ok(Ok(_)) => None,
            Ok(Err(why)) => Some(why.to_string()),
            Err(_) => Some("an internal error (panic)".to_owned()),
        };
    }
}

impl Drop for WhatIfSession {
    fn drop(&mut self) {
        self.end();
    }
}

fn begin(
    pid: i32,
    allocators: &[PlayableAllocator],
    memory_limit: u64,
    sampling: SamplingOptions,
    (shared, remarks): (SharedWhatIf, Remarks),
) -> Result<ProbedRecording<ToShadows>, RecordError> {
    let sampler = Sampler::open(pid)?;
    let target = Target::open(pid)?;
    let plan = ProbePlan::for_recording(sampler.target())?;
    let recording = ProbedRecording::begin(sampler, &plan, sampling, |description| {
        let of_shadows = shared.clone();
        let shadows = Shadows::start(description.clone(), allocators, memory_limit, of_shadows)?;
        Ok(ToShadows {
            shadows,
            shared,
            remarks,
        })
    });
    let mut recording = recording.map_err(|error| unless_gone(&target, error))?;
    recording.checkpoint_at_least_every(CHECKPOINT_INTERVAL);
    Ok(recording)
}

fn follow(
    mut recording: ProbedRecording<ToShadows>,
    over: &AtomicBool,
) -> Result<Ending, RecordError> {
    let ending = loop {
        std::thread::sleep(DRAIN_INTERVAL);
        recording.record_events()?;
        recording.checkpoint_if_due()?;
        if let Some(how) = recording.check(None)? {
            break how;
        }
        if over.load(Ordering::Relaxed) || !recording.output().shadows.any() {
            break Ending::Done;
        }
    };
    recording.finish(&ending)?;
    Ok(ending)
}

/// Passes a recording on to the shadows.
struct ToShadows {
    shadows: Shadows,
    shared: SharedWhatIf,
    remarks: Remarks,
}

impl ToShadows {
    fn item(&mut self, item: Item) -> Result<(), TraceWriteError> {
        let events = self.shadows.events();
        self.shadows.item(item).map_err(|why| no_room(events, why))
    }
}

/// The program that shadows play is written into the folder for temporary files.
fn no_room(events: u64, why: std::io::Error) -> TraceWriteError {
    TraceWriteError::new(std::env::temp_dir(), events, why)
}

impl TraceSink for ToShadows {
    type Error = TraceWriteError;

    fn seed(&mut self, blocks: &[SeedBlock]) -> Result<(), TraceWriteError> {
        self.item(Item::Seed(blocks.to_vec()))
    }

    fn event(&mut self, event: &Event) -> Result<(), TraceWriteError> {
        self.item(Item::Event(*event))
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), TraceWriteError> {
        self.item(Item::Checkpoint(checkpoint.clone()))
    }
}

impl Output for ToShadows {
    fn progress(&mut self) -> Result<(), TraceWriteError> {
        let events = self.shadows.events();
        self.shadows.pass_on().map_err(|why| no_room(events, why))
    }

    /// There is no progress line.
    fn set_progress_note(&mut self, _note: String) {}

    fn set_cost(&mut self, cost: ProbeCost) {
        self.shared.set_cost(cost);
    }

    fn say(&mut self, what: &str) {
        self.remarks.push(what);
    }

    fn events(&self) -> u64 {
        self.shadows.events()
    }

    fn finish(self) -> Result<(), TraceWriteError> {
        self.shadows.finish();
        Ok(())
    }
}

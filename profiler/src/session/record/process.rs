//! `record --pid P`: records a running process until it or the recording ends.

use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use profiler_core::text::visible;
use profiler_probe::plan::ProbePlan;
use profiler_sampling::Sampler;
use profiler_target::Target;
use profiler_trace::whole_file::{Lock, LockError};
use tokio::signal::unix::{SignalKind, signal};

use super::checkpoint::CheckpointReason;
use super::lock;
use super::output::Output;
use super::probed::ProbedRecording;
use super::trace_file::TraceFile;
use super::{DRAIN_INTERVAL, RecordError, RecordOptions, create};
use crate::say;
use crate::session::Ending;
use crate::session::aside::aside;
use crate::session::signals::Signals;

/// Records the process until it ends, the duration is over, the budget is exceeded, or a signal
/// ends it.
///
/// # Errors
/// When it cannot be inspected or probed, or the file cannot be written.
pub(super) fn record(
    options: &RecordOptions,
    pid: i32,
    budget: Option<f64>,
) -> Result<Ending, RecordError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(options, pid, budget))
}

async fn run(
    options: &RecordOptions,
    pid: i32,
    budget: Option<f64>,
) -> Result<Ending, RecordError> {
    // Before anything is attached, so that no signal has its default action.
    let mut signals = Signals::new()?;
    let mut requests = signal(SignalKind::user_defined1())?;
    let decision = Arc::new(OnceLock::new());
    // Opening the target's files, loading the probes and the walk may take seconds.
    let mut begun = pin!(aside("begin", {
        let (options, decision) = (options.clone(), Arc::clone(&decision));
        move || {
            let target = Target::open(pid)?;
            begin(&options, pid, &decision).map_err(|error| unless_gone(&target, error))
        }
    }));
    let mut interrupted = None;
    let begun = tokio::select! {
        biased;
        name = signals.next() => {
            if decision.set(BeginDecision::Abandon).is_ok() {
                // What was begun on the target is undone when this process ends.
                say::line(format_args!("{name}: ended before the recording began"));
                return Ok(Ending::Interrupted(name));
            }
            interrupted = Some(Ending::Interrupted(name));
            tokio::select! {
                biased;
                begun = &mut begun => begun,
                name = signals.next() => return Ok(at_once(name)),
            }
        }
        begun = &mut begun => begun,
    };
    let (mut recording, _lock) = begun??;
    if let Some(ending) = interrupted {
        return finish(recording, ending, &mut signals).await;
    }
    recording.output_mut().say(&format!(
        "recording process {pid} into {}; its children are not recorded",
        visible(options.output.display())
    ));

    let deadline = options
        .duration
        .map(|duration| recording.began() + duration);
    let ending = loop {
        tokio::select! {
            biased;
            name = signals.next() => break Ending::Interrupted(name),
            _ = requests.recv() => recording.take_checkpoint(CheckpointReason::Requested)?,
            () = tokio::time::sleep(DRAIN_INTERVAL) => {}
        }
        recording.record_events()?;
        recording.checkpoint_if_due()?;
        if let Some(how) = recording.check(budget)? {
            break how;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break Ending::Done;
        }
    };
    finish(recording, ending, &mut signals).await
}

/// Ends a recording with a last checkpoint, which takes as long as a walk; a second signal ends the
/// wait for it.
async fn finish(
    recording: ProbedRecording<TraceFile>,
    ending: Ending,
    signals: &mut Signals,
) -> Result<Ending, RecordError> {
    let how = ending.clone();
    let finished = aside("end", move || recording.finish(&how));
    tokio::select! {
        biased;
        finished = finished => finished?.map(|()| ending),
        name = signals.next() => Ok(at_once(name)),
    }
}

/// The message for a user who does not wait: whatever holds the target is undone when this process
/// ends.
fn at_once(name: &'static str) -> Ending {
    say::line(format_args!(
        "{name}: ended at once: the file has no last checkpoint, and no more than was written by now"
    ));
    Ending::Interrupted(name)
}

/// Why recording `target` could not begin: if it is gone, that is the reason, whatever else failed.
pub(crate) fn unless_gone(target: &Target, error: RecordError) -> RecordError {
    match target.check() {
        Ok(()) => error,
        Err(gone) => RecordError::Gone(gone),
    }
}

/// A recording in progress, and the lock that keeps others from the same process.
type Begun = (ProbedRecording<TraceFile>, Option<Lock>);

/// What becomes of a recording that is about to begin, decided once.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum BeginDecision {
    /// Its file is created, and will be complete.
    Begin,
    /// A signal came before that: no file is touched.
    Abandon,
}

/// Attaches the probes and begins the file, unless another fragscope records the process.
fn begin(
    options: &RecordOptions,
    pid: i32,
    decision: &OnceLock<BeginDecision>,
) -> Result<Begun, RecordError> {
    let sampler = Sampler::open(pid)?;
    let began_ticks = sampler.target().began_ticks()?;
    let lock = match lock::take(pid, began_ticks) {
        Err(LockError::Held(_)) => return Err(RecordError::Taken(pid)),
        lock => lock,
    };
    let plan = ProbePlan::for_recording(sampler.target())?;
    let output = &options.output;
    // Another writer of this path is refused from now on, and not only once the probes are set.
    let file = create(output, &[])?;
    let mut recording = ProbedRecording::begin(sampler, &plan, options.sampling, |description| {
        if *decision.get_or_init(|| BeginDecision::Begin) == BeginDecision::Abandon {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        // An existing file is not lost for a recording that cannot begin: it is replaced with the
        // first bytes.
        Ok(TraceFile::begin(file, output, description)?)
    })?;
    if let Err(why) = &lock {
        recording.output_mut().say(&format!(
            "nothing keeps a second fragscope from recording process {pid} as well: {why}"
        ));
    }
    Ok((recording, lock.ok()))
}

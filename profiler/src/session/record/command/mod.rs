//! `record -- COMMAND`: a program started under the preloaded recorder.

mod child;
mod description;
mod session;
mod unrecorded;
mod words;

use std::ffi::OsString;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use profiler_target::{MemoryKills, ProcessTree, RecordRing};
use profiler_trace::trace::TraceDescription;
use profiler_trace::whole_file::{RuntimeDir, remove_unused};
use tokio::signal::unix::{SignalKind, signal};

use self::child::{end_of, program_file, start};
use self::description::{DESCRIBED_WITHIN, description, of_command};
use self::session::Session;
use self::unrecorded::run_unrecorded;
use super::preloaded::PreloadedRecording;
use super::trace_file::TraceFile;
use super::unrecorded::Unrecorded;
use super::{RecordEnding, RecordError, RecordOptions, create, monotonic_ns};
use crate::say;
use crate::session::Ending;
use crate::session::aside::aside;
use crate::session::signals::Signals;

/// The recorder, compiled by the build script.
const RECORDER: &[u8] = include_bytes!(env!("FRAGSCOPE_RECORDER"));
/// Its file name without the version.
const RECORDER_NAME: &str = "recorder";
/// A program is described after it has run for this long: until then it may still execute another
/// one.
const DESCRIBED_AFTER: Duration = Duration::from_millis(100);
/// How long the reader sleeps when there is nothing to read.
const IDLE_SLEEP: Duration = Duration::from_millis(1);

/// Runs the command under the recorder until it and its children have ended, the duration is over,
/// or a signal ends it.
///
/// # Errors
/// When the command cannot be started, or the file cannot be written.
pub(super) fn record(
    options: &RecordOptions,
    command: &[OsString],
    objects: bool,
) -> Result<RecordEnding, RecordError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(options, command, objects))
}

async fn run(
    options: &RecordOptions,
    command: &[OsString],
    objects: bool,
) -> Result<RecordEnding, RecordError> {
    // Before the command starts, so that no signal has its default action.
    let mut signals = Signals::new()?;
    let requests = signal(SignalKind::user_defined1())?;
    let recorder = RuntimeDir::first("the recorder", |dir| {
        dir.object(RECORDER_NAME, env!("CARGO_PKG_VERSION"), RECORDER)
    })?;
    let object = recorder.to_string_lossy().into_owned();
    let mut tree = ProcessTree::adopt()?;
    let file = create(&options.output, &program_file(command))?;
    let ring = RecordRing::new()?;
    let began_ns = monotonic_ns()?;
    let started_at = jiff::Timestamp::now();
    // A key's signal that comes later reaches the command as well.
    if let Some(name) = signals.pending().await {
        say::line(format_args!("{name}: ended before the command was started"));
        return Ok(RecordEnding::Session(Ending::Interrupted(name)));
    }
    if let Some(why) = words::ends_at_once(command) {
        say::line(format_args!("fragscope: {why}"));
    }
    let mut started = Started::of(start(command, &object, &ring, objects)?, &ring)?;
    // All processes are examined for it. If that is not possible, the leftover objects do no harm.
    drop(aside("unused", move || {
        remove_unused(RECORDER_NAME, &recorder)
    }));
    tree.add_command(started.child.id(), ring.file_number()?);

    // The ring holds what the program writes meanwhile.
    started.wait_until_described(&mut signals, &tree).await?;
    let description = started.description(&mut signals, object, started_at).await;
    let mut description = description.unwrap_or_else(|| of_command(command, started_at));
    description.objects = objects.then(|| "python".to_owned());
    let file = match TraceFile::begin(file, &options.output, &description) {
        Ok(file) => file,
        Err(why) => {
            // Nothing reads the ring any more.
            ring.close();
            return run_unrecorded(why.into(), started.child, &mut signals).await;
        }
    };
    let watch = std::mem::take(&mut started.watch);
    let recording = PreloadedRecording::new(ring, tree, file, began_ns, options.sampling, watch);
    let mut recording = match recording {
        Ok(recording) => recording,
        // The ring is dropped with it.
        Err(why) => return run_unrecorded(why.into(), started.child, &mut signals).await,
    };
    if objects {
        recording.expect_objects();
    }
    let early = started.interrupted;
    let mut session = Session::new(started, recording, signals, requests, options.duration);
    match session.run(early).await {
        Ok(ending) => session.conclude(ending, command).await,
        Err(RecordError::Write(why)) => session.go_on_unrecorded(why.into()).await,
        Err(other) => Err(other),
    }
}

/// A command that has just been started.
struct Started {
    child: Child,
    began: Instant,
    /// How it ended, if it has.
    status: Option<ExitStatus>,
    /// The signal that has come, if one has.
    interrupted: Option<&'static str>,
    watch: Unrecorded,
    /// Counts processes that the kernel kills for lack of memory meanwhile.
    kills: MemoryKills,
}

impl Started {
    fn of(child: Child, ring: &RecordRing) -> Result<Self, RecordError> {
        let kills = MemoryKills::of(child.id() as i32);
        Ok(Self {
            child,
            began: Instant::now(),
            status: None,
            interrupted: None,
            watch: Unrecorded::new(ring.file_number()?),
            kills,
        })
    }

    /// Waits until it can be described, it has ended, or a signal has come.
    async fn wait_until_described(
        &mut self,
        signals: &mut Signals,
        tree: &ProcessTree,
    ) -> Result<(), RecordError> {
        while self.status.is_none()
            && self.interrupted.is_none()
            && self.began.elapsed() < DESCRIBED_AFTER
        {
            tokio::select! {
                biased;
                name = signals.next() => self.interrupted = Some(name),
                () = tokio::time::sleep(IDLE_SLEEP) => {}
            }
            self.watch.check(self.child.id(), tree);
            self.status = end_of(&mut self.child)?;
        }
        Ok(())
    }

    /// The trace's description of it; `None` if it has ended, because its pid may have been reused,
    /// or if it must end at once.
    async fn description(
        &mut self,
        signals: &mut Signals,
        recorder: String,
        started_at: jiff::Timestamp,
    ) -> Option<TraceDescription> {
        if self.status.is_some() || self.interrupted.is_some() {
            return None;
        }
        tokio::select! {
            biased;
            name = signals.next() => {
                self.interrupted = Some(name);
                None
            }
            described = description(self.child.id(), recorder, started_at) => described,
            () = tokio::time::sleep(DESCRIBED_WITHIN) => None,
        }
    }
}

//! `record -- COMMAND`: a program started under the preloaded recorder.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_common::ring::RING_VARIABLE;
use profiler_core::allocator::PRELOAD;
use profiler_core::host::MemoryGroup;
use profiler_core::text::visible;
use profiler_core::units;
use profiler_target::{
    MemoryKills, ProcessTree, RecordRing, Target, has_borrowed_privileges, has_ended, not_preloaded,
};
use profiler_trace::trace::{RecordedBy, TraceDescription};
use profiler_trace::whole_file::{RuntimeDir, remove_unused};
use tokio::signal::unix::{SignalKind, signal};

use super::checkpoint::CheckpointReason;
use super::describe::{Origin, describe};
use super::preloaded::{GivenUp, PreloadedRecording};
use super::trace_file::{TraceFile, TraceWriteError};
use super::unrecorded::{LONGEST_LOADING, Unrecorded};
use super::{RecordEnding, RecordError, RecordOptions, create, monotonic_ns};
use crate::say;
use crate::session::Ending;
use crate::session::aside::aside;
use crate::session::signals::Signals;

/// The recorder, compiled by the build script.
const RECORDER: &[u8] = include_bytes!(env!("FRAGSCOPE_RECORDER"));
/// What its file is called, before the version.
const RECORDER_NAME: &str = "recorder";

/// A program is described once it has run so long: until then it may still execute another one.
const DESCRIBED_AFTER: Duration = Duration::from_millis(100);
/// It is described in so much time, or not but by its arguments: its files may be on a disk that hangs.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(2);
/// The exit code where the command ended well and was not recorded to its end.
const NOT_RECORDED: u8 = 1;
/// Between two checks whether a command that is not recorded has ended.
const UNRECORDED_SLEEP: Duration = Duration::from_millis(20);
/// Events taken before signals and the clock are checked.
const EVENTS_PER_STEP: usize = 1 << 14;
/// How long the reader sleeps when there is nothing to read.
const IDLE_SLEEP: Duration = Duration::from_millis(1);
/// Processes that are to end get a final checkpoint, in so much time at most.
const FINAL_CHECKPOINTS_TIMEOUT: Duration = Duration::from_millis(150);
/// At the end of the duration the one that is being taken then is waited for so long.
const FINAL_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a command that was asked to end is waited for, to say what became of it.
const END_TIMEOUT: Duration = Duration::from_millis(200);
/// Between two checks of which processes are left.
const PROCESS_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a process that may be left is waited for: a child that was announced and has not begun (its
/// fork failed), and one of which it is not known where it comes from.
const CHILD_TIMEOUT: Duration = Duration::from_secs(2);
/// Processes that outlive the command by so much are reported.
const SURVIVORS_REPORTED_AFTER: Duration = Duration::from_secs(1);

/// How a recording of a command ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum CommandEnding {
    /// The command ended so, and all that it started.
    Command(ExitStatus),
    /// It was recorded as long as was asked, and asked to end.
    Duration,
    /// This signal ended the recording before the command.
    Signal(&'static str),
    /// The ring was closed.
    GivenUp(GivenUp),
}

/// Runs the command under the recorder until it and its children have ended, the duration is over or
/// a signal ends it.
///
/// # Errors
/// When the command cannot be started or the file not be written.
pub(super) fn record(
    options: &RecordOptions,
    command: &[OsString],
) -> Result<RecordEnding, RecordError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(options, command))
}

async fn run(options: &RecordOptions, command: &[OsString]) -> Result<RecordEnding, RecordError> {
    // Before the command starts, so that a signal never finds the default action.
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
    let mut child = start(command, &object, &ring)?;
    // All processes are looked at for it. Where they cannot be, what is left is in nobody's way.
    drop(aside("unused", move || {
        remove_unused(RECORDER_NAME, &recorder)
    }));
    tree.add_command(child.id(), ring.file_number()?);
    let mut watch = Unrecorded::new(ring.file_number()?);
    let kills = MemoryKills::of(child.id() as i32);
    let began = Instant::now();

    // The ring holds what the program writes meanwhile.
    let (mut status, mut interrupted) = (None, None);
    while status.is_none() && interrupted.is_none() && began.elapsed() < DESCRIBED_AFTER {
        tokio::select! {
            biased;
            name = signals.next() => interrupted = Some(name),
            () = tokio::time::sleep(IDLE_SLEEP) => {}
        }
        watch.check(child.id(), &tree);
        status = end_of(&mut child)?;
    }
    let description = match status {
        // Its number may be another's by now.
        Some(_) => None,
        // It is asked to end at once.
        None if interrupted.is_some() => None,
        None => tokio::select! {
            biased;
            name = signals.next() => {
                interrupted = Some(name);
                None
            }
            described = description(child.id(), object, started_at) => described,
            () = tokio::time::sleep(DESCRIBED_WITHIN) => None,
        },
    };
    let description = description.unwrap_or_else(|| of_command(command, started_at));
    let file = TraceFile::begin(file, &options.output, &description);
    let file = match file {
        Ok(file) => file,
        Err(why) => {
            // Nobody takes what the ring holds.
            ring.close();
            return run_unrecorded(why.into(), child, &mut signals).await;
        }
    };
    let recording = PreloadedRecording::new(ring, tree, file, began_ns, options.sampling, watch);
    let recording = match recording {
        Ok(recording) => recording,
        // The ring is gone with it.
        Err(why) => return run_unrecorded(why.into(), child, &mut signals).await,
    };
    let mut session = Session {
        recording,
        child,
        status,
        signals,
        requests,
        kills,
        began,
        deadline: options.duration.map(|duration| began + duration),
        processes_checked_at: began,
        status_at: status.map(|_| Instant::now()),
        ended_at: None,
        reported: false,
        signalled: None,
    };
    match session.run(interrupted).await {
        Ok(ending) => session.conclude(ending, command).await,
        Err(RecordError::Write(why)) => {
            session.recording.close();
            run_unrecorded(why.into(), session.child, &mut session.signals).await
        }
        Err(other) => Err(other),
    }
}

/// Waits for a command that cannot be recorded any more: whoever started fragscope in its place waits for it,
/// and wants its exit code.
async fn run_unrecorded(
    why: RecordError,
    mut child: Child,
    signals: &mut Signals,
) -> Result<RecordEnding, RecordError> {
    if !matches!(end_of(&mut child), Ok(None)) {
        return Err(why);
    }
    say::line(format_args!(
        "fragscope: {why}; the command (process {}) goes on without being recorded, and is waited for",
        child.id()
    ));
    let mut is_signalled = false;
    loop {
        if let Some(status) = end_of(&mut child)? {
            return Ok(RecordEnding::Command(match exit_code(status) {
                0 => NOT_RECORDED,
                own => own,
            }));
        }
        tokio::select! {
            name = signals.next() => {
                if is_signalled {
                    return Ok(RecordEnding::Session(Ending::Interrupted(name)));
                }
                is_signalled = true;
                if !reached_command(name, signals) {
                    // It may be ending by itself.
                    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
                }
            }
            () = tokio::time::sleep(UNRECORDED_SLEEP) => {}
        }
    }
}

/// Whether the command got this signal as well: of a terminal's key, which is for all that run in its
/// foreground. All others are passed on to it, as SIGTERM.
fn reached_command(name: &str, signals: &Signals) -> bool {
    name == "SIGINT" && !signals.interrupt_was_sent()
}

/// What the trace says of the command's first process, which runs under this recorder.
async fn description(
    pid: u32,
    recorder: String,
    started_at: jiff::Timestamp,
) -> Option<TraceDescription> {
    let described = aside("describe", move || {
        let target = Target::open(pid.cast_signed()).ok()?;
        let origin = Origin::Preload {
            listed: &recorder,
            mapped: &recorder,
        };
        let described = describe(&target, &[], origin, started_at);
        // Of one that ends meanwhile only a part is found.
        target.check().is_ok().then_some(described)
    });
    described.await.ok().flatten()
}

/// A command being recorded.
struct Session {
    recording: PreloadedRecording,
    child: Child,
    status: Option<ExitStatus>,
    signals: Signals,
    requests: tokio::signal::unix::Signal,
    /// What the kernel ends for want of memory meanwhile.
    kills: MemoryKills,
    began: Instant,
    deadline: Option<Instant>,
    /// When it is next checked which processes are left.
    processes_checked_at: Instant,
    /// When the command's end was seen.
    status_at: Option<Instant>,
    /// When all was read that it wrote until then.
    ended_at: Option<Instant>,
    reported: bool,
    /// The signal that came first, and until when checkpoints are taken before the command gets it.
    signalled: Option<(&'static str, Option<Instant>)>,
}

impl Session {
    /// No step of it waits for anything. `early` is a signal that has come already.
    async fn run(&mut self, mut early: Option<&'static str>) -> Result<CommandEnding, RecordError> {
        loop {
            let has_read = self.recording.step(EVENTS_PER_STEP)?;
            let busy = has_read || self.recording.is_taking_checkpoints();
            // Now it is known which processes there are.
            if let Some(name) = early.take() {
                self.signal(name);
            }
            tokio::select! {
                biased;
                name = self.signals.next() => {
                    if let Some(status) = self.status {
                        // It ended by itself, and processes of its were recorded since.
                        return Ok(CommandEnding::Command(status));
                    }
                    if self.signalled.is_some() {
                        return Ok(CommandEnding::Signal(self.signalled.map_or(name, |(first, _)| first)));
                    }
                    self.signal(name);
                }
                _ = self.requests.recv() => self.recording.start_checkpoints(CheckpointReason::Requested),
                () = tokio::time::sleep(if has_read { Duration::ZERO } else { IDLE_SLEEP }) => {}
            }
            let now = Instant::now();
            if let Some((name, Some(until))) = self.signalled
                && (now >= until || !self.recording.is_taking_checkpoints())
            {
                self.end();
                self.signalled = Some((name, None));
            }
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                self.take_final_checkpoints().await?;
                self.end();
                return Ok(CommandEnding::Duration);
            }
            if let Some(why) = self.recording.given_up() {
                return Ok(CommandEnding::GivenUp(why));
            }
            if self.status.is_none() {
                self.status = end_of(&mut self.child)?;
                if self.status.is_some() {
                    self.status_at = Some(now);
                    self.processes_checked_at = now;
                }
            }
            if self.signalled.is_some() && self.status_at.is_some_and(|at| now - at >= END_TIMEOUT)
            {
                // Whoever ended it waits.
                self.recording.abandon_checkpoints();
            }
            if now < self.processes_checked_at {
                continue;
            }
            self.recording.watch();
            if self.status.is_none() {
                self.kills.follow();
            }
            self.recording.reap(self.child.id());
            // What is still in the ring may be of processes that are not known yet.
            if let Some(status) = self.status.filter(|_| !busy)
                && !self.is_left(status, now)
                // What they wrote before they ended, forks among it, is read by now.
                && !self.recording.step(EVENTS_PER_STEP)?
            {
                return Ok(CommandEnding::Command(status));
            }
            if self.status.is_none() || !busy {
                self.processes_checked_at = now + PROCESS_CHECK_INTERVAL;
            }
        }
    }

    /// Ends the recording, and reports what became of its command.
    async fn conclude(
        self,
        ending: CommandEnding,
        command: &[OsString],
    ) -> Result<RecordEnding, RecordError> {
        let why_nothing = self.recording.is_empty().then(|| {
            let early = self.ended_early(&ending);
            nothing_recorded(command, early)
        });
        let (mut recording, mut child, mut signals) = (self.recording, self.child, self.signals);
        if let Some(why) = why_nothing {
            recording.say(&why);
        }
        match ending {
            CommandEnding::Command(status) if !status.success() => {
                let is_killed = status.signal() == Some(Signal::SIGKILL as i32);
                let group = self.kills.group().filter(|_| is_killed);
                let why = group.map_or_else(String::new, want_of_memory);
                recording.say(&format!("the command {}{why}", how(status)));
            }
            CommandEnding::Duration if !ends_soon(&mut child, &mut signals).await => {
                recording.say(&format!(
                    "the command (process {}) got SIGTERM, and goes on without being recorded",
                    child.id()
                ));
            }
            _ => {}
        }
        let finished = match ending {
            CommandEnding::GivenUp(_) => recording.break_off(),
            _ => recording.finish(),
        };
        if let Err(why) = finished {
            return run_unrecorded(why.into(), child, &mut signals).await;
        }
        match ending {
            CommandEnding::Command(status) => Ok(RecordEnding::Command(exit_code(status))),
            CommandEnding::Duration => Ok(RecordEnding::Session(Ending::Done)),
            CommandEnding::Signal(name) => Ok(RecordEnding::Session(Ending::Interrupted(name))),
            CommandEnding::GivenUp(why) => {
                run_unrecorded(RecordError::GivenUp(why), child, &mut signals).await
            }
        }
    }

    /// Who ended the command, if it ended so soon that it was still being loaded, most likely.
    fn ended_early(&self, ending: &CommandEnding) -> Option<String> {
        if self.began.elapsed() >= LONGEST_LOADING {
            return None;
        }
        let killed = self.status.and_then(|status| status.signal());
        match (ending, self.signalled, killed) {
            (CommandEnding::Signal(name), _, _) => Some((*name).to_owned()),
            (CommandEnding::Duration, _, _) => Some("the end of --duration".to_owned()),
            (_, Some((name, _)), _) => Some(name.to_owned()),
            (_, None, Some(number)) => Some(format!("signal {number}")),
            (_, None, None) => None,
        }
    }

    /// The first signal: the recording goes on until the command has ended.
    fn signal(&mut self, name: &'static str) {
        // A stopped command does not end.
        self.recording.limit_stops(FINAL_CHECKPOINTS_TIMEOUT);
        self.recording.start_checkpoints(CheckpointReason::Final);
        let passed_on = !reached_command(name, &self.signals);
        let until = passed_on.then(|| Instant::now() + FINAL_CHECKPOINTS_TIMEOUT);
        self.signalled = Some((name, until));
        let gets = if passed_on {
            ", which gets SIGTERM,"
        } else {
            ""
        };
        self.recording.say(&format!(
            "{name}: recording until the command{gets} has ended; a second signal leaves it running"
        ));
    }

    /// Asks the command to end, as whoever ends a recording would.
    fn end(&self) {
        // Once its end was seen, its number is another's.
        if self.status.is_none() {
            // It may be ending by itself.
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        }
    }

    async fn take_final_checkpoints(&mut self) -> Result<(), TraceWriteError> {
        self.recording.start_checkpoints(CheckpointReason::Final);
        let began = Instant::now();
        while self.recording.is_taking_checkpoints() && began.elapsed() < FINAL_CHECKPOINT_TIMEOUT {
            if began.elapsed() >= FINAL_CHECKPOINTS_TIMEOUT
                && !self.recording.cut_checkpoints_short()
            {
                break;
            }
            let idle = match self.recording.step(EVENTS_PER_STEP)? {
                true => Duration::ZERO,
                false => IDLE_SLEEP,
            };
            tokio::select! {
                biased;
                // Whoever sent it does not want to wait.
                _ = self.signals.next() => self.recording.abandon_checkpoints(),
                () = tokio::time::sleep(idle) => {}
            }
        }
        Ok(())
    }

    /// Whether recorded processes outlive the command, which has ended so.
    fn is_left(&mut self, status: ExitStatus, now: Instant) -> bool {
        let ended_at = *self.ended_at.get_or_insert(now);
        let Some(survivors) = self.recording.survivors(self.child.id()) else {
            return true;
        };
        let Some(pid) = survivors.first else {
            // One that was forked last may not have written anything yet, or its parent is just ending.
            let may_be_left = survivors.has_unknown || self.recording.expects_children();
            return may_be_left && now - ended_at < CHILD_TIMEOUT;
        };
        if now - ended_at > SURVIVORS_REPORTED_AFTER && !std::mem::replace(&mut self.reported, true)
        {
            let count = survivors.count;
            self.recording.say(&format!(
                "the command {}; of its processes {count} run on ({pid}{}) and are recorded until \
                 they end: Ctrl-C ends the recording and leaves them running",
                how(status),
                if count > 1 { ", ..." } else { "" },
            ));
        }
        true
    }
}

/// How the command has ended, if it has.
fn end_of(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    match has_ended(child.id() as i32) {
        true => child.try_wait(),
        false => Ok(None),
    }
}

/// Whether the command ends within a moment, and before a signal comes.
async fn ends_soon(child: &mut Child, signals: &mut Signals) -> bool {
    let until = Instant::now() + END_TIMEOUT;
    loop {
        if !matches!(end_of(child), Ok(None)) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        tokio::select! {
            biased;
            _ = signals.next() => return false,
            () = tokio::time::sleep(IDLE_SLEEP) => {}
        }
    }
}

/// Why nothing was recorded of this command, which `early` ended soon after its start.
fn nothing_recorded(command: &[OsString], early: Option<String>) -> String {
    if has_borrowed_privileges() {
        return "nothing was recorded: this fragscope has privileges of its file (capabilities, or a \
                set-user-ID bit), and the kernel lets no program open what such a process has open. \
                Record with a copy of it that has none: `cp` does not copy them"
            .to_owned();
    }
    let why = command.first().and_then(|program| not_preloaded(program));
    if let (None, Some(early)) = (&why, early) {
        return format!("nothing was recorded: {early} came before the command had begun");
    }
    let why = why.unwrap_or_else(|| {
        "the program was not loaded by the dynamic loader with its environment as it was: it, or \
         what started it, drops LD_PRELOAD, or it became another user before it was executed"
            .to_owned()
    });
    format!(
        "nothing was recorded: {why}. Record it while it runs: `sudo fragscope record --pid PID -o \
         FILE`"
    )
}

/// What can be said of a command that ended before it could be inspected.
fn of_command(command: &[OsString], started_at: jiff::Timestamp) -> TraceDescription {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    TraceDescription {
        command: Some(words.join(" ")),
        recorder: Some(RecordedBy::Preload),
        started_at: Some(started_at.to_string()),
        ..TraceDescription::default()
    }
}

fn start(command: &[OsString], object: &str, ring: &RecordRing) -> Result<Child, RecordError> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| std::io::Error::other("name a command to record"))?;
    let mut preload = OsString::from(object);
    if let Some(others) = std::env::var_os(PRELOAD).filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    Command::new(program)
        .args(arguments)
        .env(PRELOAD, preload)
        .env(RING_VARIABLE, ring.place()?)
        .spawn()
        .map_err(|why| RecordError::Start {
            program: program.to_string_lossy().into_owned(),
            why,
        })
}

/// The file of the program, where the command names one: a name without a slash is looked up elsewhere.
fn program_file(command: &[OsString]) -> Vec<&Path> {
    let program = command.first().map(Path::new).into_iter();
    let is_path = |program: &&Path| program.as_os_str().as_bytes().contains(&b'/');
    program.filter(is_path).collect()
}

/// The code with which a shell would end.
fn exit_code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    code as u8
}

/// That the kernel ended a process of this group.
fn want_of_memory(group: &MemoryGroup) -> String {
    let limit = match group.max_bytes {
        Some(limit) => format!(", whose limit is {},", units::bytes(limit)),
        None => String::new(),
    };
    format!(
        ": the kernel ended a process of its memory control group {}{limit} for want of memory",
        visible(&group.path)
    )
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

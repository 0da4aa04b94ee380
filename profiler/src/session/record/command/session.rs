//! The recording of a command, from its description to its end.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use profiler_target::MemoryKills;

use super::child::{END_TIMEOUT, ask_to_end, end_of, ends_soon, exit_code, reached_command};
use super::unrecorded::run_unrecorded;
use super::words::{how, nothing_recorded, want_of_memory};
use super::{IDLE_SLEEP, Started};
use crate::hints::Hint;
use crate::session::Ending;
use crate::session::record::checkpoint::CheckpointReason;
use crate::session::record::preloaded::{GivenUp, PreloadedRecording};
use crate::session::record::trace_file::TraceWriteError;
use crate::session::record::unrecorded::LONGEST_LOADING;
use crate::session::record::{RecordEnding, RecordError};
use crate::session::signals::Signals;

/// Events taken before signals and the clock are checked.
const EVENTS_PER_STEP: usize = 1 << 14;
/// Processes that are about to end get a final checkpoint, within at most this time.
const FINAL_CHECKPOINTS_TIMEOUT: Duration = Duration::from_millis(150);
/// At the end of the recording's duration, a checkpoint in progress is waited for this long.
const FINAL_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval of checks which processes are left.
const PROCESS_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How long to wait for a process that may be left: a child that was announced and has not begun
/// (its fork failed), or a process of unknown origin.
const CHILD_TIMEOUT: Duration = Duration::from_secs(2);
/// Processes that outlive the command by this long are reported.
const SURVIVORS_REPORTED_AFTER: Duration = Duration::from_secs(1);

/// How a recording of a command ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum CommandEnding {
    /// The command, and everything that it started, ended in this way.
    Command(ExitStatus),
    /// It was recorded for the requested duration, and asked to end.
    Duration,
    /// This signal ended the recording before the command.
    Signal(&'static str),
    /// The ring was closed.
    GivenUp(GivenUp),
}

/// A command being recorded.
pub(super) struct Session {
    recording: PreloadedRecording,
    child: Child,
    status: Option<ExitStatus>,
    signals: Signals,
    requests: tokio::signal::unix::Signal,
    /// Counts processes that the kernel kills for lack of memory meanwhile.
    kills: MemoryKills,
    began: Instant,
    deadline: Option<Instant>,
    /// When to check next which processes are left.
    processes_checked_at: Instant,
    /// When the command's end was seen.
    status_at: Option<Instant>,
    /// When everything that it wrote until its end was read.
    ended_at: Option<Instant>,
    reported: bool,
    /// The signal that came first.
    signalled: Option<&'static str>,
    /// Set while checkpoints of the command's state at that time are taken.
    asked_to_end: Option<AskedToEnd>,
}

/// A first signal, for a moment.
#[derive(Copy, Clone)]
struct AskedToEnd {
    /// No checkpoint begins after that.
    until: Instant,
    /// Whether the command received it too; otherwise it gets SIGTERM after its checkpoints.
    has_reached_command: bool,
}

impl Session {
    /// For a command that has just been started, recorded for at most `duration`.
    pub(super) fn new(
        started: Started,
        recording: PreloadedRecording,
        signals: Signals,
        requests: tokio::signal::unix::Signal,
        duration: Option<Duration>,
    ) -> Self {
        let Started {
            child,
            began,
            status,
            kills,
            ..
        } = started;
        Self {
            recording,
            child,
            status,
            signals,
            requests,
            kills,
            began,
            deadline: duration.map(|duration| began + duration),
            processes_checked_at: began,
            status_at: status.map(|_| Instant::now()),
            ended_at: None,
            reported: false,
            signalled: None,
            asked_to_end: None,
        }
    }

    /// Waits for the command, of which nothing more can be recorded.
    pub(super) async fn go_on_unrecorded(
        mut self,
        why: RecordError,
    ) -> Result<RecordEnding, RecordError> {
        self.recording.close();
        run_unrecorded(why, self.child, &mut self.signals).await
    }

    /// None of its steps blocks. `early` is a signal that has already come.
    pub(super) async fn run(
        &mut self,
        mut early: Option<&'static str>,
    ) -> Result<CommandEnding, RecordError> {
        loop {
            let has_read = self.recording.step(EVENTS_PER_STEP)?;
            let busy = has_read || self.recording.is_taking_checkpoints();
            // The processes are known now.
            if let Some(name) = early.take() {
                self.signal(name);
            }
            tokio::select! {
                biased;
                name = self.signals.next() => {
                    if let Some(status) = self.status {
                        // It ended by itself, and its processes have been recorded since.
                        return Ok(CommandEnding::Command(status));
                    }
                    if let Some(first) = self.signalled {
                        return Ok(CommandEnding::Signal(first));
                    }
                    self.signal(name);
                }
                _ = self.requests.recv() => self.recording.start_checkpoints(CheckpointReason::Requested),
                () = tokio::time::sleep(if has_read { Duration::ZERO } else { IDLE_SLEEP }) => {}
            }
            let now = Instant::now();
            if let Some(asked) = self.asked_to_end
                && (now >= asked.until || !self.recording.is_taking_checkpoints())
            {
                // From now on it frees what it had.
                self.recording.cut_checkpoints_short();
                if !asked.has_reached_command {
                    self.end();
                }
                self.asked_to_end = None;
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
                // The user who ended it is waiting.
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
            // The remaining events in the ring may be from processes that are not known yet.
            if let Some(status) = self.status.filter(|_| !busy)
                && !self.is_left(status, now)
                // Everything that they wrote before they ended, including forks, has been read by
                // now.
                && !self.recording.step(EVENTS_PER_STEP)?
            {
                // The last events may show that it damaged the ring.
                let given_up = self.recording.given_up();
                return Ok(given_up.map_or(CommandEnding::Command(status), CommandEnding::GivenUp));
            }
            if self.status.is_none() || !busy {
                self.processes_checked_at = now + PROCESS_CHECK_INTERVAL;
            }
        }
    }

    /// Ends the recording, and reports how its command ended.
    pub(super) async fn conclude(
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
                let why = group.map_or_else(String::new, |(group, _)| want_of_memory(&group));
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

    /// What ended the command, if it ended so soon that it was most likely still being loaded.
    fn ended_early(&self, ending: &CommandEnding) -> Option<String> {
        if self.began.elapsed() >= LONGEST_LOADING {
            return None;
        }
        let killed = self.status.and_then(|status| status.signal());
        match (ending, self.signalled, killed) {
            (CommandEnding::Signal(name), _, _) => Some((*name).to_owned()),
            (CommandEnding::Duration, _, _) => Some(Hint::DurationOver.words().to_owned()),
            (_, Some(name), _) => Some(name.to_owned()),
            (_, None, Some(number)) => Some(format!("signal {number}")),
            (_, None, None) => None,
        }
    }

    /// Handles the first signal: the recording continues until the command has ended.
    fn signal(&mut self, name: &'static str) {
        // A stopped command does not end.
        self.recording.limit_stops(FINAL_CHECKPOINTS_TIMEOUT);
        self.recording.start_checkpoints(CheckpointReason::Final);
        let has_reached_command = reached_command(name, &self.signals);
        self.signalled = Some(name);
        self.asked_to_end = Some(AskedToEnd {
            until: Instant::now() + FINAL_CHECKPOINTS_TIMEOUT,
            has_reached_command,
        });
        let gets = match has_reached_command {
            true => "",
            false => ", which gets SIGTERM,",
        };
        self.recording.say(&format!(
            "{name}: recording until the command{gets} has ended; a second signal leaves it running"
        ));
    }

    /// Asks the command to end, as whoever ends a recording would.
    fn end(&self) {
        // Once its end was seen, its pid may belong to another process.
        if self.status.is_none() {
            ask_to_end(&self.child);
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
                // The sender does not want to wait.
                _ = self.signals.next() => self.recording.abandon_checkpoints(),
                () = tokio::time::sleep(idle) => {}
            }
        }
        Ok(())
    }

    /// Whether recorded processes outlive the command, which has ended in this way.
    fn is_left(&mut self, status: ExitStatus, now: Instant) -> bool {
        let ended_at = *self.ended_at.get_or_insert(now);
        let Some(survivors) = self.recording.survivors(self.child.id()) else {
            return true;
        };
        let Some(pid) = survivors.first else {
            // A recently forked process may not have written anything yet, or its parent is just
            // ending.
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

//! The process of one player.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use procfs::process::Process;
use procfs::{ProcError, ProcResult};
use profiler_common::program::PlayerMessage;
use profiler_target::{kernel_text, time_of_ticks};

use super::command::{command, spawn};
use super::confine::Confinement;
use super::control::Control;
use super::guard::PlayGuard;
use super::players::{LOWEST, kill, players, set_priority, wait_for_all_of};
use super::preload::Preload;
use super::{PlayError, ReplayProgram, Setup};

/// How long to wait for a message before progress is checked, in ms.
const WAIT_MS: u8 = 50;
/// How long after its pipe is closed a process has ended: little of its end remains by then.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How long after the end of a player's first process its other processes, which were killed with
/// it, have ended.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// What a player's processes are doing.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Activity {
    /// The processor time that they took so far.
    pub(super) used: Duration,
    /// Whether a thread of theirs runs, or waits for a processor.
    pub(super) is_runnable: bool,
}

/// A running player. It is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    /// The guard that suspends it with fragscope.
    guard: Arc<PlayGuard>,
    control: Control,
    /// The allocator that should have been loaded, until that was seen.
    to_be_loaded: Option<Preload>,
    /// When its pipe was found closed.
    closed_since: Option<Instant>,
    /// Whether nobody wants its result any more or waits for it.
    is_cancelled: bool,
    /// The value of [`kernel_kills`] when it was started.
    kernel_kills_before: u64,
}

/// Whether the work of a player is still wanted. There may be thousands of processes to look at:
/// this is checked before each.
pub(super) type Wanted<'a> = dyn Fn() -> bool + 'a;

fn still(wanted: &Wanted<'_>) -> Result<(), PlayError> {
    match wanted() {
        true => Ok(()),
        false => Err(PlayError::Cancelled),
    }
}

/// How many processes the kernel's OOM killer has ended so far, on the host or in a control group;
/// 0 if it does not say.
fn kernel_kills() -> u64 {
    let counts = kernel_text("/proc/vmstat").unwrap_or_default();
    let count = counts
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

impl Child {
    /// Starts a player.
    pub(super) fn start(program: &ReplayProgram, setup: &Setup) -> Result<Self, PlayError> {
        let control = Control::new(setup, program.may_execute())?;
        let confinement = Confinement::of_host();
        let is_other_user = confinement.is_other_user();
        let preload = setup.preload.as_deref();
        let mut preload = preload
            .map(|path| Preload::new(path, is_other_user))
            .transpose()?;
        let mut command = command(program, setup, &control, preload.as_mut())?;
        confinement.apply(&mut command.command, command.grants);
        let (process, guard) = spawn(&mut command.command)?;
        let own = Pid::from_raw(process.id() as i32);
        if setup.background {
            // Not before it executes: until then the lock is held, and on a busy host that would
            // take long.
            set_priority(own, LOWEST);
        }
        let mut child = Self {
            process,
            guard,
            control,
            to_be_loaded: preload,
            closed_since: None,
            is_cancelled: false,
            kernel_kills_before: kernel_kills(),
        };
        // It waits for an answer before it plays. Somebody may just have ended that guard.
        if child.guard.watch(own).is_err() {
            child.keep_guarded()?;
        }
        Ok(child)
    }

    /// Replaces a guard that was ended by somebody, or by the kernel because it was suspended.
    pub(super) fn keep_guarded(&mut self) -> Result<(), PlayError> {
        if self.guard.is_alive() {
            return Ok(());
        }
        self.guard = PlayGuard::shared().map_err(PlayError::Start)?;
        self.guard.watch(self.own()).map_err(PlayError::Start)?;
        // The former guard may have suspended it.
        let _ = killpg(self.own(), Signal::SIGCONT);
        Ok(())
    }

    /// The player's own process.
    fn own(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// Its pid.
    pub(super) fn pid(&self) -> i32 {
        self.own().as_raw()
    }

    /// It is not wanted any more: nobody waits for its end.
    pub(super) fn cancel(&mut self) {
        self.is_cancelled = true;
    }

    /// Its control block.
    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// The pid of one of its processes; `None` if that does not run. The player's word is not
    /// trusted further: a process outside its group is not its own.
    pub(super) fn pid_of(&self, process: u32) -> io::Result<Option<i32>> {
        let pid = self.control.pid(process)?;
        Ok(pid.filter(|&pid| self.has(pid)))
    }

    /// Whether a process with this pid belongs to it and has not ended.
    fn has(&self, pid: i32) -> bool {
        let stat = || Process::new(pid)?.stat();
        stat().is_ok_and(|stat| stat.pgrp == self.pid() && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Whether all of its processes together have more bytes resident or swapped. Pages that they
    /// share count once.
    ///
    /// `shared` is the most that its own shared mappings may come to; the kernel does not
    /// distinguish them from mappings that an object has made to hide what it takes.
    pub(super) fn has_more_than(
        &self,
        limit: u64,
        shared: u64,
        wanted: &Wanted<'_>,
    ) -> Result<bool, PlayError> {
        let limit = limit.saturating_add(shared);
        let pids = self.pids(wanted)?;
        let sum = |of: fn(&Process) -> ProcResult<u64>| -> Result<u64, PlayError> {
            pids.iter().try_fold(0u64, |sum, &pid| {
                still(wanted)?;
                // A process that has just ended has nothing.
                let bytes = Process::new(pid).and_then(|one| of(&one)).unwrap_or(0);
                Ok(sum.saturating_add(bytes))
            })
        };
        if sum(resident_bytes)? <= limit {
            return Ok(false);
        }
        Ok(pids.len() == 1 || sum(proportional_bytes)? > limit)
    }

    /// What its processes are doing.
    pub(super) fn activity(&self, wanted: &Wanted<'_>) -> Result<Activity, PlayError> {
        let mut all = Activity::default();
        for pid in self.pids(wanted)? {
            still(wanted)?;
            // A process that has just ended does nothing.
            let Ok(process) = Process::new(pid) else {
                continue;
            };
            let ticks = process.stat().map_or(0, |stat| {
                // Includes children that it has waited for.
                let waited = u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
                stat.utime + stat.stime + waited
            });
            all.used += time_of_ticks(ticks);
            let threads = process.tasks().into_iter().flatten().flatten();
            let mut states = threads.filter_map(|thread| Some(thread.stat().ok()?.state));
            all.is_runnable |= states.any(|state| state == 'R');
        }
        Ok(all)
    }

    /// Its existing processes.
    fn pids(&self, wanted: &Wanted<'_>) -> Result<Vec<i32>, PlayError> {
        let mut pids: Vec<i32> = self
            .control
            .pids()?
            .into_iter()
            .map(|(_, pid)| pid)
            .collect();
        // Before it has begun to play it reports nothing.
        pids.push(self.pid());
        pids.sort_unstable();
        pids.dedup();
        let mut there = Vec::new();
        for pid in pids {
            still(wanted)?;
            if self.has(pid) {
                there.push(pid);
            }
        }
        Ok(there)
    }

    /// Waits for a message for a while. A failure of the player is an error.
    pub(super) fn receive(
        &mut self,
        wanted: &Wanted<'_>,
    ) -> Result<Option<PlayerMessage>, PlayError> {
        players().reap_adopted();
        let Some(messages) = &mut self.process.stdout else {
            return Err(PlayError::Io(io::ErrorKind::BrokenPipe.into()));
        };
        let mut waiting = [PollFd::new(messages.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(WAIT_MS)) {
            Ok(0) => {
                // Other processes of the player may keep the pipe open.
                if let Some(status) = self.ended()? {
                    return Err(self.why_it_ended(status));
                }
                // A process that failed reported it before it ended.
                let lost = self.lost(wanted)?.filter(|_| !self.has_sent());
                return match lost {
                    Some(process) => {
                        Err(self.crashed(&format!("process {process} of the recording")))
                    }
                    None => Ok(None),
                };
            }
            Err(Errno::EINTR) => return Ok(None),
            Err(error) => return Err(PlayError::Io(error.into())),
            Ok(_) => {}
        }
        let mut byte = [0];
        let read = messages.read(&mut byte)?;
        if read == 0 {
            return self.closed();
        }
        let message = PlayerMessage::of(byte[0]);
        // A player that failed may be gone before its mappings can be read.
        if message != Some(PlayerMessage::Failure) {
            self.check_loaded()?;
        }
        match message {
            None => Err(PlayError::Player(format!("it sent {}", byte[0]))),
            Some(PlayerMessage::Failure) => Err(self.control.failure()?),
            sent => Ok(sent),
        }
    }

    /// Whether a message from it waits to be received.
    fn has_sent(&self) -> bool {
        let Some(messages) = &self.process.stdout else {
            return false;
        };
        let mut waiting = [PollFd::new(messages.as_fd(), PollFlags::POLLIN)];
        poll(&mut waiting, PollTimeout::ZERO) == Ok(1)
    }

    /// Its pipe was closed: because it ended, or by an object that it loaded, which may run for
    /// ever.
    fn closed(&mut self) -> Result<Option<PlayerMessage>, PlayError> {
        if let Some(status) = self.ended()? {
            return Err(self.why_it_ended(status));
        }
        let since = *self.closed_since.get_or_insert_with(Instant::now);
        if since.elapsed() > ENDS_WITHIN {
            return Err(PlayError::Player(
                "it closed its pipe to fragscope and went on".to_owned(),
            ));
        }
        thread::sleep(Duration::from_millis(1));
        Ok(None)
    }

    /// A process of the program, by its number there, that has ended before its part was played:
    /// the others would wait for it in vain.
    fn lost(&self, wanted: &Wanted<'_>) -> Result<Option<u32>, PlayError> {
        for (process, pid) in self.control.pids()? {
            still(wanted)?;
            // A process that leaves reports it before it ends.
            if !self.has(pid) && self.control.pid(process)? == Some(pid) {
                return Ok(Some(process));
            }
        }
        Ok(None)
    }

    /// How its first process ended, if it has. It is not reaped before the drop: until then nobody
    /// else gets its pid, by which others may end it.
    fn ended(&self) -> io::Result<Option<process::ExitStatus>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let raw = match waitid(Id::Pid(Pid::from_raw(self.pid())), flags) {
            Ok(WaitStatus::Exited(_, code)) => (code & 0xff) << 8,
            Ok(WaitStatus::Signaled(_, signal, _)) => signal as i32,
            Ok(_) | Err(Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(process::ExitStatus::from_raw(raw)))
    }

    /// Lets a player that waits go on.
    pub(super) fn go_on(&mut self) -> io::Result<()> {
        match &mut self.process.stdin {
            Some(answers) => answers.write_all(b"."),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The loader continues without what it cannot load, and only prints a message.
    fn check_loaded(&mut self) -> Result<(), PlayError> {
        let Some(preload) = self.to_be_loaded.take() else {
            return Ok(());
        };
        let maps = kernel_text(format!("/proc/{}/maps", self.pid()))?;
        if preload.is_in(&maps) {
            return Ok(());
        }
        let path = preload.path().to_owned();
        let why = self.last_line();
        Err(PlayError::NotLoaded { path, why })
    }

    fn why_it_ended(&mut self, status: process::ExitStatus) -> PlayError {
        if status.signal() == Some(Signal::SIGKILL as i32) {
            let for_memory = kernel_kills() > self.kernel_kills_before;
            return PlayError::Killed { for_memory };
        }
        if let Some(signal) = status.signal() {
            let name = Signal::try_from(signal).map_or("an unknown signal", Signal::as_str);
            return self.crashed(name);
        }
        if let Ok(why) = self.control.failure()
            && !matches!(why, PlayError::Player(_))
        {
            return why;
        }
        let said = self.last_line();
        PlayError::Player(format!("it ended by itself ({status}) {said}"))
    }

    /// The error for a crash, with how it crashed and what it wrote last.
    fn crashed(&mut self, how: &str) -> PlayError {
        let said = self.last_line();
        PlayError::Crashed(match said.is_empty() {
            true => how.to_owned(),
            false => format!("{how}: {said}"),
        })
    }

    /// The last line that it has written to stderr.
    fn last_line(&mut self) -> String {
        let Some(said) = &mut self.process.stderr else {
            return String::new();
        };
        let mut waiting = [PollFd::new(said.as_fd(), PollFlags::POLLIN)];
        let mut text = [0; 4096];
        let read = match poll(&mut waiting, PollTimeout::ZERO) {
            Ok(1) => said.read(&mut text).unwrap_or(0),
            _ => 0,
        };
        let text = String::from_utf8_lossy(&text[..read]);
        text.lines().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Before it is reaped: then its pid may be reused.
        let own = Pid::from_raw(self.pid());
        if !players().begin_to_end(own) {
            // It was reaped when all were ended.
            return;
        }
        self.guard.forget(own);
        // All of its processes: until the first is reaped, nobody else can have its pid.
        kill(own);
        // Where kernel calls are not restricted it may have left the group.
        let _ = self.process.kill();
        // Gigabytes take their time to be torn down.
        let is_waited_for = self.is_cancelled && {
            let name = "player-end".to_owned();
            let waits = thread::Builder::new()
                .name(name)
                .spawn(move || wait_for_end(own));
            waits.is_ok()
        };
        if !is_waited_for {
            wait_for_end(own);
        }
    }
}

/// Waits for the end of a player that was killed.
fn wait_for_end(player: Pid) {
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(player), ended) == Err(Errno::EINTR) {}
    // Until all were waited for the number is theirs, and after that until another one is started:
    // none is while the last is waited for. Between two turns whoever ends all players has the lock.
    wait_for_all_of(player, Instant::now() + KILLED_WITHIN, players);
    players().has_ended(player);
}

/// Resident and swapped bytes that are of no file.
fn resident_bytes(process: &Process) -> ProcResult<u64> {
    let status = process.status()?;
    let all = [status.rssanon, status.rssshmem, status.vmswap];
    Ok(all.into_iter().flatten().sum::<u64>() << 10)
}

/// The same with each page divided by the number of processes that have it.
fn proportional_bytes(process: &Process) -> ProcResult<u64> {
    let rollup = process.smaps_rollup()?;
    let all = rollup.memory_map_rollup.0;
    let map = &all
        .first()
        .ok_or(ProcError::Incomplete(None))?
        .extension
        .map;
    let bytes = |name: &str| map.get(name).copied().unwrap_or(0);
    Ok(bytes("Pss_Anon") + bytes("Pss_Shmem") + bytes("SwapPss"))
}

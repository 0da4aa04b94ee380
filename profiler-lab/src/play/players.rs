//! The running players, and how they are ended.

use std::io;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use profiler_target::{children_of, reap_adopted};

/// The players that run.
static PLAYERS: Mutex<Players> = Mutex::new(Players {
    all: Vec::new(),
    ending: Vec::new(),
    others: None,
    are_over: false,
});

pub(super) struct Players {
    pub(super) all: Vec<Pid>,
    /// Those that a thread is ending: until they were waited for their numbers are theirs.
    ending: Vec<Pid>,
    /// Set while players run and their orphans are adopted: the children that this process had
    /// before, which others wait for.
    others: Option<Vec<u32>>,
    /// Whether the process is about to exit.
    pub(super) are_over: bool,
}

impl Players {
    /// Their orphaned processes become our children to reap: PID 1 does not do so everywhere.
    pub(super) fn adopt(&mut self) -> io::Result<()> {
        if self.others.is_none() {
            prctl::set_child_subreaper(true)?;
            self.others = Some(children_of(process::id()));
        }
        Ok(())
    }

    /// Reaps adopted processes that have ended. The lock is held while a player is started.
    pub(super) fn reap_adopted(&self) {
        let Some(others) = &self.others else { return };
        reap_adopted(|pid| {
            let player = Pid::from_raw(pid);
            let is_player = self.all.contains(&player) || self.ending.contains(&player);
            is_player || others.contains(&pid.unsigned_abs())
        });
    }

    /// A player was ended and waited for.
    pub(super) fn has_ended(&mut self, player: Pid) {
        self.ending.retain(|one| *one != player);
        if self.all.is_empty() && self.ending.is_empty() && self.others.take().is_some() {
            // Nobody would wait for what is adopted from now on.
            let _ = prctl::set_child_subreaper(false);
        }
    }

    /// The caller that takes a player out of the list ends it: nothing else may use its pid from
    /// then on.
    pub(super) fn begin_to_end(&mut self, player: Pid) -> bool {
        let at = self.all.iter().position(|one| *one == player);
        let found = at.map(|at| self.all.swap_remove(at));
        self.ending.extend(found);
        found.is_some()
    }
}

pub(super) fn players() -> MutexGuard<'static, Players> {
    // Nothing that holds the lock panics.
    PLAYERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the running players, for a process that is about to exit while some of its threads still
/// have players: they would die with it, but leave a zombie each where nobody reaps orphans. Waits
/// up to `limit` for all of them.
pub fn end_all(limit: Duration) {
    let all = {
        let mut players = players();
        players.are_over = true;
        let all = std::mem::take(&mut players.all);
        players.ending.extend(&all);
        all
    };
    // From now on: a player that was just being started is among them, and needs its time too.
    let deadline = Instant::now() + limit;
    all.iter().for_each(|player| kill(*player));
    for player in all {
        wait_for_all_of(player, deadline, || ());
        players().has_ended(player);
    }
    while !players().ending.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The priority of processes that yield to everything else that wants a processor, and of all
/// others.
pub(super) const LOWEST: libc::c_int = 19;
const NORMAL: libc::c_int = 0;

/// Sets the priority of all threads of a player's processes, if permitted.
pub(super) fn set_priority(group: Pid, priority: libc::c_int) {
    // SAFETY: takes numbers.
    unsafe { libc::setpriority(libc::PRIO_PGRP, group.as_raw() as libc::id_t, priority) };
}

/// Kills the processes of a player. Those of the lowest priority need a processor to end, which a
/// busy host gives them late.
pub(super) fn kill(group: Pid) {
    // Only root may; others wait for longer.
    set_priority(group, NORMAL);
    // A process that has ended and was not reaped still has its pid.
    let _ = killpg(group, Signal::SIGKILL);
}

/// Waits until the killed processes of a group have ended and are no zombies. The result of `lock`
/// is held while they are checked, not while waiting for them.
pub(super) fn wait_for_all_of<L>(group: Pid, deadline: Instant, lock: impl Fn() -> L) {
    loop {
        let locked = lock();
        let are_gone = reap(group);
        drop(locked);
        if are_gone || Instant::now() >= deadline {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reaps the processes of a group that have ended. Returns whether there is none any more.
fn reap(group: Pid) -> bool {
    let any = Pid::from_raw(-group.as_raw());
    loop {
        match waitpid(any, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}

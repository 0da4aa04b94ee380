//! The guard that suspends players while fragscope is suspended, because nothing limits their
//! memory then, and kills them when fragscope has ended.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use profiler_target::{Deadline, Guard, IDLE_CHECK, ProcessGroup, is_suspended};

/// Its process name.
const GUARD_NAME: &CStr = c"play-guard";

/// The guard of all running players.
#[derive(Debug)]
pub(super) struct PlayGuard(Mutex<Guard>);

/// A request to it, in four bytes: a player's group to watch, or with the sign changed to stop
/// watching.
type Request = i32;

impl PlayGuard {
    /// The existing guard, or a new one.
    ///
    /// # Errors
    /// If none can be started.
    pub(super) fn shared() -> io::Result<Arc<Self>> {
        static SHARED: Mutex<Weak<PlayGuard>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade().filter(|guard| guard.is_alive()) {
            return Ok(running);
        }
        let own_state = File::open("/proc/self/stat")?;
        // Never essential: without it players run on.
        let guard = Guard::start(GUARD_NAME, &[own_state.as_raw_fd()], |channel, _| {
            serve(channel, &own_state);
        })?;
        let new = Arc::new(Self(Mutex::new(guard)));
        *shared = Arc::downgrade(&new);
        Ok(new)
    }

    /// Whether it is still there, not ended by somebody.
    pub(super) fn is_alive(&self) -> bool {
        self.get().is_alive()
    }

    /// Makes it watch this group from now on.
    ///
    /// # Errors
    /// If it was ended.
    pub(super) fn watch(&self, player: Pid) -> io::Result<()> {
        self.ask(player.as_raw())
    }

    /// Makes it stop watching, before the number may be reused.
    pub(super) fn forget(&self, player: Pid) {
        // A guard that was ended watches nothing.
        let _ = self.ask(-player.as_raw());
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        self.get().channel().write_all(&request.to_ne_bytes())
    }

    fn get(&self) -> std::sync::MutexGuard<'_, Guard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guard's life.
fn serve(mut channel: UnixStream, state_of_fragscope: &File) {
    // If it were suspended while players are, it could not resume them.
    let mut deadline = Deadline::new().ok();
    let mut moved_on: Option<Instant> = None;
    let mut players = Vec::new();
    let mut are_suspended = false;
    let send = |players: &[ProcessGroup], signal| {
        players.iter().for_each(|player| player.send(signal));
    };
    // It checks as often whether fragscope is suspended as fragscope checks the players.
    while take_requests(&mut channel, &mut players, super::CHECK_EVERY) {
        let is_suspended = is_suspended(state_of_fragscope.as_raw_fd());
        // While fragscope is suspended it reaps nobody, so all pids are still theirs.
        if !take_requests(&mut channel, &mut players, Duration::ZERO) {
            break;
        }
        match (is_suspended, are_suspended) {
            // Also those that were started between two looks.
            (true, _) => send(&players, Signal::SIGSTOP),
            (false, true) => send(&players, Signal::SIGCONT),
            (false, false) => {}
        }
        are_suspended = is_suspended;
        if let Some(deadline) = &mut deadline
            && (are_suspended || moved_on.is_none_or(|at| at.elapsed() >= IDLE_CHECK))
        {
            // If this fails, it ends all the same, unless somebody suspends it.
            let _ = match are_suspended {
                true => deadline.unset(),
                false => deadline.set_idle(),
            };
            moved_on = (!are_suspended).then(Instant::now);
        }
    }
    // fragscope is gone. The groups it removed have ended; the others end now, whatever they are
    // doing.
    send(&players, Signal::SIGKILL);
}

/// Handles fragscope's requests, after waiting a while for them; false at the end of the channel.
fn take_requests(
    channel: &mut UnixStream,
    players: &mut Vec<ProcessGroup>,
    mut wait: Duration,
) -> bool {
    loop {
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        match poll(
            &mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(0) => return true,
            Err(Errno::EINTR) => continue,
            _ => {}
        }
        let mut request = Request::default().to_ne_bytes();
        if channel.read_exact(&mut request).is_err() {
            return false;
        }
        let request = Request::from_ne_bytes(request);
        let player = Pid::from_raw(request.saturating_abs());
        players.retain(|one| one.leader() != player);
        if request > 0 {
            players.extend(ProcessGroup::of_leader(player));
        }
        wait = Duration::ZERO;
    }
}

//! The helper processes that wait for files in place of fragscope: which exist, and who is using
//! which.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::life;
use super::messages::{Answer, Request};
use super::{NAME, SILENT_FOR};
use crate::forked::{fork_off, is_over};
use crate::guard::apart;
use crate::privileges::Rights;
use crate::proc_dir::PidFd;

/// Idle helpers kept for later requests: as many as there are threads reading memory at a time.
const MAX_IDLE: usize = 4;

/// A process that opens files and reads memory.
#[derive(Debug)]
pub(super) struct Helper {
    channel: UnixStream,
    pub(super) process: PidFd,
    /// Its rights: those of the thread that started it.
    rights: Rights,
}

/// The processes of this fragscope.
#[derive(Debug)]
pub(super) struct Helpers {
    /// Those that have nothing to do.
    idle: Vec<Helper>,
    /// All helpers that were started and may not have ended: busy ones, idle ones, and killed ones
    /// that cannot end.
    pub(super) started: Vec<PidFd>,
    /// Devices that did not answer, and when.
    silent: Vec<(u64, Instant)>,
}

static HELPERS: Mutex<Helpers> = Mutex::new(Helpers {
    idle: Vec::new(),
    started: Vec::new(),
    silent: Vec::new(),
});

pub(super) fn helpers() -> MutexGuard<'static, Helpers> {
    // Nothing that holds the lock panics.
    HELPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Helpers {
    /// Collects those that have ended.
    fn reap(&mut self) {
        self.started.retain(|process| {
            let is_alive = process.is_alive();
            if !is_alive {
                process.reap();
            }
            is_alive
        });
    }

    pub(super) fn is_silent(&mut self, device: u64) -> bool {
        self.silent.retain(|(_, at)| at.elapsed() < SILENT_FOR);
        self.silent.iter().any(|(silent, _)| *silent == device)
    }
}

/// Why there is no helper.
pub(super) enum NoHelper {
    /// Many do not answer.
    TooMany,
    /// The kernel gives none.
    NotStarted,
    /// fragscope is about to exit, which waiting itself would prevent.
    IsOver,
}

impl Helper {
    /// A helper with the rights of this thread, if fewer than `most` are busy.
    pub(super) fn idle_or_new(most: usize) -> Result<Self, NoHelper> {
        let rights = Rights::of_this_thread();
        let mut helpers = helpers();
        helpers.reap();
        // Idle helpers that somebody killed are excluded.
        let is_free = |one: &Helper| one.rights == rights && one.process.is_alive();
        let (mut free, others): (Vec<_>, _) = helpers.idle.drain(..).partition(is_free);
        others.into_iter().for_each(Self::end);
        let busy = helpers.started.len().saturating_sub(free.len());
        let found = if busy < most { free.pop() } else { None };
        helpers.idle = free;
        if let Some(found) = found {
            return Ok(found);
        }
        if busy >= most {
            return Err(NoHelper::TooMany);
        }
        // The lock is held until the child exists: the child has its own copy of it and does not
        // take it.
        let new = Self::start(rights).map_err(|_| match is_over() {
            true => NoHelper::IsOver,
            false => NoHelper::NotStarted,
        })?;
        helpers.started.push(new.process.clone());
        Ok(new)
    }

    pub(super) fn start(rights: Rights) -> io::Result<Self> {
        let (channel, others) = UnixStream::pair()?;
        let nowhere = File::options().read(true).write(true).open("/dev/null")?;
        let (_, process) = fork_off(move || {
            apart::separate(NAME, &[others.as_raw_fd()], nowhere.as_raw_fd());
            life::serve(&others);
        })?;
        Ok(Self {
            channel,
            process,
            rights,
        })
    }

    /// Its answer, if it comes before `deadline`.
    pub(super) fn ask(&mut self, request: &Request, deadline: Instant) -> io::Result<Answer> {
        // In case somebody suspended it.
        let _ = self.process.send(Signal::SIGCONT);
        request.send(&self.channel)?;
        let left = deadline.saturating_duration_since(Instant::now());
        // A time of zero would be none.
        let left = left.max(Duration::from_millis(1));
        self.channel.set_read_timeout(Some(left))?;
        Answer::receive(&self.channel)
    }

    /// Returns an idle helper.
    pub(super) fn put_back(self) {
        let mut helpers = helpers();
        if helpers.idle.len() < MAX_IDLE && !is_over() {
            helpers.idle.push(self);
        } else {
            drop(helpers);
            self.end();
        }
    }

    /// Stops using it, because a device did not answer it, or it has ended.
    pub(super) fn give_up(self, device: Option<u64>) {
        self.end();
        let silent = device.map(|device| (device, Instant::now()));
        helpers().silent.extend(silent);
    }

    /// Kills it, without waiting for its end.
    fn end(self) {
        kill(&self.process);
    }
}

fn kill(process: &PidFd) {
    // It may already be gone.
    let _ = process.send(Signal::SIGKILL);
}

/// Kills all helpers, including those that a thread is waiting for. For a process that is about to
/// exit.
pub(crate) fn kill_all() {
    helpers().started.iter().for_each(kill);
}

//! ptrace on all threads of a process. It belongs to the OS thread that began it, and the kernel
//! detaches and resumes everything that this thread traced when it ends, however it ends. Stops are
//! looked at without consuming them (`WNOWAIT`), so that a signal that was on its way to the target is
//! still delivered after any of these ends.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::{Pid, gettid};
use profiler_core::addr::RemoteAddr;
use profiler_core::threads::Thread;

use super::reaper::{Reaper, reap};
use super::{StopError, already_traced, gone};
use crate::proc_dir::{ProcDir, field};

/// How long a thread in an uninterruptible wait is waited for: the others stand still meanwhile, and
/// it may not come for minutes.
const KEPT_DEADLINE: Duration = Duration::from_millis(50);

/// A thread that was seized.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Held {
    /// Asked to stop.
    Asked,
    /// Stopped, with the number of the signal that it was about to get, or 0.
    Stopped(i32),
    /// Exited meanwhile, or a zombie from the start.
    Gone,
}

/// The tracer of one process.
pub(super) struct Tracer {
    dir: Arc<ProcDir>,
    held: BTreeMap<i32, Held>,
    deadline: Instant,
    kept_deadline: Instant,
    limit: Duration,
}

impl Tracer {
    /// Of the process behind `dir`, whose threads must have stopped by `limit` from now.
    pub(super) fn new(dir: Arc<ProcDir>, limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            dir,
            held: BTreeMap::new(),
            deadline: now + limit,
            kept_deadline: now + limit.min(KEPT_DEADLINE),
            limit,
        }
    }

    /// Stops all threads, and gives those that stand still with their registers. On an error some
    /// may stand still, and some be about to.
    pub(super) fn stop_all(&mut self) -> Result<Vec<Thread>, StopError> {
        let reaper = Reaper::start(self.dir.pid(), self.deadline).map_err(io::Error::from)?;
        // A running thread may start others, or execute another program, so look again until nothing
        // new is found and all that stopped still stand.
        while self.seize_new(&reaper)? || self.some_run_on() {
            self.wait_for_stops()?;
        }
        if !self.dir.pidfd().is_alive() {
            return Err(StopError::Gone);
        }
        let stopped = self
            .held
            .iter()
            .filter(|(_, h)| matches!(h, Held::Stopped(_)));
        let threads = stopped.filter_map(|(&tid, _)| registers(tid)).collect();
        drop(reaper);
        // From then on the reaper let go of them.
        match Instant::now() < self.deadline {
            true => Ok(threads),
            false => Err(self.timed_out(self.dir.pid(), self.limit)),
        }
    }

    /// Seizes and interrupts the threads not yet known; whether there were any.
    fn seize_new(&mut self, reaper: &Reaper) -> Result<bool, StopError> {
        let mut found = false;
        for tid in self.dir.tids().map_err(gone)? {
            if self.held.contains_key(&tid) {
                continue;
            }
            if Instant::now() >= self.deadline {
                return Err(self.timed_out(tid, self.limit));
            }
            found = true;
            reaper.watch(tid);
            let held = match seize(tid) {
                Ok(held) => held,
                Err(error) => self.refused(tid, error)?,
            };
            self.held.insert(tid, held);
        }
        Ok(found)
    }

    /// A thread that could not be seized: harmless when it is a zombie, else the reason.
    fn refused(&self, tid: i32, error: Errno) -> Result<Held, StopError> {
        if matches!(self.thread_state(tid), None | Some('Z' | 'X')) {
            return Ok(Held::Gone);
        }
        let status = self.dir.text(&format!("task/{tid}/status"))?;
        match field(&status, "TracerPid") {
            // One that we trace has taken the number by an exec.
            Some(tracer) if tracer == gettid().as_raw().unsigned_abs().into() => Ok(interrupt(tid)),
            Some(tracer) if tracer != 0 => Err(already_traced(tracer)),
            // It was of a dead thread until an exec.
            _ if error == Errno::EPERM => seize(tid).map_err(|_| StopError::NotPermitted),
            _ => Err(StopError::Io(error.into())),
        }
    }

    fn thread_state(&self, tid: i32) -> Option<char> {
        let stat = self.dir.text(&format!("task/{tid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Looks again at those that stopped, and whether any of them runs.
    ///
    /// A thread that executes another program takes the number of its process, and with it the place of
    /// one that had stopped or was dead: it may not be traced yet, or have been asked to stop by the
    /// number that it had before.
    fn some_run_on(&mut self) -> bool {
        let process = self.dir.pid();
        let is_dead = matches!(self.thread_state(process), None | Some('Z' | 'X'));
        let mut found = false;
        self.held.retain(|&tid, held| {
            if *held == Held::Gone && (tid != process || is_dead) {
                return true;
            }
            *held = inspect(tid);
            if matches!(held, Held::Stopped(_)) {
                return true;
            }
            found = true;
            // One that is not traced is seized anew.
            *held == Held::Asked && interrupt(tid) == Held::Asked
        });
        found
    }

    fn timed_out(&self, tid: i32, limit: Duration) -> StopError {
        let state = self.thread_state(tid).unwrap_or('?');
        StopError::TimedOut { tid, state, limit }
    }

    fn wait_for_stops(&mut self) -> Result<(), StopError> {
        let mut pause = Duration::from_micros(10);
        loop {
            let Some(tid) = self.inspect_asked() else {
                return Ok(());
            };
            let now = Instant::now();
            let is_kept = now >= self.kept_deadline && self.thread_state(tid) == Some('D');
            if is_kept || now >= self.deadline {
                let limit = if is_kept { KEPT_DEADLINE } else { self.limit };
                return Err(self.timed_out(tid, limit));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    /// Looks at those that were asked to stop; one that has not, if there is any.
    ///
    /// Dead ones are let go at once, but for the process's own: a thread that executes another program
    /// waits, inside of that, until all others have been taken note of, which is the tracer's to do.
    fn inspect_asked(&mut self) -> Option<i32> {
        let process = self.dir.pid();
        let dir = Arc::clone(&self.dir);
        let is_foreign =
            |tid: i32| tid != process && dir.file(&format!("task/{tid}/stat")).is_err();
        let mut waiting = None;
        self.held.retain(|&tid, held| {
            if *held == Held::Asked {
                *held = inspect(tid);
                // A number that was listed may have changed hands before it was seized, and cannot since.
                if let Held::Stopped(signal) = *held
                    && is_foreign(tid)
                {
                    detach(tid, signal);
                    *held = Held::Gone;
                    return false;
                }
            }
            match *held {
                Held::Asked => {
                    if tid == process {
                        // It may be another thread's number since it was asked.
                        *held = interrupt(tid);
                    }
                    waiting = Some(tid);
                }
                Held::Gone if tid != process => return !reap(tid),
                Held::Gone | Held::Stopped(_) => {}
            }
            true
        });
        waiting
    }

    /// Lets every stopped thread run on, with the signal that it was about to get; whether that let go
    /// of all. A thread that never came to a stop, or a process that died while it was traced, is let go by
    /// the end of this OS thread alone: until then its parent would wait for it in vain.
    pub(super) fn detach_all(&mut self) -> bool {
        let mut all = true;
        for (&tid, held) in &self.held {
            // A thread that executed another program meanwhile has taken the number of its process, and
            // with it the place of one that was about to get another signal.
            let now = match *held {
                Held::Stopped(_) => inspect(tid),
                Held::Asked | Held::Gone => Held::Gone,
            };
            all &= match now {
                Held::Stopped(signal) => detach(tid, signal),
                Held::Asked | Held::Gone => false,
            };
        }
        self.held.clear();
        all
    }
}

/// Takes hold of a thread, and asks it to stop.
fn seize(tid: i32) -> nix::Result<Held> {
    match ptrace::seize(Pid::from_raw(tid), ptrace::Options::empty()) {
        Ok(()) => Ok(interrupt(tid)),
        Err(Errno::ESRCH) => Ok(Held::Gone),
        Err(error) => Err(error),
    }
}

/// Asks a thread that is traced to stop.
fn interrupt(tid: i32) -> Held {
    match ptrace::interrupt(Pid::from_raw(tid)) {
        Ok(()) => Held::Asked,
        Err(_) => Held::Gone,
    }
}

/// Lets a stopped thread run on, with this signal if it is not 0; whether it was there to be let go.
pub(super) fn detach(tid: i32, signal: i32) -> bool {
    // SAFETY: PTRACE_DETACH takes a tid and a signal number and touches no memory of ours. Real-time
    // signals have no name in nix, so this is not its wrapper.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0, signal as libc::c_ulong) == 0 }
}

/// The signal that a stopped thread is about to get, or 0, by what `waitid` has as its status:
/// `signal | PTRACE_EVENT_STOP << 8` for our interrupt and for a group-stop, the bare signal when one is
/// about to be delivered (ptrace(2), "Signal-delivery-stop").
pub(super) fn signal_of(status: i32) -> i32 {
    if status >> 8 == 0 { status & 0x7f } else { 0 }
}

/// Whether a thread that was asked to stop has, without consuming the news.
fn inspect(tid: i32) -> Held {
    let options = libc::__WALL | libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: siginfo_t is plain data for which all zeros is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid siginfo_t that lives across the call.
    let result = unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &raw mut info, options) };
    if result != 0 {
        return Held::Gone;
    }
    // SAFETY: waitid fills the fields of SIGCHLD, or leaves zeros.
    let status = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_TRAPPED | libc::CLD_STOPPED => Held::Stopped(signal_of(status)),
        libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED => Held::Gone,
        _ => Held::Asked,
    }
}

fn registers(tid: i32) -> Option<Thread> {
    let registers = ptrace::getregs(Pid::from_raw(tid)).ok()?;
    Some(Thread {
        tid: tid as u32,
        stack_pointer: RemoteAddr::new(registers.rsp),
        program_counter: RemoteAddr::new(registers.rip),
        thread_pointer: RemoteAddr::new(registers.fs_base),
    })
}

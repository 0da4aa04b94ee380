//! ptrace on all threads of a process. The trace belongs to the OS thread that began it; when that
//! thread ends, for whatever reason, the kernel detaches and resumes everything it traced. Stops
//! are examined without consuming them (`WNOWAIT`), so that a signal on its way to the target is
//! delivered in any of these cases.

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
use crate::stat::Stat;

/// How long to wait for a thread in an uninterruptible wait: the others are stopped meanwhile, and
/// it may take minutes.
const KEPT_DEADLINE: Duration = Duration::from_millis(50);

/// The longest pause between checks of threads that have not stopped yet.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// A thread that was seized.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Held {
    /// Asked to stop.
    Asked,
    /// Asked to stop, but of another process: its id was reused between being listed and being
    /// seized.
    Foreign,
    /// Stopped.
    Stopped,
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

    /// Stops all threads, and returns the stopped ones with their registers. After an error some
    /// may be stopped, and some about to be.
    pub(super) fn stop_all(&mut self) -> Result<Vec<Thread>, StopError> {
        let reaper = Reaper::start(self.dir.pid(), self.deadline).map_err(io::Error::from)?;
        // A running thread may start others, or execute another program, so this is repeated until
        // nothing new is found and all that stopped are still stopped.
        let threads = loop {
            let standing = match self.seize_new(&reaper)? {
                true => None,
                false => self.standing(),
            };
            match standing {
                Some(threads) => break threads,
                None => self.wait_for_stops()?,
            }
        };
        if !self.dir.pidfd().is_alive() {
            return Err(StopError::Gone);
        }
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
            let held = match reaper.during(|| seize(tid)) {
                Ok(held) => held,
                Err(error) => self.refused(tid, error, reaper)?,
            };
            // Once seized, its id is not reused, except that of the process, which is ours.
            let is_foreign = held == Held::Asked && !self.dir.has_thread(tid);
            self.held
                .insert(tid, if is_foreign { Held::Foreign } else { held });
        }
        Ok(found)
    }

    /// A thread that could not be seized: harmless if it is a zombie, else the reason.
    fn refused(&self, tid: i32, error: Errno, reaper: &Reaper) -> Result<Held, StopError> {
        if matches!(self.thread_state(tid), None | Some('Z' | 'X')) {
            return Ok(Held::Gone);
        }
        let status = self.dir.text(&format!("task/{tid}/status"))?;
        match field(&status, "TracerPid") {
            // A thread that we trace has taken the id by an exec.
            Some(tracer) if tracer == gettid().as_raw().unsigned_abs().into() => Ok(interrupt(tid)),
            Some(tracer) if tracer != 0 => Err(already_traced(tracer, tid)),
            // It belonged to a dead thread until an exec.
            _ if error == Errno::EPERM => {
                let seized = reaper.during(|| seize(tid));
                seized.map_err(|_| StopError::NotPermitted)
            }
            _ => Err(StopError::Io(error.into())),
        }
    }

    fn thread_state(&self, tid: i32) -> Option<char> {
        let stat = self.dir.text(&format!("task/{tid}/stat")).ok()?;
        Some(Stat::parse(stat.as_bytes())?.state)
    }

    /// Checks those that stopped again, and returns them with their registers; `None` if any of
    /// them runs.
    ///
    /// A thread that executes another program takes the id of its process, and with it the place of
    /// a thread that had stopped or was dead: it may not be traced yet, or may have been asked to
    /// stop under its previous id.
    fn standing(&mut self) -> Option<Vec<Thread>> {
        let process = self.dir.pid();
        let is_dead = matches!(self.thread_state(process), None | Some('Z' | 'X'));
        let mut threads = Some(Vec::with_capacity(self.held.len()));
        self.held.retain(|&tid, held| {
            if *held == Held::Gone && (tid != process || is_dead) {
                return true;
            }
            if let Some(thread) = registers(tid) {
                *held = Held::Stopped;
                if let Some(threads) = &mut threads {
                    threads.push(thread);
                }
                return true;
            }
            threads = None;
            *held = inspect(tid);
            // A thread that is not traced is seized again.
            match *held {
                Held::Asked => interrupt(tid) == Held::Asked,
                _ => *held == Held::Stopped,
            }
        });
        threads
    }

    fn timed_out(&self, tid: i32, limit: Duration) -> StopError {
        let state = self.thread_state(tid).unwrap_or('?');
        StopError::TimedOut { tid, state, limit }
    }

    fn wait_for_stops(&mut self) -> Result<(), StopError> {
        let mut pause = Duration::from_micros(10);
        loop {
            let looked = Instant::now();
            let Some(tid) = self.inspect_asked() else {
                return Ok(());
            };
            let now = Instant::now();
            let is_kept = now >= self.kept_deadline && self.thread_state(tid) == Some('D');
            if is_kept || now >= self.deadline {
                let limit = if is_kept { KEPT_DEADLINE } else { self.limit };
                return Err(self.timed_out(tid, limit));
            }
            // If there are many threads, they get more processor time than these checks.
            let of_looking = (4 * (now - looked)).min(LONGEST_PAUSE);
            thread::sleep(pause.max(of_looking));
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    /// Checks those that were asked to stop; returns one that has not, if there is any.
    ///
    /// Dead threads are released at once, except the process's own: a thread that executes another
    /// program waits inside `execve` until all others have been collected, which is the tracer's
    /// task. Those that had stopped also die then.
    fn inspect_asked(&mut self) -> Option<i32> {
        let process = self.dir.pid();
        let mut waiting = None;
        let is_executed = self.held.get(&process) == Some(&Held::Asked)
            && self.thread_state(process) == Some('Z');
        self.held.retain(|&tid, held| {
            let is_foreign = *held == Held::Foreign;
            if *held == Held::Asked || is_foreign || is_executed && *held == Held::Stopped {
                *held = inspect(tid);
            }
            match *held {
                Held::Stopped if is_foreign => {
                    detach(tid, waited(tid).1);
                    return false;
                }
                Held::Asked | Held::Foreign => {
                    if is_foreign {
                        *held = Held::Foreign;
                    } else if tid == process {
                        // Its id may belong to another thread since it was asked.
                        *held = interrupt(tid);
                    }
                    waiting = Some(tid);
                }
                Held::Gone if tid != process => return !reap(tid),
                Held::Gone | Held::Stopped => {}
            }
            true
        });
        waiting
    }

    /// Resumes every stopped thread, with the signal that it was about to get; returns whether all
    /// were released. A thread that never stopped, or a process that died while traced, is released
    /// only by the end of this OS thread: until then its parent would wait for it in vain.
    pub(super) fn detach_all(&mut self) -> bool {
        let mut all = true;
        // Before Linux 5.14, `waitid` finds those first that were seized last.
        for (&tid, held) in self.held.iter().rev() {
            // The signal is its present one: a thread that executed another program meanwhile has
            // taken the id of its process.
            let now = match *held {
                Held::Stopped => waited(tid),
                Held::Asked | Held::Foreign | Held::Gone => (Held::Gone, 0),
            };
            all &= matches!(now, (Held::Stopped, signal) if detach(tid, signal));
        }
        self.held.clear();
        all
    }
}

/// Seizes a thread and asks it to stop.
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

/// Resumes a stopped thread, with this signal if it is not 0; returns whether it was there to be
/// released.
pub(super) fn detach(tid: i32, signal: i32) -> bool {
    // SAFETY: PTRACE_DETACH takes a tid and a signal number and touches no memory of ours. nix's
    // wrapper is not used because real-time signals have no name in nix.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0, signal as libc::c_ulong) == 0 }
}

/// The signal that a stopped thread is about to get, or 0, from the status returned by `waitid`:
/// `signal | PTRACE_EVENT_STOP << 8` for our interrupt and for a group-stop, the bare signal when
/// one is about to be delivered (ptrace(2), "Signal-delivery-stop").
pub(super) fn signal_of(status: i32) -> i32 {
    if status >> 8 == 0 { status & 0x7f } else { 0 }
}

/// What became of a thread that was asked to stop.
fn inspect(tid: i32) -> Held {
    // Unlike `waitid` before Linux 5.14, it does not take longer if many thousands are traced.
    match registers(tid) {
        Some(_) => Held::Stopped,
        None => waited(tid).0,
    }
}

/// The same, and the signal that a stopped thread is about to get, or 0; without consuming the
/// event.
fn waited(tid: i32) -> (Held, i32) {
    let options = libc::__WALL | libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: siginfo_t is plain data for which all zeros is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid siginfo_t that lives across the call.
    let result = unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &raw mut info, options) };
    if result != 0 {
        return (Held::Gone, 0);
    }
    // SAFETY: waitid fills the fields of SIGCHLD, or leaves zeros.
    let status = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_TRAPPED | libc::CLD_STOPPED => (Held::Stopped, signal_of(status)),
        libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED => (Held::Gone, 0),
        _ => (Held::Asked, 0),
    }
}

/// The registers of a traced and stopped thread.
pub(super) fn registers(tid: i32) -> Option<Thread> {
    let registers = ptrace::getregs(Pid::from_raw(tid)).ok()?;
    #[cfg(target_arch = "x86_64")]
    let (stack, instruction, thread) = (registers.rsp, registers.rip, registers.fs_base);
    #[cfg(target_arch = "aarch64")]
    let (stack, instruction, thread) = (registers.sp, registers.pc, thread_register(tid)?);
    Some(Thread {
        tid: tid as u32,
        stack_pointer: RemoteAddr::new(stack),
        program_counter: RemoteAddr::new(instruction),
        thread_pointer: RemoteAddr::new(thread),
    })
}

/// `TPIDR_EL0` of a traced and stopped thread: the general registers do not include it.
#[cfg(target_arch = "aarch64")]
fn thread_register(tid: i32) -> Option<u64> {
    /// `NT_ARM_TLS` (`include/uapi/linux/elf.h`). Newer kernels append `TPIDR2_EL0` if there is
    /// space.
    const SET: libc::c_ulong = 0x401;
    let mut value = 0u64;
    let mut into = libc::iovec {
        iov_base: (&raw mut value).cast(),
        iov_len: size_of::<u64>(),
    };
    // SAFETY: the kernel writes at most `iov_len` bytes to `iov_base`, which is `value`, and the
    // written length to `into`.
    let read = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, SET, &raw mut into) };
    (read == 0 && into.iov_len == size_of::<u64>()).then_some(value)
}

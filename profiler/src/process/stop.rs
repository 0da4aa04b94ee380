//! Standing still: all threads of the target stopped by ptrace, for a moment.
//!
//! A thread of our own does the tracing and nothing else. ptrace belongs to the OS thread that
//! began it, and the kernel detaches and resumes everything that a thread traced when that thread
//! ends, however it ends; so the target runs on after a panic, a `kill -9`, or a stop given up
//! half-way. Stops are looked at without consuming them (`WNOWAIT`), so that a signal that was on
//! its way to the target is still delivered after any of these. What suspends fragscope itself is
//! kept away for as long ([`suspend`]).

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use profiler_core::addr::RemoteAddr;
use profiler_core::threads::Thread;

use super::proc_dir::{ProcDir, field};
use super::suspend;

/// How long the target may take to come to a stop. A running thread needs microseconds, and one that
/// waits for a processor on a busy host longer.
pub const STOP_DEADLINE: Duration = Duration::from_secs(1);
/// How long a thread in an uninterruptible wait is waited for: the others stand still meanwhile, and
/// it may not come for minutes.
const KEPT_DEADLINE: Duration = Duration::from_millis(50);

/// How long a stop lasts at the most, unless the caller says otherwise.
pub const LONGEST_STOP: Duration = Duration::from_secs(5);

/// Why the target was not stopped. It runs on in every case.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Another tracer holds it.
    #[error(
        "the target is already traced by process {tracer}{name}: detach that tracer, or go on with --no-stop"
    )]
    AlreadyTraced {
        /// The tracer's pid.
        tracer: u64,
        /// Its name in parentheses, or empty.
        name: String,
    },
    /// The kernel refused.
    #[error(
        "the kernel does not permit stopping the target: run as root or with CAP_SYS_PTRACE, or go on with --no-stop"
    )]
    NotPermitted,
    /// A thread did not come to a stop in time.
    #[error(
        "thread {tid} of the target (state {state}) did not stop within {limit:?}: it is inside the kernel; try again, or go on with --no-stop"
    )]
    TimedOut {
        /// The thread.
        tid: i32,
        /// Its state as `/proc` has it, `D` for an uninterruptible wait.
        state: char,
        /// How long it was waited for.
        limit: Duration,
    },
    /// fragscope cannot stop itself.
    #[error("fragscope cannot stop itself: name another process")]
    Itself,
    /// The target has exited.
    #[error("the target has exited")]
    Gone,
    /// Something else failed.
    #[error("stopping the target failed: {0}")]
    Io(#[from] io::Error),
}

/// The target standing still. It resumes when this is dropped.
#[derive(Debug)]
pub struct Stopped {
    threads: Vec<Thread>,
    since: Instant,
    /// Set when the stop was ended because it lasted too long.
    overdue: Arc<AtomicBool>,
    release: Option<mpsc::Sender<()>>,
    tracer: Option<JoinHandle<()>>,
    /// Given up after the tracer has ended: fields are dropped after [`Drop::drop`].
    _hold: suspend::Hold,
}

impl Stopped {
    /// Its threads, by id.
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// Whether it runs again because the stop had lasted as long as it may.
    pub fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::SeqCst)
    }

    /// The flag behind [`Self::is_overdue`].
    pub(super) fn overdue(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.overdue)
    }

    /// When the first thread was asked to stop.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Lets the target run on, and says how long it stood still.
    pub fn resume(mut self) -> Duration {
        self.release_all();
        self.since.elapsed()
    }

    fn release_all(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            // Its end is all that matters: the kernel detaches what a panic left.
            let _ = tracer.join();
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.release_all();
    }
}

/// Stops all threads, which must succeed within `limit`, for at most `longest`.
pub(super) fn stop(
    dir: &Arc<ProcDir>,
    limit: Duration,
    longest: Duration,
) -> Result<Stopped, StopError> {
    if dir.pid() == std::process::id() as i32 {
        return Err(StopError::Itself);
    }
    let hold = suspend::hold();
    let since = Instant::now();
    let (release, released) = mpsc::channel::<()>();
    let (report, reported) = mpsc::channel();
    let source = Arc::clone(dir);
    let overdue = Arc::new(AtomicBool::new(false));
    let late = Arc::clone(&overdue);
    let tracer = thread::Builder::new()
        .name("fragscope-stop".into())
        .spawn(move || {
            let mut tracer = Tracer {
                dir: source,
                held: BTreeMap::new(),
                deadline: since + limit,
                kept_deadline: since + limit.min(KEPT_DEADLINE),
                limit,
            };
            let outcome = tracer.stop_all();
            let stopped = outcome.is_ok();
            if report.send(outcome).is_ok() && stopped {
                // Until the guard is dropped, or for as long as a stop may last.
                let left = longest.saturating_sub(since.elapsed());
                let ended = released.recv_timeout(left);
                late.store(ended == Err(RecvTimeoutError::Timeout), Ordering::SeqCst);
            }
            tracer.detach_all();
        })?;
    let outcome = reported.recv().unwrap_or(Err(StopError::Gone));
    let stopped = Stopped {
        threads: Vec::new(),
        since,
        overdue,
        release: Some(release),
        tracer: Some(tracer),
        _hold: hold,
    };
    // On an error the guard's drop waits for the tracer's end, so that everything runs on by then.
    outcome.map(|threads| {
        let mut stopped = stopped;
        stopped.threads = threads;
        stopped
    })
}

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

/// `TracerPid` is the id of the tracing thread: its process is named.
pub(super) fn already_traced(thread: u64) -> StopError {
    let status = std::fs::read(format!("/proc/{thread}/status")).unwrap_or_default();
    let tracer = field(&String::from_utf8_lossy(&status), "Tgid").unwrap_or(thread);
    let comm = std::fs::read(format!("/proc/{tracer}/comm")).unwrap_or_default();
    let comm = String::from_utf8_lossy(&comm);
    let name = match comm.trim_end() {
        "" => String::new(),
        comm => format!(" ({comm})"),
    };
    StopError::AlreadyTraced { tracer, name }
}

struct Tracer {
    dir: Arc<ProcDir>,
    held: BTreeMap<i32, Held>,
    deadline: Instant,
    kept_deadline: Instant,
    limit: Duration,
}

impl Tracer {
    fn stop_all(&mut self) -> Result<Vec<Thread>, StopError> {
        // A running thread may start others, so look again until nothing new is found.
        while self.seize_new()? {
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
        Ok(threads)
    }

    /// Seizes and interrupts the threads not yet known; whether there were any.
    fn seize_new(&mut self) -> Result<bool, StopError> {
        let mut found = false;
        for tid in self.dir.tids().map_err(|_| StopError::Gone)? {
            if self.held.contains_key(&tid) {
                continue;
            }
            found = true;
            let thread = Pid::from_raw(tid);
            let held = match ptrace::seize(thread, ptrace::Options::empty()) {
                Ok(()) => match ptrace::interrupt(thread) {
                    Ok(()) => Held::Asked,
                    Err(_) => Held::Gone,
                },
                Err(Errno::ESRCH) => Held::Gone,
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
            Some(tracer) if tracer != 0 => Err(already_traced(tracer)),
            _ if error == Errno::EPERM => Err(StopError::NotPermitted),
            _ => Err(StopError::Io(error.into())),
        }
    }

    fn thread_state(&self, tid: i32) -> Option<char> {
        let stat = self.dir.text(&format!("task/{tid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn wait_for_stops(&mut self) -> Result<(), StopError> {
        let mut pause = Duration::from_micros(10);
        loop {
            let mut waiting = None;
            for (&tid, held) in &mut self.held {
                if *held == Held::Asked {
                    *held = look(tid);
                    if *held == Held::Asked {
                        waiting = Some(tid);
                    }
                }
            }
            let Some(tid) = waiting else {
                return Ok(());
            };
            let now = Instant::now();
            let state = || self.thread_state(tid).unwrap_or('?');
            let is_kept = now >= self.kept_deadline && state() == 'D';
            if is_kept || now >= self.deadline {
                return Err(StopError::TimedOut {
                    tid,
                    state: state(),
                    limit: if is_kept { KEPT_DEADLINE } else { self.limit },
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    /// Lets every stopped thread run on, with the signal that it was about to get. Those that never
    /// came to a stop are let go by the end of this OS thread.
    fn detach_all(&mut self) {
        for (&tid, held) in &self.held {
            if let Held::Stopped(signal) = *held {
                // SAFETY: PTRACE_DETACH takes a tid and a signal number and touches no memory of
                // ours. Real-time signals have no name in nix, so this is not its wrapper.
                unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0, signal as libc::c_ulong) };
            }
        }
        self.held.clear();
    }
}

/// Whether a thread that was asked to stop has, without consuming the news.
fn look(tid: i32) -> Held {
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
        libc::CLD_TRAPPED | libc::CLD_STOPPED => {
            // `signal | PTRACE_EVENT_STOP << 8` for our interrupt and for a group-stop, the bare
            // signal when one is about to be delivered (ptrace(2), "Signal-delivery-stop").
            let signal = if status >> 8 == 0 { status & 0x7f } else { 0 };
            Held::Stopped(signal)
        }
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

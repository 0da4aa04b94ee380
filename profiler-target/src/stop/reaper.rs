//! Collects the death of traced threads, even while the tracer is blocked in the kernel.
//!
//! A thread that calls `execve` waits in the kernel until all other threads of its process are
//! gone, and a traced thread is gone only when its tracer has collected its death. A tracer that
//! attaches to one more thread of that process waits inside `ptrace` until the `execve` is done
//! (`cred_guard_mutex`). So each would wait for the other. A signal wakes the tracer; the kernel
//! then restarts the call.

use std::mem::zeroed;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{
    SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, SigmaskHow, Signal,
    pthread_sigmask, sigaction,
};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

use super::tracer::{detach, registers, signal_of};

/// The signal; nothing else in fragscope or in a guard uses it.
const WAKE: Signal = Signal::SIGALRM;
/// Between two signals: a program that executes another one is held up for two or three at most.
const INTERVAL: Duration = Duration::from_millis(5);

/// While it exists and this OS thread is [blocked in the kernel](Reaper::during), the signal
/// handler collects deaths of traced threads, and after the deadline releases stopped threads.
pub(super) struct Reaper {
    /// Deleted before the signal mask is restored.
    timer: Option<Timer>,
    before: SigSet,
    /// The timer's value points to it.
    task: Box<Task>,
}

/// The handler's data.
struct Task {
    process: libc::pid_t,
    deadline: Instant,
    /// The traced threads, as many as are [counted](Self::count); 0 for one that is gone.
    threads: Vec<AtomicI32>,
    count: AtomicUsize,
    /// Counts beginnings and ends of calls that may block: odd while inside one.
    calls: AtomicU64,
    /// The value at the previous signal, unless threads were checked then.
    seen: AtomicU64,
}

impl Task {
    /// Whether the interrupted call has lasted since the previous signal. If so, all threads are
    /// checked, which may take longer than an interval. So the next signal only records that the
    /// call continues, which gives it an interval to return.
    fn waits(&self) -> bool {
        let calls = self.calls.load(Ordering::SeqCst);
        let is_inside = calls % 2 == 1;
        let waits = is_inside && self.seen.load(Ordering::SeqCst) == calls;
        let seen = if is_inside && !waits { calls } else { 0 };
        self.seen.store(seen, Ordering::SeqCst);
        waits
    }
}

/// At most this many threads are checked in the signal handler: as many as a process can have with
/// the kernel's default limit (`PID_MAX_DEFAULT`).
const MAX_THREADS: usize = 32_768;

impl Reaper {
    /// For the tracer of the process with this number, which is this OS thread.
    ///
    /// # Errors
    /// When the kernel has no timer left.
    pub(super) fn start(process: i32, deadline: Instant) -> nix::Result<Self> {
        let task = Box::new(Task {
            process,
            deadline,
            threads: (0..MAX_THREADS).map(|_| AtomicI32::new(0)).collect(),
            count: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        });
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESTART;
        let action = SigAction::new(SigHandler::SigAction(woken), flags, SigSet::empty());
        // SAFETY: the handler makes system calls alone.
        unsafe { sigaction(WAKE, &action) }?;
        let notify = SigevNotify::SigevThreadId {
            signal: WAKE,
            thread_id: gettid().as_raw(),
            si_value: ptr::from_ref(&*task) as isize,
        };
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))?;
        let (mut wake, mut before) = (SigSet::empty(), SigSet::empty());
        wake.add(WAKE);
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&wake), Some(&mut before))?;
        let interval = TimeSpec::from_duration(INTERVAL);
        let started = timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty());
        let reaper = Self {
            timer: Some(timer),
            before,
            task,
        };
        started.map(|()| reaper)
    }

    /// Collects the death of this thread, which is about to be traced, from now on.
    pub(super) fn watch(&self, tid: i32) {
        let count = self.task.count.load(Ordering::Relaxed);
        if let Some(place) = self.task.threads.get(count) {
            place.store(tid, Ordering::Relaxed);
            // The handler runs on this OS thread.
            self.task.count.store(count + 1, Ordering::Release);
        }
    }

    /// Makes a call that may wait inside of the kernel for a program that is being executed.
    pub(super) fn during<R>(&self, call: impl FnOnce() -> R) -> R {
        self.task.calls.fetch_add(1, Ordering::SeqCst);
        let result = call();
        self.task.calls.fetch_add(1, Ordering::SeqCst);
        result
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.timer = None;
        // It cannot fail for a mask returned by the kernel.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

extern "C" fn woken(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t that lives as long as the handler runs.
    let info = unsafe { &*info };
    if info.si_code != libc::SI_TIMER {
        return;
    }
    // SAFETY: a timer's has a value.
    let value = unsafe { info.si_value() };
    // SAFETY: it points to the task of a reaper that outlives the timer.
    let task = unsafe { &*value.sival_ptr.cast::<Task>() };
    if !task.waits() {
        return;
    }
    // SAFETY: errno of this thread, which the interrupted code may be about to read.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    reap_all(task);
    if Instant::now() >= task.deadline {
        detach_all();
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Collects all dead threads among these, except the first of a process: others wait for that one
/// too, and it is reported only after all others of its process.
///
/// Before Linux 5.14, `waitid` searches for a pid among all traced threads, beginning with the last
/// one. So stopped threads are identified by another call, and the others are checked in that
/// order.
fn reap_all(task: &Task) {
    let count = task.count.load(Ordering::Acquire);
    for thread in task.threads.iter().take(count).rev() {
        let tid = thread.load(Ordering::Relaxed);
        if tid != 0 && tid != task.process && registers(tid).is_none() && reap(tid) {
            thread.store(0, Ordering::Relaxed);
        }
    }
}

/// Resumes every stopped thread that this OS thread traces.
fn detach_all() {
    while let Some(change) = changed(libc::P_ALL, 0, libc::WSTOPPED | libc::WNOWAIT) {
        if change.is_death || !detach(change.tid, change.signal) {
            return;
        }
    }
}

/// Collects the death of a thread that is not the first of its process; returns whether it was
/// dead.
pub(super) fn reap(tid: i32) -> bool {
    let id = tid.unsigned_abs();
    // For a traced thread the kernel also reports that it is stopped, whatever was requested
    // (`wait_task_stopped`), and reports it once.
    let is_dead = changed(libc::P_PID, id, libc::WEXITED | libc::WNOWAIT)
        .is_some_and(|change| change.is_death);
    is_dead && changed(libc::P_PID, id, libc::WEXITED).is_some()
}

/// What became of a thread.
struct Change {
    tid: i32,
    /// Whether it is dead; otherwise it is stopped.
    is_death: bool,
    /// The signal that it is about to get.
    signal: i32,
}

/// One of these threads that is dead or stopped.
fn changed(which: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> Option<Change> {
    // Of no other OS thread: the children of fragscope are waited for elsewhere.
    let own = libc::__WALL | libc::__WNOTHREAD;
    let options = own | libc::WNOHANG | flags;
    // SAFETY: siginfo_t is plain data for which all zeros is valid.
    let mut info: libc::siginfo_t = unsafe { zeroed() };
    // SAFETY: `info` is a valid siginfo_t that lives across the call.
    let result = unsafe { libc::waitid(which, id, ptr::from_mut(&mut info), options) };
    // SAFETY: waitid fills the fields of SIGCHLD, or leaves zeros.
    let tid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    (result == 0 && tid != 0).then(|| Change {
        tid,
        is_death: matches!(
            info.si_code,
            libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED
        ),
        signal: signal_of(status),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Command};
    use std::thread;

    use nix::sys::ptrace;
    use nix::unistd::Pid;

    use super::*;

    /// A child that is traced and stopped.
    fn standing() -> (Child, Pid) {
        let child = Command::new("sleep").arg("1000").spawn().expect("a child");
        let pid = Pid::from_raw(child.id().cast_signed());
        ptrace::seize(pid, ptrace::Options::empty()).expect("our own child");
        ptrace::interrupt(pid).expect("traced");
        while !stands(pid) {
            thread::yield_now();
        }
        (child, pid)
    }

    fn stands(pid: Pid) -> bool {
        let id = pid.as_raw().unsigned_abs();
        changed(libc::P_PID, id, libc::WSTOPPED | libc::WNOWAIT).is_some()
    }

    #[test]
    fn what_stands_is_still_known_to_when_it_was_looked_at_for_its_death() {
        let (mut child, pid) = standing();
        let far = Instant::now() + Duration::from_secs(1000);
        // Of another process: this one is a thread like any other.
        let reaper = Reaper::start(1, far).expect("a timer");
        reaper.watch(pid.as_raw());
        let until = Instant::now() + 5 * INTERVAL;
        reaper.during(|| {
            while Instant::now() < until {
                thread::yield_now();
            }
        });
        assert!(stands(pid));
        child.kill().expect("ours");
        // Its death is collected.
        reaper.during(|| {
            while ptrace::getregs(pid).is_ok() || Path::new(&format!("/proc/{pid}")).exists() {
                thread::yield_now();
            }
        });
        drop(reaper);
        child.wait().expect_err("it was waited for");
    }

    #[test]
    fn nothing_is_looked_at_unless_a_call_waits_and_then_not_at_each_signal() {
        let far = Instant::now() + Duration::from_secs(1000);
        let reaper = Reaper::start(1, far).expect("a timer");
        let task = &reaper.task;
        let mut signals = SigSet::empty();
        signals.add(WAKE);
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).expect("a signal");
        task.seen.store(0, Ordering::SeqCst);
        assert!((0..3).all(|_| !task.waits()));
        reaper.during(|| {
            let looks: Vec<bool> = (0..6).map(|_| task.waits()).collect();
            assert_eq!(looks, [false, true, false, true, false, true]);
        });
        // Each signal meets another call: none of them is blocked.
        assert!((0..6).all(|_| !reaper.during(|| task.waits())));
    }

    #[test]
    fn what_stands_is_let_go_once_the_time_is_over() {
        let (mut child, pid) = standing();
        let deadline = Instant::now() + Duration::from_millis(100);
        let reaper = Reaper::start(pid.as_raw(), deadline).expect("a timer");
        reaper.during(|| {
            while ptrace::getregs(pid).is_ok() {
                thread::yield_now();
            }
        });
        assert!(Instant::now() >= deadline, "not before");
        drop(reaper);
        child.kill().expect("ours");
        child.wait().expect("ours");
    }
}

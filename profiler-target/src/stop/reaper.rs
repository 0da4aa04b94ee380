//! Taking note of threads that die while they are traced, also while the tracer waits inside of the kernel.
//!
//! A thread that executes another program waits, inside of that, until all other threads of its process are
//! gone; a traced one is gone once its tracer has taken note of its death. And who wants to trace one more thread
//! of that process waits, inside of `ptrace`, until the other program is executed (`cred_guard_mutex`). So each
//! would wait for the other. A signal wakes the tracer from there; the kernel then begins the call again.

use std::mem::zeroed;
use std::ptr;
use std::time::Duration;

use nix::sys::signal::{
    SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, SigmaskHow, Signal,
    pthread_sigmask, sigaction,
};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

/// The signal; nothing else in fragscope or in a guard makes use of it.
const WAKE: Signal = Signal::SIGALRM;
/// Between two signals: so long a program that executes another one is held up at most.
const INTERVAL: Duration = Duration::from_millis(10);

/// While it lives, this OS thread takes note of the deaths of threads that it traces.
pub(super) struct Reaper {
    /// Deleted before the mask is as it was.
    timer: Option<Timer>,
    before: SigSet,
}

impl Reaper {
    /// For the tracer of the process with this number, which is this OS thread.
    ///
    /// # Errors
    /// When the kernel has no timer left.
    pub(super) fn start(process: i32) -> nix::Result<Self> {
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESTART;
        let action = SigAction::new(SigHandler::SigAction(woken), flags, SigSet::empty());
        // SAFETY: the handler makes system calls alone.
        unsafe { sigaction(WAKE, &action) }?;
        let notify = SigevNotify::SigevThreadId {
            signal: WAKE,
            thread_id: gettid().as_raw(),
            si_value: process as isize,
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
        };
        started.map(|()| reaper)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.timer = None;
        // It fails for no mask that the kernel gave.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

extern "C" fn woken(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a siginfo_t that lives as long as the handler runs.
    let info = unsafe { &*info };
    if info.si_code != libc::SI_TIMER {
        return;
    }
    // SAFETY: a timer's has a value, which is the number that was given to it.
    let process = unsafe { info.si_value() }.sival_ptr as libc::pid_t;
    // SAFETY: errno of this thread; what was interrupted may be about to read it.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    reap_all(process);
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Takes note of all dead threads that this OS thread traces, but for the first of a process: others wait for
/// that one, too, and it is reported after all others of its process alone.
fn reap_all(process: libc::pid_t) {
    while let Some(tid) = dead(libc::P_ALL, 0, libc::WNOWAIT) {
        if tid == process || !reap(tid) {
            return;
        }
    }
}

/// Takes note of the death of a thread that is not the first of its process; whether it was dead.
pub(super) fn reap(tid: i32) -> bool {
    dead(libc::P_PID, tid.unsigned_abs(), 0).is_some()
}

/// A dead thread among these.
fn dead(which: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> Option<i32> {
    // Of no other OS thread: the children of fragscope are waited for elsewhere.
    let own = libc::__WALL | libc::__WNOTHREAD;
    let options = own | libc::WEXITED | libc::WNOHANG | flags;
    // SAFETY: siginfo_t is plain data for which all zeros is valid.
    let mut info: libc::siginfo_t = unsafe { zeroed() };
    // SAFETY: `info` is a valid siginfo_t that lives across the call.
    let result = unsafe { libc::waitid(which, id, ptr::from_mut(&mut info), options) };
    // SAFETY: waitid fills the fields of SIGCHLD, or leaves zeros.
    let tid = unsafe { info.si_pid() };
    (result == 0 && tid != 0).then_some(tid)
}

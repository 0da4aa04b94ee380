//! Guards: small helper processes that hold what must be released whatever happens to fragscope.
//!
//! A stop of the target must end even if fragscope is suspended or frozen, and a breakpoint in the
//! target must be removed by a process that is not being killed: in a process with a fatal signal
//! pending the kernel gives up half-way (`uprobe_unregister` in `kernel/events/uprobes.c` fails
//! with EINTR and leaves the breakpoint for good). So each of the two is done by a process forked
//! for that purpose. It has its own name and session and, where permitted, its own cgroup, and when
//! fragscope is gone it releases what it held and exits.
//!
//! [`forked`](super::forked) says what a guard may do.
//!
//! A guard that does not exit when it should is woken, in case somebody suspended it, and then
//! killed, unless it says that it is [`Needed`].

pub(super) mod apart;

use std::ffi::CStr;
use std::io;
use std::net::Shutdown;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::Pid;
use zerocopy::FromZeros;

use super::forked::fork_off;
use super::proc_dir::PidFd;

/// How long to wait for the end of a guard. It takes milliseconds; a frozen guard ends when it runs
/// again.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// A guard that holds nothing renews its [`Deadline`] at this interval.
pub const IDLE_CHECK: Duration = Duration::from_secs(2);
/// The kernel kills a guard that does not renew it for this long, because somebody suspended it.
const LONGEST_IDLE: Duration = Duration::from_secs(10);
/// How long to wait for the end of a killed guard.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// Whether a guard holds something that its death would leave in the target. The guard writes it,
/// and fragscope reads it before killing the guard.
#[derive(Debug, FromZeros)]
pub struct Needed(AtomicU32);

impl Needed {
    /// Sets whether the guard is needed.
    pub fn set(&self, needed: bool) {
        self.0.store(needed.into(), Ordering::SeqCst);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }
}

/// The process of a guard.
#[derive(Clone, Debug)]
struct Process {
    pid: Pid,
    /// Its pid may be reused once it was reaped, by this code or by code that reaps all children.
    handle: PidFd,
    needed: Arc<Shared<Needed>>,
}

impl Process {
    /// Resumes it, in case somebody suspended it.
    fn wake(&self) {
        // It may already be gone.
        let _ = self.handle.send(Signal::SIGCONT);
    }

    /// Kills it at once, unless it is needed; returns whether it has ended.
    fn kill(&self) -> bool {
        if self.needed.get() {
            return !self.handle.is_alive();
        }
        // It may already be gone.
        let _ = self.handle.send(Signal::SIGKILL);
        self.handle.ends_within(KILLED_WITHIN)
    }

    /// Waits for its end, which was requested, up to `limit`, then kills it; returns whether it has
    /// ended.
    fn end(&self, limit: Duration) -> bool {
        self.wake();
        let ended = self.handle.ends_within(limit) || self.kill();
        if ended {
            self.handle.reap();
        }
        ended
    }

    /// Whether a guard that was killed before has ended by now.
    fn reap_killed(&self) -> bool {
        let ended = !self.handle.is_alive();
        if ended {
            self.handle.reap();
        }
        ended
    }
}

/// A running guard. Dropping it makes it release what it holds and end.
#[derive(Debug)]
pub struct Guard {
    channel: UnixStream,
    process: Process,
    was_killed: bool,
}

impl Guard {
    /// Starts a guard with the process name `name` (at most 15 bytes). It keeps `descriptors` open,
    /// replaces the standard ones with `/dev/null`, and runs `life` with its end of a channel.
    /// `life` must return when reading from the channel reports its end.
    ///
    /// # Errors
    /// When the kernel provides no process, no descriptor or no memory, and when fragscope is
    /// ending.
    pub fn start(
        name: &CStr,
        descriptors: &[RawFd],
        life: impl FnOnce(UnixStream, &Needed),
    ) -> io::Result<Self> {
        let (channel, others) = UnixStream::pair()?;
        let second = channel.try_clone()?;
        let needed = Arc::new(Shared::<Needed>::zeroed()?);
        let nowhere = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        // Held until the guard is in the list, so that whoever ends all guards finds it.
        let mut guards = running();
        let (pid, handle) = fork_off(|| {
            // It also closes fragscope's ends: while they were open here, their end would never be
            // seen.
            let mut keep = vec![others.as_raw_fd()];
            keep.extend(descriptors);
            apart::set_apart(name, &keep, nowhere.as_raw_fd());
            life(others, &needed);
        })?;
        let process = Process {
            pid,
            handle,
            needed,
        };
        guards.push(RunningGuard {
            process: process.clone(),
            channel: second,
        });
        drop(guards);
        Ok(Self {
            channel,
            process,
            was_killed: false,
        })
    }

    /// fragscope's end of the channel.
    pub fn channel(&mut self) -> &mut UnixStream {
        &mut self.channel
    }

    /// Whether it is still running, i.e. nobody has killed it.
    pub fn is_alive(&self) -> bool {
        self.process.handle.is_alive()
    }

    /// Waits for its end, for at most this long; returns whether it has ended.
    pub fn ends_within(&self, limit: Duration) -> bool {
        self.process.handle.ends_within(limit)
    }

    /// Resumes it, in case somebody suspended it.
    pub fn wake(&self) {
        self.process.wake();
    }

    /// Kills it at once, unless it is [`Needed`]: what it traces is resumed, what it has pinned is
    /// removed. Returns whether it has ended; if it was frozen, it ends when it runs again, and is
    /// not waited for a second time.
    pub fn kill(&mut self) -> bool {
        self.was_killed = !self.process.needed.get();
        self.process.kill()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // It may already be gone.
        let _ = self.channel.shutdown(Shutdown::Both);
        let ended = match self.was_killed {
            true => self.process.reap_killed(),
            false => self.process.end(END_TIMEOUT),
        };
        if ended {
            let is_other =
                |one: &RunningGuard| !Arc::ptr_eq(&one.process.needed, &self.process.needed);
            running().retain(is_other);
        }
    }
}

/// The guards that run.
static GUARDS: Mutex<Vec<RunningGuard>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct RunningGuard {
    process: Process,
    channel: UnixStream,
}

fn running() -> MutexGuard<'static, Vec<RunningGuard>> {
    // Nothing that holds the lock panics.
    GUARDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the running guards. Waits up to `limit` for all of them, then kills those that may be
/// killed, and returns the pids of those that still run.
pub(super) fn end_all(limit: Duration) -> Vec<i32> {
    let deadline = Instant::now() + limit;
    let mut all = std::mem::take(&mut *running());
    for guard in &all {
        // It may already be gone.
        let _ = guard.channel.shutdown(Shutdown::Both);
        guard.process.wake();
    }
    all.retain(|guard| {
        let left = deadline.saturating_duration_since(Instant::now());
        !guard.process.end(left)
    });
    all.iter().map(|guard| guard.process.pid.as_raw()).collect()
}

/// Whether the process whose `stat` is open as `state` is suspended (`T`, proc(5)).
pub fn is_suspended(state: RawFd) -> bool {
    let mut text = [0u8; 128];
    // SAFETY: a buffer of this length.
    let read = unsafe { libc::pread(state, text.as_mut_ptr().cast(), text.len(), 0) };
    let text = &text[..read.max(0) as usize];
    // The name in parentheses may hold any character, but no more than 15 of them.
    let at = text.iter().rposition(|&byte| byte == b')');
    at.and_then(|at| text.get(at + 2)) == Some(&b'T')
}

/// A kernel timer that ends this process with SIGKILL: it works without processor time and while
/// the process is suspended.
#[derive(Debug)]
pub struct Deadline(Timer);

impl Deadline {
    /// A timer that is not set.
    ///
    /// # Errors
    /// When the user has reached the limit of timers and pending signals, which the error says, or
    /// there is no memory.
    pub fn new() -> io::Result<Self> {
        let kill = SigevNotify::SigevSignal {
            signal: Signal::SIGKILL,
            si_value: 0,
        };
        let timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(kill));
        timer.map(Self).map_err(|why| match why {
            // `posixtimer_create_prealloc`: each takes the place of a signal that waits.
            Errno::EAGAIN => io::Error::other(
                "the kernel gives no timer: the limit of pending signals, `ulimit -i`, is reached",
            ),
            why => why.into(),
        })
    }

    /// Sets it to `after` from now.
    ///
    /// # Errors
    /// When the kernel rejects the time.
    pub fn set(&mut self, after: Duration) -> io::Result<()> {
        let after = Expiration::OneShot(TimeSpec::from_duration(after));
        Ok(self.0.set(after, TimerSetTimeFlags::empty())?)
    }

    /// Sets it to a time by which an idle guard, which calls this every [`IDLE_CHECK`], has moved
    /// it on long before: otherwise a guard that somebody suspended would remain after fragscope is
    /// gone.
    ///
    /// # Errors
    /// When the kernel rejects it.
    pub fn set_idle(&mut self) -> io::Result<()> {
        self.set(LONGEST_IDLE)
    }

    /// Unsets it.
    ///
    /// # Errors
    /// When the kernel rejects it.
    pub fn unset(&mut self) -> io::Result<()> {
        // A time of zero is never (timer_settime(2)).
        self.set(Duration::ZERO)
    }
}

/// Words that a guard shares with fragscope.
#[derive(Debug)]
pub(super) struct Shared<T>(NonNull<T>);

// SAFETY: it only gives out shared references to its `T`.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T: FromZeros + Sync> Shared<T> {
    /// Words of zero, shared with processes that are forked later.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub(super) fn zeroed() -> io::Result<Self> {
        let len = NonZeroUsize::new(size_of::<T>()).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, placed by the kernel.
        let at = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) }?;
        Ok(Self(at.cast()))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is page-aligned, was zeroed, which is a valid value of the type, and
        // lives as long as self.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, to which no reference is left.
        let unmapped = unsafe { munmap(self.0.cast(), size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    #[test]
    fn a_panic_in_a_guard_waits_for_no_lock_of_another_thread() {
        static LOCK: Mutex<()> = Mutex::new(());
        // As a screen's hook takes the lock of standard output.
        panic::set_hook(Box::new(|_| drop(LOCK.lock())));
        let held = LOCK.lock().expect("free");
        let panics = |_: UnixStream, _: &Needed| panic!("on purpose");
        let guard = Guard::start(c"test-guard", &[], panics).expect("a process");
        let ended = guard.ends_within(Duration::from_secs(20));
        drop(held);
        let _default = panic::take_hook();
        assert!(ended, "it waits");
    }
}

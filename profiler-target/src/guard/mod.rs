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

/// How long the end of a guard is waited for. It takes milliseconds; one that somebody froze ends
/// when it runs again.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// A guard that holds nothing moves its [`Deadline`] on as often as this.
pub const IDLE_CHECK: Duration = Duration::from_secs(2);
/// One that does not, because somebody suspended it, is ended by the kernel after this.
const LONGEST_IDLE: Duration = Duration::from_secs(10);
/// How long that of one that was killed.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// Whether a guard holds what its death would leave in the target: written by the guard, read by
/// fragscope before it kills it.
#[derive(Debug, FromZeros)]
pub struct Needed(AtomicU32);

impl Needed {
    /// The guard says whether it is.
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
    /// Its number may become another's once it was reaped, by this or by who reaps all children.
    handle: PidFd,
    needed: Arc<Shared<Needed>>,
}

impl Process {
    /// Lets it run on, when somebody suspended it.
    fn wake(&self) {
        // One that is gone needs not.
        let _ = self.handle.send(Signal::SIGCONT);
    }

    /// Ends it at once, unless it is needed; whether it has ended.
    fn kill(&self) -> bool {
        if self.needed.get() {
            return !self.handle.is_alive();
        }
        // One that is gone needs not.
        let _ = self.handle.send(Signal::SIGKILL);
        self.handle.ends_within(KILLED_WITHIN)
    }

    /// Has it end, now that it was asked to: whether it has, by itself within `limit` or killed then.
    fn end(&self, limit: Duration) -> bool {
        self.wake();
        let ended = self.handle.ends_within(limit) || self.kill();
        if ended {
            self.handle.reap();
        }
        ended
    }

    /// Whether one that was killed before has ended by now.
    fn reap_killed(&self) -> bool {
        let ended = !self.handle.is_alive();
        if ended {
            self.handle.reap();
        }
        ended
    }
}

/// A guard that runs. Dropping it lets it give back what it holds and end.
#[derive(Debug)]
pub struct Guard {
    channel: UnixStream,
    process: Process,
    was_killed: bool,
}

impl Guard {
    /// Starts a guard that shows as `name` (at most 15 bytes), keeps `descriptors` open besides the
    /// standard ones' places, which lead nowhere, and runs `life` with its end of a channel. It must
    /// end when reading from the channel gives the end of it.
    ///
    /// # Errors
    /// When the kernel gives no process, no descriptor or no memory, and when fragscope is ending.
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
        // Held until it is among them: whoever ends them finds it.
        let mut guards = running();
        let (pid, handle) = fork_off(|| {
            // It closes fragscope's ends as well: while they were open here, their end would never come.
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

    /// Whether it has not been ended by somebody.
    pub fn is_alive(&self) -> bool {
        self.process.handle.is_alive()
    }

    /// Waits for its end, for at most this long; whether it has ended.
    pub fn ends_within(&self, limit: Duration) -> bool {
        self.process.handle.ends_within(limit)
    }

    /// Lets it run on, when somebody suspended it.
    pub fn wake(&self) {
        self.process.wake();
    }

    /// Ends it at once, unless it is [`Needed`]: what it traces runs on, what it has pinned goes.
    /// Whether it has ended; if not, as somebody froze it, it ends when it runs again, and nobody waits for
    /// it once more.
    pub fn kill(&mut self) -> bool {
        self.was_killed = !self.process.needed.get();
        self.process.kill()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // One that is gone needs not.
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

/// Ends the guards that run. Waits for as long as `limit` for all of them, kills those that may be then,
/// and gives the numbers of those that still run.
pub(super) fn end_all(limit: Duration) -> Vec<i32> {
    let deadline = Instant::now() + limit;
    let mut all = std::mem::take(&mut *running());
    for guard in &all {
        // One that is gone needs not.
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

/// A timer that ends this process with SIGKILL, kept by the kernel: it needs neither a processor
/// nor that the process is not suspended.
#[derive(Debug)]
pub struct Deadline(Timer);

impl Deadline {
    /// One that is not set.
    ///
    /// # Errors
    /// When the user has as many timers and signals as may wait, which is said, or there is no memory.
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
    /// When the kernel refuses the time.
    pub fn set(&mut self, after: Duration) -> io::Result<()> {
        let after = Expiration::OneShot(TimeSpec::from_duration(after));
        Ok(self.0.set(after, TimerSetTimeFlags::empty())?)
    }

    /// Sets it to a time by which an idle guard, which calls this every [`IDLE_CHECK`], has moved
    /// it on long before: otherwise a guard that somebody suspended would remain after fragscope is
    /// gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_idle(&mut self) -> io::Result<()> {
        self.set(LONGEST_IDLE)
    }

    /// From now on it is not set.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unset(&mut self) -> io::Result<()> {
        // A time of zero is never (timer_settime(2)).
        self.set(Duration::ZERO)
    }
}

/// Words that a guard shares with fragscope.
#[derive(Debug)]
pub(super) struct Shared<T>(NonNull<T>);

// SAFETY: it gives out nothing but shared references to its `T`.
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
        // SAFETY: the mapping is aligned to a page, was zeroed, which is a value of the type, and
        // lives as long as self.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, of which no reference is left.
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
        // As a screen's hook takes that of the standard output.
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

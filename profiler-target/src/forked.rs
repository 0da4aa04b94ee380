//! The processes that fragscope forks for its own use: guards, and file readers.
//!
//! All of them are in one table from the fork until their exit has been collected. So whoever ends
//! fragscope also finds processes that another thread is just starting or using, and none remains a
//! zombie where nobody reaps orphans.
//!
//! Such a process runs in a copy of fragscope's memory, with one thread. It may allocate, because
//! glibc's `fork` leaves malloc usable in the child. It must not take any other lock that another
//! thread of fragscope may have held at the fork. So it starts no threads (glibc's `pthread_create`
//! takes the loader's lock of thread-local storage, which `fork` resets only since 2.42), and its
//! panics do not run fragscope's hooks, which take locks of the terminal and of the standard
//! streams.

use std::io;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::error_kind::not_started;
use super::proc_dir::PidFd;
use super::stat::Stat;
use super::tree::reap_adopted;
use super::{file_reader, guard};

/// How long the end of those that were killed is waited for: they need milliseconds, and a processor.
const KILLED_WITHIN: Duration = Duration::from_secs(1);
/// The same for processes that wait in the kernel where no signal reaches them: most do so only for
/// an instant.
const UNREACHABLE_WITHIN: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(1);

/// A forked process whose end may not have been collected.
#[derive(Debug)]
struct Forked {
    pid: Pid,
    handle: PidFd,
}

#[derive(Debug)]
struct Table {
    all: Vec<Forked>,
    /// Whether fragscope is about to exit.
    is_over: bool,
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    all: Vec::new(),
    is_over: false,
});

fn table() -> MutexGuard<'static, Table> {
    // Nothing that holds the lock panics.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// Collects those that have ended.
    fn reap(&mut self) {
        self.all.retain(|one| {
            let is_alive = one.handle.is_alive();
            if !is_alive {
                one.handle.reap();
            }
            is_alive
        });
    }
}

/// Whether fragscope is about to exit, and nothing is forked off any more.
pub(super) fn is_over() -> bool {
    table().is_over
}

/// Forks a process that only runs `life` and ends with it. It may do what this module's
/// documentation allows, looks like fragscope in `/proc`, and has all of its descriptors, until it
/// is isolated.
///
/// # Errors
/// When the kernel provides no process or no descriptor, and when fragscope is about to exit.
pub(super) fn fork_off(life: impl FnOnce()) -> io::Result<(Pid, PidFd)> {
    // Held until it is in the table. The child has a copy of the lock and does not take it.
    let mut table = table();
    if table.is_over {
        return Err(io::Error::other("fragscope is ending"));
    }
    table.reap();
    let (pid, handle) = forked(life)?;
    table.all.push(Forked {
        pid,
        handle: handle.clone(),
    });
    Ok((pid, handle))
}

fn forked(life: impl FnOnce()) -> io::Result<(Pid, PidFd)> {
    // From its first instant no signal reaches it: none is meant for it.
    let mut before = SigSet::empty();
    pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    silence_panics();
    // SAFETY: the child has one thread, and does what this module's documentation allows.
    let forked = unsafe { fork() };
    if let Ok(ForkResult::Child) = forked {
        IS_FORKED.store(true, Ordering::SeqCst);
        // A panic must not go on into code that is not the child's.
        let _ = catch_unwind(AssertUnwindSafe(life));
        // SAFETY: ends at once, with no handler of fragscope's.
        unsafe { libc::_exit(0) };
    }
    let restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    let forked = forked.map_err(|error| not_started(error.into()));
    let ForkResult::Parent { child: pid } = forked? else {
        unreachable!("the child has ended above");
    };
    let handle = restored.map_err(io::Error::from);
    match handle.and_then(|()| PidFd::open(pid.as_raw())) {
        Ok(handle) => Ok((pid, handle)),
        Err(error) => {
            discard(pid);
            Err(error)
        }
    }
}

/// Whether this process was forked off.
static IS_FORKED: AtomicBool = AtomicBool::new(false);

/// Keeps the panic hooks installed so far from running in such processes; hooks installed later
/// must do that themselves. The process cannot replace them itself: that takes a lock, which a
/// panicking thread holds.
fn silence_panics() {
    static DONE: Once = Once::new();
    // While this thread panics, hooks cannot be changed.
    if thread::panicking() {
        return;
    }
    DONE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            if !IS_FORKED.load(Ordering::SeqCst) {
                before(what);
            }
        }));
    });
}

/// Ends a child that was just forked, holds nothing yet, and cannot be followed.
fn discard(child: Pid) {
    // It waits for its first request, so the pid is still its own.
    let _ = kill(child, Signal::SIGKILL);
    while waitpid(child, None) == Err(Errno::EINTR) {}
}

/// Ends all forked processes, for a process that is about to exit while threads still use some.
/// They would end by themselves, except those that somebody suspended, and each would remain a
/// zombie where nobody reaps orphans. Waits for guards for up to `limit`, then kills those that may
/// be killed, and returns the pids of those that still run. Processes blocked in the kernel are not
/// waited for.
pub fn end_forked(limit: Duration) -> Vec<i32> {
    table().is_over = true;
    file_reader::kill_all();
    let left = guard::end_all(limit);
    await_ends(&left);
    // Ended while nobody was waiting: a player's own process whose parent has ended.
    reap_adopted(|_| false);
    left
}

/// Waits for those that were killed.
fn await_ends(left: &[i32]) {
    let began = Instant::now();
    loop {
        let mut table = table();
        table.reap();
        let pids = table.all.iter().map(|one| one.pid);
        let awaited: Vec<Pid> = pids.filter(|pid| !left.contains(&pid.as_raw())).collect();
        drop(table);
        let limit = match awaited.iter().all(|pid| is_unreachable(*pid)) {
            true => UNREACHABLE_WITHIN,
            false => KILLED_WITHIN,
        };
        if awaited.is_empty() || began.elapsed() >= limit {
            return;
        }
        thread::sleep(STEP);
    }
}

/// Whether a process waits where no signal reaches it (`D`, proc(5)), or its state is unreadable.
fn is_unreachable(pid: Pid) -> bool {
    Stat::of(pid.as_raw()).is_none_or(|stat| stat.state == 'D')
}

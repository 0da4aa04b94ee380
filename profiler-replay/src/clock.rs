//! The program's time, which the allocator sees instead of real time.
//!
//! Allocators read the clock with `clock_gettime` and related functions through the dynamic loader,
//! which finds those of [`crate::overrides`] first. An allocator's own threads that sleep until some
//! time (jemalloc's background threads) are woken when the program's time gets there, and the
//! program waits until they sleep again.

use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use profiler_common::program::Control;

use crate::memory;
use crate::sys;

/// Added to the time: an hour after the epoch, so that no clock is at zero.
const EPOCH_NS: u64 = 3_600_000_000_000;
/// While an allocator has its own threads, time advances in steps of this many ns.
const STEP_NS: u64 = 50_000_000;
/// The most threads of an allocator's own.
const SLEEPERS: usize = 64;
/// How many times it is checked whether they sleep again before they are left alone, and how long
/// each time.
const MAX_CHECKS: u32 = 2_000;
const CHECK_NS: i64 = 500_000;
/// A sleeper that waits for no time.
const NEVER: i64 = i64::MAX;

/// One of the allocator's own threads, known since it first slept.
struct Sleeper {
    /// Its handle; 0 if there is none yet.
    thread: AtomicU64,
    condition: AtomicPtr<c_void>,
    mutex: AtomicPtr<c_void>,
    /// When it wants to wake, in the program's time.
    until_ns: AtomicI64,
    /// Not 0 while it sleeps and nothing has woken it.
    asleep: AtomicU32,
}

static SLEEPING: [Sleeper; SLEEPERS] = [const {
    Sleeper {
        thread: AtomicU64::new(0),
        condition: AtomicPtr::new(ptr::null_mut()),
        mutex: AtomicPtr::new(ptr::null_mut()),
        until_ns: AtomicI64::new(NEVER),
        asleep: AtomicU32::new(0),
    }
}; SLEEPERS];
/// How many of them are known: those before the first one without a handle.
static KNOWN: AtomicU32 = AtomicU32::new(0);
/// Counts up when one goes to sleep.
static SLEPT: AtomicU32 = AtomicU32::new(0);

fn sleepers() -> &'static [Sleeper] {
    let known = KNOWN.load(Ordering::Acquire) as usize;
    &SLEEPING[..known.min(SLEEPERS)]
}

/// Now, in ns.
pub(crate) fn now_ns() -> u64 {
    if !memory::is_open() {
        return EPOCH_NS;
    }
    EPOCH_NS.saturating_add(memory::control().now_ns.load(Ordering::Relaxed))
}

/// Lets the time be `to_ns` of the program.
pub(crate) fn advance(control: &Control, to_ns: u64) {
    let mut now = control.now_ns.load(Ordering::Relaxed);
    if !sleepers().is_empty() {
        while to_ns.saturating_sub(now) > STEP_NS {
            settle();
            now += STEP_NS;
            control.now_ns.store(now, Ordering::Relaxed);
            wake_sleepers();
        }
    }
    control.now_ns.store(to_ns.max(now), Ordering::Relaxed);
    wake_sleepers();
}

/// Wakes those whose time has come, and waits until they sleep again.
fn wake_sleepers() {
    let now = now_ns() as i64;
    let mut woken = false;
    for sleeper in sleepers() {
        if sleeper.until_ns.load(Ordering::Acquire) > now
            || sleeper.asleep.swap(0, Ordering::AcqRel) == 0
        {
            continue;
        }
        woken = true;
        let mutex = sleeper.mutex.load(Ordering::Relaxed);
        // SAFETY: the mutex of a thread that sleeps with it; the player holds none of the
        // allocator's locks.
        unsafe { sys::pthread_mutex_lock(mutex) };
        wake_all(sleeper.condition.load(Ordering::Relaxed));
        // SAFETY: locked above.
        unsafe { sys::pthread_mutex_unlock(mutex) };
    }
    if woken {
        settle();
    }
}

/// Waits until all threads of the allocator's own sleep.
pub(crate) fn settle() {
    for _ in 0..MAX_CHECKS {
        let slept = SLEPT.load(Ordering::Acquire);
        let mut all = sleepers().iter();
        if all.all(|sleeper| sleeper.asleep.load(Ordering::Acquire) != 0) {
            return;
        }
        sys::wait_for(&SLEPT, slept, CHECK_NS);
    }
}

/// Those that sleep on a condition are about to be woken.
pub(crate) fn note_wake(condition: *mut c_void) {
    for sleeper in sleepers() {
        if sleeper.condition.load(Ordering::Acquire) == condition {
            sleeper.asleep.store(0, Ordering::Release);
        }
    }
}

/// What `pthread_cond_timedwait` gives when the time has come (`errno.h`).
const TIMED_OUT: c_int = 110;

/// Sleeps until it is woken or the program's time is `until_ns`.
///
/// # Safety
/// As for `pthread_cond_wait`.
pub(crate) unsafe fn sleep(
    condition: *mut c_void,
    mutex: *mut c_void,
    until_ns: Option<i64>,
) -> c_int {
    let until = until_ns.unwrap_or(NEVER);
    if now_ns() as i64 >= until {
        return TIMED_OUT;
    }
    let sleeper = own();
    if let Some(sleeper) = sleeper {
        sleeper.condition.store(condition, Ordering::Release);
        sleeper.mutex.store(mutex, Ordering::Relaxed);
        sleeper.until_ns.store(until, Ordering::Release);
        sleeper.asleep.store(1, Ordering::Release);
        SLEPT.fetch_add(1, Ordering::AcqRel);
        sys::wake(&SLEPT);
    }
    // SAFETY: as the caller promises.
    let woken = unsafe { really_wait(condition, mutex) };
    if let Some(sleeper) = sleeper {
        sleeper.asleep.store(0, Ordering::Release);
    }
    if woken == 0 && now_ns() as i64 >= until {
        return TIMED_OUT;
    }
    woken
}

/// The entry of the calling thread; `None` when there are too many.
fn own() -> Option<&'static Sleeper> {
    // SAFETY: no arguments.
    let me = unsafe { sys::pthread_self() };
    for (number, sleeper) in SLEEPING.iter().enumerate() {
        let claimed = sleeper
            .thread
            .compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire);
        if claimed.is_ok() {
            KNOWN.fetch_max(number as u32 + 1, Ordering::AcqRel);
            return Some(sleeper);
        }
        if claimed == Err(me) {
            return Some(sleeper);
        }
    }
    None
}

/// # Safety
/// As `pthread_cond_wait`'s.
unsafe fn really_wait(condition: *mut c_void, mutex: *mut c_void) -> c_int {
    static WAIT: sys::Next = sys::Next::named(c"pthread_cond_wait");
    let found = WAIT.get();
    if found.is_null() {
        return TIMED_OUT;
    }
    type Wait = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
    // SAFETY: libc's function of this name has this form.
    let wait: Wait = unsafe { mem::transmute(found) };
    // SAFETY: as the caller promises.
    unsafe { wait(condition, mutex) }
}

/// Wakes those that sleep on the condition of a sleeper.
fn wake_all(condition: *mut c_void) {
    static WAKE: sys::Next = sys::Next::named(c"pthread_cond_broadcast");
    let found = WAKE.get();
    if found.is_null() {
        return;
    }
    type Wake = unsafe extern "C" fn(*mut c_void) -> c_int;
    // SAFETY: libc's function of this name has this form.
    let wake: Wake = unsafe { mem::transmute(found) };
    // SAFETY: a condition that a thread sleeps on.
    unsafe { wake(condition) };
}

/// After a fork the allocator's own threads are not there any more.
pub(crate) fn forget_sleepers() {
    for sleeper in sleepers() {
        sleeper.thread.store(0, Ordering::Relaxed);
    }
    KNOWN.store(0, Ordering::Release);
}

//! The program's time, which is what the allocator sees instead of the real one.
//!
//! Allocators ask by `clock_gettime` and its like through the dynamic loader, which finds these
//! first. Threads of an allocator's own that sleep until some time (jemalloc's background threads)
//! are woken when the program's time has come there, and the program waits until they sleep again.

use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use profiler_common::program::Control;

use crate::memory;
use crate::sys;

/// Time is added to this: an hour after the epoch, so that no clock stands at zero.
const EPOCH_NS: u64 = 3_600_000_000_000;
/// While an allocator's own threads sleep, time passes in steps so long, in ns.
const STEP_NS: u64 = 50_000_000;
/// An allocator's own threads that sleep at the same time, at the most.
const SLEEPERS: usize = 64;
/// Looks for woken threads to sleep again before they are left alone.
const PATIENCE: u32 = 10_000;

/// A thread of the allocator's own that sleeps.
struct Sleeper {
    condition: AtomicPtr<c_void>,
    mutex: AtomicPtr<c_void>,
    /// When it wants to wake, in the program's time.
    until_ns: AtomicI64,
}

static ASLEEP: [Sleeper; SLEEPERS] = [const {
    Sleeper {
        condition: AtomicPtr::new(ptr::null_mut()),
        mutex: AtomicPtr::new(ptr::null_mut()),
        until_ns: AtomicI64::new(i64::MAX),
    }
}; SLEEPERS];
/// How many of them sleep now.
static HOW_MANY: AtomicU32 = AtomicU32::new(0);
/// Counts up when one goes to sleep.
static SLEPT: AtomicU32 = AtomicU32::new(0);
/// The earliest time at which one wants to wake.
static EARLIEST: AtomicU64 = AtomicU64::new(u64::MAX);

/// Now, in ns.
pub(crate) fn now_ns() -> u64 {
    if !memory::is_open() {
        return EPOCH_NS;
    }
    EPOCH_NS + memory::control().now_ns.load(Ordering::Relaxed)
}

/// Lets the time be `to_ns` of the program.
pub(crate) fn advance(control: &Control, to_ns: u64) {
    let mut now = control.now_ns.load(Ordering::Relaxed);
    while HOW_MANY.load(Ordering::Acquire) > 0 && to_ns.saturating_sub(now) > STEP_NS {
        now += STEP_NS;
        control.now_ns.store(now, Ordering::Relaxed);
        wake_sleepers();
    }
    control.now_ns.store(to_ns.max(now), Ordering::Relaxed);
    wake_sleepers();
}

/// Wakes those whose time has come, and waits until they sleep again.
fn wake_sleepers() {
    let now = now_ns();
    if EARLIEST.load(Ordering::Acquire) > now {
        return;
    }
    EARLIEST.store(u64::MAX, Ordering::Relaxed);
    let (slept, mut woken) = (SLEPT.load(Ordering::Acquire), 0);
    for sleeper in &ASLEEP {
        let until = sleeper.until_ns.load(Ordering::Acquire);
        if until == i64::MAX {
            continue;
        }
        if until > now as i64 {
            EARLIEST.fetch_min(until as u64, Ordering::Relaxed);
            continue;
        }
        let mutex = sleeper.mutex.load(Ordering::Relaxed);
        let condition = sleeper.condition.load(Ordering::Relaxed);
        // SAFETY: the mutex of a thread that sleeps with it; the player holds no lock of the
        // allocator's.
        unsafe { sys::pthread_mutex_lock(mutex) };
        // SAFETY: as above; the thread sleeps on it until it is woken.
        unsafe { sys::pthread_cond_broadcast(condition) };
        // SAFETY: locked above.
        unsafe { sys::pthread_mutex_unlock(mutex) };
        woken += 1;
    }
    for _ in 0..PATIENCE {
        if SLEPT.load(Ordering::Acquire).wrapping_sub(slept) >= woken {
            break;
        }
        // SAFETY: no arguments.
        unsafe { sys::sched_yield() };
    }
}

/// What `pthread_cond_timedwait` gives when the time has come (`errno.h`).
pub(crate) const TIMED_OUT: c_int = 110;

/// Another thread of the allocator's own goes to sleep, until it is told to wake.
///
/// # Safety
/// As `pthread_cond_wait`'s.
pub(crate) unsafe fn sleep_untimed(condition: *mut c_void, mutex: *mut c_void) -> c_int {
    SLEPT.fetch_add(1, Ordering::AcqRel);
    // SAFETY: as the caller promises.
    unsafe { really_wait(condition, mutex) }
}

/// Sleeps until it is woken, as one of those that time wakes.
///
/// # Safety
/// As `pthread_cond_wait`'s.
pub(crate) unsafe fn sleep(condition: *mut c_void, mutex: *mut c_void, until: i64) -> c_int {
    let free = ASLEEP.iter().find(|sleeper| {
        let (mine, none) = (condition, ptr::null_mut());
        let place = &sleeper.condition;
        place
            .compare_exchange(none, mine, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    });
    let Some(sleeper) = free else {
        return TIMED_OUT;
    };
    sleeper.mutex.store(mutex, Ordering::Relaxed);
    sleeper.until_ns.store(until, Ordering::Release);
    EARLIEST.fetch_min(until as u64, Ordering::AcqRel);
    HOW_MANY.fetch_add(1, Ordering::AcqRel);
    SLEPT.fetch_add(1, Ordering::AcqRel);
    // SAFETY: as the caller promises.
    let woken = unsafe { really_wait(condition, mutex) };
    HOW_MANY.fetch_sub(1, Ordering::AcqRel);
    sleeper.until_ns.store(i64::MAX, Ordering::Release);
    sleeper.condition.store(ptr::null_mut(), Ordering::Release);
    woken
}

/// # Safety
/// As `pthread_cond_wait`'s.
unsafe fn really_wait(condition: *mut c_void, mutex: *mut c_void) -> c_int {
    static NEXT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let mut next = NEXT.load(Ordering::Relaxed);
    if next.is_null() {
        next = sys::next(c"pthread_cond_wait");
        NEXT.store(next, Ordering::Relaxed);
    }
    if next.is_null() {
        return TIMED_OUT;
    }
    type Wait = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
    // SAFETY: libc's function of this name has this form.
    let wait: Wait = unsafe { mem::transmute(next) };
    // SAFETY: as the caller promises.
    unsafe { wait(condition, mutex) }
}

//! Functions that override libc's for the allocator and answer for the recorded program instead of
//! for this machine at this time. They have their C names only in the player itself (feature
//! `player`).

use core::ffi::{c_int, c_long, c_void};
use core::mem;
use core::sync::atomic::{AtomicU32, Ordering};

use profiler_common::program::CPUS_VARIABLE;

use crate::clock::{self, now_ns};
use crate::sys::{self, Timespec, Timeval};

/// # Safety
/// As the C function's.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn clock_gettime(_clock: c_int, time: *mut Timespec) -> c_int {
    let now = now_ns();
    // SAFETY: the caller's place for the answer.
    unsafe {
        time.write(Timespec {
            seconds: (now / 1_000_000_000) as i64,
            nanoseconds: (now % 1_000_000_000) as i64,
        });
    }
    0
}

/// # Safety
/// As the C function's.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn gettimeofday(time: *mut Timeval, _zone: *mut c_void) -> c_int {
    let now = now_ns();
    // SAFETY: the caller's place for the answer.
    unsafe {
        time.write(Timeval {
            seconds: (now / 1_000_000_000) as i64,
            microseconds: (now % 1_000_000_000 / 1000) as i64,
        });
    }
    0
}

/// # Safety
/// As the C function's.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn time(place: *mut i64) -> i64 {
    let now = (now_ns() / 1_000_000_000) as i64;
    if !place.is_null() {
        // SAFETY: the caller's place for the answer.
        unsafe { place.write(now) };
    }
    now
}

/// # Safety
/// As the C function's.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_cond_timedwait(
    condition: *mut c_void,
    mutex: *mut c_void,
    until: *const Timespec,
) -> c_int {
    // SAFETY: the caller's time.
    let until = unsafe { until.read() };
    let until_ns = until.seconds * 1_000_000_000 + until.nanoseconds;
    // SAFETY: as the caller promises.
    unsafe { clock::sleep(condition, mutex, Some(until_ns)) }
}

/// # Safety
/// As the C function's.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_cond_wait(condition: *mut c_void, mutex: *mut c_void) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { clock::sleep(condition, mutex, None) }
}

/// # Safety
/// As the C function's.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_cond_signal(condition: *mut c_void) -> c_int {
    clock::note_wake(condition);
    static SIGNAL: sys::Next = sys::Next::named(c"pthread_cond_signal");
    let next = SIGNAL.get();
    if next.is_null() {
        return 0;
    }
    type WakeOne = unsafe extern "C" fn(*mut c_void) -> c_int;
    // SAFETY: libc's function of this name has this form.
    let signal: WakeOne = unsafe { mem::transmute(next) };
    // SAFETY: as the caller promises.
    unsafe { signal(condition) }
}

/// The number of processors that the target had, so that the allocator creates as many arenas.
///
/// # Safety
/// As for the C function.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn sysconf(name: c_int) -> c_long {
    if sys::SC_NPROCESSORS.contains(&name)
        && let Some(cpus) = cpus()
    {
        return c_long::from(cpus);
    }
    static SYSCONF: sys::Next = sys::Next::named(c"sysconf");
    let next = SYSCONF.get();
    if next.is_null() {
        return -1;
    }
    type Sysconf = unsafe extern "C" fn(c_int) -> c_long;
    // SAFETY: libc's function of this name has this form.
    let sysconf: Sysconf = unsafe { mem::transmute(next) };
    // SAFETY: any number may be asked for.
    unsafe { sysconf(name) }
}

/// # Safety
/// As the C function's.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn sched_getaffinity(_process: c_int, len: usize, mask: *mut u8) -> c_int {
    // SAFETY: the caller's place for the answer, of this length.
    let mask = unsafe { core::slice::from_raw_parts_mut(mask, len) };
    mask.fill(0);
    for cpu in 0..cpus().unwrap_or(1) as usize {
        if let Some(byte) = mask.get_mut(cpu / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    0
}

/// # Safety
/// As the C function's.
#[cfg_attr(feature = "player", unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_getaffinity_np(
    _thread: usize,
    len: usize,
    mask: *mut u8,
) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { sched_getaffinity(0, len, mask) }
}

/// The allocator also asks before the control block is mapped, so the number comes from the
/// environment.
fn cpus() -> Option<u32> {
    static KNOWN: AtomicU32 = AtomicU32::new(0);
    let known = KNOWN.load(Ordering::Relaxed);
    if known > 0 {
        return Some(known);
    }
    // SAFETY: a zero-terminated name; nobody changes the environment.
    let mut text = unsafe { sys::getenv(CPUS_VARIABLE.as_ptr()) }.cast::<u8>();
    if text.is_null() {
        return None;
    }
    let mut number = 0u32;
    loop {
        // SAFETY: within a zero-terminated string.
        let digit = unsafe { text.read() };
        if !digit.is_ascii_digit() {
            break;
        }
        number = number
            .saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'));
        // SAFETY: the zero has not been reached.
        text = unsafe { text.add(1) };
    }
    KNOWN.store(number, Ordering::Relaxed);
    (number > 0).then_some(number)
}

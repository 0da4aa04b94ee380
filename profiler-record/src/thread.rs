//! Which thread calls, and when threads, forks and the program begin and end.

use core::ffi::{c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use profiler_common::RecordKind;

use crate::ring;
use crate::sys;

/// Keys from this number on lie in a block that pthread_setspecific would have to allocate.
const FIRST_ALLOCATED_KEY: c_uint = 32;
const NO_KEY: u32 = u32::MAX;

/// The key under which each thread keeps its number.
static KEY: AtomicU32 = AtomicU32::new(NO_KEY);
/// The process's number, kept because asking for it is a system call.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// The thread that forks, for its child.
static FORKING: AtomicU64 = AtomicU64::new(0);

/// Sets up and records that a program began.
///
/// # Safety
/// Called once, from the object's constructor.
pub(crate) unsafe fn begin() {
    let mut key = 0;
    // SAFETY: a place for the key, and a destructor of the right form.
    let made = unsafe { sys::pthread_key_create(&mut key, Some(thread_end)) };
    if made == 0 && key < FIRST_ALLOCATED_KEY {
        KEY.store(key, Ordering::Relaxed);
    }
    // SAFETY: no arguments.
    let process = unsafe { sys::getpid() };
    // SAFETY: no arguments.
    let parent = unsafe { sys::getppid() };
    PROCESS.store(process as u32, Ordering::Relaxed);
    // SAFETY: handlers of the right form that live as long as the program.
    unsafe { sys::pthread_atfork(Some(before_fork), None, Some(after_fork)) };
    ring::record(RecordKind::Start, parent as u64);
}

/// The thread's number in the upper half, the process's in the lower.
pub(crate) fn word() -> u64 {
    u64::from(number()) << 32 | u64::from(PROCESS.load(Ordering::Relaxed))
}

fn number() -> u32 {
    let key = KEY.load(Ordering::Relaxed);
    if key == NO_KEY {
        return ask();
    }
    // SAFETY: the key was made.
    let kept = unsafe { sys::pthread_getspecific(key) };
    if !kept.is_null() {
        return kept.addr() as u32;
    }
    let number = ask();
    // SAFETY: the key was made, and is one of those for which nothing is allocated.
    unsafe { sys::pthread_setspecific(key, ptr::without_provenance(number as usize)) };
    number
}

fn ask() -> u32 {
    // SAFETY: gettid has no arguments.
    unsafe { sys::syscall(sys::SYS_GETTID) as u32 }
}

unsafe extern "C" fn thread_end(_number: *mut c_void) {
    ring::record(RecordKind::ThreadEnd, 0);
}

unsafe extern "C" fn before_fork() {
    FORKING.store(word(), Ordering::Relaxed);
    ring::record(RecordKind::Forking, 0);
}

unsafe extern "C" fn after_fork() {
    // SAFETY: no arguments.
    PROCESS.store(unsafe { sys::getpid() } as u32, Ordering::Relaxed);
    let key = KEY.load(Ordering::Relaxed);
    if key != NO_KEY {
        // SAFETY: the key was made; the number kept is the parent's thread's.
        unsafe { sys::pthread_setspecific(key, ptr::null()) };
    }
    ring::record(RecordKind::Forked, FORKING.load(Ordering::Relaxed));
}

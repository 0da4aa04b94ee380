//! Which thread calls, and when threads, forks and the program begin and end.

use core::ffi::{c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use profiler_common::RecordKind;

use crate::ring;
use crate::sys;

/// Keys from this number on lie in a block that pthread_setspecific would have to allocate.
const FIRST_ALLOCATED_KEY: c_uint = 32;
const NO_KEY: u32 = u32::MAX;

/// The key under which each thread keeps its [`Own`].
static KEY: AtomicU32 = AtomicU32::new(NO_KEY);
/// The process's number, kept because asking for it is a system call.
static PROCESS: AtomicU32 = AtomicU32::new(0);

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
    PROCESS.store(sys::process(), Ordering::Relaxed);
    // SAFETY: handlers of the right form that live as long as the program.
    unsafe { sys::pthread_atfork(Some(before_fork), None, Some(after_fork)) };
    ring::record(RecordKind::Start, sys::parent().into());
}

/// The process's number, as it was when it began.
pub(crate) fn process() -> u32 {
    PROCESS.load(Ordering::Relaxed)
}

/// The thread's number in the upper half, the process's in the lower.
pub(crate) fn word() -> u64 {
    u64::from(number()) << 32 | u64::from(process())
}

/// What a thread keeps under the key: its number in the lower half, how often it forked in the upper.
#[derive(Copy, Clone)]
struct Own(u64);

impl Own {
    /// What this thread keeps: in a child that was just forked, what its parent's thread kept. `None`
    /// before its first event, or when there is no key.
    fn get() -> Option<Self> {
        let key = KEY.load(Ordering::Relaxed);
        if key == NO_KEY {
            return None;
        }
        // SAFETY: the key was made.
        let kept = unsafe { sys::pthread_getspecific(key) };
        (!kept.is_null()).then(|| Self(kept.addr() as u64))
    }

    /// Keeps this for the thread, or nothing.
    fn set(own: Option<Self>) {
        let key = KEY.load(Ordering::Relaxed);
        if key != NO_KEY {
            let kept = ptr::without_provenance(own.map_or(0, |own| own.0 as usize));
            // SAFETY: the key was made, and is one of those for which nothing is allocated.
            unsafe { sys::pthread_setspecific(key, kept) };
        }
    }

    fn number(self) -> u32 {
        self.0 as u32
    }

    fn forks(self) -> u64 {
        self.0 >> 32
    }
}

fn number() -> u32 {
    Own::get().map_or_else(
        || {
            let number = sys::thread();
            Own::set(Some(Own(number.into())));
            number
        },
        Own::number,
    )
}

unsafe extern "C" fn thread_end(_number: *mut c_void) {
    ring::record(RecordKind::ThreadEnd, 0);
}

unsafe extern "C" fn before_fork() {
    let number = number();
    // Without a key all forks have the same number.
    let forks = Own::get().map_or(0, |own| own.forks() + 1);
    Own::set(Some(Own(forks << 32 | u64::from(number))));
    ring::record_block(RecordKind::Forking, 0, forks, 0);
}

unsafe extern "C" fn after_fork() {
    let process = PROCESS.load(Ordering::Relaxed);
    let forking = Own::get();
    // Without a key it may have been any thread of the parent: its main thread, most likely.
    let thread = forking.map_or(process, Own::number);
    let forks = forking.map_or(0, Own::forks);
    PROCESS.store(sys::process(), Ordering::Relaxed);
    Own::set(None);
    let parent = u64::from(thread) << 32 | u64::from(process);
    ring::record_block(RecordKind::Forked, parent, forks, 0);
}

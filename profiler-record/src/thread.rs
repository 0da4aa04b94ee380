//! Identifies the calling thread, and when threads, forks and the program begin and end.

use core::ffi::{c_uint, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use profiler_common::ring::Leaves;
use profiler_common::{PAGE_BYTES, PID_BITS, RecordKind};

use crate::{filter, next, ring, sys};

/// Keys from this number on are in a block that pthread_setspecific would have to allocate.
const FIRST_ALLOCATED_KEY: c_uint = 32;
const NO_KEY: u32 = u32::MAX;

/// The key under which each thread keeps its [`Own`].
static KEY: AtomicU32 = AtomicU32::new(NO_KEY);
/// The process's pid, cached because asking for it is a system call.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// A word that is 1 in the process of [`PROCESS`], and that the kernel sets to 0 in copies of it;
/// null if the kernel does not do that.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
/// Where the C library keeps a thread's id, in bytes from the thread pointer; 0 if that is not
/// known.
static NUMBER_AT: AtomicU32 = AtomicU32::new(0);

/// Sets up, before events are recorded.
///
/// # Safety
/// Called once, from the object's constructor, by the first thread of the process of this number.
pub(crate) unsafe fn begin(process: u32) {
    let mut key = 0;
    // SAFETY: a place for the key, and a destructor of the right form.
    let made = unsafe { sys::pthread_key_create(&mut key, Some(thread_end)) };
    if made == 0 && key < FIRST_ALLOCATED_KEY {
        KEY.store(key, Ordering::Relaxed);
    }
    PROCESS.store(process, Ordering::Relaxed);
    find_number(process);
    let _ = filter::unless_filtered(make_mark);
    // SAFETY: handlers of the right form that live as long as the program.
    unsafe { sys::pthread_atfork(Some(before_fork), Some(has_forked), Some(after_fork)) };
}

/// Makes [`MARK`].
fn make_mark() {
    let Some(page) = sys::map_zeros(PAGE_BYTES) else {
        return;
    };
    // SAFETY: the mapping made above, of this length, which stays zero in copies.
    if unsafe { sys::advise(page, PAGE_BYTES, sys::MADV_WIPEONFORK) } {
        MARK.store(page.cast(), Ordering::Relaxed);
        mark();
    }
}

fn the_mark() -> Option<&'static AtomicU32> {
    // SAFETY: null, or a word of a mapping that stays.
    unsafe { MARK.load(Ordering::Relaxed).as_ref() }
}

/// This is the process of [`PROCESS`].
fn mark() {
    if let Some(mark) = the_mark() {
        mark.store(1, Ordering::Relaxed);
    }
}

/// Whether this process is a copy of a recorded one, made by the program's own system call
/// (`clone`): it has the pid of that one here, and was not announced.
pub(crate) fn is_in_a_copy() -> bool {
    // In the child of a fork [`after_fork`] may still be to come.
    the_mark().is_some_and(|mark| mark.load(Ordering::Relaxed) == 0)
        && !Own::get().is_some_and(Own::is_forking)
}

/// Finds out where glibc keeps a thread's id, from its description for debuggers: three words, of
/// which the second counts the ids and the third gives their offset (`DB_STRUCT_FIELD (pthread,
/// tid)`, nptl_db/structs.def). It is compared with this thread's own id, which is known.
fn find_number(own: u32) {
    let described = next::first(c"_thread_db_pthread_tid").cast::<[u32; 3]>();
    if described.is_null() {
        return;
    }
    // SAFETY: glibc's description has three words.
    let [bits, count, at] = unsafe { described.read() };
    /// `struct pthread` has more bytes than these (nptl/descr.h).
    const MOST: u32 = 1 << 11;
    if (bits, count) == (32, 1) && at.is_multiple_of(4) && at < MOST {
        NUMBER_AT.store(at, Ordering::Relaxed);
        if kept_number() != Some(own) {
            NUMBER_AT.store(0, Ordering::Relaxed);
        }
    }
}

/// This thread's id, as the C library keeps it.
fn kept_number() -> Option<u32> {
    let at = NUMBER_AT.load(Ordering::Relaxed);
    if at == 0 {
        return None;
    }
    let kept = sys::thread_pointer() + at as usize;
    // SAFETY: within the thread's structure, where such an id was found.
    Some(unsafe { ptr::with_exposed_provenance::<u32>(kept).read_volatile() })
}

/// The process's pid, as it was when it began.
pub(crate) fn process() -> u32 {
    PROCESS.load(Ordering::Relaxed)
}

/// The thread's number in the upper half, the process's in the lower.
pub(crate) fn word() -> u64 {
    u64::from(number()) << 32 | u64::from(process())
}

/// A thread's data under the key: its id, whether it is forking, how many times it was told that it
/// ends, and in the upper half how many times it forked.
#[derive(Copy, Clone)]
struct Own(u64);

/// Of [`Own`], above the number.
const FORKING: u64 = 1 << PID_BITS;
const ENDING_AT: u32 = PID_BITS + 1;
const ENDINGS: u64 = 0b111;

impl Own {
    /// This thread's data: in a child that was just forked, the data of its parent's thread. `None`
    /// before its first event, or if there is no key.
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
            // SAFETY: the key was created, and is one for which nothing is allocated.
            unsafe { sys::pthread_setspecific(key, kept) };
        }
    }

    fn number(self) -> u32 {
        self.0 as u32 & ((1 << PID_BITS) - 1)
    }

    fn is_forking(self) -> bool {
        self.0 & FORKING != 0
    }

    /// How many times the thread was told that it ends.
    fn endings(self) -> u64 {
        self.0 >> ENDING_AT & ENDINGS
    }

    fn forks(self) -> u64 {
        self.0 >> 32
    }
}

/// Whether this thread's number is known without a system call.
pub(crate) fn is_known() -> bool {
    NUMBER_AT.load(Ordering::Relaxed) != 0 || Own::get().is_some()
}

fn number() -> u32 {
    Own::get().map_or_else(
        || {
            let Some(number) = kept_number().or_else(asked_number) else {
                // For an unknown thread, the process's id is used.
                return process();
            };
            Own::set(Some(Own(number.into())));
            number
        },
        Own::number,
    )
}

/// This thread's number, by a system call.
fn asked_number() -> Option<u32> {
    filter::unless_filtered(sys::thread)
}

/// The C library calls destructors again while keys have values, at most this many times
/// (`PTHREAD_DESTRUCTOR_ITERATIONS` in glibc and musl). Values of other keys are freed meanwhile,
/// so the last call is the thread's end.
const ROUNDS: u64 = 4;

unsafe extern "C" fn thread_end(kept: *mut c_void) {
    let own = Own(kept.addr() as u64);
    let told = own.endings() + 1;
    if told < ROUNDS {
        let cleared = own.0 & !(ENDINGS << ENDING_AT);
        return Own::set(Some(Own(cleared | told << ENDING_AT)));
    }
    ring::record(RecordKind::ThreadEnd, 0);
}

unsafe extern "C" fn before_fork() {
    let number = number();
    // Without a key all forks have the same number.
    let forks = Own::get().map_or(0, |own| own.forks() + 1);
    Own::set(Some(Own(forks << 32 | FORKING | u64::from(number))));
    ring::record_block(RecordKind::Forking, 0, forks, 0);
}

unsafe extern "C" fn has_forked() {
    Own::set(Own::get().map(|own| Own(own.0 & !FORKING)));
}

unsafe extern "C" fn after_fork() {
    let process = process();
    let forking = Own::get();
    // Without a key it may have been any thread of the parent: most likely its main thread.
    let thread = forking.map_or(process, Own::number);
    let forks = forking.map_or(0, Own::forks);
    // The thread that forked is the child's first, and has its pid as its id.
    let own = kept_number().or_else(|| filter::unless_filtered(sys::process));
    let Some(own) = own else {
        // Nobody knows its pid.
        return ring::leave(Leaves::Copy);
    };
    ring::forked();
    PROCESS.store(own, Ordering::Relaxed);
    mark();
    filter::forked();
    Own::set(None);
    // A PID namespace counts from 1, and its first process has a parent that it does not know.
    if own < process && filter::unless_filtered(sys::parent) == Some(0) {
        return ring::leave(Leaves::Namespace);
    }
    let parent = u64::from(thread) << 32 | u64::from(process);
    ring::record_block(RecordKind::Forked, parent, forks, 0);
}

//! The moment before a program ends: it waits until fragscope has measured it.
//!
//! It waits only if fragscope wants that: fragscope knows which programs are large. The moment is a
//! call of `exit` or `_exit`. For Python it is when the interpreter is about to tear everything
//! down: it has marked itself as finalizing and frees for the first time. A program that is ended
//! by a signal has no such moment.

use core::ffi::c_int;
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::{next, ring, thread};

/// The pid of the process that waited: a process waits once.
static HAS_WAITED: AtomicU32 = AtomicU32::new(0);
/// The pid of a Python process that had begun to take everything apart.
static IS_FREEING: AtomicU32 = AtomicU32::new(0);
/// Python's function that says whether it is ending; null if the program has none.
static IS_FINALIZING: AtomicPtr<core::ffi::c_void> = AtomicPtr::new(ptr::null_mut());

/// Finds Python, before there are other threads.
pub(crate) fn look_up() {
    // Until Python 3.12, and from 3.13.
    for name in [c"_Py_IsFinalizing", c"Py_IsFinalizing"] {
        let found = next::first(name);
        if !found.is_null() {
            IS_FINALIZING.store(found, Ordering::Relaxed);
        }
    }
}

/// The program ends now. The kernel is not called: a program behind a filter of system calls would
/// be killed.
pub(crate) fn begin() {
    let process = thread::process();
    // fragscope could not see an unknown thread waiting.
    if thread::is_known()
        && HAS_WAITED.load(Ordering::Relaxed) != process
        && ring::awaits(process)
        && ring::record_ending(process)
    {
        HAS_WAITED.store(process, Ordering::Relaxed);
    }
}

/// A block is about to be freed, or a signal to be reset to its default action, as Python does at
/// its end for the signals that it handles: after the program's own last output, and before
/// anything is freed.
pub(crate) fn may_have_begun() {
    let function = IS_FINALIZING.load(Ordering::Relaxed);
    // What comes later takes apart what there was, and is not that moment.
    if function.is_null() || IS_FREEING.load(Ordering::Relaxed) == thread::process() {
        return;
    }
    // SAFETY: CPython's functions of these names take nothing, give an int, and only read a word.
    let is_finalizing: unsafe extern "C" fn() -> c_int = unsafe { mem::transmute(function) };
    // SAFETY: as said.
    if unsafe { is_finalizing() } != 0 {
        IS_FREEING.store(thread::process(), Ordering::Relaxed);
        begin();
    }
}

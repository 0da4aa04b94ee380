//! The moment before a program ends: it waits until fragscope has looked at it as it was.
//!
//! That is when it leaves by `exit` or `_exit`, or, where it is Python, when the interpreter begins to take
//! everything apart. A program that a signal ends has no such moment.

use core::ffi::c_int;
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use profiler_common::PAGE_BYTES;

use crate::{next, ring, sys, thread};

/// A process that has less resident is not worth waiting for.
const LEAST_RESIDENT_BYTES: u64 = 16 << 20;

/// The process that waited, by its number: one waits once.
static HAS_WAITED: AtomicU32 = AtomicU32::new(0);
/// Python's function that says whether it is ending; null where the program has none.
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

/// The program ends now.
pub(crate) fn begin() {
    let process = thread::process();
    // A child that shares its parent's memory (`vfork`) has another.
    // SAFETY: no arguments.
    if process == 0 || unsafe { sys::getpid() } as u32 != process {
        return;
    }
    if HAS_WAITED.swap(process, Ordering::Relaxed) != process && is_large() {
        ring::record_ending(process);
    }
}

/// Whether the process has so much resident that it is worth waiting for.
fn is_large() -> bool {
    let mut text = [0; 64];
    // SAFETY: a path with its zero.
    let fd = unsafe { sys::open(c"/proc/self/statm".as_ptr(), sys::O_RDONLY | sys::O_CLOEXEC) };
    if fd < 0 {
        return false;
    }
    // SAFETY: our own descriptor, and as much room as is said.
    unsafe { sys::read(fd, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: our own descriptor.
    unsafe { sys::close(fd) };
    // Pages: of the address space, resident, and more.
    let resident = text.split(|&byte| byte == b' ').nth(1);
    let pages = resident.and_then(ring::decimal).unwrap_or(0);
    pages >= LEAST_RESIDENT_BYTES / PAGE_BYTES as u64
}

/// A signal gets its default action back. Python does that for those that it handles when it ends: after
/// the program's own last words, and before anything is freed.
pub(crate) fn signal_reset() {
    let function = IS_FINALIZING.load(Ordering::Relaxed);
    if function.is_null() {
        return;
    }
    // SAFETY: CPython's functions of these names take nothing, give an int, and only read a word.
    let is_finalizing: unsafe extern "C" fn() -> c_int = unsafe { mem::transmute(function) };
    // SAFETY: as said.
    if unsafe { is_finalizing() } != 0 {
        begin();
    }
}

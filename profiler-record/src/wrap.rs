//! The functions that programs call: each passes the call on and records it.
//!
//! They have their C names only in the shared object (feature `recorder`), so that linking this
//! library for documentation or lints does not replace them.

use core::ffi::{c_char, c_int, c_void};
use core::ptr;

use profiler_common::RecordKind;
use profiler_common::ring::Leaves;

use crate::environment::Environment;
use crate::open::Named;
use crate::status::Status;
use crate::{clock, ending, filter, next, objects, ring, root, sys, thread, trim};

/// Runs before the program, and with glibc before all other constructors: there is no other thread
/// then, and the allocations of the others are recorded.
unsafe extern "C" fn constructor(
    _count: c_int,
    _arguments: *const *const c_char,
    environment: *const *const c_char,
) {
    next::look_up();
    // SAFETY: as said, and the loader runs constructors before the program can change its
    // environment.
    let environment = unsafe { Environment::given(environment) };
    clock::look_up();
    ending::look_up();
    // SAFETY: the loader runs constructors before the program can change its environment.
    let named = unsafe { Named::by(environment) };
    // Before the kernel is asked for anything else.
    let status = named.as_ref().and_then(|_| Status::own());
    let both = named.as_ref().zip(status.as_ref());
    let is_filtered = both.is_some_and(|(named, status)| status.filters > named.filters);
    if is_filtered {
        filter::was_inherited();
    }
    root::begin();
    let (Some(named), Some(status)) = (named, status) else {
        return;
    };
    let Some(ring) = named.map(&status) else {
        return;
    };
    // SAFETY: the loader runs constructors once, in the first thread.
    unsafe { thread::begin(status.process) };
    ring.begin();
    ring::record(RecordKind::Start, status.parent.into());
    if !is_filtered {
        // SAFETY: as above.
        unsafe { trim::begin((recorded_trim as *const ()).addr()) };
    }
    // SAFETY: as above, and before the program does anything: an interpreter has asked for nothing yet.
    unsafe { objects::begin(environment) };
}

/// Runs when the program exits by itself.
unsafe extern "C" fn destructor() {
    ending::begin();
    ring::record_exit();
}

#[used]
#[cfg_attr(feature = "recorder", unsafe(link_section = ".init_array"))]
static CONSTRUCTOR: unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) =
    constructor;

#[used]
#[cfg_attr(feature = "recorder", unsafe(link_section = ".fini_array"))]
static DESTRUCTOR: unsafe extern "C" fn() = destructor;

fn allocated(what: RecordKind, align: usize, block: *mut c_void, size: usize) {
    if !block.is_null() {
        let align = if align.is_power_of_two() {
            align.trailing_zeros() as u8
        } else {
            0
        };
        ring::record_block(what, block.addr() as u64, size as u64, align);
    }
}

/// # Safety
/// As C's `malloc`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    if next::is_resolving() {
        return next::early(size);
    }
    // SAFETY: passed on.
    let block = unsafe { next::malloc(size) };
    allocated(RecordKind::Alloc, 1, block, size);
    block
}

/// # Safety
/// As C's `calloc`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    if next::is_resolving() {
        return next::early(count.saturating_mul(size));
    }
    // SAFETY: passed on.
    let block = unsafe { next::calloc(count, size) };
    allocated(RecordKind::Calloc, 1, block, count.saturating_mul(size));
    block
}

/// # Safety
/// As C's `free`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if block.is_null() || next::is_early(block) {
        return;
    }
    ending::may_have_begun();
    ring::record(RecordKind::Free, block.addr() as u64);
    // SAFETY: passed on.
    unsafe { next::free(block) }
}

/// # Safety
/// As C's `realloc`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if next::is_early(block) {
        // SAFETY: a new block, as malloc's.
        let moved = unsafe { malloc(size) };
        if !moved.is_null() {
            let len = size.min(next::early_after(block));
            // SAFETY: `len` bytes of our array follow the block's start, and the new block is at
            // least as long.
            unsafe { ptr::copy_nonoverlapping(block.cast::<u8>(), moved.cast(), len) };
        }
        return moved;
    }
    // To no bytes: glibc frees and gives nothing, others give a small block.
    let frees = size == 0;
    if !block.is_null() {
        let what = if frees {
            RecordKind::Free
        } else {
            RecordKind::Realloc
        };
        ring::record(what, block.addr() as u64);
    }
    // SAFETY: passed on.
    let moved = unsafe { next::realloc(block, size) };
    if block.is_null() || frees {
        allocated(RecordKind::Alloc, 1, moved, size);
    } else if !moved.is_null() {
        allocated(RecordKind::Reallocated, 1, moved, size);
    } else {
        ring::record(RecordKind::Kept, block.addr() as u64);
    }
    moved
}

/// # Safety
/// As C's `reallocarray`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: passed on.
        Some(bytes) => unsafe { realloc(block, bytes) },
        // More than any allocator has: it fails and sets errno like one.
        // SAFETY: passed on.
        None => unsafe { realloc(block, usize::MAX) },
    }
}

/// # Safety
/// As C's `memalign`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    // SAFETY: passed on.
    let block = unsafe { next::memalign(align, size) };
    allocated(RecordKind::Alloc, align, block, size);
    block
}

/// # Safety
/// As C's `aligned_alloc`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    // SAFETY: passed on.
    let block = unsafe { next::aligned_alloc(align, size) };
    allocated(RecordKind::Alloc, align, block, size);
    block
}

/// # Safety
/// As C's `posix_memalign`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn posix_memalign(
    place: *mut *mut c_void,
    align: usize,
    size: usize,
) -> c_int {
    // SAFETY: passed on.
    let error = unsafe { next::posix_memalign(place, align, size) };
    if error == 0 {
        // SAFETY: it succeeded, so the place holds the block.
        allocated(RecordKind::Alloc, align, unsafe { *place }, size);
    }
    error
}

/// # Safety
/// As C's `valloc`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn valloc(size: usize) -> *mut c_void {
    // SAFETY: passed on.
    let block = unsafe { next::valloc(size) };
    allocated(RecordKind::Alloc, next::page_bytes(), block, size);
    block
}

/// # Safety
/// As C's `pvalloc`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn pvalloc(size: usize) -> *mut c_void {
    // SAFETY: passed on.
    let block = unsafe { next::pvalloc(size) };
    allocated(RecordKind::Alloc, next::page_bytes(), block, size);
    block
}

/// # Safety
/// As C's `malloc_trim`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn malloc_trim(pad: usize) -> c_int {
    // SAFETY: passed on.
    unsafe { recorded_trim(pad) }
}

/// The same under a name that nobody else can have: another `malloc_trim`, one of the program's
/// own, may come before ours.
///
/// # Safety
/// As for C's `malloc_trim`.
unsafe extern "C" fn recorded_trim(pad: usize) -> c_int {
    // SAFETY: passed on.
    let has_returned_any = unsafe { next::malloc_trim(pad) };
    if !next::trim().is_null() {
        ring::record_block(RecordKind::Trimmed, 0, pad as u64, 0);
    }
    has_returned_any
}

/// # Safety
/// As C's `chroot`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn chroot(path: *const c_char) -> c_int {
    // SAFETY: passed on.
    let error = unsafe { next::chroot(path) };
    if error == 0 {
        // SAFETY: programs that change their root do so before they start threads.
        unsafe { root::changed() };
    }
    error
}

/// # Safety
/// As C's `prctl`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int {
    let restriction = Restriction::of_prctl(option as usize, a);
    restriction.begins();
    // SAFETY: passed on.
    let result = unsafe { next::prctl(option, a, b, c, d) };
    restriction.began(result == 0);
    result
}

/// # Safety
/// As C's `syscall`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn syscall(
    number: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    let restriction = Restriction::of_call(number, a, b);
    restriction.begins();
    // SAFETY: passed on.
    let result = unsafe { next::syscall(number, a, b, c, d, e, f) };
    restriction.began(result == 0);
    result
}

/// What a program forbids itself with a call.
#[derive(Copy, Clone, Eq, PartialEq)]
enum Restriction {
    None,
    /// System calls, with a filter, or by intercepting those made from unexpected places.
    Calls,
    /// The processor's time counter, which the C library's clock reads; strict seccomp forbids it
    /// in addition (`disable_TSC`, arch/x86/kernel/process.c).
    Clock,
}

impl Restriction {
    /// Of `prctl(2)`.
    fn of_prctl(option: usize, argument: usize) -> Self {
        match (option, argument) {
            (sys::PR_SET_SECCOMP, sys::SECCOMP_MODE_STRICT)
            | (sys::PR_SET_TSC, sys::PR_TSC_SIGSEGV) => Self::Clock,
            (sys::PR_SET_SYSCALL_USER_DISPATCH, sys::PR_SYS_DISPATCH_OFF) => Self::None,
            (sys::PR_SET_SECCOMP | sys::PR_SET_SYSCALL_USER_DISPATCH, _) => Self::Calls,
            _ => Self::None,
        }
    }

    /// What a call forbids, by the call's number.
    fn of_call(number: usize, a: usize, b: usize) -> Self {
        match (number, a) {
            (sys::number::PRCTL, _) => Self::of_prctl(a, b),
            (sys::number::SECCOMP, sys::SECCOMP_SET_MODE_STRICT) => Self::Clock,
            (sys::number::SECCOMP, _) => Self::Calls,
            _ => Self::None,
        }
    }

    /// The call comes now. If the kernel rejects it, the recorder is more careful than necessary.
    fn begins(self) {
        if self == Self::Calls {
            filter::begins();
        }
    }

    /// The call has or has not done it. No other thread lacks the clock.
    fn began(self, has: bool) {
        if has && self == Self::Clock {
            ring::leave(Leaves::Clock);
        }
    }
}

/// # Safety
/// As C's `sigaction`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn sigaction(
    signal: c_int,
    action: *const c_void,
    before: *mut c_void,
) -> c_int {
    // The action comes first in the structure (`sa_handler`).
    // SAFETY: the caller gives one, or null.
    let handler = (!action.is_null()).then(|| unsafe { action.cast::<usize>().read() });
    if handler == Some(sys::SIG_DFL) {
        ending::may_have_begun();
    }
    // SAFETY: passed on.
    unsafe { next::sigaction(signal, action, before) }
}

/// # Safety
/// As C's `_exit`.
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn _exit(code: c_int) -> ! {
    ending::begin();
    ring::record_leaving();
    // SAFETY: passed on; it does not return.
    unsafe { next::exit(code) };
    sys::end(code)
}

/// # Safety
/// As C's `_Exit`.
#[expect(non_snake_case, reason = "its name in C")]
#[cfg_attr(feature = "recorder", unsafe(no_mangle))]
pub unsafe extern "C" fn _Exit(code: c_int) -> ! {
    // SAFETY: passed on.
    unsafe { _exit(code) }
}

//! Requests to Python's object allocator, if they are to be recorded: CPython has functions to
//! replace its allocators (`PyMem_SetAllocator`), and the replacements here pass each call on.
//!
//! The object allocator passes blocks that are too large for it to malloc, where they are recorded
//! anyway.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr;

use profiler_common::RecordKind;
use profiler_common::ring::OBJECTS_NAME;

use crate::environment::Environment;
use crate::{next, ring};

/// `PyMemAllocatorEx` of `Include/cpython/pymem.h`.
#[derive(Copy, Clone)]
#[repr(C)]
struct Allocator {
    context: *mut c_void,
    malloc: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    calloc: Option<unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void>,
    realloc: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void>,
    free: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
}

const NONE: Allocator = Allocator {
    context: ptr::null_mut(),
    malloc: None,
    calloc: None,
    realloc: None,
    free: None,
};

/// `PYMEM_DOMAIN_MEM` and `PYMEM_DOMAIN_OBJ`: both are served by the object allocator.
const DOMAINS: [c_int; 2] = [1, 2];
/// The largest block that Python's object allocator serves itself (`SMALL_REQUEST_THRESHOLD`,
/// `Objects/obmalloc.c`).
const LARGEST: usize = 512;

/// What served each of these domains.
struct OriginalAllocators(UnsafeCell<[Allocator; DOMAINS.len()]>);

// SAFETY: written by the constructor alone, before there are other threads.
unsafe impl Sync for OriginalAllocators {}

static ORIGINAL: OriginalAllocators = OriginalAllocators(UnsafeCell::new([NONE; DOMAINS.len()]));

/// Installs the functions, if this is a Python whose objects are to be recorded.
///
/// # Safety
/// Called from the object's constructor, before the interpreter has begun.
pub(crate) unsafe fn begin(environment: Environment) {
    // SAFETY: nothing changes the environment now.
    if unsafe { environment.get(OBJECTS_NAME) }.is_none() {
        return;
    }
    let get = next::first(c"PyMem_GetAllocator");
    let set = next::first(c"PyMem_SetAllocator");
    if get.is_null() || set.is_null() {
        return;
    }
    // SAFETY: CPython's function of this name has this form.
    let get: unsafe extern "C" fn(c_int, *mut Allocator) = unsafe { mem::transmute(get) };
    // SAFETY: likewise.
    let set: unsafe extern "C" fn(c_int, *const Allocator) = unsafe { mem::transmute(set) };
    for (index, domain) in DOMAINS.into_iter().enumerate() {
        // SAFETY: an element of the static, to which nothing else refers yet.
        let before = unsafe { ORIGINAL.0.get().cast::<Allocator>().add(index) };
        // SAFETY: a place for the answer.
        unsafe { get(domain, before) };
        // SAFETY: filled just now.
        let found = unsafe { *before };
        if found.malloc.is_none()
            || found.calloc.is_none()
            || found.realloc.is_none()
            || found.free.is_none()
        {
            return;
        }
        let ours = Allocator {
            context: before.cast(),
            malloc: Some(malloc),
            calloc: Some(calloc),
            realloc: Some(realloc),
            free: Some(free),
        };
        // SAFETY: functions of the right form, and a context that lives as long as the program.
        unsafe { set(domain, &ours) };
    }
}

/// The allocator that served the domain before, by the context of the functions below.
///
/// # Safety
/// The context comes from [`begin`].
unsafe fn before(context: *mut c_void) -> Allocator {
    // SAFETY: as the caller promises: an element of the static, which is not written any more.
    unsafe { *context.cast::<Allocator>() }
}

fn allocated(kind: RecordKind, block: *mut c_void, size: usize) {
    if !block.is_null() && size <= LARGEST {
        ring::record_block(kind, block.addr() as u64, size as u64, 0);
    }
}

unsafe extern "C" fn malloc(context: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: Python gives the context that came with this function.
    let before = unsafe { before(context) };
    let Some(function) = before.malloc else {
        return ptr::null_mut();
    };
    // SAFETY: passed on.
    let block = unsafe { function(before.context, size) };
    allocated(RecordKind::ObjectAlloc, block, size);
    block
}

unsafe extern "C" fn calloc(context: *mut c_void, count: usize, size: usize) -> *mut c_void {
    // SAFETY: Python gives the context that came with this function.
    let before = unsafe { before(context) };
    let Some(function) = before.calloc else {
        return ptr::null_mut();
    };
    // SAFETY: passed on.
    let block = unsafe { function(before.context, count, size) };
    allocated(RecordKind::ObjectCalloc, block, count.saturating_mul(size));
    block
}

unsafe extern "C" fn realloc(context: *mut c_void, block: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: Python gives the context that came with this function.
    let before = unsafe { before(context) };
    let Some(function) = before.realloc else {
        return ptr::null_mut();
    };
    let old = block.addr() as u64;
    // SAFETY: passed on.
    let moved = unsafe { function(before.context, block, size) };
    // Both halves once it is done: Python's lock is held meanwhile.
    if moved.is_null() {
        return moved;
    }
    if old == 0 {
        allocated(RecordKind::ObjectAlloc, moved, size);
    } else {
        ring::record(RecordKind::ObjectRealloc, old);
        ring::record_block(
            RecordKind::ObjectReallocated,
            moved.addr() as u64,
            size as u64,
            0,
        );
    }
    moved
}

unsafe extern "C" fn free(context: *mut c_void, block: *mut c_void) {
    // SAFETY: Python gives the context that came with this function.
    let before = unsafe { before(context) };
    let Some(function) = before.free else {
        return;
    };
    if !block.is_null() {
        ring::record(RecordKind::ObjectFree, block.addr() as u64);
    }
    // SAFETY: passed on.
    unsafe { function(before.context, block) }
}

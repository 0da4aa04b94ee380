//! The player's own memory: the program, the control block and slots in shared mappings, and stacks.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use profiler_common::program::{
    Control, MAX_SLOTS, MAX_THREADS, OPS_AT, Op, PROGRAM_BYTES, PROGRAM_MAGIC, ProgramHeader,
    STACK_BYTES, STACKS_BYTES,
};

use crate::sys;

static PROGRAM: AtomicPtr<ProgramHeader> = AtomicPtr::new(ptr::null_mut());
static CONTROL: AtomicPtr<Control> = AtomicPtr::new(ptr::null_mut());
static SLOTS: AtomicPtr<*mut c_void> = AtomicPtr::new(ptr::null_mut());
static STACKS: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Maps the program and the control block, and makes room for slots and stacks.
pub(crate) fn open(program: c_int, control: c_int) -> bool {
    let flags = sys::MAP_SHARED | sys::MAP_NORESERVE;
    let program = map(PROGRAM_BYTES, sys::PROT_READ, flags, program);
    let control = map(size_of::<Control>(), sys::PROT_READ_WRITE, flags, control);
    let slots = shared(SLOT_BYTES);
    let stacks = reserve_stacks();
    let (Some(program), Some(control), Some(slots), Some(stacks)) =
        (program, control, slots, stacks)
    else {
        return false;
    };
    PROGRAM.store(program.cast(), Ordering::Relaxed);
    CONTROL.store(control.cast(), Ordering::Relaxed);
    SLOTS.store(slots.cast(), Ordering::Relaxed);
    STACKS.store(stacks, Ordering::Relaxed);
    header().magic == PROGRAM_MAGIC
}

const SLOT_BYTES: usize = MAX_SLOTS as usize * size_of::<*mut c_void>();

fn map(len: usize, protection: c_int, flags: c_int, fd: c_int) -> Option<*mut c_void> {
    // SAFETY: a new mapping, placed by the kernel.
    let at = unsafe { sys::mmap(ptr::null_mut(), len, protection, flags, fd, 0) };
    (at != usize::MAX as *mut c_void).then_some(at)
}

/// Reserves addresses for the stacks of all possible threads, which cost nothing until they are
/// used. The mapping is private: the C library keeps its list of threads in the stacks, and a
/// forked child changes its own.
fn reserve_stacks() -> Option<*mut c_void> {
    let flags = sys::MAP_PRIVATE_ANONYMOUS | sys::MAP_NORESERVE;
    let stacks = map(STACKS_BYTES, sys::PROT_NONE, flags, -1)?;
    // No stack takes a huge page, and the kernel joins them to nothing of the allocator's. A kernel
    // without huge pages does not know this.
    // SAFETY: the mapping made above, of this length.
    unsafe { sys::madvise(stacks, STACKS_BYTES, sys::MADV_NOHUGEPAGE) };
    Some(stacks)
}

/// The address of the stacks.
pub(crate) fn stacks() -> *mut c_void {
    STACKS.load(Ordering::Relaxed)
}

fn stack_at(number: u32) -> *mut c_void {
    let at = stacks().cast::<u8>();
    // SAFETY: the number is taken modulo how many there are.
    unsafe { at.add((number % MAX_THREADS) as usize * STACK_BYTES) }.cast()
}

/// A stack for the thread of this number, zero until touched.
pub(crate) fn stack(number: u32) -> Option<*mut c_void> {
    let at = stack_at(number);
    // SAFETY: addresses that were reserved for this.
    let error = unsafe { sys::mprotect(at, STACK_BYTES, sys::PROT_READ_WRITE) };
    (error == 0).then_some(at)
}

/// Gives back the stack of a thread that has ended.
pub(crate) fn give_stack(number: u32) {
    let at = stack_at(number);
    // SAFETY: addresses that were reserved for this, and that nothing uses any more.
    unsafe { sys::madvise(at, STACK_BYTES, sys::MADV_DONTNEED) };
    // SAFETY: as above.
    unsafe { sys::mprotect(at, STACK_BYTES, sys::PROT_NONE) };
}

/// Fresh shared memory, zero until touched.
fn shared(len: usize) -> Option<*mut c_void> {
    let flags = sys::MAP_SHARED_ANONYMOUS | sys::MAP_NORESERVE;
    map(len, sys::PROT_READ_WRITE, flags, -1)
}

/// Gives shared memory back.
fn unmap(at: *mut c_void, len: usize) {
    // SAFETY: made by `shared` with this length, and not used any more.
    unsafe { sys::munmap(at, len) };
}

/// The program's head.
pub(crate) fn header() -> &'static ProgramHeader {
    // SAFETY: mapped before anything is played, for as long as the process lives.
    unsafe { &*PROGRAM.load(Ordering::Relaxed) }
}

/// The control block.
pub(crate) fn control() -> &'static Control {
    // SAFETY: mapped before anything is played, for as long as the process lives; only atomics in
    // it change.
    unsafe { &*CONTROL.load(Ordering::Relaxed) }
}

/// Whether the control block is there yet: the allocator asks for the time before.
pub(crate) fn is_open() -> bool {
    !CONTROL.load(Ordering::Relaxed).is_null()
}

/// The operation of this number, which has been published.
pub(crate) fn op(number: u64) -> Op {
    let at = PROGRAM.load(Ordering::Relaxed).cast::<u8>();
    // SAFETY: published operations are in the file, and the mapping is longer.
    let at = unsafe { at.add(OPS_AT + number as usize * size_of::<Op>()) };
    // SAFETY: as above; operations are aligned, and do not change once published.
    unsafe { at.cast::<Op>().read() }
}

/// The place of a slot.
pub(crate) fn slot(number: u32) -> *mut *mut c_void {
    let at = SLOTS.load(Ordering::Relaxed);
    // SAFETY: the number is taken modulo how many there are.
    unsafe { at.add((number % MAX_SLOTS) as usize) }
}

/// Gives this process its own slots, with the content of the first `used`.
pub(crate) fn own_slots(used: u32) -> bool {
    let from = SLOTS.load(Ordering::Relaxed);
    let Some(to) = shared(SLOT_BYTES) else {
        return false;
    };
    let to = to.cast::<*mut c_void>();
    // SAFETY: both are mappings of all slots, and not the same.
    unsafe { ptr::copy_nonoverlapping(from, to, used.min(MAX_SLOTS) as usize) };
    SLOTS.store(to, Ordering::Relaxed);
    unmap(from.cast(), SLOT_BYTES);
    true
}

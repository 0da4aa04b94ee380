//! Replays operations.

use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::Ordering;

use profiler_common::PAGE_BYTES;
use profiler_common::program::{
    Control, LARGE_BYTES, Only, Op, OpCode, PlayerMessage, UNKNOWN, failure,
};

use crate::process::{account, fail, send_and_wait};
use crate::{clock, memory, process, sys, thread};

/// Progress is reported every this many operations.
const REPORT_EVERY: u64 = 1 << 14;
/// How long a player sleeps when a growing program has no more operations for it, in ns.
const SLEEP_NS: i64 = 2_000_000;

/// Plays as thread `me`, which has the turn, until the thread ends.
pub(crate) fn play(me: u32) {
    let control = memory::control();
    let mut at = control.played.load(Ordering::Acquire);
    let mut published = 0;
    let mut touch = UNKNOWN;
    loop {
        if at >= published {
            published = more(control, at);
        }
        let op = memory::op(at);
        at += 1;
        if at.is_multiple_of(REPORT_EVERY) {
            control.played.store(at, Ordering::Relaxed);
        }
        if !is_for(&op, control) {
            continue;
        }
        match op.code {
            OpCode::ALLOC => {
                let block = allocate(&op);
                touch_block(control, block, op.value, mem::replace(&mut touch, UNKNOWN));
            }
            OpCode::FREE => free(&op),
            OpCode::REALLOC => {
                let block = reallocate(&op);
                touch_block(control, block, op.value, mem::replace(&mut touch, UNKNOWN));
            }
            OpCode::TOUCH => touch = op.value,
            OpCode::CLOCK => pass_time(control, op.value),
            OpCode::SWITCH if op.slot == me => {}
            OpCode::SWITCH => {
                control.played.store(at, Ordering::Release);
                thread::give_turn(op.slot);
                thread::wait_for_turn(me);
                at = control.played.load(Ordering::Acquire);
            }
            OpCode::SPAWN => thread::spawn(op.slot),
            OpCode::JOIN => thread::join(op.slot),
            OpCode::THREAD_END => {
                control.played.store(at, Ordering::Release);
                thread::give_turn(op.slot);
                return;
            }
            OpCode::FORK => {
                control.played.store(at, Ordering::Release);
                process::fork(op.value as u32, op.slot);
            }
            OpCode::START => process::start(op.value as u32, op.slot),
            OpCode::EXIT => {
                process::leave();
                control.played.store(at, Ordering::Release);
                thread::give_turn(op.slot);
                // SAFETY: nothing of this process is needed any more.
                unsafe { sys::_exit(0) }
            }
            OpCode::EXEC => {
                control.played.store(at, Ordering::Release);
                process::exec(op.slot)
            }
            OpCode::TRIM => trim_to(op.value as usize),
            OpCode::CHECKPOINT => {
                control.played.store(at, Ordering::Release);
                if control.trim_at_checkpoints != 0 {
                    trim();
                }
                clock::settle();
                account();
                send_and_wait(PlayerMessage::Checkpoint);
            }
            _ => fail(failure::BAD_PROGRAM, at - 1),
        }
    }
}

/// Waits until the program has more than `at` operations, and returns their number. Ends when it is
/// over.
#[cold]
fn more(control: &Control, at: u64) -> u64 {
    control.played.store(at, Ordering::Relaxed);
    let header = memory::header();
    loop {
        let closed = header.closed.load(Ordering::Acquire) != 0;
        let published = header.published.load(Ordering::Acquire);
        if published > at {
            return published;
        }
        if closed {
            clock::settle();
            account();
            send_and_wait(PlayerMessage::End);
            // SAFETY: nothing of this process is needed any more.
            unsafe { sys::_exit(0) }
        }
        // It is read-only memory, but the kernel waits on that as well.
        sys::wait_for(&header.closed, 0, SLEEP_NS);
    }
}

/// Allocates the block of a slot.
fn allocate(op: &Op) -> *mut c_void {
    let size = op.value as usize;
    let block = if op.zeroed != 0 {
        // SAFETY: any size may be asked for.
        unsafe { sys::calloc(1, size) }
    } else if op.align > 3 && op.align < 40 {
        let mut block = ptr::null_mut();
        // SAFETY: a place for the block, and a power of two.
        let error = unsafe { sys::posix_memalign(&mut block, 1 << op.align, size) };
        if error == 0 { block } else { ptr::null_mut() }
    } else {
        // SAFETY: any size may be asked for.
        unsafe { sys::malloc(size) }
    };
    if block.is_null() {
        fail(failure::NO_MEMORY, op.value);
    }
    // SAFETY: the slot's place; only the thread that has the turn looks at it.
    unsafe { memory::slot(op.slot).write(block) };
    process::note_slots(op.slot + 1);
    block
}

/// Frees the block of a slot.
fn free(op: &Op) {
    // SAFETY: the slot's place; only the thread that has the turn looks at it.
    let block = unsafe { memory::slot(op.slot).replace(ptr::null_mut()) };
    // SAFETY: null, or a block that was allocated and not freed since.
    unsafe { sys::free(block) };
}

/// Reallocates the block of a slot.
fn reallocate(op: &Op) -> *mut c_void {
    let slot = memory::slot(op.slot);
    // SAFETY: the slot's place; only the thread that has the turn looks at it.
    let block = unsafe { slot.read() };
    // SAFETY: null, or a block that was allocated and not freed since.
    let moved = unsafe { sys::realloc(block, op.value as usize) };
    if moved.is_null() {
        fail(failure::NO_MEMORY, op.value);
    }
    // SAFETY: as above.
    unsafe { slot.write(moved) };
    moved
}

/// Whether an operation is meant for this player's allocator.
fn is_for(op: &Op, control: &Control) -> bool {
    match op.only {
        Only::C_LIBRARY => control.other == 0,
        Only::OTHERS => control.other != 0,
        Only::FIRST_FILL => control.other != 0 && control.fill == 0,
        Only::OBJECTS => control.objects != 0,
        Only::SECOND_FILL => control.other != 0 && control.fill != 0,
        _ => true,
    }
}

/// Writes to the pages of a block that the program wrote to.
fn touch_block(control: &Control, block: *mut c_void, size: u64, known: u64) {
    let bytes = if known != UNKNOWN {
        known.min(size)
    } else if size >= LARGE_BYTES && control.least != 0 {
        0
    } else {
        size
    } as usize;
    if bytes == 0 {
        return;
    }
    let first = block.cast::<u8>();
    // To the start of the next page, and on from page to page.
    let mut offset = 0;
    while offset < bytes {
        // SAFETY: within the block, which has at least this size.
        let byte = unsafe { first.add(offset) };
        // SAFETY: as above.
        unsafe { byte.write_volatile(1) };
        offset += PAGE_BYTES - (first.addr() + offset) % PAGE_BYTES;
    }
}

/// Advances the program's time, and has all of its processes trim when that is requested, including
/// those that do nothing meanwhile.
fn pass_time(control: &Control, to_ns: u64) {
    let periods = |ns: u64| {
        let ns = ns.saturating_add(control.trim_phase_ns);
        ns.checked_div(control.trim_every_ns)
    };
    if periods(to_ns) > periods(control.now_ns.load(Ordering::Relaxed)) {
        trim();
        process::have_others_trim();
    }
    clock::advance(control, to_ns);
}

/// Has the allocator return free memory, if it has a function for that: the C library's
/// `malloc_trim`, or `mi_collect`, which mimalloc has besides an empty `malloc_trim`.
pub(crate) fn trim() {
    static COLLECT: sys::Next = sys::Next::named(c"mi_collect");
    let collect = COLLECT.get();
    if !collect.is_null() {
        type Collect = unsafe extern "C" fn(bool);
        // SAFETY: mimalloc's function of this name has this form.
        let collect: Collect = unsafe { mem::transmute(collect) };
        // SAFETY: it may be called at any moment.
        return unsafe { collect(true) };
    }
    trim_to(0);
}

/// Calls `malloc_trim`, if the C library has it.
fn trim_to(pad: usize) {
    static TRIM: sys::Next = sys::Next::named(c"malloc_trim");
    let found = TRIM.get();
    if found.is_null() {
        return;
    }
    type Trim = unsafe extern "C" fn(usize) -> c_int;
    // SAFETY: the C library's function of this name has this form.
    let trim: Trim = unsafe { mem::transmute(found) };
    // SAFETY: it may be called at any moment.
    unsafe { trim(pad) };
}

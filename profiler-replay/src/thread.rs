//! Threads of the program: each replays its own operations, one thread at a time over all
//! processes.

use core::ffi::{c_ulong, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use profiler_common::program::{MAX_THREADS, STACK_BYTES, failure, turn};

use crate::play;
use crate::process::fail;
use crate::sys;
use crate::{memory, process};

/// How often a thread that waits looks whether fragscope is still there, in ns.
const POLL_NS: i64 = 500_000_000;

/// The handle of each thread of this process, by the thread's number.
static HANDLES: [AtomicU64; MAX_THREADS as usize] =
    [const { AtomicU64::new(0) }; MAX_THREADS as usize];

fn handle(number: u32) -> &'static AtomicU64 {
    &HANDLES[(number % MAX_THREADS) as usize]
}

fn turn_of(number: u32) -> &'static AtomicU32 {
    &memory::control().turns[(number % MAX_THREADS) as usize]
}

/// Gives the turn to a thread.
pub(crate) fn give_turn(number: u32) {
    let turn = turn_of(number);
    turn.store(turn::PLAY, Ordering::Release);
    sys::wake(turn);
}

/// Waits for the turn; meanwhile trims when another process has the timer for it.
pub(crate) fn wait_for_turn(number: u32) {
    let turn = turn_of(number);
    loop {
        match turn.swap(turn::NONE, Ordering::Acquire) {
            turn::NONE => {
                sys::wait_for(turn, turn::NONE, POLL_NS);
                if turn.load(Ordering::Relaxed) == turn::NONE {
                    process::end_if_alone();
                }
            }
            turn::TRIM => {
                play::trim();
                let trimmed = &memory::control().trimmed;
                trimmed.fetch_add(1, Ordering::Release);
                sys::wake(trimmed);
            }
            _ => return,
        }
    }
}

/// Has a thread of another process trim there, and waits until it has. The caller has the turn, so
/// the thread is waiting for its own.
pub(crate) fn have_trim(number: u32) {
    let trimmed = &memory::control().trimmed;
    let before = trimmed.load(Ordering::Acquire);
    let turn = turn_of(number);
    turn.store(turn::TRIM, Ordering::Release);
    sys::wake(turn);
    while trimmed.load(Ordering::Acquire) == before {
        sys::wait_for(trimmed, before, POLL_NS);
        process::end_if_alone();
    }
}

/// Starts a thread, which waits for its turn.
pub(crate) fn spawn(number: u32) {
    let Some(stack) = memory::stack(number) else {
        fail(failure::NO_MAPPING, STACK_BYTES as u64);
    };
    let mut attributes = sys::Attributes([0; 64]);
    // SAFETY: a place for the attributes.
    unsafe { sys::pthread_attr_init(&mut attributes) };
    // SAFETY: attributes made above, and memory of this length.
    unsafe { sys::pthread_attr_setstack(&mut attributes, stack, STACK_BYTES) };
    let mut made: c_ulong = 0;
    let argument = ptr::without_provenance_mut(number as usize);
    // SAFETY: everything here lives long enough; the stack until the thread is joined.
    let error = unsafe { sys::pthread_create(&mut made, &attributes, begin, argument) };
    if error != 0 {
        fail(failure::NO_THREAD, u64::from(error as u32));
    }
    handle(number).store(made, Ordering::Relaxed);
}

extern "C" fn begin(number: *mut c_void) -> *mut c_void {
    let number = number.addr() as u32;
    wait_for_turn(number);
    play::play(number);
    ptr::null_mut()
}

/// Waits until a thread of this process has ended, including what its allocator does then.
pub(crate) fn join(number: u32) {
    let ended = handle(number).swap(0, Ordering::Relaxed);
    if ended == 0 {
        return;
    }
    // SAFETY: a thread of this process that was not joined before.
    unsafe { sys::pthread_join(ended, ptr::null_mut()) };
    memory::give_stack(number);
}

//! The call that each thread is inside of.

use profiler_common::Call;

use crate::maps::CALLS;

/// How far below a function's entry its own calls can be on the stack, in bytes. Allocators' frames
/// are small; this is generous.
const REACH: u64 = 64 << 10;

/// Whether the code at `stack_pointer` was called, at any depth, by the function that this thread
/// is known to be in. A record whose function must have returned is dropped: a thread may leave a
/// function unseen (`longjmp`, a leaf that fails), and thread numbers come back.
#[inline(always)]
pub fn is_nested(tid: u32, stack_pointer: u64) -> bool {
    let Some(call) = CALLS.get_ptr(tid) else {
        return false;
    };
    // SAFETY: a map's value, valid while the program runs.
    let (entered_at, leaf) = unsafe { ((*call).stack_pointer, (*call).leaf) };
    if leaf == 0 && stack_pointer <= entered_at && entered_at - stack_pointer < REACH {
        return true;
    }
    let _gone_already = CALLS.remove(tid);
    false
}

/// Notes that the thread entered a function.
#[inline(always)]
pub fn enter(tid: u32, call: &Call) {
    let _no_memory = CALLS.insert(tid, call, 0);
}

/// Notes how much the function that the thread is in asks for.
#[inline(always)]
pub fn set_size(tid: u32, size: u64) {
    if let Some(call) = CALLS.get_ptr_mut(tid) {
        // SAFETY: a map's value, valid while the program runs; only this thread's hits write it.
        unsafe { (*call).size = size };
    }
}

/// Where the function that the thread is in has its return address, and that address; zeros if none is known.
#[inline(always)]
pub fn returns_to(tid: u32) -> (u64, u64) {
    let Some(call) = CALLS.get_ptr(tid) else {
        return (0, 0);
    };
    // SAFETY: a map's value, valid while the program runs.
    unsafe { ((*call).stack_pointer, (*call).return_address) }
}

/// The record of this thread's call of `probe`, which is over.
#[inline(always)]
pub fn leave(tid: u32, probe: u32) -> Option<Call> {
    let call = CALLS.get_ptr(tid)?;
    // SAFETY: a map's value, valid while the program runs.
    let call = unsafe { *call };
    if call.probe != probe {
        return None;
    }
    let _gone_already = CALLS.remove(tid);
    Some(call)
}

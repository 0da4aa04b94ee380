//! Whether the program may have installed a system call filter (seccomp(2)).
//!
//! A filter may kill the program at any call that it does not expect. So the recorder makes no
//! system calls if there is one, unless it is also the reader's: a container's filter applies to
//! fragscope as well.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::clock::now_ns;

static IS_FILTERED: AtomicBool = AtomicBool::new(false);

/// The program was executed behind more filters than the reader runs behind itself: before there are other threads.
pub(crate) fn was_inherited() {
    IS_FILTERED.store(true, Ordering::SeqCst);
}

/// Whether no system call may be made.
pub(crate) fn is_filtered() -> bool {
    IS_FILTERED.load(Ordering::Relaxed)
}

/// How many threads are in a call that a filter may forbid.
static CALLING: AtomicU32 = AtomicU32::new(0);

/// The result of this function, which makes a system call, unless none may be made.
pub(crate) fn unless_filtered<T>(call: impl FnOnce() -> T) -> Option<T> {
    CALLING.fetch_add(1, Ordering::SeqCst);
    // Asked once whoever sets a filter waits for this thread.
    let made = (!IS_FILTERED.load(Ordering::SeqCst)).then(call);
    // If a signal handler forked meanwhile, no call is counted in the child.
    let one_less = |calling: u32| calling.checked_sub(1);
    let _ = CALLING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    made
}

/// The program is about to forbid itself calls, perhaps in all its threads: threads inside a call
/// finish it first, which takes a millisecond. If the kernel rejects that, a few calls are omitted
/// needlessly.
pub(crate) fn begins() {
    IS_FILTERED.store(true, Ordering::SeqCst);
    let began = now_ns();
    while CALLING.load(Ordering::SeqCst) != 0 && now_ns().saturating_sub(began) < LONGEST_CALL_NS {
        core::hint::spin_loop();
    }
}

/// Not longer than this: a copy of a process has its threads' counts, but not the threads.
const LONGEST_CALL_NS: u64 = 50_000_000;

/// In a child that was just forked: it has one thread.
pub(crate) fn forked() {
    CALLING.store(0, Ordering::SeqCst);
}

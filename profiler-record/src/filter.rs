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

/// Whether no system call is to be made.
pub(crate) fn is_filtered() -> bool {
    IS_FILTERED.load(Ordering::Relaxed)
}

/// How many threads are in a call that a filter may forbid.
static CALLING: AtomicU32 = AtomicU32::new(0);

/// What this gives, which makes a system call, unless none is to be made.
pub(crate) fn unless_filtered<T>(call: impl FnOnce() -> T) -> Option<T> {
    CALLING.fetch_add(1, Ordering::SeqCst);
    // Asked once whoever sets a filter waits for this thread.
    let made = (!IS_FILTERED.load(Ordering::SeqCst)).then(call);
    // A signal's handler that forked meanwhile left none counted in its child.
    let one_less = |calling: u32| calling.checked_sub(1);
    let _ = CALLING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    made
}

/// The program is about to forbid itself calls, maybe of all its threads: those that are in one come out of it first, which
/// takes a millisecond. Where the kernel refuses that, some are made too few.
pub(crate) fn begins() {
    IS_FILTERED.store(true, Ordering::SeqCst);
    let began = now_ns();
    while CALLING.load(Ordering::SeqCst) != 0 && now_ns().saturating_sub(began) < LONGEST_CALL_NS {
        core::hint::spin_loop();
    }
}

/// No longer: a copy of a process has what its threads counted, and not the threads.
const LONGEST_CALL_NS: u64 = 50_000_000;

/// In a child that was just forked: it has one thread.
pub(crate) fn forked() {
    CALLING.store(0, Ordering::SeqCst);
}

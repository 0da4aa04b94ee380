//! Whether the program may have forbidden itself system calls (seccomp(2)).
//!
//! A filter may end the program at any call that it does not know. So the recorder makes none where there is one,
//! but for the reader's own: a container's filter is fragscope's as well.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::open::decimal;
use crate::ring::now_ns;
use crate::sys;

static IS_FILTERED: AtomicBool = AtomicBool::new(false);

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
    CALLING.fetch_sub(1, Ordering::SeqCst);
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

/// Finds out whether the program was executed behind a filter more than the reader, by calls that the loader has just
/// made itself. Before Linux 5.9 the kernel does not say.
pub(crate) fn look(of_reader: u32) {
    // SAFETY: a path with its zero.
    let fd = unsafe {
        sys::open(
            c"/proc/self/status".as_ptr(),
            sys::O_RDONLY | sys::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return;
    }
    let mut status = [0; 4096];
    let mut kept = 0;
    // A user of many groups has a long line of them before this one.
    let own = loop {
        let read = sys::read(fd, status.get_mut(kept..).unwrap_or_default());
        let end = kept + read;
        let known = status.get(..end).unwrap_or_default();
        let own = filters(known);
        if own.is_some() || read == 0 {
            break own;
        }
        // The line may have been cut.
        let from = end.saturating_sub(LINE);
        kept = end - from;
        // (`copy_within` needs what is not linked here.)
        for at in 0..kept {
            let byte = status.get(from + at).copied().unwrap_or_default();
            if let Some(to) = status.get_mut(at) {
                *to = byte;
            }
        }
    };
    sys::close(fd);
    if own.is_some_and(|own| own > of_reader.into()) {
        begins();
    }
}

/// Longer than the line that is sought.
const LINE: usize = 64;

/// What `/proc/PID/status` has as `Seccomp_filters`.
fn filters(status: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"Seccomp_filters:\t";
    let at = status.windows(NAME.len()).position(|some| some == NAME)?;
    let rest = status.get(at + NAME.len()..)?;
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    decimal(rest.get(..end)?)
}

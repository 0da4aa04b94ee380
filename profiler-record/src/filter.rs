//! Whether the program may have forbidden itself system calls (seccomp(2)).
//!
//! A filter may end the program at any call that it does not know. So the recorder makes none where there is one,
//! but for the reader's own: a container's filter is fragscope's as well.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::open::decimal;
use crate::sys;

static IS_FILTERED: AtomicBool = AtomicBool::new(false);

/// Whether no system call is to be made.
pub(crate) fn is_filtered() -> bool {
    IS_FILTERED.load(Ordering::Relaxed)
}

/// Calls this unless no system call is to be made.
pub(crate) fn unless_filtered(call: impl FnOnce()) {
    if !is_filtered() {
        call();
    }
}

/// The program is about to forbid itself calls. Where the kernel refuses that, some are made too few.
pub(crate) fn begins() {
    IS_FILTERED.store(true, Ordering::Relaxed);
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
    // It has about 1,500, and this line in their second half.
    let mut status = [0; 4096];
    let read = sys::read(fd, &mut status);
    sys::close(fd);
    let status = status.get(..read).unwrap_or_default();
    if filters(status).is_some_and(|own| own > of_reader.into()) {
        begins();
    }
}

/// What `/proc/PID/status` has as `Seccomp_filters`.
fn filters(status: &[u8]) -> Option<u64> {
    let lines = status.split(|&byte| byte == b'\n');
    let mut counts = lines.filter_map(|line| line.strip_prefix(b"Seccomp_filters:\t"));
    decimal(counts.next()?)
}

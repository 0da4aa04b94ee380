//! Whether this program was started without standard output.
//!
//! Rust's runtime opens `/dev/null` in place of a closed standard stream before `main` runs. From
//! then on all output appears to succeed.

use std::sync::atomic::{AtomicBool, Ordering};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Called by the C library before `main`, and so before the runtime checks the streams.
#[used]
// SAFETY: the section holds addresses of functions with the C calling convention, and this is one.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: one system call, which takes two integers.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    IS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// Whether the standard output was closed when this program was started.
pub fn was_stdout_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}

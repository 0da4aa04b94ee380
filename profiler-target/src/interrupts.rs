//! The origin of a SIGINT, and which signals this process was started to ignore.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static WAS_SENT: AtomicBool = AtomicBool::new(false);

/// Begins to record the origin of SIGINT. Handlers registered later in signal-hook's registry, as
/// tokio's are, find it recorded.
///
/// # Errors
/// When the kernel rejects it.
pub fn watch() -> io::Result<()> {
    static BEGUN: OnceLock<()> = OnceLock::new();
    if BEGUN.get().is_some() {
        return Ok(());
    }
    let note = |about: &libc::siginfo_t| {
        // `SI_USER` and smaller codes come from processes (sigaction(2)).
        WAS_SENT.store(about.si_code <= libc::SI_USER, Ordering::SeqCst);
    };
    // SAFETY: the action stores a word and does nothing else.
    unsafe { signal_hook_registry::register_sigaction(libc::SIGINT, note) }?;
    // If another thread does this at the same time, it is harmlessly done twice.
    BEGUN.get_or_init(|| ());
    Ok(())
}

/// Whether this process ignores a signal.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: a structure of numbers and pointers for which all zeros is valid.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed, and there is a place for the answer.
    let error = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) };
    error == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Whether a process sent the last SIGINT, by `kill`, and not the kernel, for a key of a terminal.
pub fn last_was_sent() -> bool {
    WAS_SENT.load(Ordering::SeqCst)
}

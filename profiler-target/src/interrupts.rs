//! The origin of a SIGINT, and which signals this process was started to ignore.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static WAS_SENT: AtomicBool = AtomicBool::new(false);

/// From now on it is noted. Other handlers of the signal that are registered later by signal-hook's
/// registry, as tokio's are, find it noted.
///
/// # Errors
/// When the kernel refuses.
pub fn watch() -> io::Result<()> {
    static BEGUN: OnceLock<()> = OnceLock::new();
    if BEGUN.get().is_some() {
        return Ok(());
    }
    let note = |about: &libc::siginfo_t| {
        // `SI_USER` and what is below are of processes (sigaction(2)).
        WAS_SENT.store(about.si_code <= libc::SI_USER, Ordering::SeqCst);
    };
    // SAFETY: the action stores a word and does nothing else.
    unsafe { signal_hook_registry::register_sigaction(libc::SIGINT, note) }?;
    // Another thread that came here at the same time has the same done twice.
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

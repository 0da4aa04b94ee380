//! Signals that end a session.

use std::io;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Sig};
use profiler_target::interrupts::{self, is_ignored};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long to wait for work that a signal ends: the signal must be answered within 200 ms.
pub(crate) const AFTER_SIGNAL: Duration = Duration::from_millis(120);

/// The signals that end a session properly. A signal that was ignored when fragscope was started
/// stays ignored, here and in programs started from here, as intended by `nohup` and by shells that
/// run it in the background.
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
    quit: Option<Signal>,
}

impl Signals {
    /// Takes them over: from now on none has its default action.
    ///
    /// # Errors
    /// When the kernel rejects it.
    pub(crate) fn new() -> io::Result<Self> {
        // A signal that arrives while a handler is installed but not yet registered is lost
        // (`register_unchecked_impl` of signal-hook-registry 1.4), so signals are blocked until all
        // are installed.
        let mut all = SigSet::empty();
        all.extend([Sig::SIGINT, Sig::SIGTERM, Sig::SIGHUP, Sig::SIGQUIT]);
        let before = all.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let taken_over = Self::take_over();
        before.thread_set_mask()?;
        taken_over
    }

    fn take_over() -> io::Result<Self> {
        let take = |kind: SignalKind| match is_ignored(kind.as_raw_value()) {
            true => Ok(None),
            false => signal(kind).map(Some),
        };
        if !is_ignored(libc::SIGINT) {
            // Before tokio's, which wakes the waiting task.
            interrupts::watch()?;
        }
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
            quit: take(SignalKind::quit())?,
        })
    }

    /// Whether the last SIGINT was sent to this process alone, as far as known: `kill -INT`
    /// addresses one process, while a terminal key reaches all foreground processes.
    pub(crate) fn interrupt_was_sent(&self) -> bool {
        interrupts::last_was_sent()
    }

    /// The name of one that has already come.
    pub(crate) async fn pending(&mut self) -> Option<&'static str> {
        tokio::select! {
            biased;
            name = self.next() => Some(name),
            // The runtime checks for signals in between.
            () = tokio::task::yield_now() => None,
        }
    }

    /// The next one's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = come(&mut self.interrupt) => "SIGINT",
            () = come(&mut self.terminate) => "SIGTERM",
            () = come(&mut self.hangup) => "SIGHUP",
            () = come(&mut self.quit) => "SIGQUIT",
        }
    }
}

/// Completes with the next one; never if it is ignored.
async fn come(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn one_that_has_come_is_found_without_waiting_and_none_where_none_came() {
        let mut signals = Signals::new().expect("taken over");
        assert_eq!(signals.pending().await, None);
        raise(Signal::SIGQUIT).expect("handled");
        assert_eq!(signals.pending().await, Some("SIGQUIT"));
        assert_eq!(signals.pending().await, None);
    }
}

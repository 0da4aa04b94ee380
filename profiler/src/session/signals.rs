//! Signals that end a session.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Sig};
use profiler_target::interrupts;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a session well.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    /// Takes them over: from now on none has its default action.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn new() -> io::Result<Self> {
        // What comes while a handler is put in place, and is not known to whoever called for it yet, is lost
        // (`register_unchecked_impl` of signal-hook-registry 1.4): it waits until all are in place.
        let mut all = SigSet::empty();
        all.extend([Sig::SIGINT, Sig::SIGTERM, Sig::SIGHUP, Sig::SIGQUIT]);
        let before = all.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let taken_over = Self::take_over();
        before.thread_set_mask()?;
        taken_over
    }

    fn take_over() -> io::Result<Self> {
        // Before tokio's, which wakes who asks.
        interrupts::watch()?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Whether the last SIGINT reached nobody but this process, as far as is known: `kill -INT` names one,
    /// while a terminal's key reaches all that run in its foreground.
    pub(crate) fn interrupt_was_sent(&self) -> bool {
        interrupts::last_was_sent()
    }

    /// The name of one that has come already.
    pub(crate) async fn pending(&mut self) -> Option<&'static str> {
        tokio::select! {
            biased;
            name = self.next() => Some(name),
            // The runtime looks for signals in between.
            () = tokio::task::yield_now() => None,
        }
    }

    /// The next one's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.quit.recv() => "SIGQUIT",
        }
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

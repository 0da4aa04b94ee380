//! Signals that end a session.

use std::io;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Sig};
use profiler_target::interrupts::{self, is_ignored};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long work that a signal ends is waited for: the signal is to be answered within 200 ms.
pub(crate) const AFTER_SIGNAL: Duration = Duration::from_millis(120);

/// The signals that end a session well. One that whoever started fragscope has it ignore stays ignored, here
/// and in what is started from here: `nohup` means it, and a shell that runs it in the background.
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
        let take = |kind: SignalKind| match is_ignored(kind.as_raw_value()) {
            true => Ok(None),
            false => signal(kind).map(Some),
        };
        if !is_ignored(libc::SIGINT) {
            // Before tokio's, which wakes who asks.
            interrupts::watch()?;
        }
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
            quit: take(SignalKind::quit())?,
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
            () = come(&mut self.interrupt) => "SIGINT",
            () = come(&mut self.terminate) => "SIGTERM",
            () = come(&mut self.hangup) => "SIGHUP",
            () = come(&mut self.quit) => "SIGQUIT",
        }
    }
}

/// Comes with the next one; never where it is ignored.
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

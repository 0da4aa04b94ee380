//! Signals that end a session.

use std::io;

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

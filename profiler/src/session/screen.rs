//! The terminal UI on a thread of its own.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::tui::{self, Effect, Leave, Update};

/// What ended a session whose terminal was closed.
pub(super) const CLOSED: &str = "the end of its terminal";

/// How long the end of a session waits for drawing or reading. The screen checks for news every 50
/// ms, and takes longer only if the terminal accepts nothing.
const AT_LEISURE: Duration = Duration::from_secs(1);
/// The same if the session was interrupted.
const IN_HASTE: Duration = Duration::from_millis(80);

/// How long the end of a session waits for drawing or reading, which may be `in_haste`.
pub(super) const fn last_wait(in_haste: bool) -> Duration {
    match in_haste {
        true => IN_HASTE,
        false => AT_LEISURE,
    }
}

/// The screen, as used from outside its thread.
pub(crate) struct Screen<U = Update> {
    updates: Sender<U>,
    thread: JoinHandle<io::Result<()>>,
}

impl Screen {
    /// Takes over the terminal for a session. `effects` is called with the user's requests.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn open(effects: impl FnMut(Effect) + Send + 'static) -> io::Result<Self> {
        Self::drawn_by(move |to_draw| tui::run(to_draw, effects))
    }
}

impl<U: Leave + Send + 'static> Screen<U> {
    /// Takes over the terminal; `run` draws its updates until it should leave.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn drawn_by(
        run: impl FnOnce(&Receiver<U>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (updates, to_draw) = mpsc::channel();
        let thread = profiler_target::start_thread("screen", move || run(&to_draw))?;
        Ok(Self { updates, thread })
    }

    /// Sends it an update.
    pub(crate) fn update(&self, update: U) {
        // A screen that the user left is closed by the request that it sent before.
        let _ = self.updates.send(update);
    }

    /// Begins to give the terminal back.
    pub(crate) fn leave(&self) {
        self.update(U::leave());
    }

    /// Waits until the terminal is given back, no longer than a moment `in_haste`.
    ///
    /// # Errors
    /// When drawing had failed.
    pub(crate) fn close(self, in_haste: bool) -> io::Result<()> {
        let deadline = Instant::now() + last_wait(in_haste);
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                // The terminal accepts nothing: the process ends anyway.
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let drawn = self.thread.join();
        drawn.unwrap_or_else(|_| Err(io::Error::other("the screen panicked")))
    }
}

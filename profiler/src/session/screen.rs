//! The terminal UI on a thread of its own.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::tui::{self, Effect, Update};

/// How long the screen's thread is waited for. It looks for what is new each 50 ms, and takes longer
/// only where the terminal takes nothing in.
pub(crate) const LAST_FRAME: Duration = Duration::from_secs(1);

/// The screen, from outside of its thread.
pub(crate) struct Screen {
    updates: Sender<Update>,
    thread: JoinHandle<io::Result<()>>,
}

impl Screen {
    /// Takes the terminal over. `effects` is called with what the user wants.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn open(effects: impl FnMut(Effect) + Send + 'static) -> io::Result<Self> {
        let (updates, to_draw) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("screen".into())
            .spawn(move || tui::run(&to_draw, effects))?;
        Ok(Self { updates, thread })
    }

    /// Gives it something new.
    pub(crate) fn update(&self, update: Update) {
        // A screen that the user left is closed by the request that it sent before.
        let _ = self.updates.send(update);
    }

    /// Begins to give the terminal back.
    pub(crate) fn leave(&self) {
        self.update(Update::Quit);
    }

    /// Waits until the terminal is given back, but no longer than `timeout`.
    ///
    /// # Errors
    /// When drawing had failed.
    pub(crate) fn close(self, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                // A terminal that takes nothing in: the process ends all the same.
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let drawn = self.thread.join();
        drawn.unwrap_or_else(|_| Err(io::Error::other("the screen panicked")))
    }
}

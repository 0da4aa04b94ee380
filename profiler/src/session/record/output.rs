//! Where a recording goes: into a trace, or straight into players.

use profiler_trace::trace::{Checkpoint, Event, SeedBlock};

use super::recording::{Cut, Recording};

/// Takes in a stream, item by item, in order.
pub(crate) trait Output {
    /// The heap that was there before, ahead of all events.
    ///
    /// # Errors
    /// When it cannot be taken in.
    fn seed(&mut self, blocks: &[SeedBlock]) -> Result<(), Cut>;

    /// An event.
    ///
    /// # Errors
    /// When it cannot be taken in.
    fn event(&mut self, event: &Event) -> Result<(), Cut>;

    /// A checkpoint.
    ///
    /// # Errors
    /// When it cannot be taken in.
    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Cut>;

    /// Called after each batch, and now and then.
    ///
    /// # Errors
    /// When what was taken in cannot be passed on.
    fn progress(&mut self) -> Result<(), Cut>;

    /// What else there is to say while it goes on.
    fn remark(&mut self, remark: String);

    /// Tells the user something, once.
    fn say(&mut self, what: String);

    /// Events taken in.
    fn events(&self) -> u64;

    /// Nothing more will come.
    ///
    /// # Errors
    /// When what was taken in cannot be passed on.
    fn finish(self) -> Result<(), Cut>;
}

impl Output for Recording {
    fn seed(&mut self, blocks: &[SeedBlock]) -> Result<(), Cut> {
        Recording::seed(self, blocks)
    }

    fn event(&mut self, event: &Event) -> Result<(), Cut> {
        Recording::event(self, event)
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Cut> {
        Recording::checkpoint(self, checkpoint)
    }

    fn progress(&mut self) -> Result<(), Cut> {
        Recording::progress(self);
        Ok(())
    }

    fn remark(&mut self, remark: String) {
        Recording::remark(self, remark);
    }

    fn say(&mut self, what: String) {
        Recording::say(self, &what);
    }

    fn events(&self) -> u64 {
        Recording::events(self)
    }

    fn finish(self) -> Result<(), Cut> {
        Recording::finish(self)
    }
}

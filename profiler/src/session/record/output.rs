//! Where a recording goes: into a file, or directly to players.

use profiler_core::activity::ProbeCost;
use profiler_trace::record::TraceSink;

use super::TraceWriteError;

/// Receives a recording, and messages while it continues.
pub(crate) trait Output: TraceSink<Error = TraceWriteError> {
    /// Called after each batch of events, and from time to time.
    ///
    /// # Errors
    /// When the received data cannot be passed on.
    fn progress(&mut self) -> Result<(), TraceWriteError>;

    /// Additional text for the progress line from now on.
    fn set_progress_note(&mut self, note: String);

    /// The present cost of the probes, if a recording uses probes.
    fn set_cost(&mut self, _cost: ProbeCost) {}

    /// Reports something to the user, once.
    fn say(&mut self, what: &str);

    /// Events received so far.
    fn events(&self) -> u64;

    /// Called when nothing more will come.
    ///
    /// # Errors
    /// When the received data cannot be passed on.
    fn finish(self) -> Result<(), TraceWriteError>;
}

//! Where a recording goes: into a file, or directly to players.

use profiler_core::activity::ProbeCost;
use profiler_trace::record::TraceSink;

use super::TraceWriteError;

/// Takes a recording, and what there is to say while it goes on.
pub(crate) trait Output: TraceSink<Error = TraceWriteError> {
    /// Called after each batch of events, and now and then.
    ///
    /// # Errors
    /// When what was taken cannot be passed on.
    fn progress(&mut self) -> Result<(), TraceWriteError>;

    /// What else a progress line says from now on.
    fn set_progress_note(&mut self, note: String);

    /// What the probes cost now, where a recording is through probes.
    fn set_cost(&mut self, _cost: ProbeCost) {}

    /// Reports something to the user, once.
    fn say(&mut self, what: &str);

    /// Events taken so far.
    fn events(&self) -> u64;

    /// Nothing more will come.
    ///
    /// # Errors
    /// When what was taken cannot be passed on.
    fn finish(self) -> Result<(), TraceWriteError>;
}

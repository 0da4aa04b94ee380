//! The time of a trace.

/// The trace's time: nanoseconds since the recording began, which never go back. (A source takes
/// the time after the place in the order, or on another processor, so its times may go back a
/// little.)
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    began_ns: u64,
    step_ns: u64,
    last_ns: u64,
}

impl Clock {
    /// For a recording that began at this time of its source's clock. Times are rounded down to
    /// steps of `step_ns`: more digits than the precision of a source's clock only take room in the
    /// file.
    pub fn new(began_ns: u64, step_ns: u64) -> Self {
        Self {
            began_ns,
            step_ns: step_ns.max(1),
            last_ns: 0,
        }
    }

    /// The trace's time at a time of the source's clock.
    pub(super) fn next_ns(&mut self, source_ns: u64) -> u64 {
        let time_ns = source_ns.saturating_sub(self.began_ns);
        self.last_ns = self.last_ns.max(time_ns - time_ns % self.step_ns);
        self.last_ns
    }

    /// The time of the last recorded event.
    pub(super) fn last_ns(&self) -> u64 {
        self.last_ns
    }
}

//! What is done during stops.

use profiler_target::Reads;

/// What was read of a target during all stops so far.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct InStops {
    /// Stops.
    pub stops: u64,
    /// System calls that read its memory.
    pub memory_reads: u64,
    /// Bytes that these gave.
    pub memory_bytes: u64,
    /// Mapped files that were inspected.
    pub files: u64,
}

impl InStops {
    /// Counts a stop, given the totals before and after it.
    pub(crate) fn add(&mut self, before: Reads, after: Reads) {
        self.stops += 1;
        self.memory_reads += after.memory_calls - before.memory_calls;
        self.memory_bytes += after.memory_bytes - before.memory_bytes;
        self.files += after.files - before.files;
    }
}

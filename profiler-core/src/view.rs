//! What one screen or one export is made from: a report, what the probes saw, and the past.

use std::sync::Arc;

use crate::activity::Activity;
use crate::over_time::OverTime;
use crate::report::FragReport;

/// One point of the curves over time.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Point {
    /// Nanoseconds since 1970-01-01 UTC.
    pub time_ns: u64,
    /// Resident set by the kernel's account, in bytes.
    pub rss_bytes: u64,
    /// Swap by the kernel's account, in bytes.
    pub swap_bytes: u64,
    /// Live bytes of all walked heaps at the last walk, in bytes; `None` when none was walked.
    pub live_bytes: Option<u64>,
    /// Resident bytes of the pages of all walked heaps at the last walk.
    pub heap_bytes: Option<u64>,
}

/// Everything that is shown or exported at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The last walk's report.
    pub report: Arc<FragReport>,
    /// What the probes saw; `None` without probes.
    pub activity: Option<Arc<Activity>>,
    /// Whether probes were asked for, so that their absence is worth a word.
    pub probes_wanted: bool,
    /// Why there are no probes or no walks, and other things the user must know, one a line.
    pub notices: Vec<String>,
    /// The past, oldest first, bounded in length by the session.
    pub history: Arc<Vec<Point>>,
    /// Fragmentation over the walks of the session.
    pub over_time: OverTime,
    /// Why the session ended (the target exited, the duration is over), when it has.
    pub ended: Option<String>,
}

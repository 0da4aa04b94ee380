//! The processes of a host: what was observed of them at one moment, what is known of each over
//! time, and the table made of it.

mod arrange;
mod columns;
mod end;
mod groups;
mod history;
mod model;
mod served;
mod sums;
mod tree;
mod tree_objects;
mod turns;

use std::sync::Arc;

use crate::sample::Host;

pub use arrange::{Arrangement, Line, lines};
pub use columns::{
    COLUMNS, FREE, GROWTH, IN_FILES_ALONE, PID, ProcessColumn, RSS, TableOf, VERDICT, column_of,
    command, fitting, place_of,
};
pub use end::ProcessEnd;
pub use groups::{GroupName, ProcessGroup, container_of, group_name, groups, program};
pub use history::{EndedProcess, TreeHistory};
pub use model::{HostModel, HostView, PlannedWalks, ProcessRow, WalkFigures};
pub use served::{
    BUILD_INFO, Declared, GROUP_INFO, GROUP_METRICS, HOST_METRICS, MetricKind, PushFigures,
    ServedHost, ServedMetric, ServerFigures, VERDICTS, WALK_STOPS, declared,
};
pub use sums::{Cost, STOP_BOUNDS_NS, StopCounts, Totals};
pub use tree::{TreeSums, TreeView};
pub use tree_objects::{ReadProcess, TreeGrowth, TreeHolder, TreeObjects};

/// Identifies a process so that a later one is not mistaken for it: its pid, its start time, and
/// the program that it executes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct ProcessId {
    /// Its pid in fragscope's own pid namespace.
    pub pid: i32,
    /// Its start time, in clock ticks since the host's boot.
    pub began_ticks: u64,
    /// Device and inode of its program; zeros if they cannot be read.
    pub program: (u64, u64),
}

/// The kernel's account of a process's memory, in bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Resident set.
    pub rss_bytes: u64,
    /// Proportional set size: shared pages count in parts.
    pub pss_bytes: Option<u64>,
    /// Unique set size: the pages that no other process maps (`Private_Clean` and `Private_Dirty`).
    pub uss_bytes: Option<u64>,
    /// Swap.
    pub swap_bytes: Option<u64>,
}

/// A memory control group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MemoryGroup {
    /// Its path in the hierarchy as seen by fragscope; untrusted text.
    pub path: String,
    /// Memory charged to it by the kernel, in bytes.
    pub current_bytes: Option<u64>,
    /// The lowest limit of it and the groups above, in bytes; `None` if there is none.
    pub max_bytes: Option<u64>,
    /// How much more it can get before the kernel kills one of its processes: page cache is
    /// reclaimed first. `None` if neither it nor a group above has a limit.
    pub left_bytes: Option<u64>,
}

/// A group is near its limit when less than 1/N of the limit is left.
const NEAR_LIMIT: u64 = 8;

impl MemoryGroup {
    /// Whether the kernel may soon kill one of its processes for lack of memory.
    pub fn is_near_limit(&self) -> bool {
        let figures = self.left_bytes.zip(self.max_bytes);
        figures.is_some_and(|(left, max)| left < max / NEAR_LIMIT)
    }
}

/// A process as observed at one moment, without a walk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessSample {
    /// Which one.
    pub id: ProcessId,
    /// Its parent's pid.
    pub parent: i32,
    /// The kernel's name for it; untrusted text.
    pub comm: String,
    /// Its command line, which may be cut; untrusted text.
    pub cmdline: Vec<String>,
    /// Its Python's version, e.g. `CPython 3.11.2`; `None` if it does not run Python.
    pub python: Option<String>,
    /// Its memory.
    pub memory: Memory,
    /// Its memory control group.
    pub group: Option<Arc<MemoryGroup>>,
    /// Its running time, in ns.
    pub age_ns: Option<u64>,
}

/// A host as observed at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSample {
    /// Nanoseconds since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// The host.
    pub host: Host,
    /// The processes that are shown.
    pub processes: Vec<ProcessSample>,
    /// What is not shown and why, one sentence each.
    pub notices: Vec<String>,
    /// Processes that cannot be inspected.
    pub unreadable: u64,
}

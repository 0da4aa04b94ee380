//! Activity seen by the probes, as rates and distributions, and what it cost the target.

use hdrhistogram::Histogram;

use crate::size_class::SizeClass;

/// Whether a probe works.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProbeState {
    /// Attached, and it has fired.
    Firing,
    /// Attached, and not one call has been seen yet.
    Silent,
    /// Could not be placed or attached; why.
    Failed(String),
}

/// One probed function.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeStatus {
    /// `malloc`, `free`, …
    pub function: String,
    /// The file that serves it, as the target sees it.
    pub object: String,
    /// Where and how, e.g. `+0x9 push, emulated` or `return probe`.
    pub site: String,
    /// How often its traps were hit, by the BPF side's count.
    pub hits: u64,
    /// Whether it works.
    pub state: ProbeState,
}

/// What the probes took from the target.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct ProbeCost {
    /// Trap hits since attaching.
    pub hits: u64,
    /// Measured cost of one hit, in ns.
    pub ns_per_hit: f64,
    /// Share of wall time that the target spent in traps, 0 to 1 (of one core). It is measured over
    /// the last interval that the budget covers completely: a window with its pause, or a part of a
    /// long window.
    pub share: f64,
    /// The share allowed; `None` is unlimited.
    pub budget: Option<f64>,
}

/// Activity of one size class.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ClassActivity {
    /// Which class, by usable size.
    pub class: SizeClass,
    /// Allocations seen.
    pub allocs: u64,
    /// Frees seen of blocks whose allocation was seen too.
    pub frees: u64,
    /// Bytes allocated.
    pub alloc_bytes: u64,
    /// Median lifetime of blocks seen from allocation to free, in ns; 0 when there is none.
    pub lifetime_p50_ns: u64,
    /// 90th percentile, in ns.
    pub lifetime_p90_ns: u64,
    /// 99th percentile, in ns.
    pub lifetime_p99_ns: u64,
}

/// What the probes saw since attaching.
#[derive(Clone, Debug)]
pub struct Activity {
    /// Wall time since attaching, in ns.
    pub elapsed_ns: u64,
    /// Of that, with all probes armed, in ns. Counts below are of this time; scale by
    /// `elapsed_ns / armed_ns`.
    pub armed_ns: u64,
    /// Allocations seen.
    pub allocs: u64,
    /// Bytes of them.
    pub alloc_bytes: u64,
    /// Frees seen.
    pub frees: u64,
    /// Frees of blocks whose allocation was not seen (older than the window).
    pub frees_of_older: u64,
    /// Events lost because the ring buffer was full.
    pub events_lost: u64,
    /// Allocations a second while armed, over the last interval.
    pub alloc_rate: f64,
    /// Frees a second while armed, over the last interval.
    pub free_rate: f64,
    /// Bytes allocated a second while armed, over the last interval.
    pub alloc_byte_rate: f64,
    /// Blocks now tracked as live (allocated in the present window and not freed).
    pub tracked_blocks: u64,
    /// Their bytes.
    pub tracked_bytes: u64,
    /// Allocations that were counted but not tracked: too many blocks were live at a time.
    pub untracked_blocks: u64,
    /// Lifetimes of blocks seen from allocation to free, in ns. Lifetimes longer than a window
    /// cannot be included.
    pub lifetimes: Histogram<u64>,
    /// Sizes allocated, in bytes.
    pub sizes: Histogram<u64>,
    /// By size class, ascending, those with any allocation.
    pub classes: Vec<ClassActivity>,
    /// Each probe.
    pub probes: Vec<ProbeStatus>,
    /// The probes' cost.
    pub cost: ProbeCost,
    /// Why the probes ended before they were taken off, if they did: all figures are of before.
    pub ended: Option<String>,
}

impl Activity {
    /// Reasons why the figures do not cover everything that the target does, one sentence each. The
    /// wording of a reason stays the same from one call to the next.
    pub fn troubles(&self) -> Vec<String> {
        let ended = self.ended.as_ref();
        let ended = ended.map(|why| {
            format!("the probes have ended, and their figures are of the time before: {why}")
        });
        let untracked = (self.untracked_blocks > 0).then(|| {
            "some blocks are not tracked, since too many live at a time: their lifetimes are unknown"
                .to_owned()
        });
        ended.into_iter().chain(untracked).collect()
    }
}

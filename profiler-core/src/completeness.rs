//! How sure a sample is: what was lost, unreadable, guessed or damaged.

use crate::addr::RemoteAddr;

/// How sure a walker is that it understood the allocator's layout.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub enum Confidence {
    /// The layout is not known; nothing was walked.
    #[default]
    None,
    /// Recognised, but a cross-check failed or could not be made.
    Low,
    /// Recognised by shape and version; part of the cross-checks hold.
    Medium,
    /// Every cross-check against the allocator's own account holds.
    High,
}

impl Confidence {
    /// What is known of a walked heap, in words for screens and reports.
    pub const fn heap_state(self) -> &'static str {
        match self {
            Self::None => "heap not walked",
            Self::Low => "heap not verified",
            Self::Medium => "heap partly verified",
            Self::High => "heap verified",
        }
    }
}

/// Something wrong or unreadable in the target: data, not a log line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Defect {
    /// Where, when it has a place.
    pub addr: Option<RemoteAddr>,
    /// What was expected and what was found, in one sentence.
    pub what: String,
    /// Bytes of the target that it makes unknown.
    pub bytes: u64,
}

/// What a sample's numbers rest on. Shown wherever they are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completeness {
    /// Whether all threads of the target stood still during the walk.
    pub stopped: bool,
    /// How long they stood still, in ns; 0 when they did not.
    pub stop_ns: u64,
    /// How long residency and walk took together, in ns.
    pub walk_ns: u64,
    /// Threads found inside the allocator at the stop (their heap may be half written).
    pub threads_in_allocator: u32,
    /// Events that the ring buffer had no room for since attaching.
    pub events_lost: u64,
    /// Bytes that a walker wanted and could not read (swapped, unmapped meanwhile).
    pub unreadable_bytes: u64,
    /// The least sure layout among the heaps walked.
    pub layout_confidence: Confidence,
    /// What was wrong, unreadable or unknown: bounded in number by whoever adds.
    pub defects: Vec<Defect>,
}

//! How complete a sample is: what was lost, unreadable, guessed or damaged.

use crate::addr::RemoteAddr;
use crate::units::{bytes, nanoseconds};

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
    /// The name in output and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

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
    /// Its address, if it has one.
    pub addr: Option<RemoteAddr>,
    /// What was expected and what was found, in one sentence.
    pub what: String,
    /// Bytes of the target that are unknown because of it.
    pub bytes: u64,
    /// Whether these could not be read, rather than being wrong.
    pub unreadable: bool,
}

impl Defect {
    /// A defect without an address, whose extent is unknown.
    pub fn of_all(what: impl Into<String>) -> Self {
        Self {
            addr: None,
            what: what.into(),
            bytes: 0,
            unreadable: false,
        }
    }
}

/// Why the target was resumed early.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum EndedEarly {
    /// The stop had reached its time limit (`--max-stop`).
    Overdue,
    /// fragscope was suspended for an unknown time.
    Suspended,
    /// The process that held the target was ended.
    Lost,
}

impl EndedEarly {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Overdue, Self::Suspended, Self::Lost];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overdue => "max-stop",
            Self::Suspended => "suspended",
            Self::Lost => "guard-lost",
        }
    }

    /// Why, for the end of a sentence.
    pub const fn because(self) -> &'static str {
        match self {
            Self::Overdue => "as it may be stopped no longer",
            Self::Suspended => "because fragscope was suspended",
            Self::Lost => "because the process that held it was ended",
        }
    }
}

/// Whether the target stood still for a walk.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum StandStill {
    /// It ran: it was not supposed to be stopped, or could not be.
    #[default]
    Never,
    /// All its threads were stopped until the walk was done.
    Throughout,
    /// They stood still, and were let go before the walk was done.
    Released(Released),
    /// They were stopped repeatedly and ran in between: the walk is of several moments.
    InSlices(Slices),
}

/// The stops of a walk that was cut into several.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Slices {
    /// How many there were.
    pub number: u32,
    /// The longest, in ns.
    pub longest_ns: u64,
    /// Bytes of the heaps that differ between slices or are damaged: only a walk in one stop
    /// distinguishes the two.
    pub changed_bytes: u64,
    /// Bytes read between the stops, in pieces that each take a fraction of a millisecond.
    pub running_bytes: u64,
}

impl Slices {
    /// A description for the middle of a sentence.
    pub fn described(self) -> String {
        let Self {
            number,
            longest_ns,
            changed_bytes,
            running_bytes,
        } = self;
        let longest = nanoseconds(longest_ns);
        let changed = match changed_bytes {
            0 => "nothing that was walked contradicts itself".to_owned(),
            more => format!("{} changed between the stops, or are damaged", bytes(more)),
        };
        let running = match running_bytes {
            0 => String::new(),
            more => format!(", and {} of it were read in between", bytes(more)),
        };
        format!("stopped {number} times, for {longest} at most{running}; {changed}")
    }
}

/// How a stop ended before its walk did.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Released {
    /// Why.
    pub why: EndedEarly,
    /// How long the target had been stopped until then, in ns.
    pub after_ns: u64,
}

impl StandStill {
    /// Whether all that was walked is of one moment.
    pub fn is_throughout(self) -> bool {
        self == Self::Throughout
    }

    /// How the stop ended early, if it did.
    pub const fn released(self) -> Option<Released> {
        match self {
            Self::Released(released) => Some(released),
            Self::Never | Self::Throughout | Self::InSlices(_) => None,
        }
    }

    /// The stops of a walk that was cut into several.
    pub const fn slices(self) -> Option<Slices> {
        match self {
            Self::InSlices(slices) => Some(slices),
            Self::Never | Self::Throughout | Self::Released(_) => None,
        }
    }
}

/// How reliable a sample's numbers are. Shown wherever the numbers are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completeness {
    /// Whether all threads of the target stood still during the walk.
    pub stand_still: StandStill,
    /// How long they were stopped in all attempts together, in ns; 0 if they were not.
    pub stop_ns: u64,
    /// How long residency and walk took together, in ns.
    pub walk_ns: u64,
    /// Threads found inside the allocator at the stop (their heap may be half written).
    pub threads_in_allocator: u32,
    /// Events that the ring buffer had no room for since attaching.
    pub events_lost: u64,
    /// Bytes that a walker needed and could not read (swapped, or unmapped meanwhile).
    pub unreadable_bytes: u64,
    /// The least sure layout among the heaps walked.
    pub layout_confidence: Confidence,
    /// What was damaged, unreadable or unknown; their number is bounded where they are added.
    pub defects: Vec<Defect>,
    /// Whether mapped files were not read completely because of the limit on their bytes: one of the defects
    /// names them, and a higher limit helps.
    pub files_over_limit: bool,
    /// The time limit of the walk, in ns, if it was reached before everything was read: one of the
    /// defects says so, and more time helps.
    pub out_of_time_ns: Option<u64>,
}

impl Completeness {
    /// The longest time for which the target stood still at once, in ns. Of several tries of one stop it is their sum.
    pub fn longest_stop_ns(&self) -> u64 {
        let slices = self.stand_still.slices();
        slices.map_or(self.stop_ns, |slices| slices.longest_ns)
    }
}

//! Recorded allocation streams: `docs/trace-format.md` describes the bytes.
//!
//! A trace is a header and blocks. Each block is compressed and checksummed separately, so that
//! after a crash everything up to the last complete block is readable.

mod description;
mod event;
mod figures;
mod reader;
mod source;
mod writer;

pub use description::{RecordedBy, TraceDescription};
pub use event::{By, Event, EventKind};
pub use figures::Figures;
pub use reader::{Item, ReadError, Reader};
pub use source::{PassError, TraceSource, pass_on};
pub use writer::Writer;

/// The first bytes of a trace: a name and the version of the format.
pub(crate) const MAGIC: [u8; 8] = *b"FRAGTRC\x01";
/// The version of a trace with Python's requests to its object allocator: readers that only know
/// the first version say so, instead of finding damage.
const WITH_OBJECTS: u8 = 2;
/// The version of a trace that may have calls of `malloc_trim`.
pub(crate) const WITH_TRIMS: u8 = 3;

/// The content of a block: its first byte.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Kind {
    /// Names and values of the [`TraceDescription`].
    Description = 1,
    /// The heap as it was when the recording began.
    Seed = 2,
    /// Events.
    Events = 3,
    /// A [`Checkpoint`].
    Checkpoint = 4,
    /// The end: nothing follows.
    End = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [
            Self::Description,
            Self::Seed,
            Self::Events,
            Self::Checkpoint,
            Self::End,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// The measurements of the real program at one moment of the stream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Checkpoint {
    /// Nanoseconds since the recording began.
    pub time_ns: u64,
    /// The process, by its number in the trace: 0 is the first.
    pub process: u32,
    /// What was measured.
    pub figures: Figures,
}

/// A block that was live when the recording began.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SeedBlock {
    /// Its address as the program sees it.
    pub addr: u64,
    /// Usable bytes.
    pub bytes: u64,
    /// The allocator's arena that it belongs to.
    pub arena: u32,
    /// Whether it was in use; else it was free, and is allocated and freed again to shape the heap.
    pub live: bool,
}

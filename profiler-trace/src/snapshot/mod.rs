//! Saved sessions: `docs/snapshot-format.md` describes the bytes.
//!
//! Samples are saved, with what was observed beside each; reports are made anew by the same
//! function as before. Each record is compressed and checksummed separately, so that after a crash
//! everything up to the last complete record is readable, and a damaged record affects no other.

mod heap;
mod kept;
mod objects;
mod observation;
mod reader;
mod sample;
mod sites;
mod wire;
mod writer;

pub use kept::Fate;
pub(crate) use kept::KeptWalks;
pub use observation::{Censuses, Observation};
pub use reader::{ReadError, Reader, Record, SavedSample};
pub use writer::Writer;

/// The first bytes of a saved session.
pub(crate) const NAME: &[u8; 7] = b"FRAGSNP";
/// The version of the format. It changes only if older files can no longer be read.
pub(crate) const VERSION: u8 = 1;

/// The kind of a record.
mod kind {
    /// A sample, by its number.
    pub(super) const WALK: u8 = 1;
    /// The observations made with it.
    pub(super) const OBSERVATION: u8 = 2;
    /// The session was ended well: nothing follows.
    pub(super) const END: u8 = 3;
    /// The file is a black box's, with the fate of its process.
    pub(super) const BLACK_BOX: u8 = 4;
}

/// Which part of its record a block contains, as bits.
mod part {
    /// The first.
    pub(super) const FIRST: u8 = 1;
    /// The last.
    pub(super) const LAST: u8 = 2;
}

//! The ring through which a preloaded recorder hands its events to `fragscope record`: shared
//! memory, a header and slots, in one total order over all threads and processes.
//!
//! A writer reserves the slot of its event by adding one to [`Header::head`], fills it, and
//! publishes it by storing its number in [`Slot::turn`]. The reader takes slots in order and moves
//! [`Header::tail`] on.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// The first word of the ring: a name and the version of this layout.
pub const RING_MAGIC: u64 = u64::from_le_bytes(*b"FSRING\x00\x01");

/// Bytes before the first slot.
pub const SLOTS_AT: usize = 4096;

/// The environment variable that tells the recorder where the ring is.
pub const RING_VARIABLE: &str = "FRAGSCOPE_RECORD_RING";

/// The head of the ring.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    /// [`RING_MAGIC`].
    pub magic: u64,
    /// How many slots there are: a power of two.
    pub slots: u64,
    /// Not 0 when nothing more is to be written: the reader has ended.
    pub closed: AtomicU32,
    /// Moves on while the reader lives.
    pub heartbeat: AtomicU32,
    /// Writers on other lines of the cache than the reader.
    pub apart: [u64; 5],
    /// The number of the next event to be written.
    pub head: AtomicU64,
    /// Writers on other lines of the cache than the reader.
    pub apart_too: [u64; 7],
    /// The number of the next event to be read.
    pub tail: AtomicU64,
}

/// One event.
#[derive(Debug)]
#[repr(C)]
pub struct Slot {
    /// The event's number plus one, once it is whole.
    pub turn: AtomicU64,
    /// Nanoseconds on the monotonic clock.
    pub time_ns: AtomicU64,
    /// The block's address, or what the kind says.
    pub addr: AtomicU64,
    /// Bytes requested, or what the kind says.
    pub size: AtomicU64,
    /// The thread's number in the upper half, the process's in the lower, in its own namespace.
    pub thread: AtomicU64,
    /// The kind in the lowest byte, above it the alignment as a power of two.
    pub kind: AtomicU64,
}

/// Kinds of events in the ring.
pub mod kind {
    /// malloc and its like returned `addr` for `size` bytes.
    pub const ALLOC: u64 = 1;
    /// The same from calloc.
    pub const CALLOC: u64 = 2;
    /// `addr` was given to free.
    pub const FREE: u64 = 3;
    /// The realloc of `addr` failed: the block lives on.
    pub const KEPT: u64 = 4;
    /// A program began in this process; `addr` is its parent's process number.
    pub const START: u64 = 5;
    /// The thread is about to fork.
    pub const FORKING: u64 = 6;
    /// The first event of a forked child; `addr` is the parent's thread word.
    pub const FORKED: u64 = 7;
    /// The thread ends, unless events of it follow.
    pub const THREAD_END: u64 = 8;
    /// The program ends.
    pub const EXIT: u64 = 9;
    /// `addr` was given to realloc: [`REALLOCATED`] or [`KEPT`] of the same thread follows.
    pub const REALLOC: u64 = 10;
    /// realloc returned `addr` for `size` bytes.
    pub const REALLOCATED: u64 = 11;
}

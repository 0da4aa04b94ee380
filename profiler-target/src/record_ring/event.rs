//! The contents of a slot of a ring.

use std::sync::atomic::Ordering;
use std::time::Duration;

use profiler_common::ring::Slot;

/// One event as written by the recorder.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RingEvent {
    /// Nanoseconds on the monotonic clock.
    pub time_ns: u64,
    /// The block's address, or a value that depends on the kind.
    pub addr: u64,
    /// Bytes requested, or a value that depends on the kind.
    pub size: u64,
    /// The thread's number.
    pub thread: u32,
    /// The process's number.
    pub process: u32,
    /// The number of a `profiler_common::RecordKind`, if a recorder wrote it.
    pub kind: u64,
    /// The alignment, as the exponent of a power of two.
    pub align: u8,
}

/// The contents of the next slot.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// An event.
    Event(RingEvent),
    /// An event that this thread has begun to write, by the thread number that it gave.
    Claimed {
        /// The thread's number, in its own namespace.
        thread: u32,
        /// How long the reader has waited for it.
        waited: Duration,
        /// Whether the previous one was given up.
        follows_abandoned: bool,
    },
    /// No event, and one is lost: the slot contains something that no recorder writes.
    Damaged,
    /// No event: the slot was abandoned before.
    Nothing,
    /// Nothing yet.
    Empty,
    /// Events after a [mark](super::Marker::mark), which are held back.
    Held,
}

/// The present contents of the slot; writers may be changing it.
pub(super) fn read(slot: &Slot) -> RingEvent {
    let thread = slot.thread.load(Ordering::Relaxed);
    let kind = slot.kind.load(Ordering::Relaxed);
    RingEvent {
        time_ns: slot.time_ns.load(Ordering::Relaxed),
        addr: slot.addr.load(Ordering::Relaxed),
        size: slot.size.load(Ordering::Relaxed),
        thread: (thread >> 32) as u32,
        process: thread as u32,
        kind: kind & 0xff,
        align: (kind >> 8) as u8,
    }
}

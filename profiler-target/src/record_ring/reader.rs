//! What other threads know of a ring's reader: where it is, which events it holds back, and that it lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use profiler_common::ring::{ReaderPage, SLOTS};

use super::memory::Memory;

/// How often writers see that the reader lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);
/// How long the reader may do something else than read, sampling a process among it, until it no longer
/// counts as alive: writers that wait for it then go on without being recorded.
const LONGEST_ABSENCE: Duration = Duration::from_secs(10);
/// So far behind the claimed slots the head may be: one for each thread that is about to move it.
pub(super) const MAX_HEAD_LAG: u64 = 4096;

/// Marks moments of a ring, on another thread than the reader's.
#[derive(Clone, Debug)]
pub struct Marker {
    pub(super) memory: Arc<Memory>,
    pub(super) activity: Arc<ReaderActivity>,
}

impl Marker {
    /// The number of the next event to be written: all before it were claimed before now. From this moment
    /// on the reader takes none that is claimed later, until it [releases](super::RecordRing::release) them: what
    /// stands still now, and writes on when it is let go, is seen as it was between the two.
    pub fn mark(&self) -> u64 {
        self.activity
            .held_from
            .fetch_min(self.head(), Ordering::SeqCst);
        // The reader may be taking one that was claimed meanwhile: it is before the mark, too.
        fence(Ordering::SeqCst);
        self.head()
    }

    pub(super) fn head(&self) -> u64 {
        let tail = self.activity.tail.load(Ordering::Acquire);
        let head = self.memory.header().head.load(Ordering::Acquire);
        let mut head = head.clamp(tail, tail + SLOTS);
        let end = (head + MAX_HEAD_LAG).min(tail + SLOTS);
        while head < end && self.memory.turn(head).is_past(head) {
            head += 1;
        }
        head
    }
}

/// What other threads know of the reader, and it of them.
#[derive(Debug)]
pub(super) struct ReaderActivity {
    /// The number of the next event to be taken.
    pub(super) tail: AtomicU64,
    /// Events from this number on are held back.
    pub(super) held_from: AtomicU64,
    /// How often it came for an event.
    pub(super) visits: AtomicU64,
    /// Whether it has not come for [`LONGEST_ABSENCE`], or had not when the ring was closed.
    pub(super) is_absent: AtomicBool,
    /// Whether it has ended.
    pub(super) over: AtomicBool,
}

impl ReaderActivity {
    pub(super) fn new() -> Self {
        Self {
            tail: AtomicU64::new(0),
            held_from: AtomicU64::new(u64::MAX),
            visits: AtomicU64::new(0),
            is_absent: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }
}

/// Shows writers that the reader lives, until it is over, and for as long as it comes for events: a
/// reader that is held up, say by a file system that hangs, must not hold up a program for ever.
pub(super) fn send_heartbeats(page: &ReaderPage, reader: &ReaderActivity) {
    let mut last = (reader.visits.load(Ordering::Relaxed), Instant::now());
    while !reader.over.load(Ordering::Relaxed) {
        let now = reader.visits.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        let is_absent = last.1.elapsed() >= LONGEST_ABSENCE;
        // Why it was closed stays known when the reader comes back.
        if page.closed.load(Ordering::Relaxed) == 0 {
            reader.is_absent.store(is_absent, Ordering::Relaxed);
        }
        if !is_absent {
            page.heartbeat.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::park_timeout(HEARTBEAT_INTERVAL);
    }
}

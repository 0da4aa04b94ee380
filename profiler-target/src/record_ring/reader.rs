//! What other threads know about a ring's reader: its position, the events it holds back, and that
//! it is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use profiler_common::ring::{ReaderPage, SLOTS};

use super::memory::Memory;

/// How often writers see that the reader lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);
/// How long the reader may do something other than reading, such as sampling a process, before it
/// no longer counts as alive: waiting writers then continue without being recorded.
const LONGEST_ABSENCE: Duration = Duration::from_secs(10);
/// How far the head may be behind the claimed slots: one for each thread that is about to move it.
pub(super) const MAX_HEAD_LAG: u64 = 4096;

/// Marks moments of a ring, on another thread than the reader's.
#[derive(Clone, Debug)]
pub struct Marker {
    pub(super) memory: Arc<Memory>,
    pub(super) activity: Arc<ReaderActivity>,
}

impl Marker {
    /// The number of the next event to be written: all earlier ones were claimed before now. From
    /// this moment on the reader takes none claimed later, until it
    /// [releases](super::RecordRing::release) them: a process that is stopped now and resumed
    /// afterwards is seen in its state between the two.
    pub fn mark(&self) -> u64 {
        self.activity
            .held_from
            .fetch_min(self.head(), Ordering::SeqCst);
        // The reader may be taking an event that was claimed meanwhile: it is before the mark, too.
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

/// State shared between the reader and other threads.
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

    /// Whether it comes for events. `last` is its previous number of visits and the time since
    /// which that has not changed. If the ring is closed, the reason is kept even if the reader
    /// comes back.
    fn comes(&self, last: &mut (u64, Instant), now: Instant, is_closed: bool) -> bool {
        let visits = self.visits.load(Ordering::Relaxed);
        if visits != last.0 {
            *last = (visits, now);
        }
        let is_absent = now.saturating_duration_since(last.1) >= LONGEST_ABSENCE;
        if !is_closed {
            self.is_absent.store(is_absent, Ordering::Relaxed);
        }
        !is_absent
    }
}

/// Shows writers that the reader is alive, until it is over and only while it comes for events: a
/// blocked reader, for example on a file system that hangs, must not block a program for ever.
pub(super) fn send_heartbeats(ring: &Memory, page: &ReaderPage, reader: &ReaderActivity) {
    let mut last = (reader.visits.load(Ordering::Relaxed), Instant::now());
    while !reader.over.load(Ordering::Relaxed) {
        if reader.comes(&mut last, Instant::now(), is_closed(ring, page)) {
            page.heartbeat.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::park_timeout(HEARTBEAT_INTERVAL);
    }
}

/// Whether a writer gave the reader up for dead, or the ring was closed.
pub(super) fn is_closed(ring: &Memory, page: &ReaderPage) -> bool {
    let is_given_up = ring.header().given_up.load(Ordering::Relaxed) != 0;
    page.closed.load(Ordering::Relaxed) != 0 || is_given_up
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_was_given_up_while_it_was_absent_stays_known_as_that_when_it_comes_back() {
        let reader = ReaderActivity::new();
        let began = Instant::now();
        let mut last = (0, began);
        let mut after = |seconds, is_closed| {
            let comes = reader.comes(&mut last, began + Duration::from_secs(seconds), is_closed);
            (comes, reader.is_absent.load(Ordering::Relaxed))
        };
        assert_eq!(after(9, false), (true, false));
        assert_eq!(after(10, false), (false, true));
        // A writer has given it up, and then it comes.
        reader.visits.fetch_add(1, Ordering::Relaxed);
        assert_eq!(after(12, true), (true, true));
    }

    #[test]
    fn a_reader_that_comes_back_before_it_is_given_up_is_not_absent() {
        let reader = ReaderActivity::new();
        let began = Instant::now();
        let mut last = (0, began);
        let mut after = |seconds| {
            let comes = reader.comes(&mut last, began + Duration::from_secs(seconds), false);
            (comes, reader.is_absent.load(Ordering::Relaxed))
        };
        assert_eq!(after(11), (false, true));
        reader.visits.fetch_add(1, Ordering::Relaxed);
        assert_eq!(after(12), (true, false));
        assert_eq!(after(22), (false, true));
    }
}

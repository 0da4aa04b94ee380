//! Waits for space in a full ring.

use core::sync::atomic::{AtomicU64, Ordering};

use profiler_common::ring::{ASKS_FOR_NS, Leaves, READER_MISSED};

use crate::clock::now_ns;
use crate::ring::{Ring, leave};
use crate::{filter, sys};

/// After this many sleeps of [`SLEEP_NS`] without progress of the reader, the reader is considered
/// dead.
const MAX_IDLE_SLEEPS: u32 = 2_000;
const SLEEP_NS: i64 = 1_000_000;
/// A writer yields this many times before it sleeps.
const YIELDS: u32 = 64;
/// A program waits for space at most this many ns in total, even if the reader comes back: longer
/// than the reader is ever absent.
const MAX_WAITED_NS: u64 = 60_000_000_000;
/// How much waiting time a program's own events earn back, with a chance of one in [`EARNING`]: if
/// a program keeps writing, the ring is full because reading it is slower; if it does not get to
/// write, others take all the room.
const EARNED_NS: u64 = 1_000_000;
/// See [`EARNED_NS`]: a power of two.
const EARNING: u64 = 128;
/// One turn of waiting counts at most this many ns, also on a busy host.
const MAX_TURN_NS: u64 = 100_000_000;
/// How long threads waited in total, minus what was earned. Simultaneous waits count once.
static WAITED_NS: AtomicU64 = AtomicU64::new(0);
/// Until when that was counted.
static COUNTED_NS: AtomicU64 = AtomicU64::new(0);

/// How long a writer waits for room in a full ring.
#[derive(Copy, Clone, Eq, PartialEq)]
pub(crate) enum Patience {
    /// Until the reader comes, has ended or died; it sleeps meanwhile.
    UntilItComes,
    /// For [`ASKS_FOR_NS`], in a loop.
    WithoutACall,
}

/// A wait. A waiting thread has claimed nothing: if it dies, nothing is missing.
#[derive(Default)]
pub(crate) struct Wait {
    /// When it began, in ns.
    began: u64,
    turns: u32,
    beat: u32,
    still: u32,
}

impl Wait {
    /// Waits a little; false if the reader has ended or died, or the wait was long enough.
    #[cold]
    pub(crate) fn a_moment(&mut self, ring: Ring, patience: Patience) -> bool {
        if ring.is_over() {
            return false;
        }
        if self.began == 0 {
            self.began = now_ns();
        }
        if patience == Patience::WithoutACall {
            return self.spins();
        }
        if has_waited_too_long(self.began) {
            // Of all recorded programs only this one: the others may have their room.
            leave(Leaves::NoRoom);
            return false;
        }
        if self.turns < YIELDS {
            self.turns += 1;
            self.beat = ring.heartbeat();
            // Another thread may have set a filter meanwhile.
            return filter::unless_filtered(sys::give_way).is_some() || self.spins();
        }
        if filter::unless_filtered(|| sys::nap(SLEEP_NS)).is_none() {
            return self.spins();
        }
        let now = ring.heartbeat();
        self.still = if now == self.beat { self.still + 1 } else { 0 };
        self.beat = now;
        if self.still > MAX_IDLE_SLEEPS {
            ring.give_up(READER_MISSED);
            return false;
        }
        true
    }
}

impl Wait {
    /// The same without a system call.
    fn spins(&self) -> bool {
        core::hint::spin_loop();
        now_ns().saturating_sub(self.began) < ASKS_FOR_NS
    }
}

/// An event was written at this time.
pub(crate) fn earn(now: u64) {
    if now.is_multiple_of(EARNING) {
        let earned = |waited: u64| Some(waited.saturating_sub(EARNED_NS));
        let _ = WAITED_NS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }
}

/// A thread that has waited since `began` continues to wait. Returns whether its program has waited
/// too long.
fn has_waited_too_long(began: u64) -> bool {
    let now = now_ns();
    let counted = COUNTED_NS.load(Ordering::Relaxed);
    let is_counted = COUNTED_NS
        .compare_exchange(counted, now, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok();
    if !is_counted {
        return false;
    }
    // A program that was stopped meanwhile did not wait.
    let waited = now.saturating_sub(began.max(counted)).min(MAX_TURN_NS);
    WAITED_NS.fetch_add(waited, Ordering::Relaxed) + waited > MAX_WAITED_NS
}

//! The time limit for reading a target.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The time limit for reading memory, shared by all who read it together. Otherwise the target
/// would determine how long a walk takes: a heap can lead through the same pages again and again.
#[derive(Clone, Debug)]
pub struct ReadTime(Arc<Span>);

#[derive(Debug)]
struct Span {
    began: Instant,
    longest: Duration,
    /// Whether a reader wanted to continue after it was over.
    is_over: AtomicBool,
}

impl ReadTime {
    /// A limit of `longest` from now on.
    pub fn from_now(longest: Duration) -> Self {
        Self(Arc::new(Span {
            began: Instant::now(),
            longest,
            is_over: AtomicBool::new(false),
        }))
    }

    /// Half of the remaining time, for work done before the main work.
    pub fn half(&self) -> Self {
        let left = self.0.longest.saturating_sub(self.0.began.elapsed());
        Self::from_now(left / 2)
    }

    /// Whether it is over; for a caller about to read.
    pub fn is_over(&self) -> bool {
        // Once it was over, it stays so for every caller.
        if self.was_met() {
            return true;
        }
        let is_over = self.0.began.elapsed() >= self.0.longest;
        if is_over {
            self.0.is_over.store(true, Ordering::Relaxed);
        }
        is_over
    }

    /// Whether it is over; for a caller that will not read.
    pub fn has_passed(&self) -> bool {
        self.was_met() || self.0.began.elapsed() >= self.0.longest
    }

    /// Whether anybody was refused a read.
    pub fn was_met(&self) -> bool {
        self.0.is_over.load(Ordering::Relaxed)
    }

    /// The whole time limit.
    pub fn longest(&self) -> Duration {
        self.0.longest
    }
}

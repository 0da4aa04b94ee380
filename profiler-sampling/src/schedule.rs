//! When to walk again, so that stops stay within what the user allowed.

use std::time::{Duration, Instant};

/// The part of the budget that may go into stops; the rest is for probes.
pub const STOP_PART_OF_BUDGET: f64 = 0.2;

/// Share of wall time that a walk without a stop may run: it costs the target nothing but memory
/// bandwidth, and the host this much of one core.
const UNSTOPPED_SHARE: f64 = 0.25;

/// Decides when the next walk is due from what the last ones cost.
#[derive(Debug)]
pub struct WalkSchedule {
    interval: Duration,
    stop_share: Option<f64>,
    next: Instant,
}

impl WalkSchedule {
    /// Walks at most once every `interval`, and so that stops take at most `stop_share` of the
    /// time (`None`: no limit). The first walk is due at once.
    pub fn new(interval: Duration, stop_share: Option<f64>, now: Instant) -> Self {
        Self {
            interval,
            stop_share,
            next: now,
        }
    }

    /// From now on walks at most once every `interval`.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Whether a walk is due.
    pub fn due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Asks for a walk at the next opportunity.
    pub fn request_walk(&mut self, now: Instant) {
        self.next = now;
    }

    /// Notes that a walk that ended `now` held the target for `stop` and took `walk` in all.
    pub fn walked(&mut self, now: Instant, stop: Duration, walk: Duration) {
        let pause = |cost: Duration, share: f64| cost.mul_f64((1.0 - share) / share);
        let mut wait = self.interval.max(pause(walk, UNSTOPPED_SHARE));
        if let Some(share) = self.stop_share.filter(|&share| share > 0.0) {
            wait = wait.max(pause(stop, share));
        }
        self.next = now + wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_take_no_more_than_their_share() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut schedule = WalkSchedule::new(second, Some(0.01), start);
        assert!(schedule.due(start));
        let stop = Duration::from_millis(75);
        schedule.walked(start, stop, stop);
        assert!(!schedule.due(start + second * 7));
        assert!(schedule.due(start + stop.mul_f64(99.0)));
        schedule.request_walk(start + second);
        assert!(schedule.due(start + second));
    }

    #[test]
    fn short_walks_come_every_interval() {
        let start = Instant::now();
        let mut schedule = WalkSchedule::new(Duration::from_secs(2), None, start);
        schedule.walked(start, Duration::from_millis(1), Duration::from_millis(1));
        assert!(!schedule.due(start + Duration::from_millis(1999)));
        assert!(schedule.due(start + Duration::from_secs(2)));
    }
}

//! Decides when to walk again, so that stops stay within what the user allowed.

use std::time::{Duration, Instant};

/// The part of the budget that may go into stops; the rest is for probes.
pub const STOP_PART_OF_BUDGET: f64 = 0.2;

/// Share of wall time that a walk without a stop may run: it costs the target only memory
/// bandwidth, and the host this share of one core.
const UNSTOPPED_SHARE: f64 = 0.25;

/// RSS that has changed by this share since the last walk…
const CHANGED_SHARE: f64 = 0.1;
/// …and by this many bytes brings the next walk forward.
const CHANGED_BYTES: u64 = 8 << 20;

/// Decides when the next walk is due from what the last ones cost.
#[derive(Debug)]
pub struct WalkSchedule {
    interval: Duration,
    stop_share: Option<f64>,
    next: Instant,
    /// The earliest time to which it may be brought forward: stops then take the whole budget for a
    /// while.
    earliest: Instant,
    /// Whether the next walk was brought forward.
    is_early: bool,
}

impl WalkSchedule {
    /// Walks at most once per `interval`, and so that stops take at most `stop_share` of the time
    /// (`None`: no limit). The first walk is due at once.
    pub fn new(interval: Duration, stop_share: Option<f64>, now: Instant) -> Self {
        Self {
            interval,
            stop_share,
            next: now,
            earliest: now,
            is_early: false,
        }
    }

    /// From now on walks at most once every `interval`.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Whether a walk is due.
    pub fn due(&self, now: Instant) -> bool {
        now >= self.next || self.is_early && now >= self.earliest
    }

    /// Time until a walk is due, unless it is brought forward.
    pub fn until_due(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Asks for a walk at the next opportunity.
    pub fn request_walk(&mut self, now: Instant) {
        self.next = now;
    }

    /// Brings the next walk forward if RSS has changed since the last one: to the time at which
    /// stops use the whole budget instead of their part. A longer wait after it makes up for that,
    /// so that in the long run they stay within their part.
    pub fn rss_changed(&mut self, at_walk: u64, now: u64) {
        let change = now.abs_diff(at_walk);
        self.is_early = change >= CHANGED_BYTES && change as f64 > at_walk as f64 * CHANGED_SHARE;
    }

    /// Walks nothing before `then`.
    pub fn not_before(&mut self, then: Instant) {
        self.next = self.next.max(then);
        self.earliest = self.earliest.max(then);
    }

    /// Records that `cost` was spent until `now`, for everything that is walked: the next walk
    /// waits until that is within the share.
    pub fn spent(&mut self, now: Instant, cost: Duration) {
        let share = self.stop_share.filter(|&share| share > 0.0 && share < 1.0);
        let pause = share.map_or(Duration::ZERO, |share| cost.mul_f64((1.0 - share) / share));
        // Waiting time that has not passed yet is still owed.
        self.not_before(self.next.max(now) + pause);
    }

    /// Records that a walk that ended `now` held the target for `stop` and took `walk` in total.
    pub fn walked(&mut self, now: Instant, stop: Duration, walk: Duration) {
        let pause = |cost: Duration, share: f64| cost.mul_f64((1.0 - share) / share);
        let least = self.interval.max(pause(walk, UNSTOPPED_SHARE));
        let share = self.stop_share.filter(|&share| share > 0.0);
        let pause = share.map_or(Duration::ZERO, |share| pause(stop, share));
        // Waiting time that has not passed yet.
        let owed = match self.is_early {
            true => self.next.saturating_duration_since(now),
            false => Duration::ZERO,
        };
        self.earliest = now + owed + least.max(pause.mul_f64(STOP_PART_OF_BUDGET));
        self.next = now + owed + least.max(pause);
        self.is_early = false;
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
    fn a_walk_is_brought_forward_when_rss_has_changed_and_the_time_is_made_up_for() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut schedule = WalkSchedule::new(second, Some(0.01), start);
        let stop = Duration::from_millis(100);
        schedule.walked(start, stop, stop);
        schedule.rss_changed(100 << 20, 107 << 20);
        assert!(!schedule.due(start + second * 9), "too little");
        schedule.rss_changed(1 << 20, 4 << 20);
        assert!(!schedule.due(start + second * 9), "too few bytes");
        schedule.rss_changed(100 << 20, 300 << 20);
        assert!(!schedule.due(start + second), "beyond the whole budget");
        assert!(schedule.due(start + second * 2));
        schedule.walked(start + second * 2, stop, stop);
        schedule.rss_changed(300 << 20, 900 << 20);
        // 9.9 s after the first walk, and a fifth of that more.
        assert!(!schedule.due(start + second * 11));
        assert!(schedule.due(start + second * 12));
        schedule.rss_changed(300 << 20, 301 << 20);
        assert!(!schedule.due(start + second * 12), "it is as it was");
        assert!(schedule.due(start + stop.mul_f64(99.0) * 2));
    }

    #[test]
    fn what_all_walks_cost_together_is_waited_for() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut budget = WalkSchedule::new(Duration::ZERO, Some(0.05), start);
        budget.spent(start, Duration::from_millis(50));
        assert!(!budget.due(start + Duration::from_millis(949)));
        assert!(budget.due(start + Duration::from_millis(950)));
        // Two costs before it was due are paid for one after the other.
        budget.spent(start, Duration::from_millis(50));
        assert!(!budget.due(start + second));
        assert!(budget.due(start + second * 2));
        let mut unlimited = WalkSchedule::new(Duration::ZERO, None, start);
        unlimited.spent(start, second);
        assert!(unlimited.due(start));
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

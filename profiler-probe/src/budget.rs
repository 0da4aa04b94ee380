//! How long the probes may be armed.

use super::error::ProbeError;

/// How much of the target's time probing may take.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Budget {
    /// At most this share of wall time, above 0 and up to 1, of one core.
    Share(f64),
    /// The probes stay armed, whatever that costs.
    Unlimited,
}

impl Default for Budget {
    fn default() -> Self {
        Self::Share(0.05)
    }
}

impl Budget {
    /// The share; `None` when unlimited.
    pub fn share(self) -> Option<f64> {
        match self {
            Self::Share(share) => Some(share),
            Self::Unlimited => None,
        }
    }

    pub(super) fn check(self) -> Result<(), ProbeError> {
        match self {
            Self::Share(share) if !(share > 0.0 && share <= 1.0) => Err(ProbeError::Budget(share)),
            _ => Ok(()),
        }
    }
}

/// A window may spend ahead what this much time earns, in ns. Longer windows see longer lifetimes.
const CYCLE_NS: f64 = 2e9;
/// The first window may spend less ahead, and ends after this time unless all is earned, in ns: how
/// often the target allocates is not known yet, and the share must hold from the first seconds on.
const FIRST_CYCLE_NS: f64 = 0.5e9;
/// What closing the first window is taken to cost, before one was closed, in ns.
const FIRST_CLOSING_NS: f64 = 10e6;

/// Keeps the share: time earns, hits spend. A window opens when nothing is owed, and closes when it
/// has spent as much ahead as a cycle earns; the probes then stay away until that is earned.
#[derive(Debug)]
pub(super) struct Account {
    share: f64,
    opened_at_ns: u64,
    /// Earned and never to be spent: a target that was idle does not save up for a long window.
    forfeited_ns: f64,
    /// What closing a window cost the last time, in ns; `None` while the first is open.
    closing_ns: Option<f64>,
}

impl Account {
    pub(super) fn new(share: f64, now_ns: u64) -> Self {
        Self {
            share,
            opened_at_ns: now_ns,
            forfeited_ns: 0.0,
            closing_ns: None,
        }
    }

    fn earned(&self, now_ns: u64) -> f64 {
        self.share * now_ns.saturating_sub(self.opened_at_ns) as f64 - self.forfeited_ns
    }

    /// Whether all that was spent so far, in ns, is earned by now, so that a window may open. From
    /// one such moment to the next, no more than the share was spent.
    pub(super) fn is_earned(&mut self, now_ns: u64, spent_ns: f64) -> bool {
        self.forfeit(now_ns, spent_ns);
        self.earned(now_ns) >= spent_ns
    }

    /// Whether as much is spent ahead as may be, with what closing will cost.
    pub(super) fn must_close(&mut self, now_ns: u64, spent_ns: f64) -> bool {
        if self.is_earned(now_ns, spent_ns) {
            return false;
        }
        let age = now_ns.saturating_sub(self.opened_at_ns) as f64;
        if self.closing_ns.is_none() && age >= FIRST_CYCLE_NS {
            return true;
        }
        let ahead = self.share * age.clamp(FIRST_CYCLE_NS, CYCLE_NS);
        // However expensive closing is, a window must see something: the pause after it grows
        // instead.
        let closing = self.closing_ns.unwrap_or(FIRST_CLOSING_NS).min(ahead / 2.0);
        spent_ns + closing - self.earned(now_ns) >= ahead
    }

    /// Notes what closing a window cost, in ns.
    pub(super) fn closing_cost(&mut self, ns: f64) {
        self.closing_ns = Some(ns);
    }

    fn forfeit(&mut self, now_ns: u64, spent_ns: f64) {
        self.forfeited_ns += (self.earned(now_ns) - spent_ns).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Simulates a target whose armed probes take `load` of its time. Returns the share that they
    /// took of `seconds`, and the share of time in which they were armed.
    fn play(share: f64, load: f64, seconds: u64) -> (f64, f64) {
        let mut account = Account::new(share, 0);
        let (mut spent, mut armed, mut open) = (0.0, 0u64, false);
        for now in (0..seconds * 1000).map(|ms| ms * MS) {
            open = if open {
                !account.must_close(now, spent)
            } else {
                account.is_earned(now, spent)
            };
            if open {
                armed += 1;
                spent += load * MS as f64;
            }
        }
        let all = (seconds * 1000) as f64;
        (spent / (all * MS as f64), armed as f64 / all)
    }

    #[test]
    fn a_busy_target_pays_the_share_and_no_more() {
        for load in [0.1, 0.35, 0.95] {
            let (spent, armed) = play(0.05, load, 60);
            assert!(spent <= 0.05 * (1.0 + 2.0 / 60.0), "{spent}");
            assert!(spent >= 0.045, "{spent}");
            assert!((armed - spent / load).abs() < 1e-9);
        }
    }

    #[test]
    fn a_quiet_target_is_watched_all_the_time() {
        assert_eq!(play(0.05, 0.04, 20).1, 1.0);
    }

    #[test]
    fn a_target_that_calls_a_little_too_much_has_a_short_first_window_and_long_ones_later() {
        let mut account = Account::new(0.04, 0);
        let spent = |ms: u64| 0.051 * (ms * MS) as f64;
        assert!(!account.must_close(499 * MS, spent(499)));
        assert!(account.must_close(500 * MS, spent(500)));
        account.closing_cost(0.0);
        assert!(!account.is_earned(637 * MS, spent(500)));
        assert!(account.is_earned(638 * MS, spent(500)));
        assert!(!account.must_close(5638 * MS, spent(5500)));
        assert!(account.must_close(9638 * MS, spent(9500)));
    }

    #[test]
    fn an_idle_hour_earns_no_long_window() {
        let mut account = Account::new(0.05, 0);
        let hour = 3600 * 1000 * MS;
        assert!(!account.must_close(hour, 0.0));
        assert!(account.must_close(hour, 0.1e9), "a cycle's earnings");
        assert!(!account.is_earned(hour + 1000 * MS, 0.1e9));
        assert!(account.is_earned(hour + 2000 * MS, 0.1e9));
    }

    #[test]
    fn what_closing_costs_is_kept_back() {
        let mut account = Account::new(0.05, 0);
        account.closing_cost(0.0);
        assert!(!account.must_close(0, 0.02e9));
        account.closing_cost(0.01e9);
        assert!(account.must_close(0, 0.02e9));
        account.closing_cost(1e9);
        assert!(!account.must_close(0, 0.01e9), "there is a window");
    }

    #[test]
    fn a_share_is_checked() {
        for wrong in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(Budget::Share(wrong).check().is_err());
        }
        assert!(Budget::default().check().is_ok() && Budget::Unlimited.check().is_ok());
    }
}

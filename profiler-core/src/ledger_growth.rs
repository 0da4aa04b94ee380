//! How RSS and the classes of the ledger changed from one walk to a later one: growth outside of live blocks.

use std::cmp::Ordering;

use crate::report::{FragReport, LedgerClass};

/// RSS that changes by less than this between two walks is steady.
const STEADY_BYTES: f64 = (1 << 20) as f64;
/// So is RSS that changes by less than this share of it.
const STEADY_SHARE: f64 = 0.01;

/// What changed from one walk to a later one, in bytes: below zero where it was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerGrowth {
    /// The time between the walks, in ns.
    pub elapsed_ns: u64,
    /// RSS.
    pub rss_bytes: f64,
    /// Swap.
    pub swap_bytes: f64,
    /// Growth of RSS by less than this is steady.
    pub least_bytes: f64,
    /// Resident bytes of the classes, the most first.
    pub classes: Vec<(LedgerClass, f64)>,
}

impl LedgerGrowth {
    /// From an earlier report to a later one; `None` of cores, and where no time has passed between them.
    pub fn between(earlier: &FragReport, later: &FragReport) -> Option<Self> {
        let elapsed_ns = later.taken_at_ns.checked_sub(earlier.taken_at_ns)?;
        if elapsed_ns == 0 || later.kernel.is_core || earlier.kernel.is_core {
            return None;
        }
        let gained = |before: u64, now: u64| now as f64 - before as f64;
        let of_class = |class: &LedgerClass| {
            let bytes = gained(earlier.resident_bytes(*class), later.resident_bytes(*class));
            (*class, bytes)
        };
        let mut classes: Vec<_> = LedgerClass::ALL.iter().map(of_class).collect();
        classes.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
        let rss = later.kernel.rss_bytes as f64;
        Some(Self {
            elapsed_ns,
            rss_bytes: gained(earlier.kernel.rss_bytes, later.kernel.rss_bytes),
            swap_bytes: gained(earlier.kernel.swap_bytes, later.kernel.swap_bytes),
            least_bytes: STEADY_BYTES.max(rss * STEADY_SHARE),
            classes,
        })
    }

    /// What RSS gained that did not come back from swap; `None` where that is steady.
    pub fn gained_bytes(&self) -> Option<f64> {
        let gained = self.rss_bytes - self.swapped_in_bytes();
        (gained >= self.least_bytes).then_some(gained)
    }

    /// What left swap, and may have come back to memory.
    pub fn swapped_in_bytes(&self) -> f64 {
        (-self.swap_bytes).max(0.0)
    }

    /// So many bytes of that time in a second.
    pub fn per_second(&self, bytes: f64) -> f64 {
        bytes * 1e9 / self.elapsed_ns as f64
    }
}

//! What the hits cost the target.

use super::calibrate::HitCost;
use super::traps::Traps;

/// The share during a long window is computed over intervals of at least this many ns.
const SPAN_NS: u64 = 2_000_000_000;

/// Adds up hits and their measured cost, and the share of time that they take.
#[derive(Debug)]
pub(super) struct Meter {
    hits: Vec<u64>,
    ns_each: Vec<f64>,
    /// How much time sampling and watching growth took besides, in ns.
    sampling_ns: f64,
    /// The cost of one hit as long as none was seen.
    least_ns: f64,
    attached_at_ns: u64,
    /// The start of the present span, and what was spent by then, in ns.
    span: (u64, f64),
    last_share: Option<f64>,
}

impl Meter {
    pub(super) fn new(traps: &Traps, cost: HitCost, now_ns: u64) -> Self {
        let ns_each: Vec<f64> = traps.placed.iter().map(|p| cost.of(p.trap)).collect();
        Self {
            hits: vec![0; ns_each.len()],
            least_ns: ns_each.iter().copied().fold(f64::INFINITY, f64::min),
            ns_each,
            sampling_ns: 0.0,
            attached_at_ns: now_ns,
            span: (now_ns, 0.0),
            last_share: None,
        }
    }

    /// Hits so far, by trap.
    pub(super) fn hits(&self) -> &[u64] {
        &self.hits
    }

    /// Takes in the BPF side's hit count of the trap at `index`.
    pub(super) fn count(&mut self, index: usize, hits: u64) {
        self.hits[index] = hits;
    }

    /// Takes in how much time sampling and watching growth took.
    pub(super) fn count_sampling(&mut self, ns: f64) {
        self.sampling_ns = ns;
    }

    /// The target's time that hits, sampling and watching growth took so far, in ns.
    pub(super) fn spent_ns(&self) -> f64 {
        self.traps_ns() + self.sampling_ns
    }

    /// The time that the traps alone took.
    pub(super) fn traps_ns(&self) -> f64 {
        let each = self.hits.iter().zip(&self.ns_each);
        each.map(|(hits, ns)| *hits as f64 * ns).sum()
    }

    /// Mean cost of a hit, in ns.
    pub(super) fn ns_per_hit(&self) -> f64 {
        match self.hits.iter().sum::<u64>() {
            0 if self.least_ns.is_finite() => self.least_ns,
            0 => 0.0,
            hits => self.spent_ns() / hits as f64,
        }
    }

    /// Probes are about to be attached for a window, and all that was spent is earned: a span from
    /// one such moment to the next covers attaching, a window, removing and the pause.
    pub(super) fn window_begins(&mut self, now_ns: u64) {
        if self.spent_ns() > 0.0 {
            self.end_span(now_ns);
        } else {
            self.span = (now_ns, 0.0);
        }
    }

    /// A window is open, and all that was spent is earned: a long window has several spans. A span
    /// that ended while a window still spends ahead would lack the pause that belongs to it.
    pub(super) fn window_goes_on(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.span.0) >= SPAN_NS {
            self.end_span(now_ns);
        }
    }

    fn end_span(&mut self, now_ns: u64) {
        let spent = self.spent_ns();
        let (began_ns, before) = self.span;
        let length = now_ns.saturating_sub(began_ns).max(1);
        self.last_share = Some((spent - before) / length as f64);
        self.span = (now_ns, spent);
    }

    /// Share of wall time in the last whole span; before there is one, since attaching (over at
    /// least two seconds).
    pub(super) fn share(&self, now_ns: u64) -> f64 {
        self.last_share.unwrap_or_else(|| {
            let age = now_ns.saturating_sub(self.attached_at_ns);
            self.spent_ns() / age.max(SPAN_NS) as f64
        })
    }
}

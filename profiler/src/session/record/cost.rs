//! The cost of recording through probes for its target: in total, recently, and per event.

use std::time::Duration;

use profiler_core::activity::ProbeCost;
use profiler_core::units::nanoseconds;
use profiler_probe::StreamCost;

/// The cost of the probes since a recording began.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct CostSoFar {
    /// How long ago that was.
    pub(super) age: Duration,
    pub(super) cost: StreamCost,
    /// The target's processor time since then, in ns, if known.
    pub(super) used_ns: Option<f64>,
}

/// The shortest interval over which the share is computed: the target's processor time has ticks of
/// 10 ms.
const SPAN: Duration = Duration::from_secs(2);

/// The last complete interval: its begin and its share of the time.
#[derive(Debug, Default)]
pub(super) struct CostSpans {
    began: CostSoFar,
    share: Option<f64>,
}

impl CostSpans {
    /// The present cost of the probes: hits of the whole recording, and the share of the last
    /// complete interval. Before there is one, it is the cost since the beginning, relative to a
    /// complete interval.
    pub(super) fn cost(&mut self, now: CostSoFar) -> ProbeCost {
        let share = self.share_since(&now);
        if now.age.saturating_sub(self.began.age) >= SPAN {
            self.share = Some(share);
            self.began = now;
        }
        let StreamCost { hits, spent_ns } = now.cost;
        ProbeCost {
            hits,
            ns_per_hit: spent_ns / hits.max(1) as f64,
            share: self.share.unwrap_or(share),
            budget: None,
        }
    }

    fn share_since(&self, now: &CostSoFar) -> f64 {
        let began = &self.began;
        let lasted = now.age.saturating_sub(began.age).max(SPAN).as_nanos() as f64;
        let spent = now.cost.since(&began.cost).spent_ns;
        // A calibration on a busy machine gives too high a cost, which cannot exceed the processor
        // time used.
        let used = now.used_ns.zip(began.used_ns.or(Some(0.0)));
        let used = used.map_or(spent, |(now, then)| (now - then).max(0.0));
        spent.min(used) / lasted
    }
}

/// With fewer events the cost per event is not reported: other costs would dominate it.
const FEWEST_PRICED: u64 = 1000;

/// A sentence about the probes' cost to the target, from its events, the duration of the recording,
/// and its processor time meanwhile.
pub(super) fn price(
    events: u64,
    cost: StreamCost,
    lasted: Duration,
    used_ns: Option<f64>,
) -> String {
    let StreamCost { hits, spent_ns } = cost;
    if events < FEWEST_PRICED {
        let known = match events {
            0 => "the probes saw no event".to_owned(),
            _ => format!(
                "with fewer than {FEWEST_PRICED} events ({events}) it is not known what the probes took of the \
                 target for each"
            ),
        };
        // A realloc that calls the other functions inside is hit several times.
        if hits < FEWEST_PRICED.max(events.saturating_mul(10)) {
            return known;
        }
        let took = nanoseconds(spent_ns as u64);
        return format!(
            "{known}; they were hit {hits} times by calls that changed nothing, frees of no block and calls \
             that failed, which took {took} of the target"
        );
    }
    let each = spent_ns / events as f64;
    let lasted = lasted.as_nanos().max(1) as f64;
    let of_a_core = |ns: f64| format!("{:.0} % of a core", ns / lasted * 100.0);
    let of_its_time = used_ns.map_or(String::new(), |used| {
        format!("; it used {} in all", of_a_core(used))
    });
    format!(
        "the probes took {each:.0} ns of the target per event, {}{of_its_time}",
        of_a_core(spent_ns)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CostSoFar, CostSpans, StreamCost, price};

    const SECONDS: Duration = Duration::from_secs(10);

    #[test]
    fn a_price_per_event_needs_events() {
        let of = |hits| StreamCost {
            hits,
            spent_ns: 1_022_352_264.0,
        };
        assert_eq!(
            price(0, of(12), SECONDS, Some(2e9)),
            "the probes saw no event"
        );
        let said = price(999, of(1998), SECONDS, None);
        assert!(said.starts_with("with fewer than 1000 events (999)"));
        assert!(!said.contains("hit"), "{said}");
        let said = price(0, of(1_000_000), SECONDS, Some(2e9));
        assert_eq!(
            said,
            "the probes saw no event; they were hit 1000000 times by calls that changed nothing, frees of no \
             block and calls that failed, which took 1.0 s of the target"
        );
        let said = price(1_000_000, of(2_000_000), SECONDS, Some(2e9));
        assert_eq!(
            said,
            "the probes took 1022 ns of the target per event, 10 % of a core; it used 20 % of a \
             core in all"
        );
    }
    #[test]
    fn the_share_is_of_the_last_whole_span_and_never_more_than_the_target_used() {
        let at = |seconds: f64, spent_ms: f64, used_ms: f64| CostSoFar {
            age: Duration::from_secs_f64(seconds),
            cost: StreamCost {
                hits: 1000,
                spent_ns: spent_ms * 1e6,
            },
            used_ns: Some(used_ms * 1e6),
        };
        let mut spans = CostSpans::default();
        let mut share = |now| spans.cost(now).share;
        // A burst in the first moment is not the load of a core.
        assert_eq!(share(at(0.2, 100.0, 150.0)), 0.05);
        assert_eq!(share(at(2.0, 400.0, 500.0)), 0.2);
        // Nothing since then, which shows when the interval is complete.
        assert_eq!(share(at(3.0, 400.0, 500.0)), 0.2);
        assert_eq!(share(at(4.0, 400.0, 500.0)), 0.0);
        // A busy machine when a hit was measured.
        assert_eq!(share(at(6.0, 4400.0, 1500.0)), 0.5);
        assert_eq!(spans.cost(at(6.0, 4400.0, 1500.0)).ns_per_hit, 4.4e6);
    }
}

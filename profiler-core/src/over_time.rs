//! Fragmentation over a session by the four ratios of Johnstone and Wilson ("The memory
//! fragmentation problem: solved?", ISMM 1998): memory taken by the allocators divided by live
//! memory, each ratio at different moments. 1.0 means no fragmentation.

use crate::metrics::{Metric, MetricId};
use crate::report::FragReport;
use crate::units::Value;

/// What a walk found, in bytes of resident pages.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Moment {
    /// Nanoseconds since 1970-01-01 UTC.
    pub time_ns: u64,
    /// Bytes of the heaps' pages.
    pub heap: u64,
    /// Live bytes on them.
    pub live: u64,
}

impl Moment {
    fn ratio(&self) -> f64 {
        self.heap as f64 / self.live as f64
    }
}

/// All that the ratios need of a session's walks, however many there were.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct OverTime {
    /// The last walk.
    pub last: Option<Moment>,
    /// The walk with the most live bytes.
    pub most_live: Moment,
    /// The walk with the largest heap.
    pub most_heap: Moment,
    /// Heap ÷ live bytes, times its duration in ns, summed.
    pub sum: f64,
    /// Those nanoseconds, summed.
    pub time: f64,
}

impl OverTime {
    /// Adds a walk; a walk without live bytes adds nothing.
    pub fn add(&mut self, report: &FragReport) {
        if let (Some(heap), Some(live)) = (report.heap_resident_bytes(), report.heap_live_bytes) {
            self.moment(report.taken_at_ns, heap, live);
        }
    }

    fn moment(&mut self, time_ns: u64, heap: u64, live: u64) {
        if live == 0 {
            return;
        }
        let moment = Moment {
            time_ns,
            heap,
            live,
        };
        if let Some(last) = self.last.replace(moment) {
            // Each moment counts for the time until the next.
            let lasted = time_ns.saturating_sub(last.time_ns) as f64;
            self.sum += last.ratio() * lasted;
            self.time += lasted;
        }
        if live > self.most_live.live {
            self.most_live = moment;
        }
        if heap > self.most_heap.heap {
            self.most_heap = moment;
        }
    }

    /// The four ratios; without values if no walk found live bytes.
    pub fn ratios(&self) -> Vec<Metric> {
        let known = |value: f64| self.last.map(|_| value);
        let average = match (self.time > 0.0, self.last) {
            (true, _) => Some(self.sum / self.time),
            (false, last) => last.map(|moment| moment.ratio()),
        };
        let ratios = [
            (MetricId::JohnstoneWilson1, average),
            (MetricId::JohnstoneWilson2, known(self.most_live.ratio())),
            (MetricId::JohnstoneWilson3, known(self.most_heap.ratio())),
            (
                MetricId::JohnstoneWilson4,
                known(self.most_heap.heap as f64 / self.most_live.live as f64),
            ),
        ];
        let metric = |(id, value): (_, Option<f64>)| Metric {
            id,
            value: value.map(Value::Fraction),
        };
        ratios.map(metric).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ratio_looks_at_its_own_moments() {
        // Grows with 100 live, peaks at 300, and keeps 400 resident when 100 are live again.
        let mut over_time = OverTime::default();
        for (time, heap, live) in [
            (0, 100, 100),
            (10, 330, 300),
            (20, 400, 100),
            (40, 200, 100),
        ] {
            over_time.moment(time, heap, live);
        }
        let values: Vec<_> = over_time
            .ratios()
            .iter()
            .map(|metric| metric.value.expect("a value").as_f64())
            .collect();
        // 10 at 1.0, 10 at 1.1, 20 at 4.0.
        assert!((values[0] - 101.0 / 40.0).abs() < 1e-12, "{values:?}");
        assert_eq!(values[1..], [1.1, 4.0, 400.0 / 300.0]);
    }

    #[test]
    fn nothing_walked_is_nothing_known() {
        let mut over_time = OverTime::default();
        over_time.moment(0, 100, 0);
        assert!(over_time.ratios().iter().all(|m| m.value.is_none()));
        over_time.moment(5, 100, 50);
        assert!(
            over_time
                .ratios()
                .iter()
                .all(|m| m.value == Some(Value::Fraction(2.0)))
        );
    }
}

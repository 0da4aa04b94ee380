//! Limits set by the user for a process, and whether a report is within them.

use crate::metrics::MetricId;
use crate::report::FragReport;
use crate::trend::Point;
use crate::units::{Unit, Value};

/// The limit of fragmentation: resident heap bytes that hold nothing live.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum MostFragmentation {
    /// At most this many bytes.
    Bytes(u64),
    /// At most this share of RSS, 0 to 1.
    Share(f64),
}

/// The limits. `None` means no limit.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// RSS by the kernel's account, in bytes.
    pub rss_bytes: Option<u64>,
    /// Fragmentation.
    pub fragmentation: Option<MostFragmentation>,
    /// Growth of RSS, in bytes a second.
    pub growth_bytes_per_second: Option<f64>,
}

/// One limit and the measured value.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Checked {
    /// The key of the figure in JSON.
    pub key: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// The measured value; `None` means unknown.
    pub value: Option<Value>,
    /// The limit.
    pub most: Value,
}

impl Checked {
    /// A sentence about the problem, if there is one.
    pub fn trouble(&self) -> Option<String> {
        let name = self.label;
        match self.value {
            None => Some(format!("{name} is not known: it was not checked")),
            Some(value) if self.is_exceeded() => Some(format!(
                "{name} is {}, more than {}",
                self.unit.text(value),
                self.unit.text(self.most)
            )),
            Some(_) => None,
        }
    }

    /// Whether the limit is exceeded.
    pub fn is_exceeded(&self) -> bool {
        let value = self.value.map(Value::as_f64);
        value.is_some_and(|value| value > self.most.as_f64())
    }
}

/// Each limit with the report's value, in the order RSS, fragmentation, growth.
pub fn check(report: &FragReport, growth: Option<f64>, limits: &Thresholds) -> Vec<Checked> {
    let rss = report.kernel.rss_bytes;
    let rss_limit = limits.rss_bytes.map(|most| Checked {
        key: "rss_bytes",
        label: "RSS",
        unit: Unit::Bytes,
        value: Some(rss.into()),
        most: most.into(),
    });
    let fragmentation = limits.fragmentation.map(|most| match most {
        MostFragmentation::Bytes(most) => Checked {
            key: MetricId::FragmentationBytes.key(),
            label: MetricId::FragmentationBytes.label(),
            unit: MetricId::FragmentationBytes.unit(),
            value: report.metric(MetricId::FragmentationBytes),
            most: most.into(),
        },
        MostFragmentation::Share(most) => Checked {
            key: "fragmentation_share",
            label: MetricId::FragmentationBytes.label(),
            unit: Unit::Share,
            value: report.fragmentation_share().map(Value::Fraction),
            most: Value::Fraction(most),
        },
    });
    let growth = limits.growth_bytes_per_second.map(|most| Checked {
        key: "growth_bytes_per_second",
        label: "growth of RSS",
        unit: Unit::BytesPerSecond,
        value: growth.map(Value::Fraction),
        most: Value::Fraction(most),
    });
    [rss_limit, fragmentation, growth]
        .into_iter()
        .flatten()
        .collect()
}

/// How fast RSS grew between two moments, in bytes per second; negative if it fell, `None` if no
/// time passed between them.
pub fn growth(from: &Point, to: &Point) -> Option<f64> {
    let ns = to.time_ns.checked_sub(from.time_ns).filter(|ns| *ns > 0)?;
    Some((to.rss_bytes as f64 - from.rss_bytes as f64) / (ns as f64 / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metric;

    fn report(rss: u64, free: Option<u64>) -> FragReport {
        let mut report = FragReport::from_sample(&Default::default());
        report.kernel.rss_bytes = rss;
        report.metrics = vec![Metric {
            id: MetricId::FragmentationBytes,
            value: free.map(Value::from),
        }];
        report
    }

    #[test]
    fn what_is_more_than_it_may_be_is_exceeded_and_what_is_as_much_is_not() {
        let limits = Thresholds {
            rss_bytes: Some(1000),
            fragmentation: Some(MostFragmentation::Share(0.4)),
            growth_bytes_per_second: Some(10.0),
        };
        let exceeded = |report: &FragReport, growth| -> Vec<bool> {
            let checked = check(report, growth, &limits);
            checked.iter().map(Checked::is_exceeded).collect()
        };
        let kept = report(1000, Some(400));
        assert_eq!(exceeded(&kept, Some(10.0)), [false, false, false]);
        let more = report(1001, Some(401));
        assert_eq!(exceeded(&more, Some(10.5)), [true, true, true]);
    }

    #[test]
    fn what_is_unknown_is_not_exceeded_and_is_there_as_unknown() {
        let limits = Thresholds {
            fragmentation: Some(MostFragmentation::Bytes(5)),
            growth_bytes_per_second: Some(1.0),
            ..Thresholds::default()
        };
        let checked = check(&report(1, None), None, &limits);
        assert_eq!(checked.len(), 2);
        assert!(
            checked
                .iter()
                .all(|one| one.value.is_none() && !one.is_exceeded())
        );
    }

    #[test]
    fn growth_is_a_rate_of_the_time_between() {
        let point = |time_ns, rss_bytes| Point {
            time_ns,
            rss_bytes,
            swap_bytes: 0,
            live_bytes: None,
            heap_bytes: None,
            live_resident_bytes: None,
            threads: None,
        };
        let (first, later) = (point(0, 3000), point(2_000_000_000, 1000));
        assert_eq!(growth(&first, &later), Some(-1000.0));
        assert_eq!(growth(&later, &later), None);
        assert_eq!(growth(&later, &first), None);
    }
}

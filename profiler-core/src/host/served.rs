//! The metrics served for a host's processes, each declared once: for the text that Prometheus
//! reads, its help, and the document.

use super::{HostView, ProcessGroup};
use crate::units::Unit;

/// What is served about a host at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServedHost {
    /// The last observation; `None` until the first is complete.
    pub view: Option<HostView>,
    /// Its processes as groups.
    pub groups: Vec<ProcessGroup>,
    /// What serving takes.
    pub server: ServerFigures,
}

/// What fragscope knows of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerFigures {
    /// Its version.
    pub version: &'static str,
    /// Processor time since it started, in ns.
    pub cpu_ns: u64,
    /// Its own resident set, in bytes.
    pub resident_bytes: Option<u64>,
    /// Its start time, in ns since 1970-01-01 UTC.
    pub began_at_ns: u64,
    /// Answers that were given.
    pub answers: u64,
    /// Connections that were closed before they were answered.
    pub dropped_connections: u64,
    /// The outcome of pushing its profiles; `None` if none are pushed.
    pub pushes: Option<PushFigures>,
}

/// What became of profiles that are pushed to an endpoint: all of one moment count as one.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PushFigures {
    /// Profiles that the endpoint accepted.
    pub taken: u64,
    /// Profiles replaced by newer ones before the endpoint accepted them.
    pub dropped: u64,
    /// The number of failed attempts.
    pub failures: u64,
}

/// The type of a metric in Prometheus.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum MetricKind {
    /// A value that goes up and down.
    Gauge,
    /// A sum that only grows while fragscope runs.
    Counter,
    /// Counts by size, that only grow.
    Histogram,
    /// Always 1: the information is in its labels.
    Info,
}

impl MetricKind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// The declaration of a metric.
#[derive(Copy, Clone, Debug)]
pub struct Declared {
    /// Its full name: a counter's ends in `_total`.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// Its unit, which is a suffix of its name.
    pub unit: Unit,
    /// Its labels besides that of the group.
    pub labels: &'static [&'static str],
    /// Its meaning.
    pub help: &'static str,
}

/// A metric with one value.
#[derive(Copy, Clone, Debug)]
pub struct ServedMetric<T> {
    /// Its declaration.
    pub declared: Declared,
    /// Its value; `None` while it is unknown.
    pub value: fn(&T) -> Option<f64>,
}

impl Declared {
    const fn of(name: &'static str, kind: MetricKind, unit: Unit, help: &'static str) -> Self {
        Self {
            name,
            kind,
            unit,
            labels: &[],
            help,
        }
    }

    const fn labelled(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    /// The name of its unit as a suffix; `None` if it counts things.
    pub const fn unit_name(&self) -> Option<&'static str> {
        match self.unit {
            Unit::Bytes => Some("bytes"),
            Unit::BytesPerSecond => Some("bytes_per_second"),
            Unit::Seconds => Some("seconds"),
            Unit::Share => Some("ratio"),
            _ => None,
        }
    }
}

const fn gauge<T>(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    value: fn(&T) -> Option<f64>,
) -> ServedMetric<T> {
    ServedMetric {
        declared: Declared::of(name, MetricKind::Gauge, unit, help),
        value,
    }
}

const fn counter<T>(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    value: fn(&T) -> Option<f64>,
) -> ServedMetric<T> {
    ServedMetric {
        declared: Declared::of(name, MetricKind::Counter, unit, help),
        value,
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn amount(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| bytes as f64)
}

/// Metrics of each group.
pub const GROUP_METRICS: [ServedMetric<ProcessGroup>; 16] = [
    gauge(
        "fragscope_group_processes",
        Unit::Count,
        "processes that run Python: masters and all that descend from them",
        |group: &ProcessGroup| Some(group.processes as f64),
    ),
    gauge(
        "fragscope_group_walked_processes",
        Unit::Count,
        "processes whose heap was walked at least once: what is known of heaps is of these",
        |group| Some(group.walked as f64),
    ),
    gauge(
        "fragscope_group_growing_processes",
        Unit::Count,
        "processes that gained at least 4 MiB, at a rate of a quarter of their resident set an hour",
        |group| Some(group.growing as f64),
    ),
    gauge(
        "fragscope_group_resident_bytes",
        Unit::Bytes,
        "sum of resident sets; pages that processes share count in each of them",
        |group| Some(group.rss_bytes as f64),
    ),
    gauge(
        "fragscope_group_proportional_bytes",
        Unit::Bytes,
        "sum of proportional set sizes: shared pages count in parts, so that the sum is right",
        |group| amount(group.pss_bytes),
    ),
    gauge(
        "fragscope_group_unique_bytes",
        Unit::Bytes,
        "sum of unique set sizes: the pages that one process alone maps",
        |group| amount(group.uss_bytes),
    ),
    gauge(
        "fragscope_group_swap_bytes",
        Unit::Bytes,
        "sum of what is in swap",
        |group| amount(group.swap_bytes),
    ),
    gauge(
        "fragscope_group_live_bytes",
        Unit::Bytes,
        "blocks in use in all heaps as they were asked for, at the last walks; those on shared pages count in each process",
        |group| amount(group.live_bytes),
    ),
    gauge(
        "fragscope_group_live_resident_bytes",
        Unit::Bytes,
        "what of the blocks in use was in memory, at the last walks: compare this with resident bytes",
        |group| amount(group.live_resident_bytes),
    ),
    gauge(
        "fragscope_group_free_resident_bytes",
        Unit::Bytes,
        "resident heap bytes that hold nothing live, at the last walks; what children share counts \
         in their master alone",
        |group| amount(group.free_bytes),
    ),
    gauge(
        "fragscope_group_fragmentation_ratio",
        Unit::Share,
        "free resident bytes as a part of the proportional set sizes of the walked processes, 0 to 1",
        |group| group.fragmentation,
    ),
    gauge(
        "fragscope_group_trim_returnable_bytes",
        Unit::Bytes,
        "what a trim or purge in each process would return, at the last walks",
        |group| amount(group.trim_bytes),
    ),
    gauge(
        "fragscope_group_growth_bytes_per_second",
        Unit::BytesPerSecond,
        "growth of the resident sets since each process is watched, summed up",
        |group| group.growth,
    ),
    gauge(
        "fragscope_group_oldest_walk_timestamp_seconds",
        Unit::Seconds,
        "when the process was walked whose last walk is the oldest, since 1970-01-01 UTC",
        |group| group.oldest_walk_ns.map(seconds),
    ),
    gauge(
        "fragscope_group_cgroup_usage_bytes",
        Unit::Bytes,
        "what the kernel counts for the memory control group that is nearest to its limit",
        |group| amount(group.cgroup.as_ref()?.current_bytes),
    ),
    gauge(
        "fragscope_group_cgroup_limit_bytes",
        Unit::Bytes,
        "the lowest memory limit of that control group and those above it; absent without one",
        |group| amount(group.cgroup.as_ref()?.max_bytes),
    ),
];

/// How many processes of a group have each verdict.
pub const VERDICTS: Declared = Declared::of(
    "fragscope_group_verdict_processes",
    MetricKind::Gauge,
    Unit::Count,
    "processes by what the last walk found first",
)
.labelled(&["verdict"]);

/// Properties that the processes of a group have in common.
pub const GROUP_INFO: Declared = Declared::of(
    "fragscope_group_info",
    MetricKind::Info,
    Unit::Count,
    "the control group, Python and malloc that the processes have in common, or several",
)
.labelled(&["cgroup", "python", "malloc"]);

/// fragscope's build.
pub const BUILD_INFO: Declared = Declared::of(
    "fragscope_build_info",
    MetricKind::Info,
    Unit::Count,
    "the version of fragscope",
)
.labelled(&["version"]);

/// How long walks stopped their processes at once.
pub const WALK_STOPS: Declared = Declared::of(
    "fragscope_walk_stop_seconds",
    MetricKind::Histogram,
    Unit::Seconds,
    "the longest stop of each walk",
);

/// Metrics of the host and of fragscope.
pub const HOST_METRICS: [ServedMetric<ServedHost>; 15] = [
    gauge(
        "fragscope_look_timestamp_seconds",
        Unit::Seconds,
        "when the processes were looked at last, since 1970-01-01 UTC",
        |host: &ServedHost| Some(seconds(host.view.as_ref()?.taken_at_ns)),
    ),
    gauge(
        "fragscope_processes",
        Unit::Count,
        "processes that run Python",
        |host| Some(host.view.as_ref()?.rows.len() as f64),
    ),
    gauge(
        "fragscope_unreadable_processes",
        Unit::Count,
        "processes that may not be looked into, so that it is unknown whether they run Python",
        |host| Some(host.view.as_ref()?.unreadable as f64),
    ),
    gauge(
        "fragscope_groups",
        Unit::Count,
        "groups of processes, the rest as one",
        |host| Some(host.view.as_ref().map(|_| host.groups.len())? as f64),
    ),
    counter(
        "fragscope_walks_total",
        Unit::Count,
        "heaps walked",
        |host| Some(host.view.as_ref()?.cost.walks as f64),
    ),
    counter(
        "fragscope_walk_failures_total",
        Unit::Count,
        "walks that came to nothing, but for those of processes that ended",
        |host| Some(host.view.as_ref()?.cost.failed_walks as f64),
    ),
    gauge(
        "fragscope_walk_longest_stop_seconds",
        Unit::Seconds,
        "the longest stop of a process since fragscope began",
        |host| {
            let cost = host.view.as_ref()?.cost;
            (cost.walks > 0).then(|| seconds(cost.longest_stop_ns))
        },
    ),
    counter(
        "fragscope_answers_total",
        Unit::Count,
        "requests over HTTP that were answered",
        |host| Some(host.server.answers as f64),
    ),
    counter(
        "fragscope_dropped_connections_total",
        Unit::Count,
        "connections that were closed before they were answered: too slow, or too many",
        |host| Some(host.server.dropped_connections as f64),
    ),
    counter(
        "fragscope_pushes_total",
        Unit::Count,
        "moments whose profiles were pushed and taken",
        |host| Some(host.server.pushes?.taken as f64),
    ),
    counter(
        "fragscope_dropped_pushes_total",
        Unit::Count,
        "moments whose profiles were not taken, and dropped for newer ones",
        |host| Some(host.server.pushes?.dropped as f64),
    ),
    counter(
        "fragscope_push_failures_total",
        Unit::Count,
        "attempts to push profiles that failed",
        |host| Some(host.server.pushes?.failures as f64),
    ),
    counter(
        "process_cpu_seconds_total",
        Unit::Seconds,
        "processor time of fragscope",
        |host| Some(seconds(host.server.cpu_ns)),
    ),
    gauge(
        "process_resident_memory_bytes",
        Unit::Bytes,
        "resident set of fragscope",
        |host| amount(host.server.resident_bytes),
    ),
    gauge(
        "process_start_time_seconds",
        Unit::Seconds,
        "when fragscope began, since 1970-01-01 UTC",
        |host| Some(seconds(host.server.began_at_ns)),
    ),
];

/// All declarations, in serving order.
pub fn declared() -> Vec<Declared> {
    let host = HOST_METRICS.iter().map(|metric| metric.declared);
    let groups = GROUP_METRICS.iter().map(|metric| metric.declared);
    [BUILD_INFO]
        .into_iter()
        .chain(host)
        .chain([WALK_STOPS])
        .chain(groups)
        .chain([VERDICTS, GROUP_INFO])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut names = BTreeSet::new();
        for metric in declared() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(is_word), "{name}");
            let base = match metric.kind {
                MetricKind::Counter => name.strip_suffix("_total").expect(name),
                MetricKind::Info => name.strip_suffix("_info").expect(name),
                MetricKind::Gauge | MetricKind::Histogram => name,
            };
            if let Some(unit) = metric.unit_name() {
                assert!(base.ends_with(&format!("_{unit}")), "{name}: {unit}");
            }
            assert!(!base.contains("_total"), "{name}");
            assert!(!metric.help.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn what_is_unknown_is_absent() {
        let nothing = ProcessGroup::default();
        let known = |metric: &&ServedMetric<ProcessGroup>| (metric.value)(&nothing).is_some();
        let known: Vec<_> = GROUP_METRICS
            .iter()
            .filter(known)
            .map(|metric| metric.declared.name.trim_start_matches("fragscope_group_"))
            .collect();
        let counts = ["processes", "walked_processes", "growing_processes"];
        assert_eq!(known, [&counts[..], &["resident_bytes"]].concat());
        let host = ServedHost::default();
        let unseen = HOST_METRICS
            .iter()
            .filter(|metric| (metric.value)(&host).is_some());
        // Metrics about fragscope itself.
        assert_eq!(unseen.count(), 4);
    }

    #[test]
    fn the_document_has_each_metric_as_it_is_declared() {
        let document = include_str!("../../../docs/serve.md");
        for metric in declared() {
            let labels: Vec<_> = metric
                .labels
                .iter()
                .map(|name| format!("`{name}`"))
                .collect();
            let labels = match labels.is_empty() {
                true => String::new(),
                false => format!("; labels {}", labels.join(", ")),
            };
            let (name, kind) = (metric.name, metric.kind.name());
            let row = format!("| `{name}` | {kind} | {}{labels} |", metric.help);
            assert!(document.contains(&row), "{row}");
        }
        let is_row =
            |line: &&str| line.starts_with("| `fragscope_") || line.starts_with("| `process_");
        let rows = document.lines().filter(is_row);
        assert_eq!(rows.count(), declared().len(), "and no other");
    }
}

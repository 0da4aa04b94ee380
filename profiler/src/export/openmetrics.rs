//! A host's metrics as text for Prometheus: in OpenMetrics, and in Prometheus's own older format,
//! which `promtool check metrics` and other readers accept.

use std::fmt::Write;

use profiler_core::host::{
    BUILD_INFO, Declared, GROUP_INFO, GROUP_METRICS, GroupName, HOST_METRICS, MetricKind,
    ServedHost, VERDICTS, WALK_STOPS,
};
use profiler_core::text::visible;

/// Characters of a label's value at most.
const MAX_LABEL: usize = 200;

/// One of the two texts.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Exposition {
    /// Both.
    pub const ALL: [Self; 2] = [Self::OpenMetrics, Self::Prometheus];

    /// The format to send to a reader, by the value of its `Accept` header.
    pub fn accepted(accept: &str) -> Self {
        match accept
            .to_ascii_lowercase()
            .contains("application/openmetrics-text")
        {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Its HTTP content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The metrics of a host.
pub fn exposition(host: &ServedHost, format: Exposition) -> String {
    let mut text = Text {
        format,
        out: String::new(),
    };
    text.begin(&BUILD_INFO);
    text.sample(
        BUILD_INFO.name,
        &[("version", host.server.version.into())],
        1.0,
    );
    for metric in &HOST_METRICS {
        let samples = (metric.value)(host).map(|value| (Vec::new(), value));
        text.family(&metric.declared, samples);
    }
    text.stops(host);
    for metric in &GROUP_METRICS {
        let samples = host.groups.iter().filter_map(|group| {
            let value = (metric.value)(group)?;
            Some((named(&group.name), value))
        });
        text.family(&metric.declared, samples);
    }
    let verdicts = host.groups.iter().flat_map(|group| {
        let counts = group.verdicts.iter();
        counts.map(|(verdict, count)| {
            let mut labels = named(&group.name);
            labels.extend(
                VERDICTS
                    .labels
                    .iter()
                    .map(|name| (*name, (*verdict).into())),
            );
            (labels, *count as f64)
        })
    });
    text.family(&VERDICTS, verdicts);
    let infos = host.groups.iter().map(|group| {
        let values = [&group.path, &group.python, &group.malloc];
        let common = GROUP_INFO.labels.iter().zip(values);
        let common = common.filter_map(|(name, value)| Some((*name, value.words()?.into())));
        (named(&group.name).into_iter().chain(common).collect(), 1.0)
    });
    text.family(&GROUP_INFO, infos);
    if format == Exposition::OpenMetrics {
        text.out.push_str("# EOF\n");
    }
    text.out
}

/// Labels of a sample: names of ours, and values of anybody's.
type Labels = Vec<(&'static str, String)>;

fn named(name: &GroupName) -> Labels {
    vec![
        ("group", name.group.clone()),
        ("program", name.program.clone()),
    ]
}

struct Text {
    format: Exposition,
    out: String,
}

impl Text {
    /// The lines before the samples of a metric.
    fn begin(&mut self, metric: &Declared) {
        let is_open = self.format == Exposition::OpenMetrics;
        let (family, kind) = match (metric.kind, is_open) {
            // OpenMetrics names families without the suffix of their samples, the other format with
            // it.
            (MetricKind::Counter, true) => (without(metric.name, "_total"), "counter"),
            (MetricKind::Info, true) => (without(metric.name, "_info"), "info"),
            (MetricKind::Info, false) => (metric.name, MetricKind::Gauge.name()),
            (kind, _) => (metric.name, kind.name()),
        };
        // Help is of our own, and has neither backslashes nor newlines (a test).
        self.line(format_args!("# HELP {family} {}", metric.help));
        self.line(format_args!("# TYPE {family} {kind}"));
        if let Some(unit) = metric.unit_name().filter(|_| is_open) {
            self.line(format_args!("# UNIT {family} {unit}"));
        }
    }

    /// A metric with its samples; nothing at all if there are none.
    fn family(&mut self, metric: &Declared, samples: impl IntoIterator<Item = (Labels, f64)>) {
        let mut samples = samples
            .into_iter()
            .filter(|(_, value)| value.is_finite())
            .peekable();
        if samples.peek().is_none() {
            return;
        }
        self.begin(metric);
        for (labels, value) in samples {
            self.sample(metric.name, &labels, value);
        }
    }

    /// The histogram of stops.
    fn stops(&mut self, host: &ServedHost) {
        let Some(view) = &host.view else { return };
        let name = WALK_STOPS.name;
        self.begin(&WALK_STOPS);
        for (bound, count) in view.cost.stops.cumulative() {
            let bound = bound.map_or_else(|| "+Inf".into(), |ns| (ns as f64 / 1e9).to_string());
            self.sample(&format!("{name}_bucket"), &[("le", bound)], count as f64);
        }
        let (sum, count) = (view.cost.stop_ns as f64 / 1e9, view.cost.walks as f64);
        self.sample(&format!("{name}_sum"), &[], sum);
        self.sample(&format!("{name}_count"), &[], count);
    }

    fn sample(&mut self, name: &str, labels: &[(&'static str, String)], value: f64) {
        let mut shown = String::new();
        // A label without a value is equivalent to no label.
        for (label, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            let comma = if shown.is_empty() { "" } else { "," };
            // Writing into a string does not fail.
            let _ = write!(shown, "{comma}{label}=\"{}\"", label_value(value));
        }
        match shown.is_empty() {
            true => self.line(format_args!("{name} {value}")),
            false => self.line(format_args!("{name}{{{shown}}} {value}")),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        let _ = writeln!(self.out, "{line}");
    }
}

fn without<'a>(name: &'a str, end: &str) -> &'a str {
    name.strip_suffix(end).unwrap_or(name)
}

/// Foreign text as the value of a label: without control characters, of a bounded length, and escaped.
fn label_value(text: &str) -> String {
    let mut value = String::new();
    for (at, c) in visible(text).to_string().chars().enumerate() {
        match c {
            _ if at >= MAX_LABEL => {
                value.push('…');
                break;
            }
            '\\' => value.push_str("\\\\"),
            '"' => value.push_str("\\\""),
            // There are none left after `visible`.
            '\n' => value.push_str("\\n"),
            c => value.push(c),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use profiler_core::host::{Cost, HostView, ProcessGroup, ServerFigures, StopCounts, declared};

    use super::*;

    fn host() -> ServedHost {
        let mut stops = StopCounts::default();
        for ns in [500_000, 500_001, 30_000_000, 9_000_000_000] {
            stops.count(ns);
        }
        let group = ProcessGroup {
            name: GroupName {
                group: "a\"b\\c\nd\x1b[2J".into(),
                program: "celery".into(),
            },
            processes: 3,
            rss_bytes: 1 << 53,
            pss_bytes: Some(7),
            growth: Some(-0.5),
            fragmentation: Some(f64::NAN),
            verdicts: [("in use", 2)].into(),
            ..ProcessGroup::default()
        };
        ServedHost {
            view: Some(HostView {
                cost: Cost {
                    walks: 4,
                    stop_ns: 9_031_000_001,
                    stops,
                    ..Cost::default()
                },
                ..HostView::default()
            }),
            groups: vec![group],
            server: ServerFigures {
                version: "1.2.3",
                cpu_ns: 1_500_000_000,
                ..ServerFigures::default()
            },
        }
    }

    #[test]
    fn values_of_labels_are_escaped_bounded_and_hold_no_control_characters() {
        let text = exposition(&host(), Exposition::OpenMetrics);
        let expected = "fragscope_group_processes{group=\"a\\\"b\\\\c\\\\nd\\\\x1b[2J\",program=\"celery\"} 3\n";
        assert!(text.contains(expected), "{text}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
        let long = label_value(&"\"".repeat(9000));
        assert_eq!(long.chars().filter(|c| *c == '"').count(), MAX_LABEL);
        assert!(long.ends_with('…'), "{long}");
    }

    #[test]
    fn numbers_are_whole_and_what_is_unknown_is_absent() {
        let text = exposition(&host(), Exposition::Prometheus);
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines.next().and_then(|rest| rest.rsplit(' ').next())
        };
        assert_eq!(
            value("fragscope_group_resident_bytes{"),
            Some("9007199254740992")
        );
        assert_eq!(
            value("fragscope_group_growth_bytes_per_second{"),
            Some("-0.5")
        );
        assert_eq!(value("fragscope_group_verdict_processes{"), Some("2"));
        assert_eq!(value("process_cpu_seconds_total "), Some("1.5"));
        for unknown in [
            "fragmentation_ratio",
            "swap_bytes",
            "live_bytes",
            "cgroup_limit",
        ] {
            assert!(!text.contains(unknown), "{unknown}: {text}");
        }
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn stops_are_counted_up_to_their_bounds() {
        let text = exposition(&host(), Exposition::OpenMetrics);
        let bucket = |le| format!("fragscope_walk_stop_seconds_bucket{{le=\"{le}\"}}");
        for (le, count) in [
            ("0.0005", 1),
            ("0.001", 2),
            ("0.02", 2),
            ("0.05", 3),
            ("1", 3),
            ("+Inf", 4),
        ] {
            assert!(
                text.contains(&format!("{} {count}\n", bucket(le))),
                "{le}: {text}"
            );
        }
        assert!(
            text.contains("fragscope_walk_stop_seconds_count 4\n"),
            "{text}"
        );
    }

    #[test]
    fn each_format_has_its_own_names_of_families() {
        let open = exposition(&host(), Exposition::OpenMetrics);
        assert!(open.ends_with("# EOF\n"), "{open}");
        assert!(
            open.contains("# TYPE fragscope_walks counter\nfragscope_walks_total 4\n"),
            "{open}"
        );
        assert!(open.contains("# TYPE fragscope_build info\n"), "{open}");
        assert!(
            open.contains("# UNIT process_cpu_seconds seconds\n"),
            "{open}"
        );
        let prometheus = exposition(&host(), Exposition::Prometheus);
        assert!(
            prometheus.contains("# TYPE fragscope_walks_total counter\n"),
            "{prometheus}"
        );
        assert!(
            prometheus.contains("# TYPE fragscope_build_info gauge\n"),
            "{prometheus}"
        );
        for metric in declared() {
            assert!(!metric.help.contains(['\\', '\n', '"']), "{}", metric.name);
        }
    }

    #[test]
    fn a_reader_gets_the_format_that_it_takes() {
        let accept =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*";
        assert_eq!(Exposition::accepted(accept), Exposition::OpenMetrics);
        assert_eq!(Exposition::accepted("*/*"), Exposition::Prometheus);
        assert_eq!(Exposition::accepted(""), Exposition::Prometheus);
    }

    #[test]
    fn before_the_first_look_it_says_what_it_knows_of_itself() {
        let early = ServedHost::default();
        let text = exposition(&early, Exposition::OpenMetrics);
        assert!(text.contains("process_cpu_seconds_total 0\n"), "{text}");
        assert!(!text.contains("fragscope_walk"), "{text}");
    }
}

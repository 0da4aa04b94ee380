//! One aligned line an interval, for `attach --headless`.

use profiler_core::activity::{Activity, ProbeCost};
use profiler_core::metrics::MetricId;
use profiler_core::units::{bytes, nanoseconds, time_of_day};
use profiler_core::view::{Point, View};

use super::names::{gaps, latest};

/// What a line is made from: a view, with the kernel's latest count and what keeps its figures from
/// being whole.
struct LineSource<'a> {
    view: &'a View,
    now: Point,
    gaps: Vec<&'static str>,
}

/// Title and width of each column, and what stands in it; `None` is unknown. The last one is as wide
/// as it gets.
type Column = (&'static str, usize, fn(&LineSource<'_>) -> Option<String>);

const COLUMNS: [Column; 13] = [
    ("time UTC", 8, |of| Some(time_of_day(of.now.time_ns))),
    ("rss", 10, |of| Some(bytes(of.now.rss_bytes))),
    ("swap", 10, |of| Some(bytes(of.now.swap_bytes))),
    ("walked", 7, |of| {
        Some(age(of
            .now
            .time_ns
            .saturating_sub(of.view.report.taken_at_ns)))
    }),
    ("live", 10, |of| of.now.live_bytes.map(bytes)),
    ("util", 6, |of| of.metric(MetricId::Utilisation)),
    ("pinned", 10, |of| of.metric(MetricId::PinnedFreeBytes)),
    ("trim", 10, |of| of.metric(MetricId::TrimReturnableBytes)),
    ("malloc/s", 8, |of| {
        Activity::ALLOC_RATE.text(of.activity()?)
    }),
    ("p99 life", 9, |of| {
        let lifetimes = Some(&of.activity()?.lifetimes).filter(|l| !l.is_empty())?;
        Some(nanoseconds(lifetimes.value_at_quantile(0.99)))
    }),
    ("cost", 6, |of| ProbeCost::SHARE.text(&of.activity()?.cost)),
    (View::EVENTS_LOST.title, View::EVENTS_LOST.width, |of| {
        of.activity().and_then(|_| View::EVENTS_LOST.text(of.view))
    }),
    ("status", 0, |of| {
        Some(if of.gaps.is_empty() {
            "ok".to_owned()
        } else {
            of.gaps.join(",")
        })
    }),
];

impl LineSource<'_> {
    fn metric(&self, id: MetricId) -> Option<String> {
        let value = self.view.report.metric(id)?;
        Some(id.unit().text(value))
    }

    fn activity(&self) -> Option<&Activity> {
        self.view.activity.as_deref()
    }
}

fn aligned(cell: impl Fn(&Column) -> String) -> String {
    let cells = COLUMNS.iter().map(|column| {
        let width = column.1;
        format!("{:>width$}", cell(column))
    });
    cells.collect::<Vec<_>>().join(" ")
}

/// The titles of [`line()`]'s columns.
pub fn line_heading() -> String {
    aligned(|(title, ..)| (*title).to_owned())
}

/// How long ago, in whole seconds.
fn age(ns: u64) -> String {
    format!("{} s", ns / 1_000_000_000)
}

/// A view in one line: the kernel's latest count, the heap at the last walk, and what
/// the probes saw; `-` is unknown. The last column is `ok`, or what is missing.
pub fn line(view: &View) -> String {
    let source = LineSource {
        view,
        now: latest(view),
        gaps: gaps(view).map(|gap| gap.word).collect(),
    };
    aligned(|(.., cell)| cell(&source).unwrap_or_else(|| "-".to_owned()))
}

//! One aligned line an interval, for `attach --headless`.

use profiler_core::units::{bytes, count, nanoseconds, time_of_day};
use profiler_core::view::View;

use super::names::{events_lost, gaps, latest};

/// Titles and widths of the columns; the last one is as wide as it gets.
const COLUMNS: [(&str, usize); 13] = [
    ("time UTC", 8),
    ("rss", 10),
    ("swap", 10),
    ("walked", 7),
    ("live", 10),
    ("util", 6),
    ("pinned", 10),
    ("trim", 10),
    ("alloc/s", 8),
    ("p99 life", 9),
    ("spent", 6),
    ("lost", 6),
    ("seen", 0),
];

fn aligned(cells: [String; COLUMNS.len()]) -> String {
    let mut text = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&format!("{cell:>width$}"));
    }
    text
}

/// The titles of [`line()`]'s columns.
pub fn line_heading() -> String {
    aligned(COLUMNS.map(|(title, _)| title.to_owned()))
}

/// How long ago, in whole seconds.
fn age(ns: u64) -> String {
    format!("{} s", ns / 1_000_000_000)
}

/// A view in one line: the kernel's count at the latest look, the heap at the last walk, and what
/// the probes saw; `-` is unknown. The last column is `ok`, or what is missing.
pub fn line(view: &View) -> String {
    let report = &view.report;
    let now = latest(view);
    let unknown = || "-".to_owned();
    let metric = |name: &str| {
        report
            .metric(name)
            .map_or_else(unknown, |value| bytes(value as u64))
    };
    let activity = view.activity.as_deref();
    let lifetimes = activity.map(|a| &a.lifetimes).filter(|l| !l.is_empty());
    let gaps = gaps(view);
    aligned([
        time_of_day(now.time_ns),
        bytes(now.rss_bytes),
        bytes(now.swap_bytes),
        age(now.time_ns.saturating_sub(report.taken_at_ns)),
        now.live_bytes.map_or_else(unknown, bytes),
        report
            .metric("utilisation")
            .map_or_else(unknown, |share| format!("{:.1} %", share * 100.0)),
        metric("pinned_free_bytes"),
        metric("trim_returnable_bytes"),
        activity.map_or_else(unknown, |a| count(a.alloc_rate.round() as u64)),
        lifetimes.map_or_else(unknown, |l| nanoseconds(l.value_at_quantile(0.99))),
        activity.map_or_else(unknown, |a| format!("{:.1} %", a.cost.share * 100.0)),
        activity.map_or_else(unknown, |_| count(events_lost(view))),
        if gaps.is_empty() {
            "ok".to_owned()
        } else {
            gaps.join(",")
        },
    ])
}

//! One line per interval, aligned for people or as NDJSON.

use profiler_core::report::LedgerClass;
use profiler_core::units::{bytes, count};
use profiler_core::view::View;
use serde_json::json;

use super::json::{confidence, rfc3339};

/// The heading of [`line`].
pub fn line_heading() -> &'static str {
    "       rss       swap       live   pinned  trimmable  allocs/s   frees/s  spent   lost  sample"
}

/// One aligned line. Figures that are not known are `-`; `sample` says how old the walk is that
/// `live`, `pinned` and `trimmable` are of.
pub fn line(view: &View) -> String {
    let report = &*view.report;
    let now = view.history.last();
    let known = |value: Option<f64>| value.map_or("-".into(), |v| bytes(v as u64));
    let live = now
        .and_then(|point| point.live_bytes)
        .map_or("-".into(), bytes);
    let of = |figure: &dyn Fn(&profiler_core::activity::Activity) -> String| {
        view.activity.as_deref().map_or("-".into(), figure)
    };
    let age_ns = now.map_or(0, |point| point.time_ns.saturating_sub(report.taken_at_ns));
    format!(
        "{:>10} {:>10} {:>10} {:>8} {:>10} {:>9} {:>9} {:>6} {:>6}  {:.0} s ago, {}",
        bytes(now.map_or(report.kernel.rss_bytes, |point| point.rss_bytes)),
        bytes(now.map_or(report.kernel.swap_bytes, |point| point.swap_bytes)),
        live,
        known(report.metric("pinned_free_bytes")).replace("iB", ""),
        known(report.metric("trim_returnable_bytes")),
        of(&|a| count(a.alloc_rate as u64)),
        of(&|a| count(a.free_rate as u64)),
        of(&|a| format!("{:.1} %", a.cost.share * 100.0)),
        of(&|a| count(a.events_lost)),
        age_ns as f64 / 1e9,
        if report.completeness.stopped {
            "stopped"
        } else {
            "not stopped"
        },
    )
}

/// One JSON object without a newline, `fragscope.interval/1`.
pub fn ndjson(view: &View) -> String {
    let report = &*view.report;
    let now = view.history.last();
    let row = |class| report.ledger_row(class).map(|row| row.resident_bytes);
    let walked = !report.heaps.is_empty();
    json!({
        "schema": "fragscope.interval/1",
        "time": now.map(|point| rfc3339(point.time_ns)),
        "pid": report.target.pid,
        "rss_bytes": now.map(|point| point.rss_bytes),
        "swap_bytes": now.map(|point| point.swap_bytes),
        "live_bytes": now.and_then(|point| point.live_bytes),
        "pinned_free_bytes": report.metric("pinned_free_bytes").map(|v| v as u64),
        "trim_returnable_bytes": report.metric("trim_returnable_bytes").map(|v| v as u64),
        "pymalloc_free_bytes": if walked { row(LedgerClass::PymallocFree) } else { None },
        "utilisation": report.metric("utilisation"),
        "allocs_per_second": view.activity.as_deref().map(|a| a.alloc_rate),
        "frees_per_second": view.activity.as_deref().map(|a| a.free_rate),
        "alloc_bytes_per_second": view.activity.as_deref().map(|a| a.alloc_byte_rate),
        "probe_share": view.activity.as_deref().map(|a| a.cost.share),
        "events_lost": view.activity.as_deref().map(|a| a.events_lost),
        "sampled_at": rfc3339(report.taken_at_ns),
        "stopped": report.completeness.stopped,
        "stop_ms": report.completeness.stop_ns as f64 / 1e6,
        "layout_confidence": confidence(report.completeness.layout_confidence),
        "verdict": report.verdict,
        "notices": view.notices,
        "ended": view.ended,
    })
    .to_string()
}

//! Words and numbers that all exports write in one way.

use std::time::Duration;

use jiff::Timestamp;
use profiler_core::completeness::{Confidence, StandStill};
use profiler_core::text::visible;
pub(super) use profiler_core::units::milliseconds;
use profiler_core::view::{Point, View};

/// One line of at most `width` columns: what somebody else chose can be long, and may hold what
/// would drive the terminal.
pub(super) fn cut(line: &str, width: usize) -> String {
    let mut clean = visible(line.trim_end()).to_string();
    if clean.chars().count() > width {
        clean = clean.chars().take(width - 1).collect();
        clean.push('…');
    }
    clean
}

/// A moment, or the epoch when it lies beyond the year 9999.
fn timestamp(time_ns: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH
        .checked_add(Duration::from_nanos(time_ns))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Nanoseconds since 1970 as RFC 3339 in UTC, to the millisecond.
pub(super) fn rfc3339(time_ns: u64) -> String {
    format!("{:.3}", timestamp(time_ns))
}

/// The newest account of RSS and swap: the history's, or that of the walk when there is none
/// newer.
pub(super) fn latest(view: &View) -> Point {
    let report = &view.report;
    let walked = Point {
        time_ns: report.taken_at_ns,
        rss_bytes: report.kernel.rss_bytes,
        swap_bytes: report.kernel.swap_bytes,
        live_bytes: report.live_bytes(),
        heap_bytes: report.heap_resident_bytes(),
    };
    match view.history.last() {
        Some(point) if point.time_ns > walked.time_ns => *point,
        _ => walked,
    }
}

/// A walk is stale when RSS has moved by more than one part of so many since.
const STALE_PART: u64 = 10;

/// What keeps a view's figures from being exact and whole, as short words; empty when nothing
/// does.
pub(super) fn gaps(view: &View) -> Vec<&'static str> {
    let completeness = &view.report.completeness;
    let stand_still = completeness.stand_still;
    let report = &view.report;
    let walked = !report.heaps.is_empty() && report.malloc_not_walked().is_none();
    let (now, then) = (latest(view).rss_bytes, report.kernel.rss_bytes);
    let seen = view.activity.as_deref();
    let gaps = [
        ("no-heap", !walked),
        ("moving", walked && stand_still == StandStill::Never),
        ("released", walked && stand_still.released().is_some()),
        (
            "unsure",
            walked && completeness.layout_confidence < Confidence::Medium,
        ),
        ("stale", walked && now.abs_diff(then) > then / STALE_PART),
        ("unread", completeness.unreadable_bytes > 0),
        ("defects", !completeness.defects.is_empty()),
        ("lost", view.events_lost() > 0),
        ("untracked", seen.is_some_and(|a| a.untracked_blocks > 0)),
        ("no-probes", view.probes_wanted && seen.is_none()),
        (
            "probes-ended",
            view.ended.is_none() && seen.is_some_and(|a| a.ended.is_some()),
        ),
        (
            "shadow-ended",
            view.what_if
                .as_ref()
                .is_some_and(|w| !w.troubles().is_empty()),
        ),
    ];
    let present = gaps.into_iter().filter(|(_, there)| *there);
    present.map(|(name, _)| name).collect()
}

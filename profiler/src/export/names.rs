//! Words and numbers that all exports write in the same way.

use profiler_core::completeness::{Confidence, StandStill};
use profiler_core::text::visible;
pub(super) use profiler_core::units::milliseconds;
use profiler_core::view::{ActivitySource, Point, View};

use crate::hints::Hint;

pub(super) use crate::timestamp::rfc3339;

/// One line of at most `width` columns. Untrusted text can be long and may contain terminal control
/// characters.
pub(super) fn cut(line: &str, width: usize) -> String {
    let mut clean = visible(line.trim_end()).to_string();
    if clean.chars().count() > width {
        clean = clean.chars().take(width - 1).collect();
        clean.push('…');
    }
    clean
}

/// The latest account of RSS and swap: the history's, or the walk's if there is none newer.
pub(super) fn latest(view: &View) -> Point {
    let report = &view.report;
    let walked = Point::of(report);
    match view.history.last() {
        Some(point) if point.time_ns > walked.time_ns => *point,
        _ => walked,
    }
}

/// A walk is stale when RSS has changed by more than 1/N since.
const STALE_PART: u64 = 10;

/// Something that can keep a view's figures from being exact and whole.
pub(super) struct Gap {
    /// Its name in files, which does not change.
    pub(super) key: &'static str,
    /// What people read.
    pub(super) word: &'static str,
    /// When it applies.
    pub(super) help: &'static str,
    is_there: fn(&View) -> bool,
}

/// All of them; `attach --help` is made from these, and docs/exports.md explains each.
pub(super) static GAPS: [Gap; 15] = [
    gap(
        "no-heap",
        "no-heap",
        "no heap was found, or not the one that serves malloc",
        |view| !is_walked(view),
    ),
    gap(
        "moving",
        "not-stopped",
        "the target ran during the walk",
        |view| is_walked(view) && view.report.completeness.stand_still == StandStill::Never,
    ),
    gap(
        "released",
        "resumed",
        "the target ran again before the walk was done",
        |view| is_walked(view) && view.report.completeness.stand_still.released().is_some(),
    ),
    gap(
        "slices",
        "in-slices",
        "the walk is of several moments, between which the target ran",
        |view| is_walked(view) && view.report.completeness.stand_still.slices().is_some(),
    ),
    gap(
        "out-of-time",
        "out-of-time",
        "the walk took too long, and was ended",
        |view| view.report.completeness.out_of_time_ns.is_some(),
    ),
    gap(
        "unsure",
        "not-verified",
        "the allocator's own counters did not confirm the walk",
        |view| is_walked(view) && view.report.completeness.layout_confidence < Confidence::Medium,
    ),
    gap(
        "stale",
        "stale",
        "RSS has changed by more than a tenth since the walk",
        |view| {
            let (now, then) = (latest(view).rss_bytes, view.report.kernel.rss_bytes);
            is_walked(view) && now.abs_diff(then) > then / STALE_PART
        },
    ),
    gap(
        "unread",
        "unreadable",
        "part of the heap is swapped, or could not be read",
        |view| view.report.completeness.unreadable_bytes > 0,
    ),
    gap(
        "defects",
        "defects",
        "part of the heap is inconsistent",
        |view| !view.report.completeness.defects.is_empty(),
    ),
    gap("lost", "lost", "events were lost", |view| {
        view.events_lost() > 0
    }),
    gap(
        "untracked",
        "untracked",
        "more blocks were live than the probes can follow",
        |view| {
            let activity = view.activity.as_deref();
            activity.is_some_and(|activity| activity.untracked_blocks > 0)
        },
    ),
    gap(
        "attaching",
        "attaching",
        "probes are being attached",
        |view| matches!(view.activity_source(), ActivitySource::Attaching),
    ),
    gap(
        "no-probes",
        "no-probes",
        "probes were requested, and there are none",
        |view| matches!(view.activity_source(), ActivitySource::NoProbes),
    ),
    gap(
        "probes-ended",
        "probes-ended",
        "the probes ended before the session",
        |view| view.ended.is_none() && view.activity_source().ended().is_some(),
    ),
    gap(
        "shadow-ended",
        "shadow-ended",
        Hint::ShadowEnded.words(),
        |view| {
            let mut shadows = view.what_if.iter().flat_map(|what_if| &what_if.shadows);
            shadows.any(|shadow| shadow.ended.is_some())
        },
    ),
];

const fn gap(
    key: &'static str,
    word: &'static str,
    help: &'static str,
    is_there: fn(&View) -> bool,
) -> Gap {
    Gap {
        key,
        word,
        help,
        is_there,
    }
}

/// Whether the heap was walked that serves malloc.
fn is_walked(view: &View) -> bool {
    !view.report.heaps.is_empty() && view.report.malloc_not_walked().is_none()
}

/// What keeps a view's figures from being exact and complete; empty if nothing does.
pub(super) fn gaps(view: &View) -> impl Iterator<Item = &'static Gap> {
    GAPS.iter().filter(|gap| (gap.is_there)(view))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_gap_with_its_word() {
        let document = include_str!("../../../docs/exports.md");
        for Gap { key, word, .. } in &GAPS {
            assert!(document.contains(&format!("| `{key}` | {word} |")), "{key}");
        }
    }
}

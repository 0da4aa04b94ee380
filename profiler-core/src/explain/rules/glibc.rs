//! Mechanisms of glibc alone: thread arenas, a top that is never trimmed, thresholds that grow.

use super::{is_notable, of_metric, walk_confidence};
use crate::allocator::{GlibcSetting, INITIAL_MMAP_THRESHOLD_KIB};
use crate::completeness::Confidence;
use crate::evidence::{Evidence, EvidenceId};
use crate::heap::Allocator;
use crate::mechanism::Mechanism;
use crate::metrics::MetricId;
use crate::remedy::Remedy;
use crate::report::{Finding, FragReport};
use crate::tables::{ArenaReport, LedgerClass};
use crate::units::bytes;

pub(super) fn arena_sprawl(report: &FragReport) -> Option<Finding> {
    let heap = report
        .heaps
        .iter()
        .find(|heap| heap.allocator == Allocator::Glibc)?;
    let idle: u64 = heap.thread_arenas().map(ArenaReport::idle_bytes).sum();
    let count = heap.thread_arenas().count();
    (count > 1 && is_notable(report, idle)).then(|| Finding {
        mechanism: Mechanism::ArenaSprawl,
        claim: format!(
            "{count} thread arenas hold {} that are resident and not live.",
            bytes(idle)
        ),
        bytes: Some(idle),
        held_bytes: idle,
        evidence: vec![
            Evidence::whole(EvidenceId::ThreadArenas, count as u64),
            Evidence::whole(EvidenceId::IdleBytes, idle),
        ],
        prediction: None,
        remedy: Remedy::of(Mechanism::ArenaSprawl, Some(Allocator::Glibc)),
        // It is certain that they are idle, but not that sharing would help.
        confidence: walk_confidence(report).min(Confidence::Medium),
    })
}

pub(super) fn pinned_top(report: &FragReport) -> Option<Finding> {
    let pinned = report.amount(MetricId::TopPinnedBytes)?;
    is_notable(report, pinned).then(|| Finding {
        mechanism: Mechanism::PinnedTop,
        claim: format!(
            "{} of free pages lie below a few blocks at the end of the heap (at most 4 KiB of \
             blocks), so free() never trims them by itself.",
            bytes(pinned)
        ),
        bytes: Some(pinned),
        held_bytes: pinned,
        evidence: vec![
            of_metric(report, MetricId::TopPinnedBytes),
            of_metric(report, MetricId::BelowHighestLiveBytes),
        ],
        prediction: None,
        remedy: Remedy::of(Mechanism::PinnedTop, Some(Allocator::Glibc)),
        confidence: walk_confidence(report),
    })
}

/// The value that glibc's mmap threshold has adapted to, if it has.
pub(in crate::explain) fn grown_mmap_threshold(report: &FragReport) -> Option<u64> {
    grown(report, GlibcSetting::MmapThreshold)
}

pub(super) fn dynamic_mmap_threshold(report: &FragReport) -> Option<Finding> {
    let threshold = grown_mmap_threshold(report)?;
    let free = report.amount(MetricId::LargeFreeBytes)?;
    is_notable(report, free).then(|| Finding {
        mechanism: Mechanism::DynamicMmapThreshold,
        claim: format!(
            "The mmap threshold has grown to {}, below which blocks lie in the heap; {} of its \
             resident memory are free chunks above {INITIAL_MMAP_THRESHOLD_KIB} KiB, of large blocks or of small \
             ones side by side.",
            bytes(threshold),
            bytes(free)
        ),
        bytes: Some(free),
        held_bytes: free,
        evidence: vec![
            Evidence::whole(EvidenceId::MmapThreshold, threshold),
            of_metric(report, MetricId::LargeFreeBytes),
        ],
        prediction: None,
        remedy: Remedy::of(Mechanism::DynamicMmapThreshold, Some(Allocator::Glibc)),
        // Free chunks are exact, but a trim may return part of them too.
        confidence: walk_confidence(report).min(Confidence::Medium),
    })
}

pub(super) fn kept_top(report: &FragReport) -> Option<Finding> {
    let threshold = grown(report, GlibcSetting::TrimThreshold)?;
    let top = report.resident_bytes(LedgerClass::Top);
    is_notable(report, top).then(|| Finding {
        mechanism: Mechanism::KeptTop,
        claim: format!(
            "The trim threshold has grown to {}, below which free() does not return the end of an arena: \
             {} of these are resident.",
            bytes(threshold),
            bytes(top)
        ),
        bytes: Some(top),
        held_bytes: top,
        evidence: vec![
            Evidence::whole(EvidenceId::TrimThreshold, threshold),
            Evidence::whole(EvidenceId::TopBytes, top),
        ],
        prediction: None,
        remedy: Remedy::of(Mechanism::KeptTop, Some(Allocator::Glibc)),
        // An end may be above the threshold and stay for another reason.
        confidence: walk_confidence(report).min(Confidence::Medium),
    })
}

/// A threshold of glibc that has adapted.
fn grown(report: &FragReport, threshold: GlibcSetting) -> Option<u64> {
    threshold.grown(|wanted| {
        let heaps = report.heaps.iter();
        let mut of_glibc = heaps.filter(|heap| heap.allocator == Allocator::Glibc);
        of_glibc.find_map(|heap| {
            let settings = heap.settings.iter();
            wanted.in_force(settings.map(|setting| (&*setting.name, &*setting.value)))
        })
    })
}

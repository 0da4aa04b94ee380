//! The rules: how many bytes each mechanism holds, and what to do about it.

mod free;
mod glibc;
mod kernel;
mod whole;

pub(super) use self::glibc::grown_mmap_threshold;
use crate::completeness::Confidence;
use crate::evidence::{Evidence, EvidenceId};
use crate::heap::Allocator;
use crate::mechanism::Mechanism;
use crate::metrics::MetricId;
use crate::remedy::Remedy;
use crate::report::{Finding, FragReport};
use crate::worth;

/// Applies every rule to a report whose figures are complete; the most bytes first.
pub(crate) fn findings(report: &FragReport) -> Vec<Finding> {
    let rules = [
        free::pinned_pages,
        free::untrimmed,
        glibc::pinned_top,
        free::caches,
        glibc::arena_sprawl,
        free::sparse_pools,
        glibc::dynamic_mmap_threshold,
        glibc::kept_top,
        free::stuck_pages,
        kernel::huge_pages,
        kernel::lazily_freed,
        free::private_heap,
        whole::mostly_live,
        whole::not_the_heap,
    ];
    if report.heaps.is_empty() || report.malloc_not_walked().is_some() {
        // What Python's own pools show is valid anyway.
        let pools = free::sparse_pools(report);
        return [not_sure(report)].into_iter().chain(pools).collect();
    }
    let findings: Vec<_> = rules.iter().filter_map(|rule| rule(report)).collect();
    let mut findings = super::proven::proven(report, findings);
    findings.extend(whole::unexplained(report, &findings));
    findings.sort_by_key(|finding| std::cmp::Reverse(rank_bytes(finding)));
    findings
}

/// The bytes by which a finding is ranked: what its remedy most likely returns. That is the known
/// figure, else the middle of the prediction, else half of the finding's bytes. Memory that no
/// allocator returns, only the program itself or its end, counts in full, as Python's own pools do.
fn rank_bytes(finding: &Finding) -> u64 {
    if finding.mechanism == Mechanism::PinnedPages && finding.bytes == Some(0) {
        return finding.held_bytes;
    }
    let known = finding.bytes.filter(|_| !finding.is_assumed());
    let middle = || {
        let played = finding.prediction?;
        let saved = played.baseline_bytes.saturating_sub(played.needs.bytes);
        Some(saved.min(finding.held_bytes))
    };
    known.or_else(middle).unwrap_or(finding.held_bytes / 2)
}

/// Whether a saving of `saved` bytes is worth reporting.
pub(crate) fn is_notable(report: &FragReport, saved: u64) -> bool {
    saved >= worth::OF_RSS.least(report.kernel.rss_bytes)
}

/// The allocator that serves malloc; `None` if its heap was not walked.
pub(crate) fn serving(report: &FragReport) -> Option<Allocator> {
    report.serving().map(|heap| heap.allocator)
}

/// A metric, unchanged, as evidence.
fn of_metric(report: &FragReport, id: MetricId) -> Evidence {
    Evidence {
        id: EvidenceId::Metric(id),
        value: report.metric(id),
    }
}

pub(super) fn walk_confidence(report: &FragReport) -> Confidence {
    report.completeness.layout_confidence
}

/// What was not walked, in a few words.
pub(crate) fn not_walked(report: &FragReport) -> String {
    match report.malloc_not_walked() {
        Some(serving) => format!("malloc is served by {serving}, whose heap was not walked"),
        None => "no heap could be walked".into(),
    }
}

fn not_sure(report: &FragReport) -> Finding {
    let reasons: Vec<_> = report
        .completeness
        .defects
        .iter()
        .map(|defect| defect.what.as_str())
        .collect();
    let mut claim = not_walked(report);
    // Here it begins a sentence.
    if let Some(first) = claim.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if !reasons.is_empty() {
        claim.push_str(&format!(": {}", reasons.join("; ")));
    }
    claim.push('.');
    Finding {
        mechanism: Mechanism::NotSure,
        claim,
        bytes: None,
        held_bytes: 0,
        evidence: Vec::new(),
        prediction: None,
        remedy: Remedy::of(Mechanism::NotSure, None),
        confidence: Confidence::None,
    }
}

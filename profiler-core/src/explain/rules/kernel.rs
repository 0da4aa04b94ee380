//! Effects of the kernel's page handling: huge pages, and pages waiting to be reclaimed.

use super::{is_notable, of_metric, serving};
use crate::completeness::Confidence;
use crate::evidence::{Evidence, EvidenceId};
use crate::mechanism::Mechanism;
use crate::metrics::MetricId;
use crate::remedy::Remedy;
use crate::report::{Finding, FragReport};
use crate::units::bytes;
use crate::worth::MOST;

pub(super) fn huge_pages(report: &FragReport) -> Option<Finding> {
    if let Some(finding) = zeros_in_huge_pages(report) {
        return Some(finding);
    }
    let huge = report.amount(MetricId::HugeBackedBytes)?;
    let blank = report.amount(MetricId::BlankBytes)?;
    let is_much = huge as f64 > report.kernel.rss_bytes as f64 * MOST;
    (is_much && is_notable(report, huge)).then(|| Finding {
        mechanism: Mechanism::HugePages,
        claim: format!(
            "{} of the heap are in transparent huge pages, each of which is resident whole once a byte of it \
             was written: {} of that are zeros in live blocks; what else of it was never written cannot be seen.",
            bytes(huge),
            bytes(blank)
        ),
        bytes: None,
        held_bytes: huge,
        evidence: vec![
            of_metric(report, MetricId::HugeBackedBytes),
            of_metric(report, MetricId::BlankBytes),
        ],
        prediction: None,
        remedy: Remedy::of(Mechanism::HugePages, serving(report)),
        confidence: Confidence::Low,
    })
}

fn zeros_in_huge_pages(report: &FragReport) -> Option<Finding> {
    let blank = report.amount(MetricId::BlankBytes)?;
    is_notable(report, blank).then(|| Finding {
        mechanism: Mechanism::HugePages,
        claim: format!(
            "{} of live blocks are whole pages of zeros that are resident as part of transparent huge pages: \
             the program most likely never wrote them, and without huge pages they would not be resident.",
            bytes(blank)
        ),
        bytes: Some(blank),
        held_bytes: blank,
        evidence: vec![
            of_metric(report, MetricId::BlankBytes),
            of_metric(report, MetricId::HugeBackedBytes),
        ],
        prediction: None,
        remedy: Remedy::of(Mechanism::HugePages, serving(report)),
        confidence: Confidence::Medium,
    })
}

pub(super) fn lazily_freed(report: &FragReport) -> Option<Finding> {
    let lazy = report.kernel.lazy_free_bytes?;
    is_notable(report, lazy).then(|| Finding {
        mechanism: Mechanism::LazilyFreed,
        claim: format!(
            "{} were given back with MADV_FREE, and count as {} until the kernel needs memory.",
            bytes(lazy),
            report.kernel.name()
        ),
        bytes: Some(lazy),
        held_bytes: lazy,
        evidence: vec![Evidence::whole(EvidenceId::LazyFreeBytes, lazy)],
        prediction: None,
        remedy: Remedy::of(Mechanism::LazilyFreed, None),
        confidence: Confidence::High,
    })
}

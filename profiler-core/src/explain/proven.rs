//! Findings together with what their remedies were predicted to return: ranked by that, and dropped
//! if no remedy returns anything.

use crate::allocator::INITIAL_MMAP_THRESHOLD_KIB;
use crate::completeness::Confidence;
use crate::explain::rules::{grown_mmap_threshold, is_notable, serving, walk_confidence};
use crate::mechanism::Mechanism;
use crate::prediction::{Effect, Needs, Prediction, Predictions};
use crate::remedy::Remedy;
use crate::report::{Finding, FragReport, PlayedRemedy};
use crate::units::bytes;

/// The findings, adjusted by predictions, and those that only predictions show.
pub(super) fn proven(report: &FragReport, findings: Vec<Finding>) -> Vec<Finding> {
    let Some(known) = TrustedPredictions::of(report) else {
        return findings;
    };
    let predictions = known.predictions;
    let found: Vec<Mechanism> = findings.iter().map(|finding| finding.mechanism).collect();
    let mut all: Vec<Finding> = findings
        .into_iter()
        .filter_map(|finding| match predictions.of(finding.mechanism) {
            Some((remedy, needs, effect)) => known.with_prediction(finding, remedy, needs, effect),
            None => Some(not_proven(finding)),
        })
        .collect();
    let unseen = Mechanism::predicted().filter(|mechanism| !found.contains(mechanism));
    all.extend(unseen.filter_map(|mechanism| only_predicted(report, &known, mechanism)));
    all
}

/// A finding for whose remedy there is no prediction, or none yet. If its mechanism's remedies are
/// replayed, it is not ranked as if the remedy returned everything.
fn not_proven(mut finding: Finding) -> Finding {
    if finding.mechanism.is_predicted() {
        finding.bytes = None;
    }
    finding
}

/// Predictions that can be believed.
struct TrustedPredictions<'a> {
    predictions: &'a Predictions,
    /// The size of malloc's heap at their walk, in bytes.
    now: u64,
    /// Text after that figure if it excludes pages that are yet to be purged.
    purged: &'static str,
    /// The same in half a sentence, which names the walk if it was another one.
    baseline: String,
    /// How long their walk was before that of the report, if it was another.
    before: Option<String>,
}

impl<'a> TrustedPredictions<'a> {
    fn of(report: &'a FragReport) -> Option<Self> {
        let predictions = report.predictions.as_ref()?;
        Some(Self {
            predictions,
            now: predictions.now()?,
            purged: report.purged_words(),
            baseline: report.baseline()?,
            before: predictions.before(report.taken_at_ns),
        })
    }

    /// A finding adjusted by the prediction for its remedy.
    fn with_prediction(
        &self,
        mut finding: Finding,
        remedy: &Prediction,
        needs: Needs,
        effect: Effect,
    ) -> Option<Finding> {
        let (mut title, band) = (remedy.title(), needs.band());
        finding.remedy = finding.remedy.as_played(&remedy.candidate);
        let condition = remedy.condition();
        // A replayed setting is shown next to its predicted saving; a call is shown at the end of
        // the finding.
        let is_line = effect == Effect::Saves && remedy.step.is_none();
        for how in remedy.how().into_iter().filter(|_| is_line) {
            title += &format!(" ({how})");
        }
        let (now, baseline) = (self.now, &self.baseline);
        let purged = self.purged;
        let said = match effect {
            Effect::Saves => match &self.before {
                None => format!(
                    "With {title}, malloc would need {band}{condition} instead of {}{purged}.",
                    bytes(now)
                ),
                Some(before) => format!(
                    "With {title}, malloc would have needed {band}{condition} instead of {}{purged} in the walk {before} earlier.",
                    bytes(now)
                ),
            },
            Effect::Unclear => {
                finding.confidence = finding.confidence.min(Confidence::Low);
                if finding.mechanism == Mechanism::PinnedPages {
                    finding.remedy = Remedy::general(Mechanism::PinnedPages);
                }
                format!(
                    "Whether {title} would help cannot be predicted from a walk: malloc would need \
                 {band}, {baseline}."
                )
            }
            // That they are pinned is true, whether or not anything would unpin them.
            Effect::Same | Effect::NoLess | Effect::Costs
                if finding.mechanism == Mechanism::PinnedPages =>
            {
                finding.remedy = Remedy::general(Mechanism::PinnedPages);
                format!("{title} would not return them: malloc would need {band}, {baseline}.")
            }
            Effect::Same | Effect::NoLess | Effect::Costs => return None,
        };
        finding.claim = format!("{} {said}", finding.claim);
        finding.bytes = returned(&finding, now.saturating_sub(needs.bytes), effect);
        finding.prediction = Some(PlayedRemedy {
            needs,
            baseline_bytes: now,
        });
        Some(finding)
    }
}

/// Bytes of a finding that a remedy would return if malloc needed `saved` bytes less; `None` if
/// that cannot be predicted.
fn returned(finding: &Finding, saved: u64, effect: Effect) -> Option<u64> {
    match effect {
        // Another allocator saves for other reasons too, which are not this one.
        Effect::Saves if finding.mechanism == Mechanism::PinnedPages => {
            finding.bytes.map(|pinned| pinned.min(saved))
        }
        Effect::Saves => Some(saved),
        Effect::Same | Effect::NoLess | Effect::Costs => Some(0),
        Effect::Unclear => None,
    }
}

/// A remedy's predicted saving that no figure of the walk shows.
fn only_predicted(
    report: &FragReport,
    known: &TrustedPredictions<'_>,
    mechanism: Mechanism,
) -> Option<Finding> {
    let (remedy, needs, effect) = known.predictions.of(mechanism)?;
    let saved = known.now.saturating_sub(needs.bytes);
    if effect != Effect::Saves || !is_notable(report, saved) {
        return None;
    }
    let claim = match mechanism {
        Mechanism::DynamicMmapThreshold => format!(
            "The mmap threshold has grown to {}: room for blocks above {INITIAL_MMAP_THRESHOLD_KIB} KiB \
             stays in the arenas after they are freed.",
            bytes(grown_mmap_threshold(report)?)
        ),
        Mechanism::ArenaSprawl => {
            "Each thread's arena keeps free memory that others cannot use.".to_owned()
        }
        Mechanism::Caches => {
            "Freed blocks in thread caches keep what lies around them from being returned."
                .to_owned()
        }
        // The walk has a figure of these, or they have no remedy that is played.
        Mechanism::PinnedPages
        | Mechanism::Untrimmed
        | Mechanism::PinnedTop
        | Mechanism::SparsePools
        | Mechanism::KeptTop
        | Mechanism::StuckPages
        | Mechanism::HugePages
        | Mechanism::LazilyFreed
        | Mechanism::PrivateHeap
        | Mechanism::Unexplained
        | Mechanism::MostlyLive
        | Mechanism::NotTheHeap
        | Mechanism::NotSure => return None,
    };
    let finding = Finding {
        mechanism,
        claim,
        bytes: Some(saved),
        held_bytes: saved,
        evidence: Vec::new(),
        prediction: None,
        remedy: Remedy::of(mechanism, serving(report)),
        confidence: walk_confidence(report).min(Confidence::Medium),
    };
    known.with_prediction(finding, remedy, needs, effect)
}

//! Explanations: the packing bound, the findings and the verdict, from metrics alone.

mod growth;
pub(crate) mod packing;
mod prose;
mod proven;
mod remedies;
mod rules;
mod short;

use std::sync::Arc;

pub use self::growth::GrowsBy;
pub(crate) use self::growth::LEAK;
use self::growth::answer;
use self::prose::{besides, explanation, verdict};
use self::rules::findings;
pub(crate) use self::rules::serving;
pub use self::short::ShortVerdict;
use crate::memory_growth::MemoryGrowth;
use crate::objects::{Census, Growth};
use crate::prediction::Predictions;
use crate::report::{FragReport, ToCome};
use crate::trend::{Point, Trend};

impl FragReport {
    /// The same report with predictions made from its walk, and the conclusions from them.
    pub fn with_predictions(&self, predictions: Predictions) -> Self {
        let mut report = self.clone();
        report.predictions = Some(predictions);
        report.conclude();
        report
    }

    /// The same report with a census of its objects, and what grew since the previous census.
    pub fn with_objects(mut self, census: Arc<Census>, before: Option<Arc<Census>>) -> Self {
        let growth = before
            .as_deref()
            .map(|before| Growth::between(before, &census));
        self.growth = growth.flatten();
        self.objects = Some(census);
        self.objects_before = before;
        self.conclude();
        self
    }

    /// The same report with the process's recent growth, the counts behind it, and what is still to
    /// come.
    pub fn with_history(&self, trend: Option<Trend>, points: &[Point], to_come: ToCome) -> Self {
        let mut report = self.clone();
        report.to_come = to_come;
        report.trend = trend;
        if let (Some(before), Some(now)) = (&report.objects_before, &report.objects) {
            let (from_ns, to_ns) = (before.taken_at_ns, now.taken_at_ns);
            let known = report.memory_growth.take();
            let growth = known.or_else(|| MemoryGrowth::of_points(points, from_ns, to_ns));
            report.memory_growth = growth.map(|growth| growth.with_halves(points, from_ns));
        }
        report.conclude();
        report
    }

    /// The same report with how its memory changed since an earlier walk, if the compared objects
    /// are those of exactly these two walks.
    pub fn since(mut self, earlier: &Self) -> Self {
        let of = |census: &Option<Arc<Census>>| census.as_ref().map(|census| census.taken_at_ns);
        let walks = (of(&self.objects_before), of(&self.objects));
        if walks == (Some(earlier.taken_at_ns), Some(self.taken_at_ns)) {
            self.memory_growth = growth::memory_between(earlier, &self);
            self.conclude();
        }
        self
    }

    /// Draws the conclusions: findings, verdict and explanation follow from the other figures.
    pub fn conclude(&mut self) {
        self.findings = findings(self);
        self.verdict = match answer(self) {
            Some(answer) => match besides(self) {
                Some(besides) => format!("{answer} {besides}"),
                None => answer,
            },
            None => verdict(self),
        };
        self.explanation = explanation(self);
    }

    /// How fast it grows, as stated in the verdict; `None` if its objects were not read twice.
    pub fn growing(&self) -> Option<GrowsBy> {
        growth::grows_by(self)
    }

    /// The verdict in three words.
    pub fn short_verdict(&self) -> ShortVerdict {
        ShortVerdict::of(self)
    }
}

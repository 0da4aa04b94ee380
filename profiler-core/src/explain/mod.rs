//! Explanations: the packing bound, the findings and the verdict, from metrics alone.

mod growth;
pub(crate) mod packing;
mod prose;
mod proven;
mod remedies;
mod rules;
mod short;

use std::sync::Arc;

use self::growth::answer;
use self::prose::{explanation, verdict};
use self::rules::findings;
pub(crate) use self::rules::serving;
pub use self::short::ShortVerdict;
use crate::objects::{Census, Growth};
use crate::prediction::Predictions;
use crate::report::FragReport;
use crate::trend::Trend;

impl FragReport {
    /// The same report with what was predicted of its walk, and the conclusions from that.
    pub fn with_predictions(&self, predictions: Predictions) -> Self {
        let mut report = self.clone();
        report.predictions = Some(predictions);
        report.conclude();
        report
    }

    /// The same report with a census of its objects, and what grew since the one before.
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

    /// The same report of a process that has grown so lately.
    pub fn with_trend(&self, trend: Trend) -> Self {
        let mut report = self.clone();
        report.trend = Some(trend);
        report.conclude();
        report
    }

    /// Draws the conclusions from what is known: findings, verdict and explanation are of the other figures.
    pub fn conclude(&mut self) {
        self.findings = findings(self);
        self.verdict = match answer(self) {
            Some(answer) => format!("{answer} {}", verdict(self)),
            None => verdict(self),
        };
        self.explanation = explanation(self);
    }

    /// The verdict in three words.
    pub fn short_verdict(&self) -> ShortVerdict {
        ShortVerdict::of(self)
    }
}

//! Predictions from a walk, as part of a snapshot.

use profiler_core::allocator::UnknownEnvironment;
use profiler_core::prediction::{Effect, NeedsRow, Prediction, Predictions, SelfCheck};
use serde::{Serialize, Serializer};

use super::{Object, Record};
use crate::export::names::rfc3339;

/// How the predictions came about: all are from one walk.
const BASIS: &str = "walk";

/// The predictions and their walk; all unknown if none were requested.
#[derive(Serialize)]
pub(super) struct Predicted<'a> {
    predictions: Option<Vec<PredictionRow<'a>>>,
    self_check: Option<SelfCheckRow<'a>>,
    settings_assumed: Option<&'static str>,
    not_predicted: Option<&'a str>,
    predicted_at: Option<String>,
    predictions_pending: Option<u32>,
}

impl<'a> Predicted<'a> {
    pub(super) fn of(predictions: Option<&'a Predictions>) -> Self {
        Self {
            predictions: predictions.map(rows),
            self_check: predictions
                .and_then(|all| Some(SelfCheckRow::of(all.self_check.as_ref()?, all.rss_bytes))),
            settings_assumed: predictions
                .and_then(|all| all.environment_unknown)
                .map(UnknownEnvironment::name),
            not_predicted: predictions.and_then(|all| all.trouble.as_deref()),
            predicted_at: predictions.map(|all| rfc3339(all.walk_ns)),
            predictions_pending: predictions.map(|all| all.pending),
        }
    }
}

#[derive(Serialize)]
struct PredictionRow<'a> {
    candidate: String,
    allocator: &'a str,
    version: Option<&'a str>,
    path: Option<&'a str>,
    carried: bool,
    env: Object<&'a str, &'a str>,
    step: Option<&'a str>,
    #[serde(flatten)]
    needs: Needs,
    saves_bytes: Option<i64>,
    effect: Option<&'static str>,
    basis: &'static str,
    runs: u32,
    failure: Option<&'a str>,
}

/// A candidate's need, under its columns' keys.
struct Needs(NeedsRow);

impl Serialize for Needs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Record::figures(&NeedsRow::IN_JSON, &self.0).serialize(serializer)
    }
}

#[derive(Serialize)]
struct SelfCheckRow<'a> {
    #[serde(flatten)]
    both: Record<'a, u64, SelfCheck>,
    rss_bytes: Option<u64>,
    error: f64,
    holds: bool,
}

impl<'a> SelfCheckRow<'a> {
    fn of(check: &'a SelfCheck, rss_bytes: Option<u64>) -> Self {
        Self {
            rss_bytes,
            both: Record::figures(&SelfCheck::COLUMNS, check),
            error: check.error(),
            holds: check.holds(),
        }
    }
}

/// All candidates; those that were not replayed have no figures.
fn rows(predictions: &Predictions) -> Vec<PredictionRow<'_>> {
    let row = |prediction| PredictionRow::of(prediction, predictions);
    predictions.candidates.iter().map(row).collect()
}

impl<'a> PredictionRow<'a> {
    fn of(prediction: &'a Prediction, all: &Predictions) -> Self {
        let row = all.row(prediction);
        let env = prediction.set.iter();
        Self {
            candidate: prediction.candidate.to_string(),
            allocator: prediction.allocator.name(),
            version: prediction.allocator.version(),
            path: prediction.path.as_deref(),
            carried: prediction.is_carried,
            env: Object(env.map(|(name, value)| (&**name, &**value)).collect()),
            step: prediction.step.as_deref(),
            needs: Needs(row),
            saves_bytes: all.now().and_then(|now| prediction.saves(now)),
            effect: row.effect.map(Effect::name),
            basis: BASIS,
            runs: prediction.runs,
            failure: prediction.failure.as_deref(),
        }
    }
}

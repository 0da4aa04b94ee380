//! Predictions for a session: immediately for one walk, or in the background of a continuing
//! session.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use profiler_core::prediction::Predictions;
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_lab::predict::predict;

use crate::say;

/// A walk is predicted again when malloc's heap has changed by this share since.
const CHANGED: f64 = 0.1;
/// The pause between two predictions, as a multiple of the time that one took.
const PAUSE: u32 = 10;

/// Predicts one walk, with progress on stderr, until it is done or interrupted. `root` is the root
/// directory of the process if that differs from ours.
pub(crate) fn predict_now(
    sample: &Sample,
    root: Option<&Path>,
    interrupted: &Arc<AtomicBool>,
) -> Predictions {
    let is_watched = say::is_watched();
    let show = |so_far: &Predictions| {
        if is_watched {
            say::progress(words(so_far));
        }
    };
    if is_watched {
        say::progress("predicting: playing the heap into its own allocator");
    }
    let predictions = predict(sample, root, interrupted, &show);
    if is_watched {
        say::clear_progress();
    }
    predictions
}

fn words(so_far: &Predictions) -> String {
    let done = so_far.candidates.len();
    format!(
        "predicting: {done} of {} candidates",
        done + so_far.pending as usize
    )
}

/// Predictions of the walks of a session, made by players that give way to everything.
#[derive(Default)]
pub(crate) struct Predictor {
    latest: Arc<Mutex<Option<Predictions>>>,
    cancelled: Arc<AtomicBool>,
    running: Option<JoinHandle<()>>,
    /// The size of malloc's heap at the predicted walk, and at the last one at that time.
    predicted_bytes: u64,
    last_bytes: u64,
    last_walk_ns: u64,
    /// When that one began to be played, and when another may at the earliest.
    began: Option<Instant>,
    not_before: Option<Instant>,
}

impl Predictor {
    /// Begins to predict a walk, unless a prediction is in progress or recent, or the heap has
    /// hardly changed.
    pub(crate) fn offer(&mut self, sample: &Sample, root: Option<PathBuf>) {
        self.last_bytes = profiler_lab::seed::measured_bytes(sample).unwrap_or(0);
        self.last_walk_ns = sample.taken_at_ns;
        if !self.is_free() || self.began.is_some() && self.is_fresh() {
            return;
        }
        if self
            .not_before
            .is_some_and(|earliest| Instant::now() < earliest)
        {
            return;
        }
        self.predicted_bytes = self.last_bytes;
        self.began = Some(Instant::now());
        *lock(&self.latest) = Some(Predictions::under_way(sample.taken_at_ns));
        let (sample, latest) = (sample.clone(), Arc::clone(&self.latest));
        let cancelled = Arc::clone(&self.cancelled);
        let spawned = profiler_target::start_thread("predictor", move || {
            let put = |predictions: &Predictions| {
                *lock(&latest) = Some(predictions.clone());
            };
            put(&predict(&sample, root.as_deref(), &cancelled, &put));
        });
        match spawned {
            Ok(thread) => self.running = Some(thread),
            Err(why) => {
                let why = format!("no thread could be started: {why}");
                *lock(&self.latest) = Some(Predictions::none(0, why));
            }
        }
    }

    /// Whether no walk is being predicted. Takes notice when one was.
    fn is_free(&mut self) -> bool {
        let Some(thread) = self.running.take_if(|thread| thread.is_finished()) else {
            return self.running.is_none();
        };
        let took = self.began.map(|began| began.elapsed()).unwrap_or_default();
        self.not_before = Some(Instant::now() + took * PAUSE);
        if thread.join().is_err() {
            let why = "an internal error (panic)";
            *lock(&self.latest) = Some(Predictions::none(0, why));
        }
        true
    }

    /// Whether the heap has hardly changed since it was predicted.
    fn is_fresh(&self) -> bool {
        let change = self.last_bytes.abs_diff(self.predicted_bytes) as f64;
        change <= CHANGED * self.predicted_bytes as f64
    }

    /// What is known about the present heap: the latest predictions, or why they do not apply to
    /// it.
    fn current(&self) -> Option<Predictions> {
        let latest = lock(&self.latest).clone()?;
        if self.is_fresh() {
            return Some(latest);
        }
        let why = "malloc's heap has changed by more than a tenth since the last prediction";
        Some(Predictions::none(self.last_walk_ns, why))
    }

    /// A report with the latest predictions.
    pub(crate) fn apply(&self, report: FragReport) -> FragReport {
        match self.current() {
            Some(predictions) => report.with_predictions(predictions),
            None => report,
        }
    }

    /// The same report with the latest predictions, if they are newer.
    pub(crate) fn refresh(&self, report: &Arc<FragReport>) -> Arc<FragReport> {
        match self.current() {
            Some(predictions) if report.predictions.as_ref() != Some(&predictions) => {
                Arc::new(report.with_predictions(predictions))
            }
            _ => Arc::clone(report),
        }
    }
}

impl Drop for Predictor {
    fn drop(&mut self) {
        // The exit kills the players; they need not be waited for.
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

fn lock(latest: &Mutex<Option<Predictions>>) -> MutexGuard<'_, Option<Predictions>> {
    // Nothing that holds the lock panics.
    latest.lock().unwrap_or_else(PoisonError::into_inner)
}

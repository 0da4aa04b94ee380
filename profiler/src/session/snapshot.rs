//! `snapshot` and `explain`: one passive look.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use profiler_core::report::FragReport;
use profiler_core::view::View;
use profiler_sampling::{Sampler, sample_of_core};

use super::SessionError;
use super::interrupt;
use super::options::{SnapshotOptions, Subject};
use super::outputs::Outputs;
use super::predictor::predict_now;
use crate::export::ExportError;

/// What taking one snapshot came to.
#[derive(Debug)]
pub struct SnapshotOutcome {
    /// What was read, for the caller to print whatever became of the outputs.
    pub view: View,
    /// Bytes that are missing at the end of the core file that was read.
    pub missing_bytes: u64,
    /// Whether a signal ended the predictions.
    pub interrupted: bool,
    /// Whether all outputs were written, or the first that was not.
    pub saved: Result<(), ExportError>,
}

/// Walks the target once, without probes, and writes the outputs.
///
/// # Errors
/// When the target cannot be opened or read, or an output has no place to be.
pub fn snapshot(options: &SnapshotOptions) -> Result<SnapshotOutcome, SessionError> {
    let outputs = Outputs::reserve(&options.outputs)?;
    let (sample, missing_bytes) = match &options.subject {
        Subject::Core { file, exe } => {
            let core = sample_of_core(file, exe.as_deref())?;
            (core.sample, core.missing_bytes)
        }
        Subject::Process { pid, sampling } => (Sampler::open(*pid)?.take(*sampling)?, 0),
    };
    let mut report = FragReport::from_sample(&sample);
    let mut interrupted = false;
    if options.predict {
        let flag = interrupt::flag()?;
        report = report.with_predictions(predict_now(&sample, &flag));
        interrupted = flag.load(Ordering::Relaxed);
    }
    let view = View {
        report: Arc::new(report),
        activity: None,
        probes_wanted: false,
        notices: Vec::new(),
        history: Arc::default(),
        over_time: Default::default(),
        what_if: None,
        ended: None,
    };
    let saved = outputs.save_once(&sample, &view);
    Ok(SnapshotOutcome {
        view,
        missing_bytes,
        interrupted,
        saved,
    })
}

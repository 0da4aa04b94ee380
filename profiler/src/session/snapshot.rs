//! `snapshot` and `explain`: one passive look.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use profiler_core::objects::{Census, NoCensus};
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::view::View;
use profiler_sampling::{Sampler, sample_of_core};

use super::SessionError;
use super::interrupt;
use super::options::{ReadObjects, SnapshotOptions, Subject};
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

/// What was seen of the subject.
struct Seen {
    sample: Sample,
    missing_bytes: u64,
    /// Its root directory, where that is another than ours.
    root: Option<PathBuf>,
    /// Of its objects, if they were asked for.
    census: Option<Result<Census, NoCensus>>,
}

/// Walks the subject, and reads its objects as they were asked for.
fn observe(options: &SnapshotOptions) -> Result<Seen, SessionError> {
    match &options.subject {
        Subject::Core { file, exe } => {
            let core = sample_of_core(file, exe.as_deref())?;
            Ok(Seen {
                census: options.objects.map(|_| core.census()),
                missing_bytes: core.missing_bytes,
                root: None,
                sample: core.sample,
            })
        }
        Subject::Process { pid, sampling } => {
            let sampler = Sampler::open(*pid)?;
            let (sample, mut census) = match options.objects {
                Some(ReadObjects::InStop) => {
                    let (sample, census) = sampler.take_at(*sampling, |moment| moment.census())?;
                    (sample, Some(census))
                }
                Some(ReadObjects::AfterWalk) => {
                    let sample = sampler.take(*sampling)?;
                    let census = sampler.census(&sample);
                    (sample, Some(census))
                }
                None => (sampler.take(*sampling)?, None),
            };
            // The stop may have ended before all was read.
            if let Some(Ok(census)) = &mut census {
                census.exact &= sample.completeness.stand_still.is_throughout();
            }
            Ok(Seen {
                sample,
                missing_bytes: 0,
                root: sampler.target().foreign_root(),
                census,
            })
        }
    }
}

/// Walks the target once, without probes, and writes the outputs.
///
/// # Errors
/// When the target cannot be opened or read, or an output has no place to be.
pub fn snapshot(options: &SnapshotOptions) -> Result<SnapshotOutcome, SessionError> {
    let outputs = Outputs::reserve(&options.outputs)?;
    let Seen {
        sample,
        missing_bytes,
        root,
        census,
    } = observe(options)?;
    let mut report = FragReport::from_sample(&sample);
    let mut notices = Vec::new();
    match census {
        Some(Ok(census)) => report = report.with_objects(census),
        Some(Err(why)) => notices.push(format!("objects were not read: {why}")),
        None => {}
    }
    let mut interrupted = false;
    if options.predict {
        let flag = interrupt::flag()?;
        report = report.with_predictions(predict_now(&sample, root.as_deref(), &flag));
        interrupted = flag.load(Ordering::Relaxed);
    }
    let view = View {
        report: Arc::new(report),
        activity: None,
        probes_wanted: false,
        notices,
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

//! `snapshot` and `explain`: one passive look.

use std::sync::Arc;

use profiler_core::report::FragReport;
use profiler_core::view::View;

use super::options::{SnapshotOptions, Subject};
use super::sampler::{Sampler, StopMode};
use super::{Ending, SessionError, of_core, save};

/// Looks at the target once, without probes, and writes the outputs. The view is for the caller
/// to print.
///
/// # Errors
/// When the target cannot be opened or read, or an output cannot be written.
pub fn snapshot(options: &SnapshotOptions) -> Result<(View, Ending), SessionError> {
    save::check(&options.outputs)?;
    let sample = match &options.subject {
        Subject::Core { file, exe } => of_core::sample_of_core(file, exe.as_deref())?,
        Subject::Process { pid, stop } => {
            let mode = if *stop {
                StopMode::Stop
            } else {
                StopMode::NoStop
            };
            Sampler::open(*pid)?.take(mode)?
        }
    };
    let view = View {
        report: Arc::new(FragReport::from_sample(&sample)),
        activity: None,
        notices: Vec::new(),
        history: Arc::default(),
        ended: None,
    };
    save::all(&options.outputs, &view)?;
    Ok((view, Ending::Done))
}

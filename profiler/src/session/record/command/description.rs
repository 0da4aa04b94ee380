//! The trace's description of the command's first process.

use std::ffi::OsString;
use std::time::Duration;

use profiler_target::Target;
use profiler_trace::trace::{RecordedBy, TraceDescription};

use crate::session::aside::aside;
use crate::session::record::describe::{Origin, describe};

/// The time limit for describing it; after that only its arguments are used: its files may be on a
/// disk that hangs.
pub(super) const DESCRIBED_WITHIN: Duration = Duration::from_secs(2);

/// The trace's description of the command's first process, which runs under this recorder.
pub(super) async fn description(
    pid: u32,
    recorder: String,
    started_at: jiff::Timestamp,
) -> Option<TraceDescription> {
    let described = aside("describe", move || {
        let target = Target::open(pid.cast_signed()).ok()?;
        let origin = Origin::Preload {
            listed: &recorder,
            mapped: &recorder,
        };
        let described = describe(&target, &[], origin, started_at).ok()?;
        // For a process that ends meanwhile only a part is found.
        target.check().is_ok().then_some(described)
    });
    described.await.ok().flatten()
}

/// The description of a command that ended before it could be inspected.
pub(super) fn of_command(command: &[OsString], started_at: jiff::Timestamp) -> TraceDescription {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    TraceDescription {
        command: Some(words.join(" ")),
        recorder: Some(RecordedBy::Preload),
        started_at: Some(started_at.to_string()),
        ..TraceDescription::default()
    }
}

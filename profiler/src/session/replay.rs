//! `replay`: replays a set of candidates, with a progress bar, until it is done or the user ends
//! it.

use std::io;
use std::path::PathBuf;

use profiler_lab::replay::{ReplayError, ReplayOptions, replay};
use profiler_lab::report::Report;
use profiler_target::ErrorKind;
use profiler_trace::whole_file::{Place, WriteError};

use super::progress::Bar;
use super::{interrupt, kinds, outputs};
use crate::export;

/// Why a replay has no result, or could not save it.
#[derive(Debug, thiserror::Error)]
pub enum ReplayFailure {
    /// It could not be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[from] io::Error),
}

impl ReplayFailure {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Replay(error) => kinds::of_compiling(&error.why),
            Self::Write(error) => kinds::of_write(error),
            Self::Signals(error) => ErrorKind::of_io(error),
        }
    }
}

/// Plays, and saves the report as JSON to `output`.
///
/// # Errors
/// When nothing could be played, or the file not be written.
pub fn run(options: &ReplayOptions, output: Option<&PathBuf>) -> Result<Report, ReplayFailure> {
    let mut inputs = outputs::files_among(&options.allocators);
    inputs.push(&options.trace);
    let place = output.map(|path| outputs::place(path, &inputs));
    let place = place.transpose()?;
    let interrupted = interrupt::flag()?;
    let bar = Bar::new();
    let report = replay(options, &interrupted, &|progress| bar.show(progress));
    bar.clear();
    let report = report?;
    if let Some(place) = place {
        save(&place, &report)?;
    }
    Ok(report)
}

fn save(place: &Place, report: &Report) -> Result<(), WriteError> {
    let mut text = export::replay::json(report);
    text.push('\n');
    place.write(text.as_bytes())
}

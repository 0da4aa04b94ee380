//! The files that the user named: exports of the last view, and saved sessions of all walks.

use std::path::{Path, PathBuf};

use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_core::view::View;
use profiler_trace::whole_file::{Place, WriteError};

use super::saved::{Recorder, write_whole};
use crate::export::{self, ExportError};
use crate::say;

/// The ending of a saved session's name.
const SESSION: &str = "fragsnap";

/// A place for each file that was requested.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    exports: Vec<Place>,
    sessions: Vec<Place>,
}

impl Outputs {
    /// Reserves, before the target is touched, a place for each output, which must have a known
    /// ending and be none of the files that are read.
    ///
    /// # Errors
    /// The first output that cannot be written.
    pub(crate) fn reserve(outputs: &[PathBuf], inputs: &[&Path]) -> Result<Self, ExportError> {
        let mut reserved = Self::default();
        for path in outputs {
            let is_session = path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case(SESSION));
            match is_session {
                true => reserved.sessions.push(Place::reserve(path)?),
                false => reserved.exports.push(export::reserve(path)?),
            }
        }
        for place in reserved.exports.iter().chain(&reserved.sessions) {
            place.apart_from(inputs.iter().copied())?;
        }
        let places = reserved.exports.iter().chain(&reserved.sessions);
        if let Some(warning) = unlocked(places) {
            say::line(warning);
        }
        Ok(reserved)
    }

    /// What saves the session while it goes on.
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::new(&self.sessions)
    }

    /// Writes every export, each whole or not at all; one that fails does not keep the others from
    /// being written.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub(crate) fn export(&self, view: &View) -> Result<(), ExportError> {
        let mut first = Ok(());
        for place in &self.exports {
            match export::write(place, view) {
                Ok(()) => say::line(format_args!("wrote {}", visible(place.path().display()))),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    /// Writes all of them, of a target that was looked at once.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub(crate) fn save_once(&self, sample: &Sample, view: &View) -> Result<(), ExportError> {
        let mut first = self.export(view);
        for place in &self.sessions {
            first = first.and(write_whole(place, sample, view).map_err(ExportError::from));
        }
        first
    }

    /// Writes what the export key asks for: the exports named on the command line, else one file of
    /// each format in the working directory. Says what was written.
    ///
    /// # Errors
    /// What could not be written, as one line.
    pub(crate) fn export_now(&self, view: &View) -> Result<String, String> {
        if !self.exports.is_empty() {
            return write(&self.exports, view).map_err(|error| error.to_string());
        }
        let stem = format!(
            "fragscope-{}-{}",
            view.report.target.pid,
            view.report.taken_at_ns / 1_000_000_000
        );
        let paths = ["json", "csv", "hlog"].map(|ending| Path::new(&stem).with_extension(ending));
        let places: Result<Vec<_>, _> = paths.iter().map(|path| export::reserve(path)).collect();
        let places = places.map_err(|error| error.to_string())?;
        let written = write(&places, view).map_err(|error| error.to_string())?;
        Ok(match unlocked(&places) {
            Some(warning) => format!("{written}; {warning}"),
            None => written,
        })
    }
}

/// Reserves a place for a file of any name, but for those that are read.
///
/// # Errors
/// Why it cannot be written.
pub(crate) fn place(path: &Path, inputs: &[&Path]) -> Result<Place, WriteError> {
    let place = Place::reserve(path)?;
    place.apart_from(inputs.iter().copied())?;
    if let Some(warning) = unlocked([&place]) {
        say::line(warning);
    }
    Ok(place)
}

/// The files among these names: those with a slash, as the loader has it.
pub(crate) fn files_among(names: &[String]) -> Vec<&Path> {
    let files = names.iter().filter(|name| name.contains('/'));
    files.map(Path::new).collect()
}

/// What to know of the first place that is not locked: what keeps one from that is the same for all.
fn unlocked<'a>(places: impl IntoIterator<Item = &'a Place>) -> Option<String> {
    places.into_iter().find_map(|place| {
        let path = visible(place.path().display());
        let why = place.unlocked()?;
        Some(format!(
            "nothing keeps a second fragscope from writing {path} as well: {why}"
        ))
    })
}

fn write(places: &[Place], view: &View) -> Result<String, ExportError> {
    let mut names = Vec::new();
    for place in places {
        export::write(place, view)?;
        names.push(visible(place.path().display()).to_string());
    }
    Ok(format!("wrote {}", names.join(", ")))
}

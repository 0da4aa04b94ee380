//! The output files named by the user: exports of the last view, and saved sessions of all walks.

use std::path::{Path, PathBuf};

use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_core::view::View;
use profiler_trace::whole_file::{Place, WriteError};

use super::black_box::TargetBlackBox;
use super::saved::{SessionSaver, write_whole};
use crate::export::{self, ExportError};
use crate::say;

/// The ending of a saved session's name.
const SESSION: &str = "fragsnap";

/// A place for each file that was requested.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    exports: Vec<Place>,
    sessions: Vec<Place>,
    /// Those that have none.
    refused: Vec<ExportError>,
}

/// Files that were not written, one at least; the others were.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Unwritten(Vec<ExportError>);

impl From<ExportError> for Unwritten {
    fn from(error: ExportError) -> Self {
        Self(vec![error])
    }
}

impl Unwritten {
    /// Why each of them was not.
    pub fn each(&self) -> &[ExportError] {
        &self.0
    }

    fn unless_none(errors: Vec<ExportError>) -> Result<(), Self> {
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Self(errors)),
        }
    }
}

impl Outputs {
    /// Reserves a place for each output before the target is touched. Each must have a known
    /// extension and must not be an input file. One that cannot be written does not affect the
    /// others and is reported at once, so that a user who waits for an hour can name another.
    ///
    /// # Errors
    /// When none of them can be written, or an extension is unknown.
    pub(crate) fn reserve(outputs: &[PathBuf], inputs: &[&Path]) -> Result<Self, Unwritten> {
        let mut reserved = Self::default();
        for path in outputs {
            if let Err(error) = reserved.add(path, inputs) {
                reserved.refused.push(error);
            }
        }
        let is_usage = |error: &ExportError| matches!(error, ExportError::UnknownEnding(_));
        if reserved.places().next().is_none() || reserved.refused.iter().any(is_usage) {
            Unwritten::unless_none(std::mem::take(&mut reserved.refused))?;
        }
        for error in &reserved.refused {
            say::line(format_args!(
                "fragscope: {error}; the other files are written"
            ));
        }
        if let Some(warning) = unlocked(reserved.places()) {
            say::line(warning);
        }
        Ok(reserved)
    }

    fn add(&mut self, path: &Path, inputs: &[&Path]) -> Result<(), ExportError> {
        let is_session = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case(SESSION));
        let place = match is_session {
            true => Place::reserve(path)?,
            false => export::reserve(path)?,
        };
        place.apart_from(inputs.iter().copied())?;
        for other in self.places() {
            place.apart_from_place(other)?;
        }
        match is_session {
            true => self.sessions.push(place),
            false => self.exports.push(place),
        }
        Ok(())
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.exports.iter().chain(&self.sessions)
    }

    /// The saver of the session while it continues.
    pub(crate) fn saver(&self, black_box: Option<TargetBlackBox>) -> SessionSaver {
        SessionSaver::new(&self.sessions, black_box)
    }

    /// Writes every export, each completely or not at all, and ends the saved session. One that
    /// fails does not keep the others from being written. `in_haste` as in [`SessionSaver::end`].
    ///
    /// # Errors
    /// All that were not written, after all were tried.
    pub(crate) fn save_last(
        self,
        saver: &SessionSaver,
        view: &View,
        in_haste: bool,
    ) -> Result<(), Unwritten> {
        let exported = self.export(view);
        let saved = saver.end(view, in_haste);
        self.unwritten(exported, saved)
    }

    /// Writes all of them for a target that was observed once.
    ///
    /// # Errors
    /// All that were not written, after all were tried.
    pub(crate) fn save_once(self, sample: &Sample, view: &View) -> Result<(), Unwritten> {
        let exported = self.export(view);
        let sessions = self.sessions.iter();
        let saved = sessions.filter_map(|place| write_whole(place, sample, view).err());
        let saved: Vec<_> = saved.collect();
        self.unwritten(exported, saved)
    }

    /// All that were not written: those rejected at the start, and these exports and sessions.
    fn unwritten<E: Into<ExportError>>(
        self,
        exported: Vec<ExportError>,
        saved: impl IntoIterator<Item = E>,
    ) -> Result<(), Unwritten> {
        let mut all = self.refused;
        all.extend(exported);
        all.extend(saved.into_iter().map(Into::into));
        Unwritten::unless_none(all)
    }

    /// Writes every export, and gives why some were not written.
    fn export(&self, view: &View) -> Vec<ExportError> {
        let (written, failed) = write(&self.exports, view);
        for place in written {
            say::line(format_args!("wrote {place}"));
        }
        failed
    }

    /// Writes what the export key requests: the exports named on the command line, else one file of
    /// each format in the working directory. Returns what was written.
    ///
    /// # Errors
    /// What could not be written, on one line.
    pub(crate) fn export_now(&self, view: &View) -> Result<String, String> {
        if !self.exports.is_empty() {
            return report(write(&self.exports, view));
        }
        let stem = format!(
            "fragscope-{}-{}",
            view.report.target.pid,
            view.report.taken_at_ns / 1_000_000_000
        );
        let paths = ["json", "csv", "hlog"].map(|ending| Path::new(&stem).with_extension(ending));
        let (mut places, mut refused) = (Vec::new(), Vec::new());
        for path in &paths {
            match export::reserve(path) {
                Ok(place) => places.push(place),
                Err(error) => refused.push(error),
            }
        }
        let (written, failed) = write(&places, view);
        refused.extend(failed);
        let said = report((written, refused))?;
        Ok(match unlocked(&places) {
            Some(warning) => format!("{said}; {warning}"),
            None => said,
        })
    }
}

/// Reserves a place for a file with any name except those of input files.
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

/// The files among these names: those with a slash, as for the loader.
pub(crate) fn files_among(names: &[String]) -> Vec<&Path> {
    let files = names.iter().filter(|name| name.contains('/'));
    files.map(Path::new).collect()
}

/// A notice about the first place that is not locked: the reason is the same for all.
fn unlocked<'a>(places: impl IntoIterator<Item = &'a Place>) -> Option<String> {
    places.into_iter().find_map(|place| {
        let path = visible(place.path().display());
        let why = place.unlocked()?;
        Some(format!(
            "nothing keeps a second fragscope from writing {path} as well: {why}"
        ))
    })
}

/// Writes a view to each place; gives those that were written, as text, and why the others were not.
fn write(places: &[Place], view: &View) -> (Vec<String>, Vec<ExportError>) {
    let (mut written, mut failed) = (Vec::new(), Vec::new());
    for place in places {
        match export::write(place, view) {
            Ok(()) => written.push(visible(place.path().display()).to_string()),
            Err(error) => failed.push(error),
        }
    }
    (written, failed)
}

/// One line about the files that were written, and those that were not.
fn report((written, failed): (Vec<String>, Vec<ExportError>)) -> Result<String, String> {
    let written = (!written.is_empty()).then(|| format!("wrote {}", written.join(", ")));
    match Unwritten::unless_none(failed) {
        Ok(()) => Ok(written.unwrap_or_default()),
        Err(failed) => Err(match written {
            Some(written) => format!("{failed}; {written}"),
            None => failed.to_string(),
        }),
    }
}

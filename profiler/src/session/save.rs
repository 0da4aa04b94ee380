//! Writing a view into the files that the user named.

use std::path::{Path, PathBuf};

use profiler_core::text::visible;
use profiler_core::view::View;
use profiler_trace::whole_file::{Place, WriteError};

use crate::export::{self, ExportError};
use crate::say;

/// Reserves, before the target is touched, a place for each output, which must have a known ending.
///
/// # Errors
/// The first output that cannot be written.
pub(crate) fn reserve(outputs: &[PathBuf]) -> Result<Vec<Place>, ExportError> {
    let places = reserve_each(outputs)?;
    if let Some(warning) = unlocked(&places) {
        say::line(warning);
    }
    Ok(places)
}

/// Reserves a place for a file of any name.
///
/// # Errors
/// Why it cannot be written.
pub(crate) fn place(path: &Path) -> Result<Place, WriteError> {
    let place = Place::reserve(path)?;
    if let Some(warning) = unlocked(std::slice::from_ref(&place)) {
        say::line(warning);
    }
    Ok(place)
}

fn reserve_each(outputs: &[PathBuf]) -> Result<Vec<Place>, ExportError> {
    outputs.iter().map(|path| export::reserve(path)).collect()
}

/// What to know of the first place that is not locked: what keeps one from that is the same for all.
fn unlocked(places: &[Place]) -> Option<String> {
    places.iter().find_map(|place| {
        let path = visible(place.path().display());
        let why = place.unlocked()?;
        Some(format!(
            "nothing keeps a second fragscope from writing {path} as well: {why}"
        ))
    })
}

/// Writes every output, each whole or not at all; one that fails does not keep the others from
/// being written.
///
/// # Errors
/// The first failure, after all were tried.
pub(crate) fn all(outputs: &[Place], view: &View) -> Result<(), ExportError> {
    let mut first = Ok(());
    for place in outputs {
        match export::write(place, view) {
            Ok(()) => say::line(format_args!("wrote {}", visible(place.path().display()))),
            Err(error) => first = first.and(Err(error)),
        }
    }
    first
}

/// Writes what the export key asks for: the outputs named on the command line, else one file of
/// each format in the working directory. Says what was written.
///
/// # Errors
/// What could not be written, as one line.
pub(crate) fn from_screen(outputs: &[Place], view: &View) -> Result<String, String> {
    if !outputs.is_empty() {
        return write(outputs, view).map_err(|error| error.to_string());
    }
    let stem = format!(
        "fragscope-{}-{}",
        view.report.target.pid,
        view.report.taken_at_ns / 1_000_000_000
    );
    let paths = ["json", "csv", "hlog"].map(|ending| Path::new(&stem).with_extension(ending));
    let places = reserve_each(&paths).map_err(|error| error.to_string())?;
    let written = write(&places, view).map_err(|error| error.to_string())?;
    Ok(match unlocked(&places) {
        Some(warning) => format!("{written}; {warning}"),
        None => written,
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

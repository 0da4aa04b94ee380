//! Views as files and as lines: JSON, CSV, HdrHistogram logs, metrics, and text for people.
//!
//! `docs/exports.md` documents every key, column and tag. Nothing here inspects a target:
//! everything is made from a [`View`].

mod csv;
pub mod diff;
mod hlog;
mod html;
mod json;
mod latest;
mod lines;
mod names;
mod openmetrics;
pub mod pushed;
pub mod replay;
#[cfg(test)]
pub(crate) mod sample_view;
pub(crate) mod sentences;
mod sites;
mod text;
pub mod top;

use std::path::{Path, PathBuf};

use profiler_core::sites::Sites;
use profiler_core::text::visible;
use profiler_core::view::View;
use profiler_trace::whole_file::{Place, WriteError};

pub use json::{checked, checks, host, host_line, json, ndjson, tree, tree_line};
pub use lines::{line, line_heading, line_help};
pub use openmetrics::{Exposition, exposition};
pub use text::{explanation, text};

/// The endings by which files are named, for people: of the formats, and of saved sessions.
pub const ENDINGS: &str =
    ".fragsnap, .html, .json, .csv, .hlog, .folded, .speedscope.json or .pb.gz";

/// Why an export could not be made. No file was changed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The ending of the file's name says no known format.
    #[error("unknown format of {}", visible(.0.display()))]
    UnknownEnding(PathBuf),
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The data could not be put into the format.
    #[error("cannot make {}: {why}", visible(path.display()))]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// What a view can be written as.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Format {
    /// `fragscope.snapshot/1`.
    Json,
    /// A table, one figure a row.
    Csv,
    /// An HdrHistogram log.
    Hlog,
    /// A page for a browser, with nothing beside it.
    Html,
    /// The report for people.
    Text,
    /// Call sites of allocations as folded stacks.
    Folded,
    /// The same as a file of speedscope.
    Speedscope,
    /// The same as a profile of pprof.
    Pprof,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Json,
        Self::Csv,
        Self::Hlog,
        Self::Html,
        Self::Text,
        Self::Folded,
        Self::Speedscope,
        Self::Pprof,
    ];

    /// The one that the ending of a path names.
    ///
    /// # Errors
    /// When it names none.
    pub fn of(path: &Path) -> Result<Self, ExportError> {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().to_ascii_lowercase());
        let is_named = |ending| name.as_ref().is_some_and(|name| name.ends_with(ending));
        for (ending, format) in [
            (".speedscope.json", Self::Speedscope),
            (".pb.gz", Self::Pprof),
            (".folded", Self::Folded),
        ] {
            if is_named(ending) {
                return Ok(format);
            }
        }
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        match ending.as_ref().and_then(|ending| ending.to_str()) {
            Some("json") => Ok(Self::Json),
            Some("csv") => Ok(Self::Csv),
            Some("hlog") => Ok(Self::Hlog),
            Some("html") => Ok(Self::Html),
            _ => Err(ExportError::UnknownEnding(path.to_owned())),
        }
    }
}

/// Reserves `path`, which must have a known ending and be a place where a file can be written. Called
/// before attaching, so that a long session does not end with nothing to show.
///
/// # Errors
/// Why it cannot be written.
pub fn reserve(path: &Path) -> Result<Place, ExportError> {
    Format::of(path)?;
    Ok(Place::reserve(path)?)
}

/// Writes a view to its place, in the format that the ending of its path names, whole or not at all.
///
/// # Errors
/// When the ending is not known, or the file cannot be made or written; what was there before is then
/// as it was.
pub fn write(place: &Place, view: &View) -> Result<(), ExportError> {
    let path = place.path();
    let made = bytes(view, Format::of(path)?);
    let made = made.map_err(|why| ExportError::Format {
        path: path.to_owned(),
        why,
    })?;
    Ok(place.write(&made)?)
}

/// A view in a format, as the bytes of a file.
///
/// # Errors
/// Why it cannot be put into the format, in words.
pub fn bytes(view: &View, format: Format) -> Result<Vec<u8>, String> {
    match format {
        Format::Json => Ok(format!("{}\n", json(view)).into_bytes()),
        Format::Csv => csv::table(view).map_err(|error| error.to_string()),
        Format::Hlog => hlog::log(view).map_err(|error| error.to_string()),
        Format::Html => Ok(html::page(view).into_bytes()),
        Format::Text => Ok(text(view).into_bytes()),
        Format::Folded => Ok(sites::folded(call_sites(view)?)),
        Format::Speedscope => {
            sites::speedscope(call_sites(view)?).map_err(|error| error.to_string())
        }
        Format::Pprof => sites::pprof(call_sites(view)?, view.report.taken_at_ns)
            .map_err(|error| error.to_string()),
    }
}

fn call_sites(view: &View) -> Result<&Sites, String> {
    let sites = view.sites.as_deref();
    sites.ok_or_else(|| "there are no call sites: they come from probes, while attached".to_owned())
}

#[cfg(test)]
mod tests;

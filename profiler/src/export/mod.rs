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

/// The file extensions, for people: those of the formats, and of saved sessions.
pub const ENDINGS: &str =
    ".fragsnap, .html, .json, .csv, .hlog, .folded, .speedscope.json or .pb.gz";

/// Why an export failed. No file was changed.
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

/// The file formats of a view.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Format {
    /// `fragscope.snapshot/1`.
    Json,
    /// A table, one figure a row.
    Csv,
    /// An HdrHistogram log.
    Hlog,
    /// A self-contained page for a browser.
    Html,
    /// The report for people.
    Text,
    /// Call sites of allocations as folded stacks.
    Folded,
    /// Call sites as a speedscope file.
    Speedscope,
    /// Call sites as a pprof profile.
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

    /// The format named by a path's extension.
    ///
    /// # Errors
    /// When the extension names none.
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

/// Reserves `path`, which must have a known extension and be writable. Called before attaching, so
/// that a long session does not end without a result.
///
/// # Errors
/// Why it cannot be written.
pub fn reserve(path: &Path) -> Result<Place, ExportError> {
    Format::of(path)?;
    Ok(Place::reserve(path)?)
}

/// Writes a view to its place, in the format named by the path's extension, completely or not at
/// all.
///
/// # Errors
/// When the extension is unknown, or the file cannot be created or written; an existing file is
/// then unchanged.
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
/// Why it cannot be converted, in words.
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
    sites.ok_or_else(|| {
        "there are no call sites: they come from probes, and none were set, or not yet".to_owned()
    })
}

#[cfg(test)]
mod tests;

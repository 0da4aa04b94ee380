//! What leaves fragscope: text, lines, JSON, CSV and HdrHistogram logs, all from one
//! [`View`](profiler_core::view::View). `docs/exports.md` defines every key and column.

mod csv;
mod hlog;
mod json;
mod lines;
mod text;

use std::path::{Path, PathBuf};

use profiler_core::view::View;
use profiler_trace::whole_file;

pub use json::snapshot as json;
pub use lines::{line, line_heading, ndjson};
pub use text::text;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The ending names no format.
    #[error("{0}: end the name in .json, .csv or .hlog to choose the format")]
    UnknownEnding(PathBuf),
    /// The file could not be written; nothing was left behind.
    #[error(transparent)]
    Write(#[from] whole_file::WriteError),
    /// The content could not be made.
    #[error("{0}")]
    Content(String),
}

/// A format, by the ending of a file's name.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Format {
    Json,
    Csv,
    Hlog,
}

impl Format {
    fn of(path: &Path) -> Result<Self, ExportError> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("json") => Ok(Self::Json),
            Some("csv") => Ok(Self::Csv),
            Some("hlog") => Ok(Self::Hlog),
            _ => Err(ExportError::UnknownEnding(path.to_owned())),
        }
    }
}

/// Checks, before any work is done, that [`write()`] to `path` can succeed.
///
/// # Errors
/// An unknown ending, or a place that cannot be written.
pub fn check(path: &Path) -> Result<(), ExportError> {
    Format::of(path)?;
    Ok(whole_file::check(path)?)
}

/// Writes `view` to `path` in the format that its ending names, whole or not at all.
///
/// # Errors
/// An unknown ending, or a file that cannot be written.
pub fn write(path: &Path, view: &View) -> Result<(), ExportError> {
    let bytes = match Format::of(path)? {
        Format::Json => json::pretty(view).into_bytes(),
        Format::Csv => csv::csv(view)?,
        Format::Hlog => hlog::hlog(view)?,
    };
    Ok(whole_file::write(path, &bytes)?)
}

//! Writing a view into the files that the user named.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use profiler_core::view::View;

use crate::export::{self, ExportError};

/// Checks, before the target is touched, that each output has a known ending and a place to be.
///
/// # Errors
/// The first output that cannot be written.
pub(crate) fn check(outputs: &[PathBuf]) -> Result<(), ExportError> {
    outputs.iter().try_for_each(|path| export::check(path))
}

/// Writes every output, each whole or not at all; one that fails does not keep the others from
/// being written.
///
/// # Errors
/// The first failure, after all were tried.
pub(crate) fn all(outputs: &[PathBuf], view: &View) -> Result<(), ExportError> {
    let mut first = Ok(());
    for path in outputs {
        match export::write(path, view) {
            // A closed terminal does not keep the other files from being written.
            Ok(()) => {
                let _ = writeln!(io::stderr(), "wrote {}", path.display());
            }
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
pub(crate) fn from_screen(outputs: &[PathBuf], view: &View) -> Result<String, String> {
    let stem = format!(
        "fragscope-{}-{}",
        view.report.target.pid,
        view.report.taken_at_ns / 1_000_000_000
    );
    let defaults = || {
        ["json", "csv", "hlog"]
            .map(|ending| Path::new(&stem).with_extension(ending))
            .to_vec()
    };
    let paths = if outputs.is_empty() {
        defaults()
    } else {
        outputs.to_vec()
    };
    for path in &paths {
        export::write(path, view).map_err(|error| error.to_string())?;
    }
    let names: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Ok(format!("wrote {}", names.join(", ")))
}

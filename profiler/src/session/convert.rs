//! `export`: a recording as another tool's.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use profiler_trace::interchange;
use profiler_trace::trace::ReadError;
use tempfile::NamedTempFile;

/// Why nothing was converted. No file was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The recording cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        why: ReadError,
    },
    /// The output cannot be written.
    #[error("cannot write to {}: {why}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        why: io::Error,
    },
    /// Nobody reads what is printed.
    #[error(transparent)]
    Print(#[from] io::Error),
}

/// Writes a recording of any known kind as logalloc's text, to a file (whole or not at all) or to
/// stdout.
///
/// # Errors
/// When it cannot be read or written.
pub fn to_logalloc(recording: &Path, output: Option<&Path>) -> Result<(), ConvertError> {
    let failed = |why| ConvertError::Read {
        path: recording.to_owned(),
        why,
    };
    let mut source = interchange::open(recording).map_err(failed)?;
    let Some(path) = output else {
        let mut out = BufWriter::new(io::stdout().lock());
        return match interchange::write_logalloc(&mut *source, &mut out) {
            Ok(_) => Ok(out.flush()?),
            Err(ReadError::Io(error)) => Err(ConvertError::Print(error)),
            Err(error) => Err(failed(error)),
        };
    };
    let cannot = |why| ConvertError::Write {
        path: path.to_owned(),
        why,
    };
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(cannot)?;
    let mut out = BufWriter::new(file);
    let calls =
        interchange::write_logalloc(&mut *source, &mut out).map_err(|error| match error {
            ReadError::Io(why) => cannot(why),
            other => failed(other),
        })?;
    let file = out
        .into_inner()
        .map_err(|error| cannot(error.into_error()))?;
    let written: File = file.persist(path).map_err(|error| cannot(error.error))?;
    drop(written);
    // A closed terminal hears nothing.
    let _ = writeln!(io::stderr(), "wrote {}: {calls} calls", path.display());
    Ok(())
}

//! `export`: a recording as another tool's.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use profiler_core::text::visible;
use profiler_trace::interchange;
use profiler_trace::trace::ReadError;
use profiler_trace::whole_file::{Place, WriteError};

use crate::say;

/// Why nothing was converted. No file was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The recording cannot be read.
    #[error("cannot read {}: {}", visible(path.display()), visible(why))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        why: ReadError,
    },
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
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
    let place = output.map(Place::reserve).transpose()?;
    let mut source = interchange::open(recording).map_err(failed)?;
    let Some(place) = place else {
        let mut out = BufWriter::new(say::data());
        return match interchange::write_logalloc(&mut *source, &mut out) {
            Ok(_) => Ok(out.flush()?),
            Err(ReadError::Io(error)) => Err(ConvertError::Print(error)),
            Err(error) => Err(failed(error)),
        };
    };
    let path = place.path();
    let cannot = |why| WriteError::Io {
        path: path.to_owned(),
        source: why,
    };
    let mut out = BufWriter::new(place.begin()?);
    let calls =
        interchange::write_logalloc(&mut *source, &mut out).map_err(|error| match error {
            ReadError::Io(why) => cannot(why).into(),
            other => failed(other),
        })?;
    let file = out
        .into_inner()
        .map_err(|error| cannot(error.into_error()))?;
    file.finish()?;
    let path = visible(path.display());
    say::line(format_args!("wrote {path}: {calls} calls"));
    Ok(())
}

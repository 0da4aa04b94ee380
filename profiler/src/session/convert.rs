//! `export`: converts a recording to another tool's format.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::poll::PollFlags;
use profiler_core::text::visible;
use profiler_lab::input::{Input, wait_for};
use profiler_target::{ErrorKind, host};
use profiler_trace::interchange::{self, Written};
use profiler_trace::limits::{Incomplete, Limits, Meter, Stopped};
use profiler_trace::trace::{PassError, ReadError, TraceSource};
use profiler_trace::whole_file::{Place, WriteError};

use super::{interrupt, kinds, outputs};
use crate::say;

/// Why the conversion failed. No file was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The recording cannot be read.
    #[error("cannot read {}: {}", visible(path.display()), visible(why))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        why: ReadError,
    },
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Nothing reads the output.
    #[error(transparent)]
    Print(io::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
}

impl ConvertError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Print(error) => ErrorKind::of_io(error),
            Self::Read { why, .. } => kinds::of_recording(why),
            Self::Write(error) => kinds::of_write(error),
            Self::Signals(error) => ErrorKind::of_io(error),
        }
    }
}

/// What to convert, and the limits.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The recording.
    pub recording: PathBuf,
    /// The file to write; `None` prints.
    pub output: Option<PathBuf>,
    /// The size limit, in bytes, of the recording and of what is written; `None` is the default.
    pub max_size: Option<u64>,
    /// Bytes that tables may take; `None` is the default.
    pub max_memory: Option<u64>,
}

/// How converting ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Converted {
    /// Everything was written.
    Whole,
    /// The readable part was written; with the reason why that is not everything.
    Part(Incomplete),
    /// A signal came: what was printed until then stays, and no file was changed.
    Interrupted,
}

/// Writes a recording of any known kind as logalloc text to a file (completely or not at all) or to
/// stdout.
///
/// # Errors
/// When nothing of it is readable, or it cannot be written.
pub fn to_logalloc(options: &ConvertOptions) -> Result<Converted, ConvertError> {
    let failed = |why| ConvertError::Read {
        path: options.recording.clone(),
        why,
    };
    let output = options.output.as_deref();
    let place = output.map(|path| outputs::place(path, &[&options.recording]));
    let place = place.transpose()?;
    let interrupted = interrupt::flag().map_err(ConvertError::Signals)?;
    let limits = Limits::new(
        options.max_size,
        options.max_memory,
        host::available_bytes(),
    );
    let meter = Meter::new(limits, Arc::clone(&interrupted));
    let input = Input::open(&options.recording, &interrupted).map_err(failed)?;
    let mut source = match interchange::read(input, &meter) {
        Err(ReadError::Stopped(Stopped::Interrupted)) => return Ok(interrupted_at(place.as_ref())),
        source => source.map_err(failed)?,
    };
    let ended = match &place {
        None => print(&mut *source, &meter, &interrupted).map_err(ConvertError::Print)?,
        Some(place) => save(&mut *source, &meter, place)?,
    };
    let Some(Written {
        calls,
        lost,
        trouble,
    }) = ended
    else {
        return Ok(interrupted_at(place.as_ref()));
    };
    if let Some(place) = &place {
        let path = visible(place.path().display());
        say::line(format_args!("wrote {path}: {calls} calls"));
    }
    Ok(match (trouble, lost) {
        (Some(trouble), lost) => Converted::Part(trouble.and_lost(lost)),
        (None, 0) => Converted::Whole,
        (None, lost) => Converted::Part(Incomplete::of_lost(lost)),
    })
}

/// Reports what a signal kept from being written.
fn interrupted_at(place: Option<&Place>) -> Converted {
    match place {
        Some(place) => say::line(format_args!(
            "fragscope: interrupted: {} was not written",
            visible(place.path().display())
        )),
        None => say::line("fragscope: interrupted: not all of the recording was printed"),
    }
    Converted::Interrupted
}

/// Prints it; `None` if a signal came.
fn print(
    source: &mut dyn TraceSource,
    meter: &Meter,
    interrupted: &AtomicBool,
) -> io::Result<Option<Written>> {
    let stdout = InterruptibleStdout {
        stdout: say::stdout(),
        interrupted,
    };
    let mut out = BufWriter::with_capacity(PIPE_BYTES, stdout);
    let written = interchange::write_logalloc(source, &mut out, meter);
    let written = not_interrupted(written)?;
    // The rest would wait for its reader, which may never come.
    match written.is_some() {
        true => match out.flush() {
            Err(error) if matches!(Stopped::of(&error), Some(Stopped::Interrupted)) => {
                return Ok(None);
            }
            flushed => flushed?,
        },
        false => drop(out.into_parts()),
    }
    Ok(written)
}

/// Writes it to a file; `None` if a signal came.
fn save(
    source: &mut dyn TraceSource,
    meter: &Meter,
    place: &Place,
) -> Result<Option<Written>, WriteError> {
    let cannot = |source| WriteError::Io {
        path: place.path().to_owned(),
        source,
    };
    let mut out = BufWriter::new(place.begin()?);
    let written = interchange::write_logalloc(source, &mut out, meter);
    let Some(written) = not_interrupted(written).map_err(cannot)? else {
        return Ok(None);
    };
    let file = out
        .into_inner()
        .map_err(|error| cannot(error.into_error()))?;
    file.finish()?;
    Ok(Some(written))
}

fn not_interrupted(written: Result<Written, PassError>) -> io::Result<Option<Written>> {
    match written {
        Ok(written) => Ok(Some(written)),
        Err(PassError::Interrupted) => Ok(None),
        Err(PassError::Taker(why)) => Err(why),
    }
}

/// A pipe that is ready accepts this many bytes without blocking (`PIPE_BUF`).
const PIPE_BYTES: usize = 4096;

/// Stdout, on which a signal ends every wait.
struct InterruptibleStdout<'a> {
    stdout: say::Stdout,
    interrupted: &'a AtomicBool,
}

impl Write for InterruptibleStdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(PIPE_BYTES)];
        loop {
            wait_for(self.stdout.as_fd(), PollFlags::POLLOUT, self.interrupted)?;
            match self.stdout.write(part) {
                Err(error) if is_to_be_tried_again(&error) => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_to_be_tried_again(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), Interrupted | WouldBlock)
}

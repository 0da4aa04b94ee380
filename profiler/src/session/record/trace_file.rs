//! The file of a recording, and its progress line.

use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use profiler_core::columns::TextColumn;
use profiler_core::text::visible;
use profiler_core::units;
use profiler_target::ErrorKind;
use profiler_trace::record::TraceSink;
use profiler_trace::trace::{Checkpoint, Event, EventKind, SeedBlock, TraceDescription, Writer};
use profiler_trace::whole_file::{self, WriteError};

use super::output::Output;
use crate::say;
use crate::session::kinds;

/// Time between two progress lines.
const PROGRESS: Duration = Duration::from_secs(1);
/// Since the recording began.
const SECONDS: TextColumn = TextColumn::right("", 4);

/// A trace that is being written. What was written stays readable, whatever happens next.
#[derive(Debug)]
pub(crate) struct TraceFile {
    writer: Writer<BufWriter<whole_file::Output>>,
    path: PathBuf,
    lost: u64,
    checkpoints: u64,
    /// Whether it ends before its subject does.
    is_broken_off: bool,
    /// malloc's resident memory at the last checkpoint, over all processes in it.
    resident_bytes: Option<u64>,
    progress: Progress,
}

/// A trace could not be written on: the disk is full, most likely.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {}: {why}; {}", visible(path.display()), kept(*events))]
pub struct TraceWriteError {
    path: PathBuf,
    /// Those that are complete in the file.
    events: u64,
    #[source]
    why: io::Error,
}

fn kept(events: u64) -> String {
    match events {
        0 => "no event in it can be replayed".to_owned(),
        _ => format!("{events} events are complete in it and can be replayed"),
    }
}

impl TraceWriteError {
    /// What failed at `path`, which contains `events` complete events.
    pub(crate) fn new(path: PathBuf, events: u64, why: io::Error) -> Self {
        Self { path, events, why }
    }

    /// The kind of the error.
    pub(super) fn kind(&self) -> ErrorKind {
        kinds::of_output(&self.why)
    }
}

impl TraceFile {
    /// Begins writing to `file`, which is at `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn begin(
        file: whole_file::Output,
        path: &Path,
        description: &TraceDescription,
    ) -> Result<Self, TraceWriteError> {
        let writer =
            Writer::new(BufWriter::new(file), description).map_err(|why| TraceWriteError {
                path: path.to_owned(),
                events: 0,
                why,
            })?;
        Ok(Self {
            writer,
            path: path.to_owned(),
            lost: 0,
            checkpoints: 0,
            is_broken_off: false,
            resident_bytes: None,
            progress: Progress::new(),
        })
    }

    /// It will end before its subject does, and so without the mark of a complete trace.
    pub(super) fn break_off(&mut self) {
        self.is_broken_off = true;
    }

    fn check(&self, written: io::Result<()>) -> Result<(), TraceWriteError> {
        written.map_err(|why| TraceWriteError {
            path: self.path.clone(),
            events: self.writer.kept(),
            why,
        })
    }
}

impl TraceSink for TraceFile {
    type Error = TraceWriteError;

    fn seed(&mut self, blocks: &[SeedBlock]) -> Result<(), TraceWriteError> {
        let written = self.writer.seed(blocks);
        self.check(written)
    }

    fn event(&mut self, event: &Event) -> Result<(), TraceWriteError> {
        if let EventKind::Lost { events } = event.kind {
            self.lost += events;
        }
        let written = self.writer.event(event);
        self.check(written)
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), TraceWriteError> {
        self.checkpoints += 1;
        self.resident_bytes = checkpoint.figures.malloc_resident_bytes;
        let written = self.writer.checkpoint(checkpoint);
        self.check(written)
    }
}

impl Output for TraceFile {
    /// Prints a progress line on a terminal, about every second.
    fn progress(&mut self) -> Result<(), TraceWriteError> {
        let (events, bytes) = (self.writer.events(), self.writer.bytes());
        self.progress
            .show(events, bytes, self.lost, self.resident_bytes);
        Ok(())
    }

    fn set_progress_note(&mut self, note: String) {
        self.progress.note = note;
    }

    /// On stderr, where no progress line overwrites it.
    fn say(&mut self, what: &str) {
        self.progress.clear();
        say::line(format_args!("fragscope: {what}"));
    }

    fn events(&self) -> u64 {
        self.writer.events()
    }

    /// Ends the trace and reports the result.
    fn finish(mut self) -> Result<(), TraceWriteError> {
        self.progress.clear();
        let flushed = self.writer.flush();
        self.check(flushed)?;
        let (events, path) = (self.writer.events(), self.path);
        let (lost, checkpoints) = (self.lost, self.checkpoints);
        let failed = |why| TraceWriteError {
            path: path.clone(),
            events,
            why,
        };
        let ended = match self.is_broken_off {
            true => self.writer.break_off(),
            false => self.writer.finish(),
        };
        let file = ended.map_err(failed)?;
        let file = file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        let bytes = file.len().map_err(failed)?;
        file.finish().map_err(|error| match error {
            WriteError::Io { source, .. } => failed(source),
            other => failed(io::Error::other(other)),
        })?;
        let a_piece = match events {
            0 => String::new(),
            _ => format!(" ({:.1} bytes per event)", bytes as f64 / events as f64),
        };
        say::line(format_args!(
            "wrote {}: {}, {}{a_piece}, {}, {lost} lost",
            visible(path.display()),
            units::counted(events, "event"),
            units::bytes(bytes),
            units::counted(checkpoints, "checkpoint"),
        ));
        Ok(())
    }
}

/// A line that is written over itself, on a terminal only.
#[derive(Debug)]
struct Progress {
    wanted: bool,
    began: Instant,
    last: Instant,
    last_events: u64,
    shown: bool,
    note: String,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            wanted: say::is_watched(),
            began: now,
            last: now,
            last_events: 0,
            shown: false,
            note: String::new(),
        }
    }

    fn show(&mut self, events: u64, bytes: u64, lost: u64, resident: Option<u64>) {
        let since = self.last.elapsed();
        if !self.wanted || since < PROGRESS {
            return;
        }
        let rate = (events - self.last_events) as f64 / since.as_secs_f64();
        let resident = resident.map_or("not measured yet".to_owned(), units::bytes);
        let line = format!(
            "{} s  {} events ({}/s)  {}  malloc resident {resident}  lost {lost}{}",
            SECONDS.cell(&self.began.elapsed().as_secs().to_string()),
            units::count(events),
            units::count(rate as u64),
            units::bytes(bytes),
            self.note,
        );
        say::progress(line);
        (self.last, self.last_events, self.shown) = (Instant::now(), events, true);
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            say::clear_progress();
        }
    }
}

//! Everything that fragscope prints except the screen: text for people, cleaned of what could drive
//! their terminal, and data for programs.
//!
//! `cargo xtask check-layers` rejects `stdout` and `stderr` anywhere else. Untrusted text was
//! passed through [`visible`](profiler_core::text::visible) when it was put into a message, so that
//! it cannot begin a line of its own; here everything is cleaned once more.

mod stderr;

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{FileStat, fstat};
use profiler_core::text::visible_lines;
use profiler_target::was_stdout_closed;

/// Takes away the line that the cursor is in.
const CLEAR: &str = "\r\x1b[K";

/// Writes a line to stderr. A reader that does not read causes neither an exit nor a wait.
pub(crate) fn line(message: impl Display) {
    // In one piece, so that output of other writers does not split it.
    stderr::write(format!("{}\n", visible_lines(message)));
}

/// Waits until everything is written, unless nothing accepts it; called at the end of the process.
pub(crate) fn finish() {
    stderr::finish();
}

/// Whether stderr is a terminal, on which progress can be shown.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Shows a line on stderr that the next one is written over.
pub(crate) fn progress(words: impl Display) {
    stderr::write(format!("{CLEAR}{}", visible_lines(words)));
}

/// Takes the line of [`progress`] away.
pub(crate) fn clear_progress() {
    stderr::write(CLEAR.to_owned());
}

/// Prints text for people on stdout, unchanged except for what could drive a terminal.
///
/// # Errors
/// When stdout fails.
pub(crate) fn print(text: &str) -> io::Result<()> {
    write(&visible_lines(text).to_string())
}

/// The same for text in which we set colours ourselves, which are kept.
///
/// # Errors
/// When stdout fails.
pub(crate) fn print_coloured(text: &str) -> io::Result<()> {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        let end = after.find(|c: char| !c.is_ascii_digit() && c != ';');
        let colour = end.filter(|&end| after[end..].starts_with('m'));
        // Writing into a string does not fail.
        let _ = write!(clean, "{}", visible_lines(before));
        rest = match colour {
            Some(end) => {
                let _ = write!(clean, "\x1b[{}m", &after[..end]);
                &after[end + 1..]
            }
            None => {
                let _ = write!(clean, "{}[", visible_lines('\x1b'));
                after
            }
        };
    }
    let _ = write!(clean, "{}", visible_lines(rest));
    write(&clean)
}

/// Whether there is a terminal to draw a screen on and to read keys from.
pub(crate) fn has_screen() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Whether stdout shows colours and they are wanted.
pub(crate) fn has_colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints a document for programs as a line: JSON, which escapes for itself.
///
/// # Errors
/// When stdout fails.
pub(crate) fn document(json: &str) -> io::Result<()> {
    // In one call, so that a short document is not seen in part.
    bytes(format!("{json}\n").as_bytes())
}

/// Prints data in a format for programs, which contains no unescaped untrusted text.
///
/// # Errors
/// When stdout fails.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    stdout().write_all(bytes)
}

/// A stream that is printed on.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// Which stream goes into one of these files, under any name, and which file that is.
pub(crate) fn stream_into(files: &[PathBuf]) -> Option<(Stream, &Path)> {
    let streams = [
        (Stream::Output, fstat(io::stdout())),
        (Stream::Error, fstat(io::stderr())),
    ];
    let is_into = |stream: &FileStat, file: &PathBuf| {
        let file = std::fs::metadata(file);
        file.is_ok_and(|file| {
            file.is_file() && (file.dev(), file.ino()) == (stream.st_dev, stream.st_ino)
        })
    };
    streams.into_iter().find_map(|(stream, about)| {
        let about = about.ok()?;
        let file = files.iter().find(|file| is_into(&about, file))?;
        Some((stream, file.as_path()))
    })
}

/// A second descriptor of stdout, to wait for its reader to go.
///
/// # Errors
/// When there is none, or no descriptor is free.
pub(crate) fn second_stdout() -> io::Result<OwnedFd> {
    io::stdout().as_fd().try_clone_to_owned()
}

/// Stdout, for data written piece by piece in a format for programs.
pub(crate) fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

/// Stdout whose errors name it. Rust's own stdout reports success for a descriptor that is closed
/// or not open for writing.
pub(crate) struct Stdout(StdoutLock<'static>);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if was_stdout_closed() {
            return Err(of_stdout(Errno::EBADF.into()));
        }
        let _writing = Writing::begin();
        loop {
            match nix::unistd::write(&self.0, bytes) {
                // The descriptor may have been set to non-blocking by whoever started us: then we
                // wait ourselves.
                Err(Errno::EAGAIN) => {
                    let mut room = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut room, PollTimeout::NONE) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(of_stdout(error.into())),
                    }
                }
                written => return written.map_err(|error| of_stdout(error.into())),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// When the current write to stdout began, if there is one.
static WRITING_SINCE: Mutex<Option<Instant>> = Mutex::new(None);
/// A write that takes longer is waiting for a reader, which may never come.
const STUCK: Duration = Duration::from_millis(100);

/// While this lives, stdout is being written to.
struct Writing;

impl Writing {
    fn begin() -> Self {
        *writing_since() = Some(Instant::now());
        Self
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        *writing_since() = None;
    }
}

fn writing_since() -> MutexGuard<'static, Option<Instant>> {
    // Nothing that holds the lock panics.
    WRITING_SINCE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a write is blocked on stdout.
pub(crate) fn is_stuck() -> bool {
    writing_since().is_some_and(|since| since.elapsed() > STUCK)
}

impl AsFd for Stdout {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An error of stdout, with its name; the kind is kept, because a closed pipe ends a command
/// quietly.
fn of_stdout(error: io::Error) -> io::Error {
    let what = format!("cannot write to the standard output: {error}");
    io::Error::new(error.kind(), what)
}

fn write(text: &str) -> io::Result<()> {
    bytes(text.as_bytes())
}

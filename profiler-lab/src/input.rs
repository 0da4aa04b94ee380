//! A recording's file, which may be a pipe: a signal interrupts any wait for it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use profiler_target::open_checked;
use profiler_trace::limits::Stopped;
use profiler_trace::trace::ReadError;

/// The time between two checks whether a signal came, in ms.
const WAIT_MS: u8 = 50;

/// An opened recording.
#[derive(Debug)]
pub struct Input {
    file: File,
    /// Whether it can make its reader wait.
    waits: bool,
    interrupted: Arc<AtomicBool>,
}

impl Input {
    /// Opens a regular file or a pipe; for a pipe without a writer, reading waits for one. Anybody
    /// may have put a link to a device there, and merely opening one can do harm (a watchdog, a
    /// tape): other kinds of files are read only if they are open as stdin.
    ///
    /// # Errors
    /// If it cannot be opened, or is of another kind.
    pub fn open(path: &Path, interrupted: &Arc<AtomicBool>) -> Result<Self, ReadError> {
        let mut is_stdin = false;
        let opened = open_checked(path, |about| {
            let kind = about.file_type();
            if kind.is_file() || kind.is_fifo() {
                return Ok(());
            }
            is_stdin = !kind.is_dir() && is_open_as_stdin(about);
            // Opened already: not once more.
            Err(match kind.is_dir() {
                true => io::ErrorKind::IsADirectory.into(),
                false => io::Error::new(io::ErrorKind::InvalidInput, NO_RECORDING),
            })
        });
        let file = match opened {
            Err(_) if is_stdin => File::from(io::stdin().as_fd().try_clone_to_owned()?),
            opened => opened?,
        };
        Ok(Self {
            waits: !file.metadata()?.is_file(),
            file,
            interrupted: Arc::clone(interrupted),
        })
    }
}

/// Why a device or a socket is not read.
const NO_RECORDING: &str = "it is neither a regular file nor a pipe; name a recording, or copy what \
                            it holds into a file";

/// Whether this is the file that this process got as stdin.
fn is_open_as_stdin(about: &Metadata) -> bool {
    let stdin = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let given = stdin.and_then(|stdin| stdin.metadata());
    given.is_ok_and(|given| (given.dev(), given.ino()) == (about.dev(), about.ino()))
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Stopped::Interrupted.into());
            }
            if self.waits {
                wait_for(self.file.as_fd(), PollFlags::POLLIN, &self.interrupted)?;
            }
            match self.file.read(buf) {
                // Another reader of the pipe was quicker; or it is one of the kernel's files, which
                // looks like a regular one and is empty at present.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.waits = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

/// Waits until a descriptor is ready, or a signal came.
///
/// # Errors
/// [`Stopped::Interrupted`], or the kernel's error.
pub fn wait_for(
    fd: std::os::fd::BorrowedFd<'_>,
    ready: PollFlags,
    interrupted: &AtomicBool,
) -> io::Result<()> {
    loop {
        if interrupted.load(Ordering::Relaxed) {
            return Err(Stopped::Interrupted.into());
        }
        let mut waiting = [PollFd::new(fd, ready)];
        match poll(&mut waiting, PollTimeout::from(WAIT_MS)) {
            // The flag is checked again.
            Ok(0) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

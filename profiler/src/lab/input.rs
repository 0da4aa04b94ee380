//! A recording's file, which may be a pipe: no wait for it outlasts a signal.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use profiler_trace::limits::Stopped;
use profiler_trace::trace::ReadError;

/// How long to wait before it is looked whether a signal came, in ms.
const WAIT_MS: u8 = 50;

/// An opened recording.
#[derive(Debug)]
pub(crate) struct Input {
    file: File,
    /// Whether it can keep its reader waiting.
    waits: bool,
    interrupted: Arc<AtomicBool>,
}

impl Input {
    /// Opens it; of a pipe without a writer, reading waits for one.
    ///
    /// # Errors
    /// When it cannot be opened, or holds no bytes by its kind.
    pub(crate) fn open(path: &Path, interrupted: &Arc<AtomicBool>) -> Result<Self, ReadError> {
        let mut options = OpenOptions::new();
        // To open a pipe would wait for its writer; a terminal is not taken over.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = options.read(true).custom_flags(flags).open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
        }
        Ok(Self {
            file,
            waits: kind.is_fifo() || kind.is_char_device() || kind.is_socket(),
            interrupted: Arc::clone(interrupted),
        })
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.waits {
                wait_for(self.file.as_fd(), PollFlags::POLLIN, &self.interrupted)?;
            }
            match self.file.read(buf) {
                // Another reader of the pipe was quicker.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

/// Waits until a descriptor is ready, or a signal came.
///
/// # Errors
/// [`Stopped::Interrupted`], or what the kernel says.
pub(crate) fn wait_for(
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
            // The flag is looked at again.
            Ok(0) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

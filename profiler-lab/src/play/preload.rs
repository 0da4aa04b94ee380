//! Makes an object accessible to a player, which may run as another user.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use nix::sys::memfd::{MFdFlags, memfd_create};
use profiler_target::open_regular;

use super::PlayError;

/// No allocator is larger.
const MAX_BYTES: u64 = 256 << 20;
/// Reading and searching by anyone.
const READ_BY_OTHERS: u32 = 0o004;
const SEARCHED_BY_OTHERS: u32 = 0o001;

/// The object that a player is to load.
#[derive(Debug)]
pub(super) struct Preload {
    path: PathBuf,
    variable: OsString,
    inode: u64,
    /// The object as a file in memory, that is given to the player.
    file: Option<OwnedFd>,
}

impl Preload {
    /// The object at `path`. It is loaded by its path if the player can open it, so that objects
    /// beside it are found. Else it is passed as a file in memory.
    pub(super) fn new(path: &Path, is_other_user: bool) -> Result<Self, PlayError> {
        let failed = |why: io::Error| PlayError::NotLoaded {
            path: path.to_owned(),
            why: why.to_string(),
        };
        let is_ours = path.starts_with(format!("/proc/{}/fd", process::id()));
        let can_open = !is_ours && (!is_other_user || opens_for_others(path));
        // The loader takes several objects in one variable.
        let is_one_word = !path.to_string_lossy().contains([' ', ':']);
        if can_open && is_one_word {
            return Ok(Self {
                path: path.to_owned(),
                variable: path.into(),
                inode: fs::metadata(path).map_err(failed)?.ino(),
                file: None,
            });
        }
        let file = open_regular(path).map_err(failed)?;
        let file = if is_ours {
            file
        } else {
            in_memory(file).map_err(failed)?
        };
        Ok(Self {
            path: path.to_owned(),
            variable: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            inode: file.metadata().map_err(failed)?.ino(),
            file: Some(file.into()),
        })
    }

    /// Where it was found.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `LD_PRELOAD`.
    pub(super) fn variable(&self) -> &OsString {
        &self.variable
    }

    /// The descriptor that the variable names, if it names one, for the player to inherit.
    pub(super) fn take_file(&mut self) -> Option<OwnedFd> {
        self.file.take()
    }

    /// Whether a process with these `/proc/PID/maps` has it mapped.
    pub(super) fn is_in(&self, maps: &str) -> bool {
        let inode = self.inode.to_string();
        let mut lines = maps.lines();
        lines.any(|line| line.split_ascii_whitespace().nth(4) == Some(&inode))
    }
}

/// Whether anyone may open a file for reading.
fn opens_for_others(path: &Path) -> bool {
    let has = |path: &Path, bit: u32| fs::metadata(path).is_ok_and(|it| it.mode() & bit != 0);
    let mut folders = path.ancestors().skip(1);
    path.is_absolute()
        && has(path, READ_BY_OTHERS)
        && folders.all(|folder| has(folder, SEARCHED_BY_OTHERS))
}

/// A copy of a file in memory.
fn in_memory(file: File) -> io::Result<File> {
    if file.metadata()?.len() > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut copy = File::from(memfd_create(c"fragscope-allocator", MFdFlags::MFD_CLOEXEC)?);
    io::copy(&mut file.take(MAX_BYTES), &mut copy)?;
    copy.flush()?;
    // Opened again: this descriptor can only be read from.
    File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))
}

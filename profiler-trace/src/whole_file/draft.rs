//! A file that is being written and is not yet in its place. It has no name where the file system
//! supports that (`O_TMPFILE`), so that a kill leaves nothing, else a temporary one.
//!
//! It is locked while it is being written, by a lock on the file itself. One that is not locked was
//! left by a dead process and may be [removed](clear).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::folder::{Folder, kind};
use super::lock::lock_whole;

/// What new files permit: their owner reads and writes.
pub(super) const MODE: Mode = Mode::from_bits_truncate(0o600);

/// Temporary names that are tried.
const NAMES: u32 = 16;

/// A temporary name.
pub(super) fn temporary(number: u64) -> OsString {
    format!(".fragscope-{number:016x}").into()
}

/// Where the bytes are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// In a file without a name.
    Nameless,
    /// In one with this temporary name.
    Temporary(OsString),
    /// At their place.
    Placed,
}

/// A file that is being written. If it is dropped before it is in its place, it leaves nothing.
#[derive(Debug)]
pub(super) struct Draft {
    folder: Arc<Folder>,
    pub(super) file: File,
    /// The temporary name that is tried first.
    temporary: OsString,
    pub(super) state: State,
}

impl Draft {
    /// Begins one in this directory; `temporary` is its name wherever it needs one, unless
    /// something else has that name.
    ///
    /// # Errors
    /// If the directory accepts no files.
    pub(super) fn begin(folder: &Arc<Folder>, temporary: &OsStr) -> Result<Self, Errno> {
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        match openat(&**folder, ".", flags, MODE) {
            Ok(file) => {
                let file = File::from(file);
                // Nobody else can have it locked. Where there are no locks, nobody removes it
                // either.
                let _ = lock_whole(&file);
                Ok(Self::new(folder, file, temporary, State::Nameless))
            }
            // The file system has no files without a name, or the kernel does not know of them.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => {
                Self::begin_named(folder, temporary)
            }
            Err(error) => Err(error),
        }
    }

    /// The same with a temporary name from the start.
    pub(super) fn begin_named(folder: &Arc<Folder>, temporary: &OsStr) -> Result<Self, Errno> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let flags = flags | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let make = |name: &OsStr| {
            let file = File::from(openat(&**folder, name, flags, MODE)?);
            // In the moment before it was locked, another process may have taken it for one left by
            // a dead process.
            let is_taken = lock_whole(&file) == Ok(false) || !has_name(folder, &file, name);
            match is_taken {
                true => Err(Errno::EEXIST),
                false => Ok(file),
            }
        };
        let (file, name) = at_free_name(temporary, make)?;
        Ok(Self::new(folder, file, temporary, State::Temporary(name)))
    }

    fn new(folder: &Arc<Folder>, file: File, temporary: &OsStr, state: State) -> Self {
        Self {
            folder: Arc::clone(folder),
            file,
            temporary: temporary.to_owned(),
            state,
        }
    }

    /// Puts it into its place, where nothing was seen.
    ///
    /// # Errors
    /// `EEXIST` if something is there now, as far as that can be noticed: a file that already has a
    /// name replaces anything.
    pub(super) fn place(&mut self, name: &OsStr) -> Result<(), Errno> {
        match self.state {
            State::Nameless => self.link(name)?,
            State::Temporary(_) => return self.replace(name),
            State::Placed => {}
        }
        self.state = State::Placed;
        Ok(())
    }

    /// Replaces whatever file has this name.
    ///
    /// # Errors
    /// If the kernel refuses; `ESTALE` if somebody removed that file, or put something else in its
    /// place, which is left where it is.
    pub(super) fn replace(&mut self, name: &OsStr) -> Result<(), Errno> {
        if self.state == State::Nameless {
            let ((), temporary) = at_free_name(&self.temporary, |name| self.link(name))?;
            self.state = State::Temporary(temporary);
        }
        if let State::Temporary(temporary) = &self.state {
            if !has_name(&self.folder, &self.file, temporary) {
                return Err(Errno::ESTALE);
            }
            renameat(&*self.folder, temporary.as_os_str(), &*self.folder, name)?;
        }
        self.state = State::Placed;
        Ok(())
    }

    /// Gives the file without a name one.
    fn link(&self, name: &OsStr) -> Result<(), Errno> {
        let handle = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let follow = AtFlags::AT_SYMLINK_FOLLOW;
        linkat(AT_FDCWD, handle.as_str(), &*self.folder, name, follow)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let State::Temporary(name) = &self.state
            && has_name(&self.folder, &self.file, name)
        {
            // What cannot be removed is removed by the next that writes there.
            let _ = unlinkat(&*self.folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Removes what a process that was killed at the wrong instant left under this temporary name: a
/// file that is being written is locked, by any process, in any directory. A file that cannot be
/// removed does no harm.
pub(super) fn clear(folder: &Folder, name: &OsStr) {
    // Only files are opened: a pipe or a device may belong to somebody who waits for that.
    if !about(folder, name).is_ok_and(|about| kind(&about) == SFlag::S_IFREG) {
        return;
    }
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Ok(file) = openat(folder, name, flags, Mode::empty()).map(File::from) else {
        return;
    };
    if lock_whole(&file) == Ok(true) && has_name(folder, &file, name) {
        let _ = unlinkat(folder, name, UnlinkatFlags::NoRemoveDir);
    }
}

/// Whether this is the file that has the name.
pub(super) fn has_name(folder: &Folder, file: &File, name: &OsStr) -> bool {
    let id = |about: FileStat| (about.st_dev, about.st_ino);
    let named = about(folder, name).map(id);
    named.is_ok() && named == fstat(file).map(id)
}

fn about(folder: &Folder, name: &OsStr) -> Result<FileStat, Errno> {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Creates something under a temporary name. Anybody who may put files there can have taken
/// `first`, which is the same each time; the others cannot be predicted.
fn at_free_name<T>(
    first: &OsStr,
    mut make: impl FnMut(&OsStr) -> Result<T, Errno>,
) -> Result<(T, OsString), Errno> {
    let mut name = first.to_owned();
    for _ in 0..NAMES {
        match make(&name) {
            Err(Errno::EEXIST) => name = temporary(RandomState::new().hash_one(())),
            made => return Ok((made?, name)),
        }
    }
    Err(Errno::EEXIST)
}

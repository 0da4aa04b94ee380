//! Every file that fragscope writes: either complete or absent, or growing but readable at any
//! moment.
//!
//! fragscope runs as root and writes into directories of other users. So it only follows links made
//! by root or by the user of this process, it only replaces regular files, and all steps happen in
//! the directory that was checked, which is held open. New files are readable by their owner only,
//! because they contain command lines. A replaced file keeps its owner, and its mode only where
//! nobody else can have put it there. The bytes go into a file without a name where the file system
//! supports that (`O_TMPFILE`), so that a kill leaves nothing.

mod draft;
mod error;
mod folder;
mod lock;
mod own_folder;
pub mod ownership;
mod runtime_dir;
#[cfg(test)]
mod tests;
mod unused;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{Gid, Uid, fchown, geteuid};

use self::draft::{Draft, MODE, State, temporary};
pub use self::error::WriteError;
use self::folder::{Folder, kind};
pub use self::lock::{Lock, LockError};
pub(crate) use self::own_folder::{Found, OwnFolder};
pub use self::runtime_dir::{NoRuntimeDir, RuntimeDir};
pub use self::unused::remove_unused;

/// What a file's mode permits to others than its owner.
const ALL_OTHERS: u32 = 0o077;

/// The file in which places are locked.
const LOCKS: &str = "written";

/// FNV-1a: the same in every version of fragscope, several of which may run.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A checked and reserved place for a file: no other fragscope of the same user writes there as
/// long as it is held, unless [no lock](Place::unlocked) is available.
#[derive(Clone, Debug)]
pub struct Place(Arc<Reserved>);

#[derive(Debug)]
struct Reserved {
    path: PathBuf,
    folder: Arc<Folder>,
    name: OsString,
    /// The name for the moment between a file's last byte and its place, if it is free.
    temporary: OsString,
    /// Keeps others from the place, or why nothing does.
    lock: Result<Lock, NoRuntimeDir>,
}

impl Place {
    /// Reserves `path`: its directory exists and accepts new files, and what is there now, if
    /// anything, is a file that may be replaced.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn reserve(path: &Path) -> Result<Self, WriteError> {
        let is_folder = path.as_os_str().as_bytes().ends_with(b"/");
        let name = path.file_name().filter(|_| !is_folder);
        let name = name.ok_or_else(|| WriteError::NamesFolder(path.to_owned()))?;
        Self::reserve_in(path, Folder::of(path)?, name)
    }

    /// The same in an open directory.
    fn reserve_in(path: &Path, folder: Folder, name: &OsStr) -> Result<Self, WriteError> {
        let (device, inode) = folder.id();
        let bytes = [&device.to_le_bytes(), &inode.to_le_bytes(), name.as_bytes()].concat();
        let lock = match Lock::take(LOCKS, hash(bytes)) {
            Ok(lock) => Ok(lock),
            Err(LockError::NoPlace(why)) => Err(why),
            Err(LockError::Held(pid)) => {
                return Err(WriteError::InUse {
                    path: path.to_owned(),
                    pid,
                });
            }
        };
        Self::under(lock, path, folder, name)
    }

    /// The place with this name in a folder, under a lock or without one.
    fn under(
        lock: Result<Lock, NoRuntimeDir>,
        path: &Path,
        folder: Folder,
        name: &OsStr,
    ) -> Result<Self, WriteError> {
        // Files of other users, who have their own locks, have other names.
        let user = geteuid().as_raw().to_le_bytes();
        let number = hash(name.as_bytes().iter().copied().chain(user));
        let place = Self(Arc::new(Reserved {
            path: path.to_owned(),
            name: name.to_owned(),
            folder: Arc::new(folder),
            temporary: temporary(number),
            lock,
        }));
        draft::clear(&place.0.folder, &place.0.temporary);
        // Anything that would fail at the end, perhaps after hours, fails now.
        let before = place.existing()?;
        let trial = place.begin()?;
        if let Some(before) = before {
            if let Ok(lock) = &place.0.lock
                && lock
                    .is_in((before.st_dev, before.st_ino))
                    .map_err(|error| place.failed(error))?
            {
                return Err(WriteError::IsLocks(path.to_owned()));
            }
            if place.0.folder.has_mounted(name) {
                return Err(WriteError::MountPoint(path.to_owned()));
            }
            trial.dress_as(&before)?;
        }
        Ok(place)
    }

    /// Rejects a place that is this one under another path: if no lock is available, nothing else
    /// does.
    ///
    /// # Errors
    /// If it is the same.
    pub fn apart_from_place(&self, other: &Self) -> Result<(), WriteError> {
        let is_same = self.0.folder.id() == other.0.folder.id() && self.0.name == other.0.name;
        match is_same {
            false => Ok(()),
            true => Err(WriteError::InUse {
                path: self.path().to_owned(),
                pid: Some(std::process::id().cast_signed()),
            }),
        }
    }

    /// Rejects the place of a file that is read: one of these, whatever their paths.
    ///
    /// # Errors
    /// If it is one of them.
    pub fn apart_from<'a>(
        &self,
        inputs: impl IntoIterator<Item = &'a Path>,
    ) -> Result<(), WriteError> {
        let Some(there) = self.existing()? else {
            return Ok(());
        };
        let is_it = |input: &&Path| {
            // A file that cannot be inspected is not read either.
            let input = std::fs::metadata(input);
            input.is_ok_and(|input| (input.dev(), input.ino()) == (there.st_dev, there.st_ino))
        };
        match inputs.into_iter().find(is_it) {
            None => Ok(()),
            Some(input) => Err(WriteError::IsInput {
                path: self.path().to_owned(),
                input: input.to_owned(),
            }),
        }
    }

    /// The path, as it was given.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Why nothing prevents another fragscope from writing there too, if that is so.
    pub fn unlocked(&self) -> Option<&NoRuntimeDir> {
        self.0.lock.as_ref().err()
    }

    /// Writes a whole file there, replacing the previous one; it may be called again.
    ///
    /// # Errors
    /// If it cannot be written completely.
    pub fn write(&self, bytes: &[u8]) -> Result<(), WriteError> {
        let mut output = self.begin()?;
        let written = output.write_all(bytes);
        written.map_err(|error| self.failed(error))?;
        output.finish()
    }

    /// Begins a file that appears when it is finished, complete or not at all.
    ///
    /// # Errors
    /// If the directory accepts no files.
    pub fn begin(&self) -> Result<Output, WriteError> {
        let draft = Draft::begin(&self.0.folder, &self.0.temporary);
        self.output(draft)
    }

    fn output(&self, draft: Result<Draft, Errno>) -> Result<Output, WriteError> {
        Ok(Output {
            draft: draft.map_err(|error| self.failed(error.into()))?,
            place: self.clone(),
            grows: false,
        })
    }

    /// Begins a file that appears with its first bytes and grows: what was written stays, whatever
    /// ends the process. Until then the previous file is unchanged.
    ///
    /// # Errors
    /// If the directory accepts no files.
    pub fn begin_growing(&self) -> Result<Output, WriteError> {
        let mut output = self.begin()?;
        output.grows = true;
        Ok(output)
    }

    /// The present file, if it may be replaced.
    fn existing(&self) -> Result<Option<FileStat>, WriteError> {
        let (place, path) = (&*self.0, self.path());
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let mut about = match fstatat(&*place.folder, place.name.as_os_str(), flags) {
            Err(Errno::ENOENT) => return Ok(None),
            about => about.map_err(|error| self.failed(error.into()))?,
        };
        match kind(&about) {
            SFlag::S_IFREG => {}
            SFlag::S_IFLNK if place.folder.has_descriptor(&place.name) => {
                return Err(WriteError::Descriptor(path.to_owned()));
            }
            SFlag::S_IFLNK => return Err(WriteError::IsLink(path.to_owned())),
            SFlag::S_IFDIR => return Err(WriteError::NamesFolder(path.to_owned())),
            _ => return Err(WriteError::NotAFile(path.to_owned())),
        }
        // Like the kernel's fs.protected_regular, and for groups too: a file that was planted there
        // for root to fill in could be read by whoever planted it.
        let owner = about.st_uid;
        let ours = [geteuid().as_raw(), place.folder.owner()].contains(&owner);
        if place.folder.is_shared() && !ours {
            return Err(WriteError::Planted {
                path: path.to_owned(),
                owner,
            });
        }
        if place.folder.is_shared() {
            // Anybody may have moved a file here that its owner made for others to read.
            about.st_mode &= !ALL_OTHERS;
        }
        Ok(Some(about))
    }

    fn failed(&self, error: io::Error) -> WriteError {
        WriteError::io(self.path(), error)
    }
}

/// A file that is being written. If it is dropped before it is finished it leaves nothing, except
/// for a growing file: what was written of it stays.
#[derive(Debug)]
pub struct Output {
    /// Dropped before its place is released: what it leaves is removed while nobody else writes
    /// there.
    draft: Draft,
    place: Place,
    grows: bool,
}

impl Output {
    /// Bytes written so far.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.draft.file.metadata()?.len())
    }

    /// Whether nothing was written so far.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes all of it to the disk, and puts it into its place if it is not there yet.
    ///
    /// # Errors
    /// If the disk fails, or something else is in its place now.
    pub fn finish(mut self) -> Result<(), WriteError> {
        let synced = self.draft.file.sync_all();
        synced.map_err(|error| self.place.failed(error))?;
        self.put_in_place()?;
        self.place.0.folder.sync();
        Ok(())
    }

    /// Puts it into its place before it is finished: from now on it grows there, and what was
    /// written stays, whatever ends the process. Until then the previous file is unchanged.
    ///
    /// # Errors
    /// If something else is in its place now.
    pub fn appear(&mut self) -> Result<(), WriteError> {
        self.put_in_place()
    }

    fn put_in_place(&mut self) -> Result<(), WriteError> {
        if self.draft.state == State::Placed {
            return Ok(());
        }
        let Some(before) = self.place.existing()? else {
            return match self.draft.place(&self.place.0.name) {
                // A file was created this very moment: look at the existing one again, once.
                Err(Errno::EEXIST) => {
                    let before = self.place.existing()?;
                    self.replace(before.as_ref())
                }
                placed => placed.map_err(|error| self.place.failed(error.into())),
            };
        };
        self.replace(Some(&before))
    }

    /// Replaces a file, keeping its owner and mode. Other names of that file keep the old content.
    fn replace(&mut self, before: Option<&FileStat>) -> Result<(), WriteError> {
        if let Some(before) = before {
            self.dress_as(before)?;
        }
        let replaced = self.draft.replace(&self.place.0.name);
        replaced.map_err(|error| self.place.failed(error.into()))
    }

    fn dress_as(&self, before: &FileStat) -> Result<(), WriteError> {
        let io = |error: Errno| self.place.failed(error.into());
        let own = fstat(&self.draft.file).map_err(io)?;
        let (owner, group) = (before.st_uid, before.st_gid);
        if (own.st_uid, own.st_gid) != (owner, group) {
            let kept = fchown(
                self.draft.file.as_fd(),
                Some(Uid::from_raw(owner)),
                Some(Gid::from_raw(group)),
            );
            kept.map_err(|error| match error {
                Errno::EPERM | Errno::EINVAL => WriteError::Owner {
                    path: self.place.path().to_owned(),
                    owner,
                    group,
                },
                error => io(error),
            })?;
        }
        fchmod(&self.draft.file, kept_mode(before, &self.place.0.folder)).map_err(io)
    }
}

/// The mode that a file in this directory keeps when it is replaced. Whoever owns another user's
/// file chose its mode. The directory's owner, whose directory was named as the destination, may
/// show the file to anyone, and so may root; but only the owner may write into what we wrote. A
/// third user's mode is ignored.
fn kept_mode(before: &FileStat, folder: &Folder) -> Mode {
    let permissions = Mode::from_bits_truncate(before.st_mode & 0o777);
    match before.st_uid {
        owner if owner == geteuid().as_raw() => permissions,
        owner if owner == 0 || owner == folder.owner() => {
            permissions & !(Mode::S_IWGRP | Mode::S_IWOTH)
        }
        _ => permissions & MODE,
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.draft.file.write(bytes)?;
        if self.grows && written > 0 && self.draft.state != State::Placed {
            self.put_in_place().map_err(WriteError::into_io)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.draft.file.flush()
    }
}

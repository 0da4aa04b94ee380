//! A directory owned by root or our own user, in which fragscope keeps files and removes them
//! again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::draft::has_name;
use super::folder::{Folder, kind};
use super::{Place, WriteError, ownership};

/// The mode of a new directory.
const MODE: Mode = Mode::S_IRWXU;

/// The directory, held open and locked: only root and our own user can put anything into it, and
/// only one fragscope at a time does.
#[derive(Debug)]
pub(crate) struct OwnFolder {
    path: PathBuf,
    folder: Folder,
    /// `None` if the file system has no locks.
    _lock: Option<Flock<File>>,
}

/// What a name in the directory refers to.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// Something that is not a file, or not ours.
    Foreign,
    /// A file of our own, open for reading.
    Ours(File, FileStat),
}

impl OwnFolder {
    /// Opens it, or creates it in an existing directory.
    ///
    /// # Errors
    /// Why it is not available, or who owns it.
    pub(crate) fn open(path: &Path) -> Result<Self, WriteError> {
        let failed = |error: Errno| WriteError::io(path, error.into());
        if let Some(name) = path.file_name() {
            let above = Folder::of(path)?;
            match mkdirat(&above, name, MODE) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let folder = Folder::of(&path.join("file"))?;
        let about = fstat(&folder).map_err(failed)?;
        ownership::check(about.st_uid, about.st_mode).map_err(|how| WriteError::NotOurFolder {
            path: path.to_owned(),
            how,
        })?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(&folder, ".", flags, Mode::empty()).map_err(failed)?;
        let lock = match Flock::lock(File::from(opened), FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Some(lock),
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(WriteError::InUse {
                    path: path.to_owned(),
                    pid: None,
                });
            }
            Err(_) => None,
        };
        Ok(Self {
            path: path.to_owned(),
            folder,
            _lock: lock,
        })
    }

    /// The names in it, at most `most`.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub(crate) fn names(&self, most: usize) -> io::Result<Vec<String>> {
        let handle = format!("/proc/self/fd/{}", self.folder.as_fd().as_raw_fd());
        let entries = fs::read_dir(handle)?.take(most);
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }

    /// What has this name.
    ///
    /// # Errors
    /// If that cannot be determined, or a file of our own cannot be opened.
    pub(crate) fn find(&self, name: &str) -> io::Result<Found> {
        let open = |flags: OFlag| {
            let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = File::from(openat(&self.folder, name, flags, Mode::empty())?);
            let about = fstat(&file)?;
            let is_ours = kind(&about) == SFlag::S_IFREG && about.st_uid == geteuid().as_raw();
            Ok(match is_ours {
                true => Found::Ours(file, about),
                false => Found::Foreign,
            })
        };
        let found = open(OFlag::O_PATH).and_then(|found| match found {
            Found::Ours(..) => open(OFlag::O_RDONLY | OFlag::O_NONBLOCK),
            other => Ok(other),
        });
        match found {
            Err(Errno::ENOENT) => Ok(Found::Nothing),
            found => Ok(found?),
        }
    }

    /// The size of what has this name, as far as that is known.
    pub(crate) fn bytes(&self, name: &str) -> u64 {
        let about = fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        about.map_or(0, |about| about.st_size.cast_unsigned())
    }

    /// Removes this file, if it still has this name.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(crate) fn remove(&self, name: &str, file: &File) -> io::Result<()> {
        if has_name(&self.folder, file, OsStr::new(name)) {
            unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    }

    /// Writes a file in it, complete or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let path = self.path(name);
        let folder = self.folder.again();
        let folder = folder.map_err(|error| WriteError::io(&path, error))?;
        Place::reserve_in(&path, folder, OsStr::new(name))?.write(bytes)
    }

    /// The path of a name in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

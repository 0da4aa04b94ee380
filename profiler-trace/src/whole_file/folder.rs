//! The directory of an output, opened once, by a path in which nobody else could plant a link.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::WriteError;
use super::ownership::{is_ours, others_can_write};

/// Links followed in one path, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// A directory, held open: whatever becomes of its path, files are created in this one.
#[derive(Debug)]
pub(super) struct Folder {
    handle: OwnedFd,
    about: FileStat,
}

impl Folder {
    /// Opens the directory of the file at `path`, step by step. A link is followed only if nobody
    /// but root and this process's user can have put it there.
    pub(super) fn of(path: &Path) -> Result<Self, WriteError> {
        let named = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |why: Errno| match why {
            Errno::ENOENT | Errno::ENOTDIR => WriteError::NoFolder {
                path: path.to_owned(),
                folder: named.to_owned(),
            },
            _ => WriteError::io(path, why.into()),
        };
        let mut steps: VecDeque<OsString> = steps(named);
        let mut at = Self::begin(named).map_err(failed)?;
        let mut links = 0;
        // The path of `at`, for an error to name.
        let mut walked = beginning(named);
        while let Some(step) = steps.pop_front() {
            walked.push(&step);
            let next = open(at.handle.as_fd(), &step).map_err(failed)?;
            let about = fstat(&next).map_err(failed)?;
            match kind(&about) {
                SFlag::S_IFDIR => {
                    at = Self {
                        handle: next,
                        about,
                    }
                }
                SFlag::S_IFLNK => {
                    if !at.only_we_can_have_linked(&about) {
                        return Err(WriteError::Link {
                            path: path.to_owned(),
                            link: walked,
                        });
                    }
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(failed(Errno::ELOOP));
                    }
                    let target = PathBuf::from(readlinkat(&next, "").map_err(failed)?);
                    // Its steps begin at the root, or in the directory of the link.
                    walked.pop();
                    if target.is_absolute() {
                        at = Self::begin(&target).map_err(failed)?;
                        walked = beginning(&target);
                    }
                    for step in self::steps(&target).into_iter().rev() {
                        steps.push_front(step);
                    }
                }
                _ => return Err(failed(Errno::ENOTDIR)),
            }
        }
        Ok(at)
    }

    /// The same directory, opened again.
    pub(super) fn again(&self) -> io::Result<Self> {
        Ok(Self {
            handle: self.handle.try_clone()?,
            about: self.about,
        })
    }

    /// Where a path begins: at the root, or in the working directory.
    fn begin(path: &Path) -> Result<Self, Errno> {
        let begin = if path.is_absolute() { "/" } else { "." };
        let handle = open(AT_FDCWD, OsStr::new(begin))?;
        let about = fstat(&handle)?;
        Ok(Self { handle, about })
    }

    /// Whether a link in this directory was put here by root or by us: it is ours, and nobody else
    /// can put anything here. Into a shared directory such as `/tmp`, anybody can move a link of
    /// ours from their own directory.
    fn only_we_can_have_linked(&self, link: &FileStat) -> bool {
        is_ours(link.st_uid) && is_ours(self.about.st_uid) && !self.is_shared()
    }

    /// Whether others than its owner may put files here: everybody, as in `/tmp`, or a group.
    pub(super) fn is_shared(&self) -> bool {
        others_can_write(self.about.st_mode)
    }

    /// Its owner.
    pub(super) fn owner(&self) -> u32 {
        self.about.st_uid
    }

    /// Device and inode, which identify it uniquely.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.about.st_dev, self.about.st_ino)
    }

    /// Whether something is mounted on this name: it is visible, but is not the directory's entry.
    pub(super) fn has_mounted(&self, name: &OsStr) -> bool {
        let of_file = open(&self.handle, name).ok().and_then(|file| mount(&file));
        of_file.is_some() && of_file != mount(&self.handle)
    }

    /// Whether the link of this name refers to a file that a process has open.
    pub(super) fn has_descriptor(&self, name: &OsStr) -> bool {
        let is_of_proc =
            || fstatfs(&self.handle).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC);
        let target = readlinkat(&self.handle, name).unwrap_or_default();
        Path::new(&target).starts_with("/proc/self/fd") || is_of_proc()
    }

    /// Makes names in it durable. If the directory cannot be synced, nothing is lost.
    pub(super) fn sync(&self) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(&self.handle, ".", flags, Mode::empty()).map_err(io::Error::from);
        let _ = opened.and_then(|folder| File::from(folder).sync_all());
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// The file type in its mode.
pub(super) fn kind(about: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT
}

/// Opens a name only as a location: nothing is read, no device is asked, no link is followed.
fn open(folder: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

/// The mount that an open file is seen through (`mnt_id` in `/proc/PID/fdinfo`, proc_pid_fdinfo(5)).
fn mount(file: &OwnedFd) -> Option<u64> {
    let about = std::fs::read(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let about = String::from_utf8_lossy(&about);
    let id = about
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?;
    id.trim().parse().ok()
}

/// The rest of a path without its steps.
fn beginning(path: &Path) -> PathBuf {
    PathBuf::from(if path.is_absolute() { "/" } else { "" })
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let steps = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    steps.collect()
}

//! Reasons why a file cannot be written.

use std::io;
use std::path::{Path, PathBuf};

use profiler_core::text::visible;

use super::ownership::Foreign;

/// Why a file could not be written. Nothing was left behind, and what was there before is
/// unchanged.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The folder is missing or not a folder.
    #[error(
        "cannot write {}: there is no folder {}",
        visible(path.display()), visible(folder.display())
    )]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// Its directory.
        folder: PathBuf,
    },
    /// The path names a folder.
    #[error("cannot write {}: that names a folder, and no file in it", visible(.0.display()))]
    NamesFolder(PathBuf),
    /// The path names a device or a pipe.
    #[error("cannot write {}: it is not a regular file", visible(.0.display()))]
    NotAFile(PathBuf),
    /// A folder in the path is a link that another user may have planted.
    #[error(
        "cannot write {}: {} is a link that another user may have put there, and is not followed",
        visible(path.display()), visible(link.display())
    )]
    Link {
        /// The file.
        path: PathBuf,
        /// The link, as far as the path was followed.
        link: PathBuf,
    },
    /// Another user's file is there, where others than the directory's owner can put files.
    #[error(
        "cannot write {}: it belongs to user {owner}, in a folder where others than its owner can put files",
        visible(path.display())
    )]
    Planted {
        /// The file.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// Others can change the content of a directory that is to be ours.
    #[error("cannot keep files in {}: it {how}", visible(path.display()))]
    NotOurFolder {
        /// The folder.
        path: PathBuf,
        /// How.
        how: Foreign,
    },
    /// It is the file in which writers lock their places.
    #[error("cannot write {}: fragscope itself uses that file, for its locks", visible(.0.display()))]
    IsLocks(PathBuf),
    /// It is a link.
    #[error("cannot write {}: it is a link, which is not followed", visible(.0.display()))]
    IsLink(PathBuf),
    /// It refers to a file that a process has open.
    #[error(
        "cannot write {}: it stands for what a process has open, as /proc/PID/fd lists it, and is no place \
         for a file",
        visible(.0.display())
    )]
    Descriptor(PathBuf),
    /// Something is mounted there.
    #[error(
        "cannot write {}: something is mounted there, and cannot be replaced",
        visible(.0.display())
    )]
    MountPoint(PathBuf),
    /// It is a file that is being read.
    #[error(
        "cannot write {}: it is the file that is read{}",
        visible(path.display()), by_another_name(path, input)
    )]
    IsInput {
        /// The file.
        path: PathBuf,
        /// The path under which it is read.
        input: PathBuf,
    },
    /// Its owner cannot be preserved.
    #[error(
        "cannot write {}: it belongs to user {owner} and group {group}, which would be lost",
        visible(path.display())
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// Its group id.
        group: u32,
    },
    /// Another process writes there now.
    #[error(
        "cannot write {}: {}",
        visible(path.display()), writer(*pid)
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process, if it is visible from here.
        pid: Option<i32>,
    },
    /// A growing file ends early; what was written of it stays.
    #[error("cannot write to {}: {source}; {kept}", visible(path.display()))]
    Cut {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What can be used of it, in words.
        kept: String,
    },
    /// The kernel refused.
    #[error("cannot write {}: {source}{}", visible(path.display()), meaning(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl WriteError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// For users of [`io::Write`]: the kernel's error, if that is the reason.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other),
        }
    }
}

fn by_another_name(path: &Path, input: &Path) -> String {
    match path == input {
        true => String::new(),
        false => format!(", by the name {}", visible(input.display())),
    }
}

fn writer(pid: Option<i32>) -> String {
    match pid {
        Some(pid) if pid as u32 == std::process::id() => "it is named twice".into(),
        Some(pid) => {
            format!("process {pid} is writing it")
        }
        None => "another fragscope is writing it".into(),
    }
}

/// What a kernel error means for a file that is put into its place whole.
fn meaning(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; nothing was left there",
        io::ErrorKind::StaleNetworkFileHandle => {
            "; another process removed or replaced the file while it was written"
        }
        io::ErrorKind::FileTooLarge => "; files may not be so large (ulimit -f)",
        // The directory exists, but accepts no files, like those of /proc and /sys.
        io::ErrorKind::NotFound => "; its folder takes no new files",
        _ => "",
    }
}

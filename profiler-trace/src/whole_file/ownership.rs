//! Whether anyone other than root and the user of this process can change what is at a path: the
//! one rule for files that are loaded, directories that are written into, and links that are
//! followed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use profiler_core::text::visible;

/// Writing by the group and by others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// How another user can change a file, or the content of a directory.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Foreign {
    /// The user with this id owns it.
    #[error("belongs to user {0}")]
    Owner(u32),
    /// Its mode lets a group or all write.
    #[error("can be written by other users (mode {:o})", .0 & 0o7777)]
    Writable(u32),
}

/// Why a path is not ours alone.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// It depends on the working directory.
    #[error("its path does not begin with a slash")]
    Relative,
    /// Another user can change it, or a directory above it.
    #[error("{} {how}", visible(at.display()))]
    Foreign {
        /// The file or folder.
        at: PathBuf,
        /// How.
        how: Foreign,
    },
    /// It cannot be inspected.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<NotOurs> for io::Error {
    fn from(why: NotOurs) -> Self {
        match why {
            NotOurs::Io(error) => error,
            other => Self::other(other),
        }
    }
}

/// Whether this is root, or the user of this process.
pub(super) fn is_ours(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw()
}

/// Whether others than the owner can write to something with this mode.
pub(super) fn others_can_write(mode: u32) -> bool {
    mode & WRITABLE_BY_OTHERS != 0
}

/// Checks that only root and this process's user can change something with this owner and mode.
///
/// # Errors
/// How others can.
pub fn check(owner: u32, mode: u32) -> Result<(), Foreign> {
    match is_ours(owner) {
        false => Err(Foreign::Owner(owner)),
        true if others_can_write(mode) => Err(Foreign::Writable(mode)),
        true => Ok(()),
    }
}

/// The path with all links followed, if only root and this process's user can change what is there:
/// it and each directory above it.
///
/// # Errors
/// Who else can, and where.
pub fn only_ours(path: &Path) -> Result<PathBuf, NotOurs> {
    if !path.is_absolute() {
        return Err(NotOurs::Relative);
    }
    let real = path.canonicalize()?;
    for at in real.ancestors() {
        let found = fs::symlink_metadata(at)?;
        check(found.uid(), found.mode()).map_err(|how| NotOurs::Foreign {
            at: at.to_owned(),
            how,
        })?;
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_ours_only_with_all_folders_above_it() {
        only_ours(Path::new("/etc/passwd")).expect("root's");
        let folder = tempfile::tempdir_in("/tmp").expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        let why = only_ours(&file).expect_err("anyone can write to /tmp");
        let why = why.to_string();
        assert!(why.contains("/tmp can be written"), "{why}");
        for mode in [0o666, 0o620, 0o602] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            let why = only_ours(&file).expect_err("others can write to it");
            let why = why.to_string();
            assert!(why.contains("file can be written"), "{why}");
        }
        only_ours(Path::new("etc/passwd")).expect_err("relative");
    }

    #[test]
    fn what_belongs_to_another_user_is_not_ours_whatever_its_mode() {
        let other = geteuid().as_raw() + 1;
        assert_eq!(check(other, 0o400), Err(Foreign::Owner(other)));
        assert_eq!(check(0, 0o755), Ok(()));
        assert_eq!(check(0, 0o1775), Err(Foreign::Writable(0o1775)));
    }
}

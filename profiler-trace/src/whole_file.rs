//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a file could not be written. Nothing was left behind, and what was there before is as it
/// was.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The folder is missing or not a folder.
    #[error("cannot write {path}: {folder} is not a folder; create it or name another place")]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// The path names a folder, a device or a link.
    #[error("cannot write {0}: it is not a regular file; name another place")]
    NotAFile(PathBuf),
    /// The kernel refused.
    #[error("cannot write {path}: {source}{}", hint(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; nothing was left there: free some space or name another place"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; name a place that you may write to"
        }
        _ => "",
    }
}

/// Checks that `path` is a place where a file can be written: its folder is there and takes new
/// files.
///
/// # Errors
/// Why it is not.
pub fn check(path: &Path) -> Result<(), WriteError> {
    begin(path).map(drop)
}

/// Writes `bytes` to `path`: into a temporary file beside it, then renamed over it.
///
/// # Errors
/// When it cannot be written whole.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let io = |source| WriteError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = begin(path)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    // The rename is only durable once the folder is; a folder that cannot be synced is no loss.
    let _ = File::open(folder(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The error without the name of the temporary file, which tells the user nothing.
fn without_path(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => error.kind().into(),
    }
}

fn begin(path: &Path) -> Result<tempfile::NamedTempFile, WriteError> {
    let folder = folder(path);
    let io = |source| WriteError::Io {
        path: path.to_owned(),
        source,
    };
    if !folder.is_dir() {
        return Err(WriteError::NoFolder {
            path: path.to_owned(),
            folder: folder.to_owned(),
        });
    }
    // A link is refused rather than followed: root writes into folders where others plant links.
    let before = fs::symlink_metadata(path).ok();
    if before.as_ref().is_some_and(|metadata| !metadata.is_file()) {
        return Err(WriteError::NotAFile(path.to_owned()));
    }
    // Readable like any file the user makes, not with a temporary file's 0600.
    let file = tempfile::Builder::new()
        .prefix(".fragscope-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(|error| io(without_path(error)))?;
    if let Some(before) = before {
        // Set afterwards, because the umask does not bind a mode that was chosen before.
        let permissions = fs::Permissions::from_mode(before.permissions().mode() & 0o777);
        file.as_file().set_permissions(permissions).map_err(io)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("out.json");
        write(&path, b"first").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("mode");
        write(&path, b"second").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"second");
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o666
        );
        assert_eq!(
            fs::read_dir(dir.path()).expect("listed").count(),
            1,
            "nothing left behind"
        );
    }

    #[test]
    fn an_error_names_the_file_that_was_asked_for_and_no_other() {
        let error = check(Path::new("/proc/out.json")).expect_err("no place for files");
        assert!(error.to_string().starts_with("cannot write /proc/out.json"));
        assert!(!error.to_string().contains(".fragscope-"), "{error}");
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (link, file) = (dir.path().join("link.csv"), dir.path().join("file.csv"));
        fs::write(&file, b"before").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        assert!(matches!(
            write(&link, b"after"),
            Err(WriteError::NotAFile(_))
        ));
        assert_eq!(fs::read(&file).expect("read"), b"before");
    }

    #[test]
    fn places_that_cannot_be_written_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let missing = dir.path().join("no/out.json");
        assert!(matches!(check(&missing), Err(WriteError::NoFolder { .. })));
        assert!(matches!(check(dir.path()), Err(WriteError::NotAFile(_))));
    }
}

//! Whether a file can have been written by root and the caller only.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use profiler_core::text::visible;

/// Writing by the group and by others.
const WRITTEN_BY_OTHERS: u32 = 0o022;

/// The file at `path` with all links followed, when it and every folder above it belong to root or to
/// the caller, and none of them can be written by anyone else; else who could, in words.
pub(super) fn only_ours(path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err("its path does not begin with a slash".to_owned());
    }
    let real = path.canonicalize().map_err(|error| error.to_string())?;
    let caller = nix::unistd::geteuid().as_raw();
    for (number, one) in real.ancestors().enumerate() {
        let found = fs::symlink_metadata(one).map_err(|error| error.to_string())?;
        if number == 0 && !found.is_file() {
            return Err("it is no file".to_owned());
        }
        if let Some(why) = others(&found, caller) {
            return Err(format!("{} {why}", visible(one.display())));
        }
    }
    Ok(real)
}

fn others(found: &Metadata, caller: u32) -> Option<String> {
    let owner = found.uid();
    if owner != 0 && owner != caller {
        return Some(format!("belongs to user {owner}"));
    }
    let by_others = found.mode() & WRITTEN_BY_OTHERS;
    (by_others != 0).then(|| "can be written by other users".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_ours_only_with_all_folders_above_it() {
        assert!(only_ours(Path::new("/etc/passwd")).is_ok());
        let folder = tempfile::tempdir_in("/tmp").expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        let why = only_ours(&file).expect_err("anyone can write to /tmp");
        assert!(why.contains("/tmp can be written"), "{why}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("set");
        let why = only_ours(&file).expect_err("anyone can write to it");
        assert!(why.contains("file can be written"), "{why}");
        assert!(only_ours(Path::new("etc/passwd")).is_err());
        assert!(only_ours(Path::new("/etc")).is_err());
    }
}

//! Files of other users, which only root can create: who owns the file written in their place, and
//! what is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use profiler_trace::whole_file::{Place, WriteError};

fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    Place::reserve(path)?.write(bytes)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn what_belongs_to_another_user_is_written_by_nobody_but_him_afterwards() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    // In a folder of another one's, only he sees it: the folder's owner, root and we chose nothing.
    for (folder, owner, before, after) in [
        (12345, 12345, 0o666, 0o644),
        (12345, 12345, 0o640, 0o640),
        (0, 12345, 0o666, 0o600),
        (0, 12345, 0o440, 0o400),
        (12345, 54321, 0o644, 0o600),
        (12345, 0, 0o664, 0o664),
        (0, 0, 0o664, 0o664),
    ] {
        chown(dir.path(), Some(folder), None).expect("given away");
        fs::write(&path, "before").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(before)).expect("mode");
        chown(&path, Some(owner), None).expect("given away");
        write(&path, b"after").expect("written");
        assert_eq!(mode(&path), after, "{folder} {owner} {before:o}");
        assert_eq!(fs::metadata(&path).expect("there").uid(), owner);
    }
}

#[test]
fn root_keeps_the_owner_and_refuses_what_another_user_planted_in_a_shared_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    fs::write(&path, "before").expect("written");
    chown(&path, Some(12345), Some(54321)).expect("given away");
    write(&path, b"after").expect("written");
    let about = fs::metadata(&path).expect("there");
    assert_eq!((about.uid(), about.gid()), (12345, 54321));
    assert_eq!(fs::read(&path).expect("read"), b"after");
    // Whoever may put files there, a group or all, may have put this one.
    for shared in [0o1777, 0o777, 0o1775, 0o775, 0o2770, 0o720] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(shared)).expect("mode");
        let refused = write(&path, b"again");
        assert!(
            matches!(refused, Err(WriteError::Planted { owner: 12345, .. })),
            "{shared:o}: {refused:?}"
        );
        assert_eq!(fs::read(&path).expect("read"), b"after");
    }
}

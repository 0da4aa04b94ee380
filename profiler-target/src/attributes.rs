//! Identifies a file by kernel data alone, so that a file system that does not answer cannot block
//! the caller.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Device and inode of the file at `path`, as the kernel has them in memory (`AT_STATX_DONT_SYNC`,
/// which FUSE and NFS respect). Only for links of `/proc/PID` whose resolution needs no file system
/// to look up a name: `exe` and `root`.
///
/// # Errors
/// When the link is broken, or must not be followed.
pub(super) fn file_behind(path: &Path) -> io::Result<(u64, u64)> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut about = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path ends with a zero, and the buffer has the size that the kernel expects.
    let asked = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT,
            libc::STATX_INO,
            about.as_mut_ptr(),
        )
    };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it was zero before, which is a value of each of its fields.
    let about = unsafe { about.assume_init() };
    let device = libc::makedev(about.stx_dev_major, about.stx_dev_minor);
    Ok((device, about.stx_ino))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn it_is_the_file_that_others_find_there() {
        for path in ["/proc/self/exe", "/proc/self/root"] {
            let about = fs::metadata(path).expect("ours");
            let found = file_behind(Path::new(path)).expect("ours");
            assert_eq!(found, (about.dev(), about.ino()));
        }
        let missing = file_behind(Path::new("/proc/0/exe")).expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}

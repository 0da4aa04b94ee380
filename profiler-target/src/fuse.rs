//! Whether the kernel has any file system that a process answers for.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// For so long it is believed that there is none.
const FRESH_FOR: Duration = Duration::from_millis(10);

/// When there was none.
static NONE_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Whether any process may answer for files: whoever has a file of FUSE can map it where others read. Where the kernel
/// does not say, it may be.
pub(crate) fn may_be_mounted() -> bool {
    let mut none_at = NONE_AT.lock().unwrap_or_else(PoisonError::into_inner);
    if none_at.is_some_and(|at| at.elapsed() < FRESH_FOR) {
        return false;
    }
    let there_may_be = is_registered() && has_connections();
    *none_at = (!there_may_be).then(Instant::now);
    there_may_be
}

/// Whether the kernel knows of FUSE: its module is loaded when somebody first opens `/dev/fuse`.
fn is_registered() -> bool {
    let known = fs::read_to_string("/proc/filesystems");
    known.is_ok_and(|known| known.lines().any(|line| line.trim_start() == "nodev\tfuse"))
}

/// The kernel has a directory for each connection to a process that answers, of all namespaces, in its file system
/// `fusectl` (`fs/fuse/control.c`).
fn has_connections() -> bool {
    static CONTROL: OnceLock<Option<OwnedFd>> = OnceLock::new();
    // None where fragscope may mount nothing, and before Linux 5.2.
    let Some(control) = CONTROL.get_or_init(|| mounted_nowhere().ok()) else {
        return true;
    };
    let all = fs::read_dir(format!("/proc/self/fd/{}", control.as_raw_fd()));
    all.map_or(true, |mut all| all.next().is_some())
}

/// The file system, in no directory of anybody's.
fn mounted_nowhere() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

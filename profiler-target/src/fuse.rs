//! Whether the kernel has any file system that is served by a process (FUSE).

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::kernel_file::kernel_text;

/// The answer "none" is cached for this long.
const NONE_FOR: Duration = Duration::from_millis(10);
/// The answer "some" is cached for this long: someone who mounts and unmounts repeatedly may have
/// one at any moment.
const ANY_FOR: Duration = Duration::from_secs(60);

/// The last answer and its time.
static FOUND: RwLock<Option<(Instant, bool)>> = RwLock::new(None);

/// Whether any process may be serving files: the owner of a FUSE file can map it where others read.
/// True if the kernel does not say.
pub(crate) fn may_be_mounted() -> bool {
    let found = *FOUND.read().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, any)) = found
        && at.elapsed() < if any { ANY_FOR } else { NONE_FOR }
    {
        return any;
    }
    let any = is_registered() && has_connections();
    *FOUND.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), any));
    any
}

/// Whether the kernel knows FUSE, or does not say: its module is loaded when `/dev/fuse` is first
/// opened.
fn is_registered() -> bool {
    let known = kernel_text("/proc/filesystems");
    known.map_or(true, |known| {
        known.lines().any(|line| line.trim_start() == "nodev\tfuse")
    })
}

/// In its file system `fusectl` (`fs/fuse/control.c`) the kernel has a directory for each
/// connection to a serving process, for all namespaces.
fn has_connections() -> bool {
    static CONTROL: OnceLock<Option<OwnedFd>> = OnceLock::new();
    // None if fragscope may not mount anything, and before Linux 5.2.
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

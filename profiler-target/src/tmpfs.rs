//! Which file systems lie in memory: pages of their files are shared memory to the kernel (`RssShmem`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::proc_dir::ProcDir;

/// Major and minor number of a file system's device.
pub(super) type Device = (u32, u32);

/// Longest list of mounts that is looked at; hosts of many containers have some thousands.
const MAX_MOUNTS: usize = 1 << 16;

/// The devices of a process's file systems, each looked up once.
#[derive(Debug, Default)]
pub(super) struct Devices(Mutex<BTreeMap<Device, bool>>);

impl Devices {
    /// Whether a device is that of a tmpfs. What is mounted is read when one is met that is not known.
    pub(super) fn is_tmpfs(&self, dir: &ProcDir, device: Device) -> bool {
        // Those with a major number are disks.
        if device.0 != 0 {
            return false;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(is_tmpfs) = known.get(&device) {
            return *is_tmpfs;
        }
        known.extend(mounts(&dir.text("mountinfo").unwrap_or_default()));
        *known.entry(device).or_insert(false)
    }
}

/// The devices in a `mountinfo` file, and whether each is a tmpfs's (`proc_pid_mountinfo(5)`):
/// `id parent major:minor root mount options [field...] - type source options`.
fn mounts(text: &str) -> impl Iterator<Item = (Device, bool)> {
    text.lines().take(MAX_MOUNTS).filter_map(|line| {
        let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
        let (_, kind) = line.split_once(" - ")?;
        let is_tmpfs = matches!(kind.split(' ').next()?, "tmpfs" | "devtmpfs");
        Some(((major.parse().ok()?, minor.parse().ok()?), is_tmpfs))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_tmpfs_are_recognised() {
        let text = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
26 25 0:24 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,size=4g
40 22 0:37 / /srv rw - overlay overlay rw,lowerdir=/a - b
nonsense
";
        let found: Vec<_> = mounts(text).collect();
        assert_eq!(
            found,
            [((254, 0), false), ((0, 24), true), ((0, 37), false)]
        );
    }
}

//! Which file systems lie in memory: pages of their files are shared memory to the kernel (`RssShmem`). And which are
//! served by somebody who may not answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::proc_dir::ProcDir;

/// Major and minor number of a file system's device.
pub(super) type Device = (u32, u32);

/// Longest list of mounts that is looked at; hosts of many containers have some thousands.
const MAX_MOUNTS: usize = 1 << 16;

/// What answers for a file system.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Kind {
    Memory,
    /// The kernel, from disks or from other file systems. (A layer of an overlay may be served by others. Then it takes
    /// the time that one takes.)
    Kernel,
    /// A process or another host, or nobody knows who.
    Others,
}

/// The devices of a process's file systems, each looked up once.
#[derive(Debug, Default)]
pub(super) struct Devices(Mutex<BTreeMap<Device, Kind>>);

impl Devices {
    /// Whether a device is that of a tmpfs.
    pub(super) fn is_tmpfs(&self, dir: &ProcDir, device: Device) -> bool {
        self.kind(dir, device) == Kind::Memory
    }

    /// Whether a process or another host answers for the files of a device.
    pub(super) fn is_served(&self, dir: &ProcDir, device: Device) -> bool {
        self.kind(dir, device) == Kind::Others
    }

    /// What is mounted is read when a device is met that is not known.
    fn kind(&self, dir: &ProcDir, device: Device) -> Kind {
        // The kernel's own memory (memfd_create, shmget) is nowhere mounted.
        if device == KERNELS_OWN {
            return Kind::Kernel;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = known.get(&device) {
            return *kind;
        }
        known.extend(mounts(&dir.text("mountinfo").unwrap_or_default()));
        // A disk's has a major number.
        *known.entry(device).or_insert(match device.0 {
            0 => Kind::Others,
            _ => Kind::Kernel,
        })
    }
}

/// The device of memory that is shared without a file system that is mounted: the first that the kernel gives.
const KERNELS_OWN: Device = (0, 1);

/// The devices in a `mountinfo` file, and what each is (`proc_pid_mountinfo(5)`):
/// `id parent major:minor root mount options [field...] - type source options`.
fn mounts(text: &str) -> impl Iterator<Item = (Device, Kind)> {
    text.lines().take(MAX_MOUNTS).filter_map(|line| {
        let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
        let (_, kind) = line.split_once(" - ")?;
        let kind = match kind.split(' ').next()? {
            "tmpfs" | "devtmpfs" => Kind::Memory,
            "bcachefs" | "btrfs" | "hugetlbfs" | "overlay" | "proc" | "ramfs" | "rootfs"
            | "sysfs" | "ubifs" | "zfs" => Kind::Kernel,
            // Served by a process, from a disk (ntfs-3g).
            "fuseblk" => Kind::Others,
            _ if major != "0" => Kind::Kernel,
            _ => Kind::Others,
        };
        Some(((major.parse().ok()?, minor.parse().ok()?), kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_for_a_mount_is_recognised() {
        let text = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
26 25 0:24 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,size=4g
40 22 0:37 / /srv rw - overlay overlay rw,lowerdir=/a - b
41 22 0:38 / /far rw - nfs4 host:/a rw
42 22 0:39 / /ours rw - fuse.sshfs tmpfs rw
43 22 8:17 / /stick rw - fuseblk /dev/sdb1 rw
nonsense
";
        let found: Vec<_> = mounts(text).collect();
        assert_eq!(
            found,
            [
                ((254, 0), Kind::Kernel),
                ((0, 24), Kind::Memory),
                ((0, 37), Kind::Kernel),
                ((0, 38), Kind::Others),
                ((0, 39), Kind::Others),
                ((8, 17), Kind::Others),
            ]
        );
    }
}

//! Which file systems are in memory (the kernel counts pages of their files as shared memory,
//! `RssShmem`), and which are served by a process or host that may not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::iter;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::kernel_file::{Lines, each_line};
use super::proc_dir::{PidFd, ProcDir};

/// Major and minor number of a file system's device.
pub(super) type Device = (u32, u32);

/// Bytes of a list of mounts that are read; hosts of many containers have some hundred KiB. Any user can make 100,000
/// mounts (`fs.mount-max`), each of some hundred bytes.
const MAX_MOUNTS: u64 = 16 << 20;
/// The mount lists of one process are read for at most this long in total; a container's takes a
/// millisecond.
const READ_FOR: Duration = Duration::from_millis(200);
/// The same, after reading long lists took `SLOW_FOR` of a minute: any user can have many processes
/// with long ones.
const READ_BRIEFLY_FOR: Duration = Duration::from_millis(20);
const SLOW_FOR: Duration = Duration::from_secs(1);
/// Mounts change: the time for reading is granted again after this long, and nothing is cached for
/// longer.
const ANEW_AFTER: Duration = Duration::from_secs(10);
/// The interval of checks for lists to close.
const CLOSED_EACH: Duration = Duration::from_secs(1);
/// The most devices of one process that are kept: each of its mappings can be on another device.
const MAX_DEVICES: usize = 4096;

/// What answers for a file system.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Memory,
    /// The kernel, from disks or from other file systems. (A layer of an overlay may be served by
    /// others; then access takes as long as the layer does.)
    Kernel,
    /// Another host, or something else that only root can mount.
    Host,
    /// A process of any user, or unknown.
    Others,
}

impl Kind {
    /// Whether access may block for ever.
    pub(super) fn is_served(self) -> bool {
        matches!(self, Self::Host | Self::Others)
    }
}

/// The devices of a process's file systems. Each is looked up once, as long as nothing is mounted
/// or unmounted where it was found, because the kernel reuses the number of a device that is gone.
///
/// Changes are detected by keeping the lists open (`mounts_poll` in `fs/proc_namespace.c`). An open
/// list keeps the process's mount namespace with everything mounted in it, and its root directory
/// (`mounts_open_common`), so that nobody can unmount what only a vanished container had mounted.
/// So no list is open for long, nor after the process is gone ([`OPEN`]).
#[derive(Debug, Default)]
pub(super) struct Devices(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    kinds: BTreeMap<Device, Kind>,
    /// The mount lists in which these were found, while they are open.
    lists: Vec<File>,
    /// The process.
    of: Option<PidFd>,
    /// For how long lists of mounts were read.
    spent: Duration,
    /// Whether a list was not read to its end, so that some devices were not looked for.
    is_cut: bool,
    /// When reading last began from scratch, unless it should do so again.
    began: Option<Instant>,
}

impl Devices {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up the unknown ones among `devices`, reading the mounts once for all of them.
    pub(super) fn learn(&self, dir: &ProcDir, devices: &BTreeSet<Device>) {
        let mut known = self.known();
        known.forget_if_changed();
        let mut unknown: BTreeSet<Device> = devices
            .iter()
            .filter(|device| known.without_looking(**device).is_none())
            .copied()
            .collect();
        if unknown.is_empty() {
            return;
        }
        let left = SLOW.time().saturating_sub(known.spent);
        if !left.is_zero() && known.kinds.len() < MAX_DEVICES {
            let began = Instant::now();
            let deadline = began + left;
            // The lower file system of a container's overlay, which older kernels show, is mounted elsewhere.
            let elsewhere = ["self", "1"].map(|of| File::open(format!("/proc/{of}/mountinfo")));
            let lists = iter::once(dir.file("mountinfo")).chain(elsewhere);
            for list in lists.filter_map(Result::ok) {
                if !unknown.is_empty() {
                    known.is_cut |= !known.look_for(&mut unknown, &list, deadline);
                    known.lists.push(list);
                }
            }
            let took = began.elapsed();
            SLOW.took(took);
            known.spent += took;
        } else {
            known.is_cut = true;
        }
        for device in unknown {
            known.add(device, Kind::Others);
        }
        if !known.lists.is_empty() {
            known.of = Some(dir.pidfd().clone());
            if !OPEN.will_be_closed(&self.0) {
                known.close();
            }
        }
    }

    /// What serves the files of a device; unknown if [`Self::learn`] was not called for it.
    pub(super) fn kind(&self, device: Device) -> Kind {
        let known = self.known();
        known.without_looking(device).unwrap_or(Kind::Others)
    }

    /// Whether the lists of mounts were too long to be read to their end.
    pub(super) fn is_cut(&self) -> bool {
        self.known().is_cut
    }
}

/// Processes whose lists are open. A thread closes these in time, because the owner may not look at
/// the process again for hours.
struct Open(Mutex<Vec<Weak<Mutex<Known>>>>);

static OPEN: Open = Open(Mutex::new(Vec::new()));

impl Open {
    fn all(&self) -> MutexGuard<'_, Vec<Weak<Mutex<Known>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ensures that these are closed in time; returns false if no thread is available for it.
    fn will_be_closed(&'static self, known: &Arc<Mutex<Known>>) -> bool {
        let known = Arc::downgrade(known);
        let mut all = self.all();
        if all.iter().any(|one| one.ptr_eq(&known)) {
            return true;
        }
        // The thread ends when there are none.
        let is_running = !all.is_empty();
        let closer = || thread::Builder::new().name("mounts".into());
        if !is_running && closer().spawn(|| while self.close_some() {}).is_err() {
            return false;
        }
        all.push(known);
        true
    }

    /// Waits, closes what is due, and returns whether there are others.
    fn close_some(&self) -> bool {
        thread::sleep(CLOSED_EACH);
        let mut all = self.all();
        all.retain(|known| {
            let Some(known) = known.upgrade() else {
                return false;
            };
            let mut known = match known.try_lock() {
                Ok(known) => known,
                Err(TryLockError::Poisoned(known)) => known.into_inner(),
                // Its present holder is looking something up.
                Err(TryLockError::WouldBlock) => return true,
            };
            if known.is_to_be_closed() {
                known.close();
            }
            !known.lists.is_empty()
        });
        !all.is_empty()
    }
}

/// The time that reading all processes' long lists took recently.
struct Slow(Mutex<Option<(Instant, Duration)>>);

static SLOW: Slow = Slow(Mutex::new(None));

impl Slow {
    /// For how long the lists of a process may be read.
    fn time(&self) -> Duration {
        let mut slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = slow.filter(|(since, _)| since.elapsed() < Duration::from_secs(60));
        *slow = lately;
        match lately {
            Some((_, took)) if took >= SLOW_FOR => READ_BRIEFLY_FOR,
            _ => READ_FOR,
        }
    }

    fn took(&self, time: Duration) {
        if time < READ_BRIEFLY_FOR {
            return;
        }
        let mut slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, took) = slow.get_or_insert((Instant::now(), Duration::ZERO));
        *took += time;
    }
}

impl Known {
    /// Drops what was found in lists that have changed since, or long ago. (A newly opened list
    /// does not report earlier mounts.)
    fn forget_if_changed(&mut self) {
        let mut lists: Vec<PollFd<'_>> = (self.lists.iter())
            .map(|list| PollFd::new(list.as_fd(), PollFlags::POLLPRI))
            .collect();
        let polled = poll(&mut lists, PollTimeout::ZERO);
        let is_same = |list: &PollFd<'_>| {
            let events = list.revents().unwrap_or(PollFlags::POLLERR);
            !events.intersects(PollFlags::POLLERR | PollFlags::POLLPRI | PollFlags::POLLNVAL)
        };
        let has_changed = polled.is_err() || !lists.iter().all(is_same);
        if has_changed {
            self.kinds.clear();
            self.lists.clear();
        }
        if self.is_old() {
            *self = Self {
                began: Some(Instant::now()),
                ..Self::default()
            };
        }
    }

    fn is_old(&self) -> bool {
        self.began.is_none_or(|began| began.elapsed() >= ANEW_AFTER)
    }

    fn is_to_be_closed(&self) -> bool {
        self.is_old() || self.of.as_ref().is_some_and(|process| !process.is_alive())
    }

    /// Closes the lists. What was found stays valid until devices are looked up again, which begins
    /// from scratch.
    fn close(&mut self) {
        self.lists.clear();
        self.began = None;
    }

    fn without_looking(&self, device: Device) -> Option<Kind> {
        // The kernel's own memory (memfd_create, shmget) is nowhere mounted.
        if device == KERNELS_OWN {
            return Some(Kind::Kernel);
        }
        self.kinds.get(&device).copied()
    }

    fn add(&mut self, device: Device, kind: Kind) {
        if self.kinds.len() < MAX_DEVICES {
            // A disk's has a major number.
            let is_disk = kind == Kind::Others && device.0 != 0 && !self.is_cut;
            self.kinds
                .insert(device, if is_disk { Kind::Kernel } else { kind });
        }
    }

    /// Removes the devices that it finds in a mount list from `unknown`, and returns whether it
    /// read enough of the list.
    fn look_for(&mut self, unknown: &mut BTreeSet<Device>, list: &File, deadline: Instant) -> bool {
        let read = each_line(list, MAX_MOUNTS, Some(deadline), |line| {
            if let Some((device, kind)) = mount(&String::from_utf8_lossy(line))
                && unknown.remove(&device)
            {
                self.kinds.insert(device, kind);
            }
            match unknown.is_empty() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        read.is_ok_and(|lines| lines == Lines::Read)
    }
}

/// The device of memory that is shared without a file system that is mounted: the first that the kernel gives.
const KERNELS_OWN: Device = (0, 1);

/// The device in a line of a `mountinfo` file, and its kind (`proc_pid_mountinfo(5)`): `id parent
/// major:minor root mount options [field...] - type source options`.
fn mount(line: &str) -> Option<(Device, Kind)> {
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    let (_, kind) = line.split_once(" - ")?;
    let kind = match kind.split(' ').next()? {
        "tmpfs" | "devtmpfs" => Kind::Memory,
        "bcachefs" | "btrfs" | "hugetlbfs" | "overlay" | "proc" | "ramfs" | "rootfs" | "sysfs"
        | "ubifs" | "zfs" => Kind::Kernel,
        // Served by a process, from a disk (ntfs-3g).
        "fuse" | "fuseblk" => Kind::Others,
        kind if kind.starts_with("fuse.") => Kind::Others,
        _ if major != "0" => Kind::Kernel,
        _ => Kind::Host,
    };
    Some(((major.parse().ok()?, minor.parse().ok()?), kind))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader, Seek, Write};
    use std::process::{Command, Stdio};

    use profiler_testing::child::KillOnDrop;
    use profiler_testing::wait::eventually;

    use super::*;
    use crate::open;

    const LIST: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
26 25 0:24 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,size=4g
40 22 0:37 / /srv rw - overlay overlay rw,lowerdir=/a - b
41 22 0:38 / /far rw - nfs4 host:/a rw
42 22 0:39 / /ours rw - fuse.sshfs tmpfs rw
43 22 8:17 / /stick rw - fuseblk /dev/sdb1 rw
44 22 0:40 / /bare rw - fuse silent rw
nonsense
";

    #[test]
    fn what_answers_for_a_mount_is_recognised() {
        let found: Vec<_> = LIST.lines().filter_map(mount).collect();
        assert_eq!(
            found,
            [
                ((254, 0), Kind::Kernel),
                ((0, 24), Kind::Memory),
                ((0, 37), Kind::Kernel),
                ((0, 38), Kind::Host),
                ((0, 39), Kind::Others),
                ((8, 17), Kind::Others),
                ((0, 40), Kind::Others),
            ]
        );
    }

    fn list() -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(LIST.as_bytes()).expect("written");
        file.rewind().expect("rewound");
        file
    }

    #[test]
    fn a_list_is_read_until_all_are_found_and_no_longer_than_permitted() {
        let mut known = Known::default();
        let mut wanted = BTreeSet::from([(254, 0), (0, 24), (0, 99)]);
        let later = Instant::now() + Duration::from_secs(60);
        assert!(known.look_for(&mut wanted, &list(), later));
        assert_eq!(wanted, BTreeSet::from([(0, 99)]));
        assert_eq!(known.without_looking((0, 24)), Some(Kind::Memory));
        // Devices that were not requested are not kept.
        assert_eq!(known.kinds.len(), 2);
        let mut wanted = BTreeSet::from([(0, 40)]);
        assert!(!known.look_for(&mut wanted, &list(), Instant::now()));
        assert_eq!(wanted.len(), 1, "the first line alone was looked at");
    }

    #[test]
    fn a_device_is_looked_up_again_when_something_was_unmounted() {
        let folder = tempfile::tempdir().expect("a folder");
        let script =
            "mount -t tmpfs none $0 && stat -c %Hd:%Ld $0; read go; umount $0; echo gone; read end";
        let mut mounts = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut said = BufReader::new(mounts.stdout.take().expect("a pipe")).lines();
        let mut line = || said.next().expect("it goes on").expect("text");
        let device = line();
        let (major, minor) = device.split_once(':').expect("two numbers");
        let device = (
            major.parse().expect("a number"),
            minor.parse().expect("a number"),
        );
        let (dir, _) = open::open(mounts.id().cast_signed()).expect("our own child");
        let (devices, wanted) = (Devices::default(), BTreeSet::from([device]));
        devices.learn(&dir, &wanted);
        assert_eq!(devices.kind(device), Kind::Memory);
        devices.learn(&dir, &wanted);
        assert_eq!(devices.kind(device), Kind::Memory, "nothing has changed");
        writeln!(mounts.stdin.as_ref().expect("a pipe")).expect("it reads");
        assert_eq!(line(), "gone");
        devices.learn(&dir, &wanted);
        assert_eq!(
            devices.kind(device),
            Kind::Others,
            "it may be anybody's by now"
        );
        drop(mounts.stdin.take());
        mounts.wait().expect("it ends");
    }

    /// A process with other mounts than ours, which runs until it is killed.
    fn of_other_mounts() -> (KillOnDrop, ProcDir) {
        let child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sleep", "infinity"])
            .spawn();
        let child = KillOnDrop(child.expect("unshare"));
        let pid = child.id().cast_signed();
        let mounts = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
        eventually("mounts of its own", || {
            (mounts(&pid.to_string())? != mounts("self")?).then_some(())
        });
        let (dir, _) = open::open(pid).expect("our own child");
        (child, dir)
    }

    /// How many lists of mounts of a process we have open.
    fn open_lists(dir: &ProcDir) -> usize {
        let of = format!("/proc/{}/mountinfo", dir.pid());
        let open = fs::read_dir("/proc/self/fd").expect("ours");
        let paths = open.filter_map(|one| fs::read_link(one.ok()?.path()).ok());
        paths
            .filter(|path| path.to_string_lossy().starts_with(&of))
            .count()
    }

    #[test]
    fn the_mounts_of_a_process_that_is_gone_are_let_go() {
        let (devices, wanted) = (Devices::default(), BTreeSet::from([(0, 99)]));
        let (mut child, dir) = of_other_mounts();
        devices.learn(&dir, &wanted);
        assert_eq!(open_lists(&dir), 1, "it lives, and was just looked at");
        child.kill().expect("ours");
        child.wait().expect("ours");
        // Nothing looks at it again.
        eventually("closed lists", || (open_lists(&dir) == 0).then_some(()));
        assert_eq!(devices.kind((0, 99)), Kind::Others);
    }

    #[test]
    fn no_list_of_mounts_is_open_for_long_and_it_is_read_again_when_it_is_needed() {
        let (devices, wanted) = (Devices::default(), BTreeSet::from([(0, 99)]));
        let (_child, dir) = of_other_mounts();
        devices.learn(&dir, &wanted);
        assert_eq!(open_lists(&dir), 1);
        devices.known().began = Instant::now().checked_sub(ANEW_AFTER);
        eventually("closed lists", || (open_lists(&dir) == 0).then_some(()));
        devices.learn(&dir, &wanted);
        assert_eq!(open_lists(&dir), 1);
        drop(devices);
        eventually("closed lists", || (open_lists(&dir) == 0).then_some(()));
    }
}

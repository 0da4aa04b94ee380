//! The memory control groups of other processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use profiler_core::group_account::GroupAccount;
use profiler_core::host::MemoryGroup;

use super::cgroup::{self, Hierarchies, UNIFIED, VERSIONS};
use super::kernel_file::kernel_text;
use super::stat::Stat;

/// In cgroup v1 the kernel's "no limit" is a number near the largest (`PAGE_COUNTER_MAX`,
/// `include/linux/page_counter.h`); no host has this much memory.
const NO_LIMIT: u64 = 1 << 60;

/// The flag of a process that is ending (`include/linux/sched.h`).
const PF_EXITING: u32 = 0x4;

/// The memory control groups of processes at one moment; each is read once, however many processes
/// are in it.
#[derive(Debug)]
pub struct MemoryGroups {
    mounted: Hierarchies,
    /// By the processes' `cgroup` files.
    known: BTreeMap<Vec<u8>, Option<Arc<MemoryGroup>>>,
}

impl MemoryGroups {
    /// Groups as of now, none of which was read yet.
    pub fn now() -> Self {
        Self {
            mounted: Hierarchies::mounted(),
            known: BTreeMap::new(),
        }
    }

    /// The group of the process with this pid; `None` if there is none, or it is unreadable.
    pub fn of(&mut self, pid: i32) -> Option<Arc<MemoryGroup>> {
        let own = cgroup::list_of(pid)?;
        let mounted = &self.mounted;
        let group = self.known.entry(own);
        let group = group.or_insert_with_key(|own| read(own, mounted).map(Arc::new));
        group.clone()
    }
}

/// Processes that the kernel kills for lack of memory in the memory control group of one process.
#[derive(Debug)]
pub struct MemoryKills {
    pid: i32,
    /// The process's `cgroup` file.
    own: Vec<u8>,
    counted: Option<CountedGroup>,
}

/// A group whose kills can be counted.
#[derive(Debug)]
struct CountedGroup {
    group: MemoryGroup,
    /// The file that counts.
    counter: PathBuf,
    before: u64,
}

impl MemoryKills {
    /// Counts kills from now on in the group of this process, as far as they are counted.
    pub fn of(pid: i32) -> Self {
        let own = cgroup::list_of(pid).unwrap_or_default();
        let counted = CountedGroup::of(&own);
        Self { pid, own, counted }
    }

    /// Continues with the present group of the process, if it was moved to another one.
    pub fn follow(&mut self) {
        let now = cgroup::list_of(self.pid);
        // For an ending process, cgroup v1 reports the root group (`proc_cgroup_show`,
        // kernel/cgroup/cgroup.c): so it is checked afterwards whether the process is ending.
        if now.is_some_and(|now| now != self.own) && !is_ending(self.pid) {
            *self = Self::of(self.pid);
        }
    }

    /// Counts from now on, unless the process is about to end: it may be one of those counted.
    pub fn renew(&mut self) {
        if let Some(counted) = &mut self.counted
            && let Some(now) = kills(&counted.counter)
            && now > counted.before
            && !is_to_end(self.pid)
        {
            counted.before = now;
        }
    }

    /// The group that the process was in last.
    pub fn known(&self) -> Option<MemoryGroup> {
        Some(self.counted.as_ref()?.now(&self.own))
    }

    /// The present state of the group, and the number of its processes killed by the kernel, if any
    /// were.
    pub fn group(&self) -> Option<(MemoryGroup, u64)> {
        let counted = self.counted.as_ref()?;
        let more = kills(&counted.counter)?.checked_sub(counted.before)?;
        (more > 0).then(|| (counted.now(&self.own), more))
    }
}

impl CountedGroup {
    fn of(own: &[u8]) -> Option<Self> {
        let mounted = Hierarchies::mounted();
        let groups = cgroup::groups(&["memory", UNIFIED], own, &mounted);
        let mut counters = groups.iter().filter_map(|group| {
            let folder = group.folders().into_iter().next()?;
            let mut counters = VERSIONS.iter().map(|files| folder.join(files.events));
            counters.find_map(|counter| Some((kills(&counter)?, counter)))
        });
        let (before, counter) = counters.next()?;
        Some(Self {
            group: read(own, &mounted)?,
            counter,
            before,
        })
    }
}

impl CountedGroup {
    /// The present state of the group, or the last one before it was removed.
    fn now(&self, own: &[u8]) -> MemoryGroup {
        let now = read(own, &Hierarchies::mounted()).filter(|now| now.current_bytes.is_some());
        now.unwrap_or_else(|| self.group.clone())
    }
}

/// Whether a process has ended, or is about to.
fn is_ending(pid: i32) -> bool {
    Stat::of(pid).is_none_or(|stat| stat.flags & PF_EXITING != 0)
}

/// Whether a process has ended, or will, because of a signal that it cannot refuse.
fn is_to_end(pid: i32) -> bool {
    let status = kernel_text(format!("/proc/{pid}/status"));
    let pending = |status: &str, name: &str| {
        let signals = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(signals.trim(), 16).ok()
    };
    let is_killed = |status: &str| {
        let sent = ["SigPnd:", "ShdPnd:"].map(|name| pending(status, name).unwrap_or(0));
        (sent[0] | sent[1]) & (1 << (libc::SIGKILL - 1)) != 0
    };
    status.map_or(true, |status| is_killed(&status)) || is_ending(pid)
}

/// Processes of a group that the kernel ended for want of memory, by the file that counts them.
fn kills(counter: &Path) -> Option<u64> {
    let text = kernel_text(counter).ok()?;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}

fn read(own: &[u8], mounted: &Hierarchies) -> Option<MemoryGroup> {
    let groups = cgroup::groups(&["memory", UNIFIED], own, mounted);
    // Of a hybrid host, the hierarchy that has the memory controller.
    let of = |group: &cgroup::Group| {
        let folders = group.folders();
        let current = number(folders.first()?, |files| files.usage)?;
        let limits = folders.iter();
        let limits = limits.filter_map(|folder| number(folder, |files| files.limit));
        let left = folders.iter().filter_map(|folder| cgroup::left_in(folder));
        Some((
            Some(current),
            limits.filter(|limit| *limit < NO_LIMIT).min(),
            left.filter(|left| *left < NO_LIMIT / 2).min(),
        ))
    };
    let read = groups.iter().find_map(|group| Some((group, of(group)?)));
    // The root group has no account of its own, but its path is worth knowing.
    let (group, (current_bytes, max_bytes, left_bytes)) =
        read.or_else(|| Some((groups.first()?, (None, None, None))))?;
    Some(MemoryGroup {
        path: group.path.to_string_lossy().into_owned(),
        current_bytes,
        max_bytes,
        left_bytes,
    })
}

/// The account of the memory control group that limits the process with this pid; `None` if it is
/// unreadable, or is the root, which has none.
pub fn group_account(pid: i32) -> Option<GroupAccount> {
    account(&cgroup::list_of(pid)?, &Hierarchies::mounted())
}

fn account(own: &[u8], mounted: &Hierarchies) -> Option<GroupAccount> {
    let groups = cgroup::groups(&["memory", UNIFIED], own, mounted);
    groups
        .iter()
        .filter(|group| !group.is_root())
        .find_map(|group| {
            let folders = group.folders();
            let limit = |folder: &PathBuf| {
                let limit = number(folder, |files| files.limit)?;
                (limit < NO_LIMIT).then_some(limit)
            };
            // Among equal limits, that of the process's own group is reached first.
            let limited = folders.iter().filter(|folder| limit(folder).is_some());
            let folder = limited.min_by_key(|folder| limit(folder));
            let folder = folder.or(folders.first())?;
            let above = folders.iter().position(|one| one == folder)?;
            account_in(folder, ancestor(&group.path, above), limit(folder))
        })
}

/// The path `steps` levels up.
fn ancestor(path: &Path, steps: usize) -> String {
    let above = path.ancestors().nth(steps);
    above.map_or_else(|| "/".into(), |above| above.to_string_lossy().into_owned())
}

fn account_in(folder: &Path, path: String, max_bytes: Option<u64>) -> Option<GroupAccount> {
    let current_bytes = number(folder, |files| files.usage)?;
    let read = |name| kernel_text(folder.join(name)).ok();
    let stat = read("memory.stat")?;
    let counted = |name: &str| -> Option<u64> {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let (_, count) = lines.find(|(of, _)| *of == name)?;
        count.trim().parse().ok()
    };
    let of_file = |name| read(name)?.trim().parse::<u64>().ok();
    // `Documentation/admin-guide/cgroup-v1/memory.rst`: with `total_` the groups below are
    // included.
    let is_first = counted("total_rss").is_some();
    let either = |first: &str, second: &str| counted([second, first][usize::from(is_first)]);
    let shmem_bytes = either("total_shmem", "shmem");
    // In both versions the cache counts shared memory.
    let cache = either("total_cache", "file");
    let files = ["active_file", "inactive_file"];
    let files = files.map(|name| either(&format!("total_{name}"), name));
    let slab = either("", "slab").or_else(|| of_file("memory.kmem.usage_in_bytes"));
    let swap = either("total_swap", "").or_else(|| of_file("memory.swap.current"));
    let pressure = read("memory.pressure").and_then(|text| {
        let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let mut words = some.split(' ');
        let percent = words.find_map(|word| word.strip_prefix("avg60="))?;
        Some(percent.parse::<f64>().ok()? / 100.0)
    });
    let mut counters = VERSIONS.iter().map(|files| folder.join(files.events));
    Some(GroupAccount {
        path,
        current_bytes,
        max_bytes,
        anon_bytes: either("total_rss", "anon"),
        file_bytes: cache
            .zip(shmem_bytes)
            .map(|(cache, shmem)| cache.saturating_sub(shmem)),
        shmem_bytes,
        slab_bytes: slab,
        swap_bytes: swap,
        reclaimable_bytes: files[0]
            .zip(files[1])
            .map(|(active, inactive)| active.saturating_add(inactive)),
        pressure,
        oom_kills: counters.find_map(|counter| kills(&counter)),
    })
}

/// The number in the file of the mounted cgroup version; `None` for `max` and if there is no such
/// file.
fn number(folder: &Path, name: fn(&cgroup::Files) -> &'static str) -> Option<u64> {
    let read = |files| kernel_text(folder.join(name(files))).ok();
    VERSIONS.iter().find_map(read)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn account(own: &str, mounts: &str) -> Option<GroupAccount> {
        super::account(own.as_bytes(), &Hierarchies::listed(mounts.as_bytes()))
    }

    fn read(own: &str, mounts: &str) -> Option<MemoryGroup> {
        super::read(own.as_bytes(), &Hierarchies::listed(mounts.as_bytes()))
    }

    #[test]
    fn a_process_whose_name_is_not_utf_8_is_not_taken_for_one_that_ends() {
        let mut child = profiler_testing::child::Child::python(
            "
import sys
open('/proc/self/comm', 'wb').write(b'\\xff')
print('ready', flush=True)
sys.stdin.readline()
",
        );
        assert_eq!(child.first_line(), "ready");
        assert!(!is_to_end(child.pid()));
        child.kill();
        assert!(is_to_end(child.pid()));
    }

    #[test]
    fn kills_are_counted_in_both_versions() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let counter = folder.path().join("counter");
        for text in [
            "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ] {
            fs::write(&counter, text).expect("a file");
            assert_eq!(kills(&counter), Some(2));
        }
        fs::write(&counter, "under_oom 0\n").expect("a file");
        assert_eq!(kills(&counter), None);
    }

    #[test]
    fn the_account_is_that_of_the_group_that_limits_in_both_versions() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("pod/worker")).expect("folders");
        let put = |name: &str, text: &str| {
            fs::write(folder.path().join("pod").join(name), text).expect("a file");
        };
        let mounts = |kind: &str| {
            let mount = folder.path().to_str().expect("UTF-8");
            format!("31 30 0:27 / {mount} rw - {kind} none rw,memory\n")
        };
        for (name, text) in [
            ("worker/memory.current", "500"),
            ("worker/memory.max", "max"),
            ("worker/memory.stat", "anon 400\n"),
            ("memory.current", "900"),
            ("memory.max", "1000"),
            ("memory.swap.current", "70"),
            ("memory.events", "oom 1\noom_kill 3\n"),
            (
                "memory.pressure",
                "some avg10=0.00 avg60=12.50 avg300=0.10 total=9\nfull avg10=0.00",
            ),
            (
                "memory.stat",
                "anon 500\nfile 300\nshmem 50\nslab 20\nactive_file 100\ninactive_file 150\n",
            ),
        ] {
            put(name, text);
        }
        let expected = GroupAccount {
            path: "/pod".into(),
            current_bytes: 900,
            max_bytes: Some(1000),
            anon_bytes: Some(500),
            file_bytes: Some(250),
            shmem_bytes: Some(50),
            slab_bytes: Some(20),
            swap_bytes: Some(70),
            reclaimable_bytes: Some(250),
            pressure: Some(0.125),
            oom_kills: Some(3),
        };
        let read = account("0::/pod/worker\n", &mounts("cgroup2"));
        assert_eq!(read, Some(expected.clone()));
        // Without any limit it is the process's own group.
        put("memory.max", "max");
        let read = account("0::/pod/worker\n", &mounts("cgroup2")).expect("an account");
        assert_eq!(
            (read.path.as_str(), read.anon_bytes),
            ("/pod/worker", Some(400))
        );
        assert_eq!(read.max_bytes, None);
        let first = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(first.path().join("pod")).expect("folders");
        for (name, text) in [
            ("memory.usage_in_bytes", "900"),
            ("memory.limit_in_bytes", "1000"),
            ("memory.kmem.usage_in_bytes", "20"),
            ("memory.oom_control", "under_oom 0\noom_kill 3\n"),
            (
                "memory.stat",
                "cache 1\nrss 2\ntotal_cache 300\ntotal_rss 500\ntotal_shmem 50\ntotal_swap 70\n\
                 total_active_file 100\ntotal_inactive_file 150\n",
            ),
        ] {
            fs::write(first.path().join("pod").join(name), text).expect("a file");
        }
        let mount = first.path().to_str().expect("UTF-8");
        let mounts = format!("31 30 0:27 / {mount} rw - cgroup none rw,memory\n");
        let read = account("4:memory:/pod\n", &mounts);
        let pressure = None;
        assert_eq!(
            read,
            Some(GroupAccount {
                pressure,
                ..expected
            })
        );
    }

    #[test]
    fn the_lowest_limit_above_a_process_holds_for_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inner = folder.path().join("job/worker");
        fs::create_dir_all(&inner).expect("folders");
        let put = |name: &str, text: &str| {
            fs::write(folder.path().join("job").join(name), text).expect("a file");
        };
        put("worker/memory.current", "700\n");
        put("worker/memory.max", "max\n");
        put("memory.current", "900\n");
        put("memory.max", "1000\n");
        let mounts = format!(
            "31 30 0:27 / {} rw - cgroup2 cgroup2 rw\n",
            folder.path().to_str().expect("UTF-8")
        );
        let group = read("0::/job/worker\n", &mounts).expect("a group");
        assert_eq!(group.path, "/job/worker");
        assert_eq!(group.current_bytes, Some(700));
        assert_eq!(group.max_bytes, Some(1000));
        assert_eq!(group.left_bytes, Some(100));
        assert!(group.is_near_limit());
        put("memory.max", "max\n");
        let group = read("0::/job/worker\n", &mounts).expect("a group");
        assert_eq!((group.max_bytes, group.left_bytes), (None, None));
        assert!(!group.is_near_limit());
        // A group that was removed meanwhile.
        let gone = read("0::/gone\n", &mounts).expect("its path");
        assert_eq!((gone.path.as_str(), gone.current_bytes), ("/gone", None));
    }
}

//! The control groups of a process (cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

use super::proc_dir::ProcDir;

/// The controllers of the second version, which has one hierarchy for all: `/proc/self/cgroup` lists
/// none.
pub(super) const UNIFIED: &str = "";

/// A group that a process is in, in the hierarchy of one controller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Group {
    /// The controller, one of those requested.
    pub(super) controller: &'static str,
    /// The mount point of the hierarchy.
    pub(super) mount: PathBuf,
    /// The part of the hierarchy that is mounted there: `/` is all of it.
    mounted: String,
    /// The group's path within the hierarchy.
    pub(super) path: String,
}

impl Group {
    /// Whether the whole hierarchy is visible, and this group is below its root.
    pub(super) fn is_below_root(&self) -> bool {
        self.mounted == "/" && self.path != "/"
    }

    /// The directories of this group and of those above it, as far as they are mounted: a limit on
    /// any of them limits the process.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        // A container may see its group's path in the host's hierarchy, only a part of which is
        // mounted there.
        let below = self.path.strip_prefix(self.mounted.trim_end_matches('/'));
        let below = below.unwrap_or_default().trim_start_matches('/');
        // In a cgroup namespace, groups of other namespaces are shown as paths that go up from the
        // namespace's root (cgroup_namespaces(7)), which can only be followed in a mount from that
        // level.
        let climbs = |path: &str| path.split('/').any(|step| step == "..");
        if climbs(below) || below.is_empty() && climbs(&self.path) && self.path != self.mounted {
            return Vec::new();
        }
        let below = Path::new(below);
        below
            .ancestors()
            .map(|part| self.mount.join(part))
            .collect()
    }
}

/// The groups that this process is in, in the hierarchies of these controllers.
pub(super) fn own(controllers: &[&'static str]) -> Vec<Group> {
    let list = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    listed(controllers, &list)
}

/// The groups of the process whose `cgroup` file this is, as far as they are mounted for us.
fn listed(controllers: &[&'static str], list: &str) -> Vec<Group> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    groups(controllers, list, &mounts)
}

/// Whether a group of the process behind `dir` is frozen, as far as that is visible: then none of
/// its threads runs.
pub(super) fn is_frozen(dir: &ProcDir) -> bool {
    let list = dir.text("cgroup").unwrap_or_default();
    let groups = listed(&["freezer", UNIFIED], &list);
    let mut folders = groups.iter().flat_map(Group::folders);
    folders.any(|folder| is_frozen_in(&folder) == Some(true))
}

/// Whether the group in this directory is frozen; `None` if it has no readable freezer. In cgroup
/// v1 a group also counts as frozen while not all of its processes are yet (`FREEZING`,
/// `freezer_state_strs` in `kernel/cgroup/legacy_freezer.c`): it may stay so as long as one of them
/// waits in the kernel, and the others do not run.
fn is_frozen_in(folder: &Path) -> Option<bool> {
    let text = |name| fs::read_to_string(folder.join(name)).ok();
    if let Some(state) = text("freezer.state") {
        return Some(matches!(state.trim(), "FROZEN" | "FREEZING"));
    }
    let events = text("cgroup.events")?;
    let frozen = |line: &str| line.strip_prefix("frozen ").map(|is| is.trim() == "1");
    events.lines().find_map(frozen)
}

/// The groups of a process in these controllers' hierarchies, from its `cgroup` file and our
/// `mountinfo`.
pub(super) fn groups(controllers: &[&'static str], own: &str, mounts: &str) -> Vec<Group> {
    let of_line = |line: &str| {
        // `number:controllers:path` (cgroups(7)).
        let mut parts = line.splitn(3, ':').skip(1);
        let (listed, path) = (parts.next()?, parts.next()?);
        let mut wanted = controllers.iter();
        let controller = *wanted.find(|one| listed.split(',').any(|of| of == **one))?;
        let (mounted, mount) = mounts.lines().find_map(|line| mount_of(controller, line))?;
        Some(Group {
            controller,
            mount: mount.into(),
            mounted: mounted.into(),
            path: path.into(),
        })
    };
    own.lines().filter_map(of_line).collect()
}

/// The part of the controller's hierarchy mounted by this line of `mountinfo`, and its mount point.
fn mount_of<'a>(controller: &str, line: &'a str) -> Option<(&'a str, &'a str)> {
    // `id parent device root mount-point options [optional...] - type source super-options` (proc(5)).
    let (mount, file_system) = line.split_once(" - ")?;
    let mut described = file_system.split(' ');
    let is_it = match described.next()? {
        "cgroup2" => controller == UNIFIED,
        "cgroup" => described.nth(1)?.split(',').any(|one| one == controller),
        _ => false,
    };
    let mut fields = mount.split(' ').skip(3);
    let place = (fields.next()?, fields.next()?);
    is_it.then_some(place)
}

/// The group of this process that leaves space for the fewest more threads and processes, its
/// limit, and how many more it allows (`pids.max` and `pids.current`).
pub(super) fn processes() -> Option<(PathBuf, u64, u64)> {
    let groups = own(&["pids", UNIFIED]);
    let limited = groups.iter().flat_map(Group::folders).filter_map(|folder| {
        let number = |name| {
            let text = fs::read_to_string(folder.join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        let (most, now) = (number("pids.max")?, number("pids.current")?);
        Some((folder, most, most.saturating_sub(now)))
    });
    limited.min_by_key(|(_, _, left)| *left)
}

/// Bytes that the groups of this process still allow it; `None` if none has a limit.
pub(super) fn memory_left() -> Option<u64> {
    let groups = own(&["memory", UNIFIED]);
    let folders = groups.iter().flat_map(Group::folders);
    folders.filter_map(|folder| left_in(&folder)).min()
}

/// The names of one version's files (`Documentation/admin-guide/cgroup-v1/memory.rst`, `cgroup-v2.rst`).
pub(super) struct Files {
    pub(super) limit: &'static str,
    pub(super) usage: &'static str,
    /// The file that counts processes killed for lack of memory.
    pub(super) events: &'static str,
    /// The fields of `memory.stat` for pages of files, which the kernel reclaims before it refuses
    /// memory.
    cache: [&'static str; 2],
}

pub(super) const VERSIONS: [Files; 2] = [
    Files {
        limit: "memory.max",
        usage: "memory.current",
        events: "memory.events",
        cache: ["active_file", "inactive_file"],
    },
    Files {
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        events: "memory.oom_control",
        cache: ["total_active_file", "total_inactive_file"],
    },
];

/// Bytes that the group in this directory still allows its processes, at least: if its pages of
/// files are not counted, none count as reclaimable. `None` without a limit (`max`).
pub(super) fn left_in(folder: &Path) -> Option<u64> {
    let number = |name| -> Option<u64> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let of = |files: &Files| {
        let (limit, usage) = (number(files.limit)?, number(files.usage)?);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let counts = stat.lines().filter_map(|line| line.split_once(' '));
        let cache = counts.filter(|(name, _)| files.cache.contains(name));
        let cache: u64 = cache
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .sum();
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    };
    VERSIONS.iter().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_whether_a_group_is_frozen() {
        let cases: [(&str, &str, Option<bool>); 9] = [
            ("freezer.state", "THAWED\n", Some(false)),
            ("freezer.state", "FREEZING\n", Some(true)),
            ("freezer.state", "FROZEN\n", Some(true)),
            ("cgroup.events", "populated 1\nfrozen 0\n", Some(false)),
            ("cgroup.events", "populated 1\nfrozen 1\n", Some(true)),
            ("cgroup.events", "populated 1\nfrozen 10\n", Some(false)),
            ("cgroup.events", "populated 1\n", None),
            ("cgroup.events", "", None),
            ("cgroup.procs", "1\n", None),
        ];
        for (name, text, expected) in cases {
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join(name), text).expect("ours");
            assert_eq!(is_frozen_in(folder.path()), expected, "{name}: {text:?}");
        }
    }

    const MOUNTS: &str = "\
        30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 30 0:29 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const OWN: &str = "4:memory:/docker/abc/job\n3:cpuset:/\n2:cpu,cpuacct:/a:b\n0::/\n";

    #[test]
    fn groups_are_found_in_both_versions() {
        let all = groups(&["memory", "cpu", "freezer", UNIFIED], OWN, MOUNTS);
        let found: Vec<_> = all
            .iter()
            .map(|group| (group.controller, group.is_below_root(), group.folders()))
            .collect();
        let folders = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        let memory = ["/sys/fs/cgroup/memory/job", "/sys/fs/cgroup/memory/"];
        let cpu = [
            "/sys/fs/cgroup/cpu,cpuacct/a:b",
            "/sys/fs/cgroup/cpu,cpuacct/",
        ];
        let unified = ["/sys/fs/cgroup/unified/"];
        assert_eq!(
            found,
            [
                ("memory", false, folders(&memory)),
                ("cpu", true, folders(&cpu)),
                (UNIFIED, false, folders(&unified)),
            ]
        );
    }

    #[test]
    fn a_group_of_another_namespace_is_not_taken_for_the_one_that_is_mounted() {
        let folders = |mounted: &str, path: &str| {
            let mounts = format!("33 30 0:29 {mounted} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
            let own = format!("0::{path}\n");
            let all = groups(&[UNIFIED], &own, &mounts);
            all.first().expect("listed").folders()
        };
        assert_eq!(folders("/", "/../pod"), Vec::<PathBuf>::new());
        assert_eq!(folders("/../..", "/../pod"), Vec::<PathBuf>::new());
        let found = folders("/../..", "/../../pod/worker");
        let expected = ["pod/worker", "pod", ""].map(|name| Path::new("/sys/fs/cgroup").join(name));
        assert_eq!(found, expected);
        assert_eq!(folders("/../..", "/../..").len(), 1);
    }

    #[test]
    fn pages_of_files_can_be_taken_back_and_no_limit_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let put =
            |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
        assert_eq!(left_in(folder.path()), None);
        put("memory.max", "max\n");
        put("memory.current", "700\n");
        assert_eq!(left_in(folder.path()), None);
        put("memory.max", "1000\n");
        assert_eq!(left_in(folder.path()), Some(300));
        put(
            "memory.stat",
            "anon 500\nactive_file 50\ninactive_file 100\n",
        );
        assert_eq!(left_in(folder.path()), Some(450));
        put("memory.current", "1200\n");
        put("memory.stat", "anon 1200\n");
        assert_eq!(left_in(folder.path()), Some(0));
    }
}

//! The control groups of a process (cgroups(7)).

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::kernel_file::{bytes, each_line, kernel_text, unescaped};
use super::proc_dir::ProcDir;

/// The longest `cgroup` file of a process that is read, in bytes: a line for each hierarchy, with a path.
const MAX_CGROUP_BYTES: u64 = 1 << 20;
/// Bytes of the list of mounts that are read: 100,000 of a hundred bytes are a tenth of it.
const MAX_MOUNTS: u64 = 128 << 20;

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
    mounted: PathBuf,
    /// The group's path within the hierarchy.
    pub(super) path: PathBuf,
}

impl Group {
    /// Whether the whole hierarchy is visible, and this group is below its root.
    pub(super) fn is_below_root(&self) -> bool {
        self.mounted == Path::new("/") && !self.is_root()
    }

    /// Whether this is the root of its hierarchy, as far as we see.
    pub(super) fn is_root(&self) -> bool {
        self.path == Path::new("/")
    }

    /// The directories of this group and of those above it, as far as they are mounted: a limit on
    /// any of them limits the process.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        // A container may see its group's path in the host's hierarchy, only a part of which is
        // mounted there.
        let below = self.path.strip_prefix(&self.mounted);
        let below = below.unwrap_or(Path::new(""));
        // In a cgroup namespace, groups of other namespaces are shown as paths that go up from the
        // namespace's root (cgroup_namespaces(7)), which can only be followed in a mount from that
        // level.
        let climbs = |path: &Path| path.components().any(|step| step == Component::ParentDir);
        let is_mounted = below.as_os_str().is_empty();
        if climbs(below) || is_mounted && climbs(&self.path) && self.path != self.mounted {
            return Vec::new();
        }
        below
            .ancestors()
            .map(|part| self.mount.join(part))
            .collect()
    }
}

/// The groups that this process is in, in the hierarchies of these controllers.
pub(super) fn own(controllers: &[&'static str]) -> Vec<Group> {
    let list = bytes("/proc/self/cgroup", MAX_CGROUP_BYTES).unwrap_or_default();
    groups(controllers, &list, &Hierarchies::mounted())
}

/// The `cgroup` file of a process; `None` if there is none, or it is unreadable.
pub(super) fn list_of(pid: i32) -> Option<Vec<u8>> {
    bytes(format!("/proc/{pid}/cgroup"), MAX_CGROUP_BYTES).ok()
}

/// Whether a group of the process behind `dir` is frozen, as far as that is visible: then none of
/// its threads runs.
pub(super) fn is_frozen(dir: &ProcDir) -> bool {
    let list = dir.first_bytes("cgroup", MAX_CGROUP_BYTES);
    let mounted = Hierarchies::mounted();
    let groups = groups(&["freezer", UNIFIED], &list.unwrap_or_default(), &mounted);
    let mut folders = groups.iter().flat_map(Group::folders);
    folders.any(|folder| is_frozen_in(&folder) == Some(true))
}

/// Whether the group in this directory is frozen; `None` if it has no readable freezer. In cgroup
/// v1 a group also counts as frozen while not all of its processes are yet (`FREEZING`,
/// `freezer_state_strs` in `kernel/cgroup/legacy_freezer.c`): it may stay so as long as one of them
/// waits in the kernel, and the others do not run.
fn is_frozen_in(folder: &Path) -> Option<bool> {
    let text = |name| kernel_text(folder.join(name)).ok();
    if let Some(state) = text("freezer.state") {
        return Some(matches!(state.trim(), "FROZEN" | "FREEZING"));
    }
    let events = text("cgroup.events")?;
    let frozen = |line: &str| line.strip_prefix("frozen ").map(|is| is.trim() == "1");
    events.lines().find_map(frozen)
}

/// The groups of a process in these controllers' hierarchies, from its `cgroup` file.
pub(super) fn groups(
    controllers: &[&'static str],
    own: &[u8],
    mounted: &Hierarchies,
) -> Vec<Group> {
    let of_line = |line: &[u8]| {
        // `number:controllers:path` (cgroups(7)).
        let mut parts = line.splitn(3, |&byte| byte == b':').skip(1);
        let (listed, path) = (parts.next()?, parts.next()?);
        let mut wanted = controllers.iter();
        let has = |one: &str| {
            listed
                .split(|&byte| byte == b',')
                .any(|of| of == one.as_bytes())
        };
        let controller = *wanted.find(|one| has(one))?;
        let hierarchy = mounted.0.iter().find(|one| one.has(controller))?;
        Some(Group {
            controller,
            mount: hierarchy.mount.clone(),
            mounted: hierarchy.root.clone(),
            path: OsStr::from_bytes(path).into(),
        })
    };
    own.split(|&byte| byte == b'\n')
        .filter_map(of_line)
        .collect()
}

/// The hierarchies of control groups that are mounted for us.
#[derive(Debug, Default)]
pub(super) struct Hierarchies(Vec<Hierarchy>);

/// A mounted hierarchy, or a part of one.
#[derive(Debug)]
struct Hierarchy {
    /// Its options, among them its controllers; `None` in the second version.
    options: Option<Vec<u8>>,
    /// The part that is mounted.
    root: PathBuf,
    mount: PathBuf,
}

impl Hierarchies {
    /// Those of now.
    pub(super) fn mounted() -> Self {
        let list = File::open("/proc/self/mountinfo");
        list.map(Self::listed).unwrap_or_default()
    }

    /// Those in a `mountinfo` file. The names of other mounts are anybody's, and are passed over.
    pub(super) fn listed(list: impl Read) -> Self {
        let mut all = Vec::new();
        let read = each_line(list, MAX_MOUNTS, None, |line| {
            all.extend(Hierarchy::in_line(line));
            ControlFlow::Continue(())
        });
        // What was mounted first, as these are, is first in the list.
        let _ = read;
        Self(all)
    }
}

impl Hierarchy {
    fn in_line(line: &[u8]) -> Option<Self> {
        // `id parent device root mount-point options [optional...] - type source super-options`
        // (proc(5)). In a name a space is written as `\040`.
        const BETWEEN: &[u8] = b" - ";
        let at = line
            .windows(BETWEEN.len())
            .position(|part| part == BETWEEN)?;
        let mut described = line[at + BETWEEN.len()..].split(|&byte| byte == b' ');
        let options = match described.next()? {
            b"cgroup2" => None,
            b"cgroup" => Some(described.nth(1)?.to_owned()),
            _ => return None,
        };
        let mut fields = line[..at].split(|&byte| byte == b' ').skip(3);
        let mut path = || {
            Some(PathBuf::from(std::ffi::OsString::from_vec(unescaped(
                fields.next()?,
            ))))
        };
        let (root, mount) = (path()?, path()?);
        Some(Self {
            options,
            root,
            mount,
        })
    }

    fn has(&self, controller: &str) -> bool {
        match &self.options {
            None => controller == UNIFIED,
            Some(options) => options
                .split(|&byte| byte == b',')
                .any(|one| one == controller.as_bytes()),
        }
    }
}

/// The group of this process that leaves space for the fewest more threads and processes, its
/// limit, and how many more it allows (`pids.max` and `pids.current`).
pub(super) fn processes() -> Option<(PathBuf, u64, u64)> {
    let groups = own(&["pids", UNIFIED]);
    let limited = groups.iter().flat_map(Group::folders).filter_map(|folder| {
        let number = |name| {
            let text = kernel_text(folder.join(name)).ok()?;
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
        let text = kernel_text(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let of = |files: &Files| {
        let (limit, usage) = (number(files.limit)?, number(files.usage)?);
        let stat = kernel_text(folder.join("memory.stat")).unwrap_or_default();
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
    use std::fs;

    use super::*;

    fn groups(controllers: &[&'static str], own: &str, mounts: &str) -> Vec<Group> {
        let mounted = Hierarchies::listed(mounts.as_bytes());
        super::groups(controllers, own.as_bytes(), &mounted)
    }

    #[test]
    fn names_that_are_not_utf_8_hide_no_group() {
        let mounts = b"\
            29 24 0:25 / /home/m\xff rw - fuse.x x rw,cgroup\n\
            31 30 0:27 / /sys/fs/c\xff\\040g rw - cgroup2 cgroup2 rw\n";
        let mounted = Hierarchies::listed(&mounts[..]);
        let found = super::groups(&[UNIFIED], b"1:name=\xfe:/\n0::/a\xfeb/c\n", &mounted);
        let folders = found.first().expect("listed").folders();
        let bytes: Vec<&[u8]> = folders
            .iter()
            .map(|one| one.as_os_str().as_bytes())
            .collect();
        let expected: [&[u8]; 3] = [
            b"/sys/fs/c\xff g/a\xfeb/c",
            b"/sys/fs/c\xff g/a\xfeb",
            b"/sys/fs/c\xff g/",
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_group_whose_name_only_begins_like_what_is_mounted_is_not_taken_for_one_in_it() {
        let all = groups(&["memory"], "4:memory:/docker/abcd\n", MOUNTS);
        let found = all.first().expect("listed").folders();
        assert_eq!(found, [Path::new("/sys/fs/cgroup/memory")]);
    }

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

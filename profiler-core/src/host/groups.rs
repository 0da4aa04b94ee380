//! Processes as groups whose names outlive them: a master with all that descends from it, by the unit or the
//! container that it runs in, for tools that keep a history by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::arrange::masters;
use super::columns::{short, words};
use super::tree::own_fragmentation;
use super::{MemoryGroup, ProcessRow, ProcessSample};
use crate::tables::{LedgerClass, LedgerRow};
use crate::text::visible;

/// Characters of a name at most.
const MAX_NAME: usize = 64;
/// What the groups that are too many are called together.
const REST: &str = "other";
/// Digits of a container's number: as many as tools of containers show.
const SHORT_ID: usize = 12;
/// Digits of its whole number.
const CONTAINER_ID: usize = 64;

/// What a group is called. Several masters of one name are one group.
#[derive(Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct GroupName {
    /// The unit or the container that its masters run in; their program where there is neither.
    pub group: String,
    /// The program of its masters; empty for the rest.
    pub program: String,
}

/// Sums over a group. What is not known of any of its processes is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessGroup {
    /// What it is called.
    pub name: GroupName,
    /// How many processes it has.
    pub processes: u64,
    /// How many of them were walked.
    pub walked: u64,
    /// How many of them are called growing.
    pub growing: u64,
    /// Sum of RSS, in bytes.
    pub rss_bytes: u64,
    /// Sum of PSS; `None` unless it is known of all.
    pub pss_bytes: Option<u64>,
    /// Sum of USS; `None` unless it is known of all.
    pub uss_bytes: Option<u64>,
    /// Sum of swap; `None` unless it is known of all.
    pub swap_bytes: Option<u64>,
    /// Sum of live bytes, of those that were walked.
    pub live_bytes: Option<u64>,
    /// What of these is in memory.
    pub live_resident_bytes: Option<u64>,
    /// Free bytes that are resident, of those that were walked; what children share is in their master's.
    pub free_bytes: Option<u64>,
    /// The same as a share of the PSS of those that were walked.
    pub fragmentation: Option<f64>,
    /// Sum of what trims would return, of those that were walked.
    pub trim_bytes: Option<u64>,
    /// Sum of growth, in bytes a second.
    pub growth: Option<f64>,
    /// Where the memory is of those that were walked, by classes; what children share is in their master's.
    pub ledger: BTreeMap<LedgerClass, LedgerRow>,
    /// Sum of PSS of those of whose heaps nothing is known, as far as it is known.
    pub unwalked_bytes: Option<u64>,
    /// When the process was walked whose walk is the oldest, in nanoseconds since 1970-01-01 UTC.
    pub oldest_walk_ns: Option<u64>,
    /// How many processes have each first finding.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// The control group of its processes that is nearest to its limit; the largest where there are no limits.
    pub cgroup: Option<Arc<MemoryGroup>>,
    /// The control group's path, where all have one.
    pub path: Common,
    /// The Python, where all have one.
    pub python: Common,
    /// The allocator that serves malloc, where all have one.
    pub malloc: Common,
}

/// What several have in common.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Common {
    /// Of none it is known.
    #[default]
    Unknown,
    /// All of whom it is known have this.
    One(String),
    /// They differ.
    Several,
}

impl Common {
    fn add(&mut self, value: Option<String>) {
        let Some(value) = value else { return };
        match self {
            Self::Unknown => *self = Self::One(value),
            Self::One(one) if *one != value => *self = Self::Several,
            Self::One(_) | Self::Several => {}
        }
    }

    /// In words; `None` where it is unknown.
    pub fn words(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::One(one) => Some(one),
            Self::Several => Some("several"),
        }
    }
}

/// The groups of these processes, by their names: at most so many, the largest by RSS, and the others as one
/// that comes last.
pub fn groups(rows: &[ProcessRow], at_most: usize) -> Vec<ProcessGroup> {
    let masters = masters(rows);
    let names: Vec<GroupName> = rows.iter().map(|row| group_name(&row.process)).collect();
    let mut sizes: BTreeMap<&GroupName, u64> = BTreeMap::new();
    for (row, &master) in rows.iter().zip(&masters) {
        *sizes.entry(&names[master]).or_default() += row.process.memory.rss_bytes;
    }
    let mut largest: Vec<_> = sizes.into_iter().collect();
    largest.sort_by_key(|(name, rss)| (std::cmp::Reverse(*rss), *name));
    let shown = largest.iter().take(at_most);
    let rest = GroupName {
        group: REST.into(),
        program: String::new(),
    };
    let mut sums: BTreeMap<(bool, &GroupName), Sums> = shown
        .map(|(name, _)| ((false, *name), Sums::default()))
        .collect();
    for (at, (row, &master)) in rows.iter().zip(&masters).enumerate() {
        let name = &names[master];
        let key = match sums.contains_key(&(false, name)) {
            true => (false, name),
            false => (true, &rest),
        };
        sums.entry(key).or_default().add(row, at == master);
    }
    let finish = |((is_rest, name), sums): ((bool, &GroupName), Sums)| {
        let mut group = sums.finish();
        group.name = name.clone();
        // The rest has nothing in common but that it is small.
        if is_rest {
            (group.cgroup, group.path) = (None, Common::Unknown);
        }
        group
    };
    sums.into_iter().map(finish).collect()
}

/// A group while it is summed up.
#[derive(Default)]
struct Sums {
    group: ProcessGroup,
    walked_pss: Option<u64>,
}

impl Sums {
    fn add(&mut self, row: &ProcessRow, is_master: bool) {
        let group = &mut self.group;
        let is_first = group.processes == 0;
        group.processes += 1;
        group.growing += u64::from(row.is_growing);
        let memory = row.process.memory;
        group.rss_bytes = group.rss_bytes.saturating_add(memory.rss_bytes);
        for (sum, more) in [
            (&mut group.pss_bytes, memory.pss_bytes),
            (&mut group.uss_bytes, memory.uss_bytes),
            (&mut group.swap_bytes, memory.swap_bytes),
        ] {
            *sum = match is_first {
                true => more,
                false => sum.zip(more).map(|(sum, more)| sum.saturating_add(more)),
            };
        }
        if let Some(growth) = row.growth {
            *group.growth.get_or_insert(0.0) += growth;
        }
        group.python.add(row.process.python.clone());
        if let Some(cgroup) = &row.process.group {
            group.path.add(Some(cgroup.path.clone()));
            let nearer = |known: &Arc<MemoryGroup>| nearness(cgroup) > nearness(known);
            if group.cgroup.as_ref().is_none_or(nearer) {
                group.cgroup = Some(Arc::clone(cgroup));
            }
        }
        if row.walk.as_ref().is_none_or(|walk| walk.ledger.is_none()) {
            add(&mut group.unwalked_bytes, memory.pss_bytes);
        }
        let Some(walk) = &row.walk else { return };
        group.walked += 1;
        for held in walk.ledger.iter().flat_map(|ledger| ledger.iter()) {
            let sum = group.ledger.entry(held.class);
            add_held(sum.or_insert(LedgerRow::empty(held.class)), held, is_master);
        }
        let free = own_fragmentation(row, is_master);
        add(&mut group.live_bytes, walk.live_bytes);
        add(&mut group.live_resident_bytes, walk.live_resident_bytes);
        add(&mut group.free_bytes, free);
        add(&mut group.trim_bytes, walk.trim_returnable_bytes);
        add(&mut self.walked_pss, free.and(memory.pss_bytes));
        let oldest = group.oldest_walk_ns.get_or_insert(walk.taken_at_ns);
        *oldest = walk.taken_at_ns.min(*oldest);
        *group.verdicts.entry(walk.verdict.about()).or_default() += 1;
        group
            .malloc
            .add(walk.malloc.as_ref().map(ToString::to_string));
    }

    fn finish(self) -> ProcessGroup {
        let shares = self.group.free_bytes.zip(self.walked_pss);
        let share = shares.filter(|(_, pss)| *pss > 0 && self.group.pss_bytes.is_some());
        ProcessGroup {
            fragmentation: share.map(|(free, pss)| free as f64 / pss as f64),
            ..self.group
        }
    }
}

/// Adds what a process holds of a class, as far as it counts once in its group: of a master all, of others what
/// no other process maps. What is in swap counts in each.
fn add_held(sum: &mut LedgerRow, held: &LedgerRow, is_master: bool) {
    let shared = if is_master { 0 } else { held.shared_bytes };
    let own = held.resident_bytes.saturating_sub(shared);
    sum.resident_bytes = sum.resident_bytes.saturating_add(own);
    sum.swapped_bytes = sum.swapped_bytes.saturating_add(held.swapped_bytes);
}

fn add(sum: &mut Option<u64>, more: Option<u64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0).saturating_add(more));
    }
}

/// How near a control group is to its limit, and how large it is.
fn nearness(group: &MemoryGroup) -> (u64, u64) {
    let current = group.current_bytes.unwrap_or(0);
    let share = group.max_bytes.filter(|max| *max > 0);
    let share = share.map_or(0.0, |max| current as f64 / max as f64);
    // As bits, which order positive numbers as they are.
    (share.to_bits(), current)
}

/// What the group of a master is called.
pub fn group_name(master: &ProcessSample) -> GroupName {
    let program = harmless(program(master));
    let place = master.group.as_ref();
    let place = place.and_then(|group| place_of(&group.path)).map(harmless);
    GroupName {
        group: place.unwrap_or_else(|| program.clone()),
        program,
    }
}

/// A name as others may show it: without what drives a terminal, and no longer than a name.
fn harmless(name: String) -> String {
    let shown = visible(name).to_string();
    match shown.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// The program that a process is: its script or module, without flags, arguments and what a program writes
/// over its command line.
pub fn program(process: &ProcessSample) -> String {
    let mut words = words(process).into_iter();
    while let Some(word) = words.next() {
        match word {
            // What follows is code, not a name.
            "-c" | "-" => break,
            "-X" | "-W" => drop(words.next()),
            "-m" => {}
            flag if flag.starts_with('-') => {}
            name => {
                let name = match name.strip_prefix('/') {
                    // A path, whatever is in it.
                    Some(path) => path.rsplit('/').next().unwrap_or(path),
                    None => {
                        let title = short(name.trim_start_matches('['));
                        title.split([' ', ':', '[', ']']).next().unwrap_or("")
                    }
                };
                if !name.is_empty() {
                    return name.into();
                }
            }
        }
    }
    process.comm.clone()
}

/// The container or the unit of a path of control groups; where there is neither, its last folder. A login
/// session is no name that will be there again.
fn place_of(path: &str) -> Option<String> {
    if let Some(container) = container_of(path) {
        return Some(container);
    }
    let folders = || path.rsplit('/').filter(|folder| !folder.is_empty());
    let is_session = |unit: &str| {
        unit.starts_with("session-") || unit.starts_with("user@") || unit == "init.scope"
    };
    let is_unit = |folder: &&str| folder.ends_with(".service") || folder.ends_with(".scope");
    if let Some(unit) = folders().find(is_unit) {
        return (!is_session(unit)).then(|| unit.to_owned());
    }
    let last = folders().next()?;
    (!last.ends_with(".slice")).then(|| last.to_owned())
}

/// The container of a path of control groups, if it is of one.
pub fn container_of(path: &str) -> Option<String> {
    path.rsplit('/').find_map(container).map(harmless)
}

/// `docker-0123456789ab` of the folder that Docker, Podman, containerd or CRI-O made for a container.
fn container(folder: &str) -> Option<String> {
    let name = folder.strip_suffix(".scope").unwrap_or(folder);
    let (engine, id) = match name.rsplit_once(['-', ':']) {
        Some((engine, id)) => (Some(engine), id),
        None => (None, name),
    };
    let is_id = id.len() == CONTAINER_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = is_id.then(|| &id[..SHORT_ID])?;
    Some(engine.map_or_else(|| id.to_owned(), |engine| format!("{engine}-{id}")))
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::process;
    use super::super::{Memory, WalkFigures};
    use super::*;
    use crate::report::FragReport;

    const MIB: u64 = 1 << 20;

    fn row(pid: i32, parent: i32, command: &[&str], path: Option<&str>) -> ProcessRow {
        let mut process = process(pid, parent, 30 * MIB);
        process.memory = Memory {
            pss_bytes: Some(20 * MIB),
            uss_bytes: Some(10 * MIB),
            ..process.memory
        };
        process.cmdline = command.iter().map(|word| (*word).into()).collect();
        process.group = path.map(|path| {
            Arc::new(MemoryGroup {
                path: path.into(),
                ..MemoryGroup::default()
            })
        });
        ProcessRow {
            process,
            ..ProcessRow::default()
        }
    }

    fn walked(mut row: ProcessRow, free: u64, shared: u64, taken_at_ns: u64) -> ProcessRow {
        row.walk = Some(WalkFigures {
            taken_at_ns,
            live_bytes: Some(5 * MIB),
            ledger: Some(
                [LedgerRow {
                    resident_bytes: free,
                    shared_bytes: shared,
                    swapped_bytes: MIB,
                    ..LedgerRow::empty(LedgerClass::FreePinned)
                }]
                .into(),
            ),
            fragmentation_bytes: Some(free),
            shared_fragmentation_bytes: shared,
            trim_returnable_bytes: None,
            ..WalkFigures::of(&FragReport::from_sample(&Default::default()))
        });
        row
    }

    const CELERY: &str = "/system.slice/celery.service";

    #[test]
    fn a_master_and_its_children_are_summed_up_and_what_they_share_counts_once() {
        let command = ["/usr/bin/python3", "-m", "celery", "worker"];
        let rows = [
            walked(row(1, 0, &command, Some(CELERY)), 4 * MIB, 0, 70),
            walked(row(2, 1, &command, Some(CELERY)), 5 * MIB, 3 * MIB, 50),
            row(3, 1, &command, Some(CELERY)),
            row(4, 0, &["python3", "job.py"], None),
        ];
        let found = groups(&rows, 9);
        assert_eq!(found.len(), 2);
        let celery = &found[0];
        let names = |group: &ProcessGroup| (group.name.group.clone(), group.name.program.clone());
        assert_eq!(names(celery), ("celery.service".into(), "celery".into()));
        assert_eq!((celery.processes, celery.walked), (3, 2));
        assert_eq!(celery.rss_bytes, 90 * MIB);
        assert_eq!(celery.pss_bytes, Some(60 * MIB));
        assert_eq!(celery.live_bytes, Some(10 * MIB));
        assert_eq!(celery.free_bytes, Some(6 * MIB));
        assert_eq!(celery.fragmentation, Some(6.0 / 40.0));
        assert_eq!(celery.oldest_walk_ns, Some(50));
        assert_eq!(celery.verdicts.values().sum::<u64>(), 2);
        assert_eq!(celery.path.words(), Some(CELERY));
        // By classes as well, and of the third, which was not walked, only how large it is.
        let held = celery.ledger[&LedgerClass::FreePinned];
        assert_eq!(
            (held.resident_bytes, held.swapped_bytes),
            (6 * MIB, 2 * MIB)
        );
        assert_eq!(
            (celery.ledger.len(), celery.unwalked_bytes),
            (1, Some(20 * MIB))
        );
        // Nothing is made up.
        assert_eq!((celery.swap_bytes, celery.trim_bytes), (None, None));
        assert_eq!(celery.growth, None);
        assert_eq!(names(&found[1]), ("job.py".into(), "job.py".into()));
        assert_eq!((found[1].free_bytes, found[1].fragmentation), (None, None));
    }

    #[test]
    fn a_sum_is_unknown_where_a_part_of_it_is() {
        let mut rows = [row(1, 0, &["a"], None), row(2, 1, &["a"], None)];
        rows[1].process.memory.pss_bytes = None;
        assert_eq!(groups(&rows, 9)[0].pss_bytes, None);
        assert_eq!(groups(&rows, 9)[0].uss_bytes, Some(20 * MIB));
    }

    #[test]
    fn there_are_no_more_groups_than_asked_for_and_nothing_is_lost() {
        let names: Vec<String> = (0..50).map(|n| format!("job{n:02}")).collect();
        let mut rows: Vec<_> = (0..50)
            .map(|n| row(n + 1, 0, &[names[n as usize].as_str()], None))
            .collect();
        rows[40].process.memory.rss_bytes = 900 * MIB;
        let found = groups(&rows, 3);
        let found_names: Vec<_> = found.iter().map(|group| &*group.name.group).collect();
        assert_eq!(found_names, ["job00", "job01", "job40", "other"]);
        assert_eq!(found.iter().map(|group| group.processes).sum::<u64>(), 50);
        assert_eq!(found[3].name.program, "");
        // One that chose this name is another.
        let rows = [row(1, 0, &["other"], None), row(2, 0, &["b"], None)];
        let found = groups(&rows, 1);
        assert!(found.len() == 2 && found[0].name != found[1].name);
        assert!(groups(&[], 3).is_empty());
    }

    #[test]
    fn the_control_group_that_is_nearest_to_its_limit_is_the_one_that_counts() {
        let mut rows = [row(1, 0, &["a"], None), row(2, 1, &["a"], None)];
        let group = |current_bytes, max_bytes| {
            Some(Arc::new(MemoryGroup {
                path: "/x".into(),
                current_bytes,
                max_bytes,
                left_bytes: None,
            }))
        };
        rows[0].process.group = group(Some(900), None);
        rows[1].process.group = group(Some(90), Some(100));
        let found = groups(&rows, 9)[0].cgroup.clone().expect("one");
        assert_eq!(found.max_bytes, Some(100));
    }

    #[test]
    fn names_are_those_of_units_and_containers() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!("/system.slice/docker-{id}.scope");
        let pod = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope");
        let podman = format!("/machine.slice/libpod-{id}.scope/container");
        let plain = format!("/kubepods/burstable/pod1/{id}");
        for (path, expected) in [
            (CELERY, Some("celery.service")),
            (docker.as_str(), Some("docker-0123456789ab")),
            (pod.as_str(), Some("cri-containerd-0123456789ab")),
            (podman.as_str(), Some("libpod-0123456789ab")),
            (plain.as_str(), Some("0123456789ab")),
            (
                "/user.slice/user-1.slice/user@1.service/app.slice/job.service",
                Some("job.service"),
            ),
            ("/user.slice/user-1.slice/session-3.scope", None),
            ("/user.slice", None),
            ("/workers/a", Some("a")),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(place_of(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_program_is_named_without_flags_code_and_titles() {
        for (command, expected) in [
            (
                &["/venv/bin/python3", "-u", "-X", "dev", "/srv/job.py", "3"][..],
                "job.py",
            ),
            (&["python3", "-u", "-m", "celery", "worker"], "celery"),
            (&["python3", "-c", "import secrets"], "python1"),
            (&["gunicorn: master [shop]"], "gunicorn"),
            (&["python3", "/srv/my jobs/a: b.py"], "a: b.py"),
            (&["python3", "jobs/a.py"], "a.py"),
            (
                &["[celeryd: celery@h/1:MainProcess] -active- (a)"],
                "celeryd",
            ),
            (&["/usr/bin/python3"], "python3"),
            (&[], "python1"),
        ] {
            assert_eq!(program(&row(1, 0, command, None).process), expected);
        }
    }

    #[test]
    fn names_of_others_are_harmless_and_bounded() {
        let long = "x".repeat(5000);
        let rows = [
            row(1, 0, &["a\x1b[2J\nb\"c\\"], Some(&long)),
            row(2, 0, &[&long], Some("/a\u{202e}\n.service")),
        ];
        for group in groups(&rows, 9) {
            for name in [&group.name.group, &group.name.program] {
                assert!(name.chars().count() <= MAX_NAME + 1, "{name}");
                assert!(!name.chars().any(char::is_control), "{name:?}");
            }
        }
    }
}

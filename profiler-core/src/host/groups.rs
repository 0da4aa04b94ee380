//! Groups of processes whose names outlive the processes: a master and all its descendants, named
//! by systemd unit or container, for tools that keep history by name.

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
/// The common name of the groups beyond the limit.
const REST: &str = "other";
/// Digits of a container's id, as many as container tools show.
const SHORT_ID: usize = 12;
/// Digits of a full container id.
const CONTAINER_ID: usize = 64;

/// The name of a group. Several masters with one name form one group.
#[derive(Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct GroupName {
    /// The unit or the container of its masters; their program if there is neither.
    pub group: String,
    /// The program of its masters; empty for the rest.
    pub program: String,
}

/// Sums over a group. A figure that is unknown for all of its processes is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessGroup {
    /// Its name.
    pub name: GroupName,
    /// The number of its processes.
    pub processes: u64,
    /// How many of them were walked.
    pub walked: u64,
    /// How many of them are called growing.
    pub growing: u64,
    /// Sum of RSS, in bytes.
    pub rss_bytes: u64,
    /// Sum of PSS; `None` unless it is known for all.
    pub pss_bytes: Option<u64>,
    /// Sum of USS; `None` unless it is known for all.
    pub uss_bytes: Option<u64>,
    /// Sum of swap; `None` unless it is known for all.
    pub swap_bytes: Option<u64>,
    /// Sum of live bytes, of those that were walked.
    pub live_bytes: Option<u64>,
    /// The part of these that is in memory.
    pub live_resident_bytes: Option<u64>,
    /// Free bytes that are resident, of those that were walked; what children share is in their master's.
    pub free_bytes: Option<u64>,
    /// The same as a share of the PSS of the walked processes.
    pub fragmentation: Option<f64>,
    /// Sum of what trims would return, of those that were walked.
    pub trim_bytes: Option<u64>,
    /// Sum of growth, in bytes a second.
    pub growth: Option<f64>,
    /// Memory of the walked processes by class; what children share is in their master's row.
    pub ledger: BTreeMap<LedgerClass, LedgerRow>,
    /// Sum of PSS, as far as known, of processes whose heaps were not walked.
    pub unwalked_bytes: Option<u64>,
    /// When the process was walked whose walk is the oldest, in nanoseconds since 1970-01-01 UTC.
    pub oldest_walk_ns: Option<u64>,
    /// How many processes have each first finding.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// The control group of its processes that is nearest to its limit; the largest if there are no
    /// limits.
    pub cgroup: Option<Arc<MemoryGroup>>,
    /// The control group's path, if all have the same.
    pub path: Common,
    /// The Python version, if all have the same.
    pub python: Common,
    /// The allocator that serves malloc, if all have the same.
    pub malloc: Common,
}

/// A property that several processes may have in common.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Common {
    /// It is unknown for all.
    #[default]
    Unknown,
    /// All for which it is known have this value.
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

    /// As text; `None` if unknown.
    pub fn words(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::One(one) => Some(one),
            Self::Several => Some("several"),
        }
    }
}

/// Groups these processes by name. At most `at_most` groups are kept, the largest by RSS; the rest
/// are merged into one group at the end.
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
        // The groups in the rest have nothing in common except that they are small.
        if is_rest {
            (group.cgroup, group.path) = (None, Common::Unknown);
        }
        group
    };
    sums.into_iter().map(finish).collect()
}

/// A group while its sums are accumulated.
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

/// Adds a process's memory of one class so that it counts once in the group: all of a master's, and
/// of others only what no other process maps. Swapped memory counts in each.
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

/// How near a control group is to its limit, and its size.
fn nearness(group: &MemoryGroup) -> (u64, u64) {
    let current = group.current_bytes.unwrap_or(0);
    let share = group.max_bytes.filter(|max| *max > 0);
    let share = share.map_or(0.0, |max| current as f64 / max as f64);
    // As bits, which order positive numbers as they are.
    (share.to_bits(), current)
}

/// The group name of a master.
pub fn group_name(master: &ProcessSample) -> GroupName {
    let program = harmless(program(master));
    let place = master.group.as_ref();
    let place = place.and_then(|group| place_of(&group.path)).map(harmless);
    GroupName {
        group: place.unwrap_or_else(|| program.clone()),
        program,
    }
}

/// A name that is safe to show: without terminal control characters, and of limited length.
fn harmless(name: String) -> String {
    let shown = visible(name).to_string();
    match shown.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// The program of a process: its script or module, without flags, arguments and text that it wrote
/// over its command line.
pub fn program(process: &ProcessSample) -> String {
    let mut words = words(process).into_iter();
    while let Some(word) = words.next() {
        match word {
            // Code follows, not a name.
            "-c" | "-" => break,
            "-X" | "-W" => drop(words.next()),
            "-m" => {}
            flag if flag.starts_with('-') => {}
            name => {
                let name = match name.strip_prefix('/') {
                    // A path, whatever its content.
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

/// The container or unit in a control group path; if there is neither, its last component. A login
/// session is not used, because its name does not recur.
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

/// The container of a control group path, if it has one.
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
mod tests;

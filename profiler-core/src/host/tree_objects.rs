//! Who holds the memory of a tree: the names that several of its processes have, with what they hold in each and in
//! all. What is on pages that they share counts once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ProcessId, ProcessRow, TreeView};
use crate::objects::Holder;
use crate::report::FragReport;
use crate::units::{bytes, count};

/// A name that gains at least this share of all growth is named as what grows.
const NAMED_SHARE: f64 = 0.2;
/// A name that holds at least this share of what is live in the processes that were read is named as what holds most.
const HELD_SHARE: f64 = 0.1;
/// Names in sentences at most.
const MAX_NAMED: usize = 3;
/// A process weighs as much as it will be resident after so many seconds of its growth.
const AHEAD_SECONDS: f64 = 600.0;

/// What was read of the objects of a tree's processes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TreeObjects {
    /// Those that were read, in that order, each with its objects and, where they were read twice, their growth.
    pub read: Vec<ReadProcess>,
    /// Those that were to be read and were not, with why.
    pub not_read: Vec<(i32, String)>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadProcess {
    /// Which.
    pub id: ProcessId,
    /// What was found.
    pub report: Arc<FragReport>,
}

/// What a name holds in the processes of a tree, or several that share it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TreeHolder {
    /// The name, and others that hold the same. Foreign text.
    pub names: Vec<String>,
    /// Whether it is a name in the program, rather than a place where references were found.
    pub is_name: bool,
    /// Type of what it refers to, where most is held by it.
    pub type_name: Option<String>,
    /// From the name to where most of its bytes spread out there, as [`Holder::steps`] has them.
    pub steps: Vec<String>,
    /// The type of what grows there, or of most items.
    pub item_type: Option<String>,
    /// The children that were read in which it is one of those that hold most…
    pub children: usize,
    /// …the least and the most that it retains in one of them…
    pub least_bytes: u64,
    /// …and the most.
    pub most_bytes: u64,
    /// What it retains in the master; `None` where it is none of those that hold most there, or that was not read.
    pub master_bytes: Option<u64>,
    /// What it retains in all of them, what is on pages that they share once.
    pub bytes: u64,
    /// The most that one of them has of it on pages that another process maps as well; `None` where that is not
    /// known of all, and then counts in each.
    pub shared_bytes: Option<u64>,
    /// In how many processes it gains bytes.
    pub growing: usize,
    /// What it gains in all of them, in bytes a second; `None` where nothing was read twice.
    pub growth: Option<f64>,
    /// The least and the most of that in one of them in which it gains.
    pub growth_range: Option<(f64, f64)>,
    /// Items that it gains in all of them a second, as far as that is known.
    pub items_growth: Option<f64>,
}

/// What grows in the processes of a tree that were read twice.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct TreeGrowth {
    /// Processes whose objects were read twice.
    pub compared: usize,
    /// Of those, the ones that grow by the rule of the verdict.
    pub growing: usize,
    /// What these gain together, in bytes a second.
    pub bytes_per_second: f64,
    /// Of that, live blocks of the heaps.
    pub live_bytes_per_second: f64,
    /// The longest time between two readings, in ns.
    pub elapsed_ns: u64,
    /// Of those that are not said to grow, what memory gained of which two looks do not show whether it goes on.
    pub unclear: usize,
}

impl TreeView {
    /// The processes whose objects are read, at most so many and the master: the worst, then those that are the largest
    /// with what they grow. The master comes first: what its children share with it is its own.
    pub fn to_read(&self, most: usize) -> Vec<ProcessId> {
        let is_master = |row: &&ProcessRow| row.process.id.pid == self.master;
        let python = self.processes.rows.iter();
        let python = python.filter(|row| row.process.python.is_some() && row.not_walked.is_none());
        let (master, mut children): (Vec<&ProcessRow>, Vec<&ProcessRow>) =
            python.partition(is_master);
        let worst = self.worst().map(|row| row.process.id);
        let weight = |row: &ProcessRow| {
            row.process.memory.rss_bytes as f64 + row.growth.unwrap_or(0.0).max(0.0) * AHEAD_SECONDS
        };
        children.sort_by(|a, b| {
            let is_worst = |row: &ProcessRow| Some(row.process.id) == worst;
            let by_weight = weight(b).total_cmp(&weight(a));
            is_worst(b).cmp(&is_worst(a)).then(by_weight)
        });
        let children = children.into_iter().take(most);
        master
            .into_iter()
            .chain(children)
            .map(|row| row.process.id)
            .collect()
    }

    /// What names hold in the processes that were read, the most bytes first; where objects were read twice, what gains
    /// most before.
    pub fn holders(&self) -> Vec<TreeHolder> {
        let Some(objects) = &self.objects else {
            return Vec::new();
        };
        let mut all: BTreeMap<Vec<&str>, Gathered<'_>> = BTreeMap::new();
        for read in &objects.read {
            add_holders(&mut all, read, read.id.pid == self.master);
        }
        let mut all: Vec<TreeHolder> = all.into_values().map(Gathered::sum).collect();
        let elapsed = objects.growth().elapsed_ns as f64 / 1e9;
        // What gains next to nothing is sorted by what it holds, as in the tables of one process.
        let rank = |of: &TreeHolder| match of.growth {
            Some(rate) if rate * elapsed > RANKED_BYTES => rate,
            _ => 0.0,
        };
        all.sort_by(|a, b| {
            rank(b)
                .total_cmp(&rank(a))
                .then(b.bytes.cmp(&a.bytes))
                .then_with(|| a.names.cmp(&b.names))
        });
        all
    }

    /// Which processes' objects were read, in a sentence; `None` where none was to be.
    pub fn about_reading(&self) -> Option<String> {
        let objects = self.objects.as_ref()?;
        let of_master = objects.read.iter().any(|read| read.id.pid == self.master);
        let children = objects.read.len() - usize::from(of_master);
        let rows = self.processes.rows.iter();
        let all = rows
            .filter(|row| row.process.python.is_some() && row.process.id.pid != self.master)
            .count();
        let which = match children < all {
            true => ", the largest and those that grow fastest",
            false => "",
        };
        let of_children = match all {
            0 => String::new(),
            1 => format!("{children} of 1 child{which}"),
            _ => format!("{children} of {all} children{which}"),
        };
        let mut whose: Vec<String> = of_master
            .then(|| "the master".to_owned())
            .into_iter()
            .collect();
        whose.extend((!of_children.is_empty()).then_some(of_children));
        let mut text = match objects.read.is_empty() {
            true => "Objects were read of none of the processes.".to_owned(),
            false => format!("Objects were read of {}.", whose.join(" and of ")),
        };
        if let Some((pid, why)) = objects.not_read.first() {
            let more = match objects.not_read.len() {
                1 => String::new(),
                count => format!(", and of {} others they were not read either", count - 1),
            };
            text += &format!(" Those of process {pid} were not: {why}{more}.");
        }
        Some(text)
    }

    /// What grows, in the processes that were read twice; `None` where none was.
    pub(super) fn growth_sentence(&self) -> Option<String> {
        let growth = self.objects.as_ref()?.growth();
        let seconds = growth.elapsed_ns as f64 / 1e9;
        let of = processes(growth.compared);
        if growth.compared == 0 {
            return None;
        }
        let unclear = match growth.unclear {
            0 => String::new(),
            1 => " In one of them memory became larger, and whether that goes on is not known: a longer time shows it."
                .to_owned(),
            some => format!(
                " In {some} of them memory became larger, and whether that goes on is not known: a longer time shows it."
            ),
        };
        if growth.growing == 0 {
            return Some(format!(
                "Not growing in {seconds:.1} s, in none of {of} that were read twice.{unclear}"
            ));
        }
        let rate = bytes(growth.bytes_per_second as u64);
        let head = format!(
            "Growing {rate}/s, in {} of {of} that were read twice",
            growth.growing
        );
        let least = growth.bytes_per_second * NAMED_SHARE;
        let names = self.holders().into_iter();
        let named = names.filter(|of| {
            of.is_name && least > 0.0 && of.growth.is_some_and(|growth| growth >= least)
        });
        let named: Vec<String> = named
            .take(MAX_NAMED)
            .map(|holder| holder.gain_sentence(growth.compared))
            .collect();
        Some(match named.is_empty() {
            true => format!("{head}, by no one name that they have in common.{unclear}"),
            false => format!(
                "{head}: {}: a leak, or a cache without a bound or not yet full; no allocator helps.{unclear}",
                named.join("; ")
            ),
        })
    }

    /// Who holds most, a sentence each.
    pub(super) fn held_sentences(&self) -> Vec<String> {
        let Some(objects) = &self.objects else {
            return Vec::new();
        };
        let children = objects
            .read
            .iter()
            .filter(|read| read.id.pid != self.master)
            .count();
        let mut names = self.holders();
        names.retain(|of| of.is_name);
        names.sort_by_key(|of| std::cmp::Reverse(of.bytes));
        let live: u64 = objects.live_bytes();
        let much = names
            .into_iter()
            .filter(|of| of.bytes as f64 >= live as f64 * HELD_SHARE);
        much.take(MAX_NAMED)
            .map(|of| of.held_sentence(children))
            .collect()
    }
}

/// What gains less than this between two readings is sorted by its size.
const RANKED_BYTES: f64 = 4096.0;

impl TreeObjects {
    /// What grows in those that were read twice.
    pub fn growth(&self) -> TreeGrowth {
        let mut all = TreeGrowth::default();
        for read in &self.read {
            let Some(grows) = read.report.growing() else {
                continue;
            };
            all.compared += 1;
            let elapsed_ns = read.report.growth.as_ref().map_or(0, |of| of.elapsed_ns);
            all.elapsed_ns = all.elapsed_ns.max(elapsed_ns);
            all.growing += usize::from(grows.bytes_per_second() > 0.0);
            all.unclear += usize::from(grows.bytes_per_second() <= 0.0 && grows.is_unclear);
            all.bytes_per_second += grows.bytes_per_second();
            all.live_bytes_per_second += grows.live;
        }
        all
    }

    /// The process that was read and grows fastest, and by how many bytes a second; `None` where none grows.
    pub fn fastest(&self) -> Option<(ProcessId, f64)> {
        let rates = self
            .read
            .iter()
            .filter_map(|read| Some((read.id, read.report.growing()?.bytes_per_second())));
        let growing = rates.filter(|(_, rate)| *rate > 0.0);
        growing.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn live_bytes(&self) -> u64 {
        let live = self
            .read
            .iter()
            .filter_map(|read| Some(read.report.objects.as_ref()?.live.bytes));
        live.fold(0, u64::saturating_add)
    }
}

/// A name in one process; variables of a function that runs in several threads have one name.
#[derive(Copy, Clone, Default)]
struct InProcess {
    is_master: bool,
    bytes: u64,
    shared: Option<u64>,
    growth: Option<f64>,
    items: Option<f64>,
}

/// A name, process by process.
struct Gathered<'a> {
    each: Vec<(i32, InProcess)>,
    largest: &'a Holder,
    item_type: Option<&'a str>,
}

fn add_holders<'a>(
    all: &mut BTreeMap<Vec<&'a str>, Gathered<'a>>,
    read: &'a ReadProcess,
    is_master: bool,
) {
    let Some(census) = read.report.objects.as_deref() else {
        return;
    };
    let growth = read.report.growth.as_ref();
    for (at, holder) in census.holders.iter().enumerate() {
        let branch = growth.and_then(|growth| growth.branch_of(at, holder));
        let item_type = branch.map_or(&holder.item_type, |branch| &branch.item_type);
        let gathered = all.entry(holder.names()).or_insert_with(|| Gathered {
            each: Vec::new(),
            largest: holder,
            item_type: item_type.as_deref(),
        });
        if holder.retained_bytes > gathered.largest.retained_bytes {
            (gathered.largest, gathered.item_type) = (holder, item_type.as_deref());
        }
        let pid = read.id.pid;
        if gathered.each.last().is_none_or(|(last, _)| *last != pid) {
            let shared = Some(0);
            gathered.each.push((
                pid,
                InProcess {
                    is_master,
                    shared,
                    ..InProcess::default()
                },
            ));
        }
        let Some((_, here)) = gathered.each.last_mut() else {
            continue;
        };
        here.bytes = here.bytes.saturating_add(holder.retained_bytes);
        let shared = here.shared.zip(holder.shared_bytes);
        here.shared = shared.map(|(sum, more)| sum.saturating_add(more));
        let gain = growth.map(|growth| growth.gain_of_holder(at));
        let bytes = gain.and_then(|gain| gain.bytes);
        here.growth = add(here.growth, bytes);
        here.items = add(here.items, gain.and_then(|gain| gain.objects));
    }
}

fn add(sum: Option<f64>, more: Option<f64>) -> Option<f64> {
    [sum, more].into_iter().flatten().reduce(|a, b| a + b)
}

impl Gathered<'_> {
    fn sum(self) -> TreeHolder {
        let each = || self.each.iter().map(|(_, here)| here);
        let of_children = || each().filter(|here| !here.is_master);
        let all = each().map(|here| here.bytes).fold(0, u64::saturating_add);
        // The same pages in several of them: the largest part has, as far as is known, all that others have.
        let shared: Option<Vec<u64>> = each().map(|here| here.shared).collect();
        let shared_all = shared.as_ref().map_or(0, |shared| shared.iter().sum());
        let shared_bytes = shared.map(|shared| shared.into_iter().max().unwrap_or(0));
        let gains: Vec<f64> = each()
            .filter_map(|here| here.growth.filter(|gain| *gain > 0.0))
            .collect();
        let range = |of: fn(f64, f64) -> f64| gains.iter().copied().reduce(of);
        TreeHolder {
            names: self.largest.names_as_shown(),
            is_name: self.largest.is_name,
            type_name: self.largest.type_name.clone(),
            steps: self.largest.steps(),
            item_type: self.item_type.map(str::to_owned),
            children: of_children().count(),
            least_bytes: of_children().map(|here| here.bytes).min().unwrap_or(0),
            most_bytes: of_children().map(|here| here.bytes).max().unwrap_or(0),
            master_bytes: each().find(|here| here.is_master).map(|here| here.bytes),
            bytes: all - shared_all.min(all) + shared_bytes.unwrap_or(0),
            shared_bytes,
            growing: gains.len(),
            growth: each().fold(None, |sum, here| add(sum, here.growth)),
            growth_range: range(f64::min).zip(range(f64::max)),
            items_growth: each()
                .filter(|here| here.growth.is_some_and(|gain| gain > 0.0))
                .fold(None, |sum, here| add(sum, here.items)),
        }
    }
}

impl TreeHolder {
    /// The first of its names and what it is: `app.tasks.SESSIONS` (dict).
    pub fn titled(&self) -> String {
        let name = self.names.first().map_or("", String::as_str);
        match &self.type_name {
            Some(of) => format!("`{name}` ({of})"),
            None => format!("`{name}`"),
        }
    }

    /// What it holds in the children and in the master, as people read it: `18.0 to 22.0 MiB each`.
    pub fn each(&self) -> String {
        let (least, most) = (bytes(self.least_bytes), bytes(self.most_bytes));
        match (self.children, least == most) {
            (0, _) => String::new(),
            (1, _) => most,
            (_, true) => format!("{most} each"),
            (_, false) => format!("{least} to {most} each"),
        }
    }

    fn held_sentence(&self, children: usize) -> String {
        let titled = self.titled();
        let in_master = self.master_bytes.map(bytes);
        let in_children = match self.children {
            0 => None,
            some => Some(format!(
                "in {some} of {children} children read {}",
                self.each()
            )),
        };
        let all = bytes(self.bytes);
        let shared = match self.shared_bytes {
            Some(shared) if self.each_and_master() > 1 && is_notable(shared, self.bytes) => {
                format!(
                    "; up to {} are pages that they share, which count once",
                    bytes(shared)
                )
            }
            None if self.each_and_master() > 1 => {
                "; what they share of it is not known, and counts in each".to_owned()
            }
            _ => String::new(),
        };
        match (in_master, in_children) {
            (Some(master), Some(children)) => {
                format!("{titled} holds {master} in the master, {children}: {all} in all{shared}.")
            }
            (Some(master), None) => format!("{titled} holds {master} in the master alone."),
            (None, Some(children)) => {
                format!("{titled} holds {children}: {all} in all{shared}.")
            }
            (None, None) => format!("{titled} holds {all}."),
        }
    }

    fn each_and_master(&self) -> usize {
        self.children + usize::from(self.master_bytes.is_some())
    }

    fn gain_sentence(&self, compared: usize) -> String {
        let items = self.items_growth.filter(|items| *items >= 1.0);
        let gained = match items.zip(self.item_type.as_ref()) {
            Some((items, of)) => format!("{} `{of}` a second", count(items.round() as u64)),
            None => self.bytes_gained(),
        };
        let some = self.growing;
        format!("{} gains {gained} in {some} of {compared}", self.titled())
    }

    fn bytes_gained(&self) -> String {
        let gained = bytes(self.growth.unwrap_or(0.0).max(0.0) as u64);
        let each = self.growth_range.filter(|_| self.growing > 1);
        each.map_or_else(
            || format!("{gained}/s"),
            |(least, most)| {
                let (least, most) = (bytes(least as u64), bytes(most as u64));
                format!("{gained}/s ({least}/s to {most}/s each)")
            },
        )
    }
}

/// Whether so much of it is worth a word.
fn is_notable(part: u64, whole: u64) -> bool {
    part as f64 >= whole as f64 * 0.02
}

fn processes(count: usize) -> String {
    match count {
        1 => "1 process".to_owned(),
        some => format!("{some} processes"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::process;
    use super::super::{HostView, Memory};
    use super::*;
    use crate::objects::{Amount, Census};

    const MIB: u64 = 1 << 20;

    fn holder(name: &str, mib: u64, shared_mib: Option<u64>) -> Holder {
        Holder {
            name: name.into(),
            is_name: true,
            type_name: Some("dict".into()),
            item_type: Some("app.Session".into()),
            retained_bytes: mib * MIB,
            items: mib * 1000,
            shared_bytes: shared_mib.map(|mib| mib * MIB),
            ..Holder::default()
        }
    }

    fn census(second: u64, live_mib: u64, holders: Vec<Holder>) -> Arc<Census> {
        Arc::new(Census {
            taken_at_ns: second * 1_000_000_000,
            live: Amount {
                blocks: 1000,
                bytes: live_mib * MIB,
            },
            holders,
            ..Census::default()
        })
    }

    fn read(pid: i32, census: Arc<Census>, before: Option<Arc<Census>>) -> ReadProcess {
        let report = FragReport::from_sample(&Default::default()).with_objects(census, before);
        ReadProcess {
            id: process(pid, 1, 0).id,
            report: Arc::new(report),
        }
    }

    fn tree(read: Vec<ReadProcess>) -> TreeView {
        let row = |pid: i32| ProcessRow {
            process: process(pid, i32::from(pid != 1), 100 * MIB),
            ..ProcessRow::default()
        };
        let pids = (1..=4).map(row).collect();
        TreeView {
            master: 1,
            processes: HostView {
                rows: pids,
                ..HostView::default()
            },
            objects: Some(TreeObjects {
                read,
                not_read: Vec::new(),
            }),
        }
    }

    #[test]
    fn what_children_share_with_their_master_counts_once() {
        let tree = tree(vec![
            read(
                1,
                census(1, 30, vec![holder("app.TABLE", 30, Some(30))]),
                None,
            ),
            read(
                2,
                census(
                    1,
                    52,
                    vec![
                        holder("app.TABLE", 30, Some(28)),
                        holder("app.SESSIONS", 22, Some(0)),
                    ],
                ),
                None,
            ),
            read(
                3,
                census(
                    1,
                    48,
                    vec![
                        holder("app.TABLE", 30, Some(20)),
                        holder("app.SESSIONS", 18, Some(0)),
                    ],
                ),
                None,
            ),
        ]);
        let all = tree.holders();
        let of = |name: &str| {
            let mut all = all.iter();
            all.find(|of| of.names == [name]).expect("it is there")
        };
        // 2 and 10 MiB of their own beside the master's 30.
        let table = of("app.TABLE");
        assert_eq!(table.bytes, 42 * MIB);
        assert_eq!((table.master_bytes, table.children), (Some(30 * MIB), 2));
        let sessions = of("app.SESSIONS");
        assert_eq!((sessions.bytes, sessions.master_bytes), (40 * MIB, None));
        assert_eq!(
            (sessions.least_bytes, sessions.most_bytes),
            (18 * MIB, 22 * MIB)
        );
        let verdict = tree.verdict();
        let said = "`app.SESSIONS` (dict) holds in 2 of 2 children read 18.0 MiB to 22.0 MiB each: 40.0 MiB in all.";
        assert!(verdict.iter().any(|one| one == said), "{verdict:?}");
        let said = "`app.TABLE` (dict) holds 30.0 MiB in the master, in 2 of 2 children read 30.0 MiB each: 42.0 MiB \
                    in all; up to 30.0 MiB are pages that they share, which count once.";
        assert!(verdict.iter().any(|one| one == said), "{verdict:?}");
        let said = "Objects were read of the master and of 2 of 3 children, the largest and those that grow fastest.";
        assert!(verdict.iter().any(|one| one == said), "{verdict:?}");
        assert!(
            !verdict[0].contains("rowing"),
            "none was read twice: {verdict:?}"
        );
    }

    #[test]
    fn shares_that_are_not_known_count_in_each_and_that_is_said() {
        let of = |pid, shared| {
            read(
                pid,
                census(1, 30, vec![holder("app.TABLE", 30, shared)]),
                None,
            )
        };
        let tree = tree(vec![of(2, Some(30)), of(3, None)]);
        let table = &tree.holders()[0];
        assert_eq!((table.bytes, table.shared_bytes), (60 * MIB, None));
        assert!(table.held_sentence(2).contains("is not known"), "{table:?}");
    }

    #[test]
    fn growth_is_that_of_all_and_what_gains_most_is_named_first() {
        let before = |mib| {
            Some(census(
                1,
                30 + mib,
                vec![
                    holder("app.TABLE", 30, Some(30)),
                    holder("app.SESSIONS", mib, Some(0)),
                ],
            ))
        };
        let after = |mib| {
            census(
                6,
                30 + mib,
                vec![
                    holder("app.TABLE", 30, Some(30)),
                    holder("app.SESSIONS", mib, Some(0)),
                ],
            )
        };
        let tree = tree(vec![
            read(2, after(20), before(10)),
            read(3, after(25), before(10)),
            read(4, after(10), before(10)),
        ]);
        assert_eq!(tree.holders()[0].names, ["app.SESSIONS"]);
        let growth = tree
            .objects
            .as_ref()
            .map(TreeObjects::growth)
            .expect("read");
        assert_eq!((growth.compared, growth.growing), (3, 2));
        assert_eq!(growth.bytes_per_second, (5 * MIB) as f64);
        let verdict = tree.verdict();
        assert_eq!(
            verdict[0],
            "Growing 5.0 MiB/s, in 2 of 3 processes that were read twice: `app.SESSIONS` (dict) gains 5000 \
             `app.Session` a second in 2 of 3: a leak, or a cache without a bound or not yet full; no allocator helps."
        );
        assert_eq!(
            tree.objects
                .as_ref()
                .and_then(TreeObjects::fastest)
                .map(|(id, _)| id.pid),
            Some(3)
        );
    }

    #[test]
    fn the_worst_and_the_largest_are_read_with_what_they_grow() {
        let row = |pid: i32, rss_mib: u64, growth: Option<f64>| {
            let mut process = process(pid, i32::from(pid != 1), rss_mib * MIB);
            process.memory = Memory {
                rss_bytes: rss_mib * MIB,
                ..process.memory
            };
            ProcessRow {
                process,
                growth,
                ..ProcessRow::default()
            }
        };
        let mut refused = row(6, 900, None);
        refused.not_walked = Some("it is traced".into());
        let tree = TreeView {
            master: 1,
            processes: HostView {
                rows: vec![
                    row(1, 10, None),
                    row(2, 100, None),
                    row(3, 300, None),
                    row(4, 50, Some((2 * MIB) as f64)),
                    row(5, 40, None),
                    refused,
                ],
                ..HostView::default()
            },
            objects: None,
        };
        let pids = |most| {
            tree.to_read(most)
                .iter()
                .map(|id| id.pid)
                .collect::<Vec<_>>()
        };
        assert_eq!(pids(3), [1, 4, 3, 2]);
        assert_eq!(pids(9), [1, 4, 3, 2, 5]);
    }
}

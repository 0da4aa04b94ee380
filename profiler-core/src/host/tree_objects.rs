//! Who holds the memory of a tree: names found in several of its processes, with what they hold in
//! each and in total. Pages that the processes share count once.

mod holders;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::holders::{Gathered, add_holders, processes};
use super::turns::weight;
use super::{ProcessId, ProcessRow, TreeView};
use crate::explain::LEAK;
use crate::objects::ranked;
use crate::report::FragReport;
use crate::units::bytes;
use crate::worth::{is_named_for_gaining, is_named_for_holding};

/// Names in sentences at most.
const MAX_NAMED: usize = 3;

/// Data about the objects of a tree's processes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TreeObjects {
    /// The processes read, in that order, each with its objects and, if they were read twice, their
    /// growth.
    pub read: Vec<ReadProcess>,
    /// Processes that should have been read and were not, and why.
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

/// What a name, or several that share it, hold in the processes of a tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TreeHolder {
    /// The name, and others that hold the same. Untrusted text.
    pub names: Vec<String>,
    /// Whether it is a name in the program, rather than a place where references were found.
    pub is_name: bool,
    /// Type of what it refers to, in the process where it holds most.
    pub type_name: Option<String>,
    /// The path from the name to where most of its bytes spread out in that process, as in
    /// [`crate::objects::Holder::steps`].
    pub steps: Vec<String>,
    /// The type of what grows there, or of most items.
    pub item_type: Option<String>,
    /// The number of children read in which it is one of the largest holders…
    pub children: usize,
    /// …the least that it holds in one of them, including memory mapped by its `mmap` objects…
    pub least_bytes: u64,
    /// …and the most.
    pub most_bytes: u64,
    /// What it holds in the master; `None` if it is not one of the largest holders there, or the
    /// master was not read.
    pub master_bytes: Option<u64>,
    /// What it holds in all of them, with shared pages counted once.
    pub bytes: u64,
    /// The most bytes that it has in one process on pages that another process also maps. `None` if
    /// that is not known for all; then shared pages count in each.
    pub shared_bytes: Option<u64>,
    /// The number of processes in which it gains bytes.
    pub growing: usize,
    /// The gain of its blocks in all processes, in bytes per second; `None` if no objects were read
    /// twice.
    pub growth: Option<f64>,
    /// The smallest and the largest gain in a process in which it gains.
    pub growth_range: Option<(f64, f64)>,
    /// Items gained per second in all processes, as far as known.
    pub items_growth: Option<f64>,
}

/// Growth in the processes of a tree that were read twice.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct TreeGrowth {
    /// Processes whose objects were read twice.
    pub compared: usize,
    /// Of those, the ones that grow by the rule of the verdict.
    pub growing: usize,
    /// Their total gain, in bytes per second.
    pub bytes_per_second: f64,
    /// Of that, live blocks of the heaps.
    pub live_bytes_per_second: f64,
    /// The longest time between two readings, in ns.
    pub elapsed_ns: u64,
    /// Processes not reported as growing whose memory gained something for which two observations
    /// do not show whether it continues.
    pub unclear: usize,
}

impl TreeView {
    /// The processes whose objects to read: the master and at most `most` others, the worst first,
    /// then the largest including expected growth. The master comes first because what its children
    /// share with it is its own.
    pub fn to_read(&self, most: usize) -> Vec<ProcessId> {
        let is_master = |row: &&ProcessRow| row.process.id.pid == self.master;
        let python = self.processes.rows.iter();
        let python = python.filter(|row| row.process.python.is_some() && row.not_walked.is_none());
        let (master, mut children): (Vec<&ProcessRow>, Vec<&ProcessRow>) =
            python.partition(is_master);
        let worst = self.worst().map(|row| row.process.id);
        let weight = |row: &ProcessRow| weight(row.process.memory.rss_bytes, row.growth);
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

    /// What names hold in the processes read, the most bytes first; if objects were read twice, the
    /// largest gain first.
    pub fn holders(&self) -> Vec<TreeHolder> {
        let Some(objects) = &self.objects else {
            return Vec::new();
        };
        let mut all: BTreeMap<Vec<&str>, Gathered<'_>> = BTreeMap::new();
        for read in &objects.read {
            add_holders(&mut all, read, read.id.pid == self.master);
        }
        let mut all: Vec<TreeHolder> = all.into_values().map(Gathered::sum).collect();
        let elapsed_ns = objects.growth().elapsed_ns;
        // Names that gain next to nothing are sorted by what they hold, as in the tables of one
        // process.
        let rank = |of: &TreeHolder| ranked(of.growth.unwrap_or(0.0), elapsed_ns);
        all.sort_by(|a, b| {
            rank(b)
                .total_cmp(&rank(a))
                .then(b.bytes.cmp(&a.bytes))
                .then_with(|| a.names.cmp(&b.names))
        });
        all
    }

    /// A sentence about which processes' objects were read; `None` if none were requested.
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

    /// What grows in the processes that were read twice; `None` if there are none.
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
        let all = growth.bytes_per_second;
        let names = self.holders().into_iter();
        let named = names.filter(|of| {
            let gains = |gained| all > 0.0 && is_named_for_gaining(gained, all);
            of.is_name && of.growth.is_some_and(gains)
        });
        let named: Vec<String> = named
            .take(MAX_NAMED)
            .map(|holder| holder.gain_sentence(growth.compared))
            .collect();
        Some(match named.is_empty() {
            true => format!("{head}, by no one name that they have in common.{unclear}"),
            false => format!(
                "{head}: {}: {LEAK}; no allocator helps.{unclear}",
                named.join("; ")
            ),
        })
    }

    /// The largest holders, one sentence each.
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
        let live: u64 = objects.held_at_most();
        let much = names
            .into_iter()
            .filter(|of| is_named_for_holding(of.bytes, live));
        much.take(MAX_NAMED)
            .map(|of| of.held_sentence(children))
            .collect()
    }
}

impl TreeObjects {
    /// Growth in the processes that were read twice.
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

    /// The fastest growing process among those read, in bytes per second; `None` if none grows.
    pub fn fastest(&self) -> Option<(ProcessId, f64)> {
        let rates = self
            .read
            .iter()
            .filter_map(|read| Some((read.id, read.report.growing()?.bytes_per_second())));
        let growing = rates.filter(|(_, rate)| *rate > 0.0);
        growing.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// What names can hold: live blocks, and what `mmap` objects map.
    fn held_at_most(&self) -> u64 {
        let censuses = self
            .read
            .iter()
            .filter_map(|read| read.report.objects.as_ref());
        let all = censuses.map(|of| of.live.bytes.saturating_add(of.mapped.bytes));
        all.fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests;

//! What one name holds in all processes of a tree, summed.

use std::collections::BTreeMap;

use super::{ReadProcess, TreeHolder};
use crate::objects::Holder;
use crate::units::{bytes, count};
use crate::worth::is_said_to_be_shared;

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
pub(super) struct Gathered<'a> {
    each: Vec<(i32, InProcess)>,
    largest: &'a Holder,
    item_type: Option<&'a str>,
}

pub(super) fn add_holders<'a>(
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
        if holder.held_bytes() > gathered.largest.held_bytes() {
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
        here.bytes = here.bytes.saturating_add(holder.held_bytes());
        // Pages of mmap objects that are also mapped elsewhere count as shared, as pages of blocks
        // do.
        let of_mapped = match holder.mapped_bytes {
            None | Some(0) => Some(0),
            Some(_) => holder.mapped_shared_bytes,
        };
        let of_holder = holder.shared_bytes.zip(of_mapped);
        let of_holder = of_holder.map(|(blocks, mapped)| blocks.saturating_add(mapped));
        let shared = here.shared.zip(of_holder);
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
    pub(super) fn sum(self) -> TreeHolder {
        let each = || self.each.iter().map(|(_, here)| here);
        let of_children = || each().filter(|here| !here.is_master);
        let all = each().map(|here| here.bytes).fold(0, u64::saturating_add);
        // The same pages in several processes: the largest part is assumed to contain the others'.
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
    /// The first of its names and its type: `app.tasks.SESSIONS` (dict).
    pub fn titled(&self) -> String {
        let name = self.names.first().map_or("", String::as_str);
        match &self.type_name {
            Some(of) => format!("`{name}` ({of})"),
            None => format!("`{name}`"),
        }
    }

    /// What it holds in the children and in the master, as text: `18.0 to 22.0 MiB each`.
    pub fn each(&self) -> String {
        let (least, most) = (bytes(self.least_bytes), bytes(self.most_bytes));
        match (self.children, least == most) {
            (0, _) => String::new(),
            (1, _) => most,
            (_, true) => format!("{most} each"),
            (_, false) => format!("{least} to {most} each"),
        }
    }

    pub(super) fn held_sentence(&self, children: usize) -> String {
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
            Some(shared)
                if self.each_and_master() > 1 && is_said_to_be_shared(shared, self.bytes) =>
            {
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

    pub(super) fn gain_sentence(&self, compared: usize) -> String {
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

pub(super) fn processes(count: usize) -> String {
    match count {
        1 => "1 process".to_owned(),
        some => format!("{some} processes"),
    }
}

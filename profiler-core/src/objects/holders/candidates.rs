//! Selects the names, and the things shared by several names, that are worth reporting.

use std::cmp::Reverse;
use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};

use super::sharing::{MAX_SHARERS, Sharing};
use super::{Holders, MAX_STEPS, Retained};
use crate::memory::TargetMemory;
use crate::objects::census::SHOWN;
use crate::objects::graph::NONE;
use crate::objects::holder::Calls;

/// The most holders that a census keeps, so that growing ones are found among all of them.
const KEPT: usize = 1000;
/// Beyond the largest, those that hold less than this are not kept, in bytes.
const LEAST_KEPT: u64 = 16 << 10;
/// The most names examined for that, and the most sets of names that share something.
const CANDIDATES: usize = 2 * KEPT;
/// The most things examined that generators' variables share with others.
const OF_GENERATORS: usize = 800;
/// The most inner names that are reported instead of an outer one if together they have nearly all
/// of it.
const FEW: usize = 8;
/// Nodes that are gone through in search of them, of each thing shared.
const MAX_SEARCHED: usize = 20_000;

/// A candidate: the retained size, below which number, and under which names.
pub(super) struct Candidate {
    /// Of blocks, and those that `mmap` objects map.
    pub(super) bytes: u64,
    /// Of these, the ones that `mmap` objects map.
    pub(super) mapped: u64,
    pub(super) blocks: u64,
    /// The number of what is held: a name's value, or what several names share.
    pub(super) number: u32,
    /// Numbers of names.
    pub(super) names: Vec<u32>,
    /// The numbers of everything retained, including what is below them: the name's own, or one for
    /// each shared thing.
    pub(super) tops: Vec<u32>,
    /// The group of what is shared, which has the numbers of its names.
    pub(super) group: Option<u32>,
    /// The part of its block bytes that belongs to other candidates inside it.
    pub(super) inner: u64,
    /// Running calls that have it, each with a value of its own.
    pub(super) calls: Calls,
}

impl Candidate {
    /// Its block bytes.
    pub(super) fn of_blocks(&self) -> u64 {
        self.bytes.saturating_sub(self.mapped)
    }

    /// Whether it is many things, none of which has half of the bytes.
    pub(super) fn is_of_many(&self, retained: &[u64]) -> bool {
        self.group.is_some() && retained[self.number as usize] < self.bytes / 2
    }
}

/// Whether `part` is nearly all of `whole`, so that only one of the two is reported.
fn is_nearly_all(part: u64, whole: u64) -> bool {
    part >= whole / 10 * 9
}

impl<M: TargetMemory> Holders<'_, M> {
    /// Those that are reported, the most bytes first.
    pub(super) fn candidates(&self, retained: &Retained, sharing: &Sharing) -> Vec<Candidate> {
        let mut all = self.of_calls(self.named(retained), retained);
        let shared = self.shared(retained, sharing);
        let outer = self.around_shared(&shared, &retained.bytes);
        all.retain(|candidate| !outer.contains(&candidate.names[0]));
        let inner = shared.into_iter();
        all.extend(inner.filter(|candidate| !outer.contains(&candidate.number)));
        all.retain(|candidate| candidate.bytes > 0);
        all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.number.cmp(&b.number)));
        let kept = all.iter().take(KEPT).enumerate();
        let kept = kept.take_while(|(at, of)| *at < SHOWN || of.bytes >= LEAST_KEPT);
        all.truncate(kept.count());
        self.without_outer(all, sharing, retained)
    }

    /// The candidates without those of which a few inner names have nearly all: a frame's variable
    /// that is a coroutine says less than the coroutine's own variables. For the others, determines
    /// how much of them is in other rows.
    fn without_outer(
        &self,
        mut all: Vec<Candidate>,
        sharing: &Sharing,
        retained: &Retained,
    ) -> Vec<Candidate> {
        let mut at_top: HashMap<u32, usize> = HashMap::new();
        for (at, candidate) in all.iter().enumerate() {
            at_top.extend(candidate.tops.iter().map(|top| (*top, at)));
        }
        // Memory that several names share has no number of its own, but each thing in it has.
        let groups = (0..).zip(&all);
        let groups: HashMap<u32, usize> = groups
            .filter_map(|(at, candidate)| Some((candidate.group?, at)))
            .collect();
        let things = sharing.things();
        at_top.extend(things.filter_map(|(thing, group)| Some((thing, *groups.get(&group)?))));
        // What others have within each, the largest first, as the candidates are.
        let mut within: Vec<Vec<u64>> = vec![Vec::new(); all.len()];
        let mut blocks_within = vec![0u64; all.len()];
        for (at, candidate) in all.iter().enumerate() {
            for &top in &candidate.tops {
                if let Some(outer) = self.around(top, &at_top).filter(|outer| *outer != at) {
                    within[outer].push(retained.bytes[top as usize]);
                    let sum = &mut blocks_within[outer];
                    *sum = sum.saturating_add(retained.of_blocks(top));
                }
            }
        }
        let mut is_outer = Vec::with_capacity(all.len());
        for ((candidate, parts), blocks) in all.iter_mut().zip(&mut within).zip(blocks_within) {
            parts.sort_unstable_by_key(|bytes| Reverse(*bytes));
            let few: u64 = parts.iter().take(FEW).sum();
            is_outer.push(is_nearly_all(few, candidate.bytes) && candidate.bytes > 0 && few > 0);
            candidate.inner = blocks.min(candidate.of_blocks());
        }
        let mut is_outer = is_outer.into_iter();
        all.retain(|_| !is_outer.next().unwrap_or(false));
        all
    }

    /// The innermost candidate around a number.
    fn around(&self, number: u32, at_top: &HashMap<u32, usize>) -> Option<usize> {
        let mut at = self.tree.dominator[number as usize];
        for _ in 0..MAX_STEPS {
            match at {
                0 => return None,
                at if at_top.contains_key(&at) => return at_top.get(&at).copied(),
                _ => at = self.tree.dominator[at as usize],
            }
        }
        None
    }

    /// What each name alone retains. If another name below it has nearly all of it, that one is
    /// reported.
    fn named(&self, retained: &Retained) -> Vec<Candidate> {
        let tree = self.tree;
        let blocks = self.kinds.len() as u32;
        let of_names =
            (1..tree.node.len() as u32).filter(|number| tree.node[*number as usize] >= blocks);
        let mut numbers: Vec<u32> = of_names.collect();
        largest(&mut numbers, &retained.bytes, CANDIDATES);
        let mut outer = HashSet::new();
        for &number in &numbers {
            let mut at = tree.dominator[number as usize];
            for _ in 0..MAX_STEPS {
                if at == 0 {
                    break;
                }
                if tree.node[at as usize] >= blocks {
                    if is_nearly_all(retained.bytes[number as usize], retained.bytes[at as usize]) {
                        outer.insert(at);
                    }
                    break;
                }
                at = tree.dominator[at as usize];
            }
        }
        numbers.retain(|number| !outer.contains(number));
        let candidates = numbers.into_iter().map(|number| {
            let value = self.names.of_node(tree.node[number as usize]);
            // A place without a name has no value, and a folded value has no number of its own.
            let value = value.filter(|(_, value)| *value != NONE && !self.folded.is_folded(*value));
            let value = value.map(|(_, value)| self.number(value));
            let below =
                value.filter(|&value| value != NONE && tree.dominator[value as usize] == number);
            Candidate {
                bytes: retained.bytes[number as usize],
                mapped: retained.mapped(number),
                blocks: retained.blocks[number as usize].into(),
                number: below.unwrap_or(number),
                names: vec![number],
                tops: vec![number],
                group: None,
                inner: 0,
                calls: Calls::ONE,
            }
        });
        candidates.collect()
    }

    /// What several names share: everything directly below modules and classes that is neither one
    /// of these nor a name, and what generators' variables share with others. Things shared by the
    /// same names are one candidate.
    fn shared(&self, retained: &Retained, sharing: &Sharing) -> Vec<Candidate> {
        let groups = (0u32..).zip(&sharing.groups);
        // What none has, modules and classes have by themselves.
        let of_names = groups.filter(|(_, group)| !group.names.is_empty());
        let mut all: Vec<Candidate> = of_names
            .map(|(at, group)| Candidate {
                bytes: group.bytes,
                mapped: group.mapped,
                blocks: group.blocks,
                number: group.largest,
                names: group.names.clone(),
                tops: Vec::new(),
                group: Some(at),
                inner: 0,
                calls: Calls::ONE,
            })
            .collect();
        all.sort_unstable_by_key(|candidate| (Reverse(candidate.bytes), candidate.number));
        all.truncate(CANDIDATES);
        all.extend(self.of_generators(retained, sharing));
        all
    }

    /// What generators' variables share with others, which may be anywhere.
    fn of_generators(&self, retained: &Retained, sharing: &Sharing) -> Vec<Candidate> {
        let tree = self.tree;
        let shared = self.names.suspended_values().filter_map(|(node, value)| {
            let number = tree.number[self.folded.place(value) as usize];
            let is_shared = !self.folded.is_folded(value)
                && number != NONE
                && number < tree.first_phase_end()
                && !self.names.is_space(tree.node[number as usize])
                && sharing.group_of(number).is_none()
                && tree.node[tree.dominator[number as usize] as usize] != node;
            is_shared.then_some(number)
        });
        let mut numbers: Vec<u32> = shared.collect();
        numbers.sort_unstable();
        numbers.dedup();
        largest(&mut numbers, &retained.bytes, OF_GENERATORS);
        let mut by_names: HashMap<Vec<u32>, usize> = HashMap::new();
        let mut all: Vec<Candidate> = Vec::new();
        for number in numbers {
            let mut names = self.sharers(number);
            if names.len() < 2 {
                continue;
            }
            names
                .iter_mut()
                .for_each(|name| *name = sharing.alike.of(*name));
            names.sort_unstable();
            names.dedup();
            let bytes = retained.bytes[number as usize];
            let blocks = u64::from(retained.blocks[number as usize]);
            if let Some(&at) = by_names.get(&names) {
                let same = &mut all[at];
                same.bytes = same.bytes.saturating_add(bytes);
                same.mapped = same.mapped.saturating_add(retained.mapped(number));
                same.blocks += blocks;
                same.tops.push(number);
                continue;
            }
            by_names.insert(names.clone(), all.len());
            all.push(Candidate {
                bytes,
                mapped: retained.mapped(number),
                blocks,
                number,
                names,
                tops: vec![number],
                group: None,
                inner: 0,
                calls: Calls::ONE,
            });
        }
        all
    }

    /// Names, and things shared by names, nearly all of whose memory is in something below that
    /// other names share: that is reported instead.
    fn around_shared(&self, shared: &[Candidate], retained: &[u64]) -> HashSet<u32> {
        let blocks = self.kinds.len() as u32;
        let numbers: HashSet<u32> = shared.iter().map(|candidate| candidate.number).collect();
        let mut outer = HashSet::new();
        for candidate in shared {
            let mut at = self.tree.dominator[candidate.number as usize];
            for _ in 0..MAX_STEPS {
                let is_reported = self.tree.node[at as usize] >= blocks || numbers.contains(&at);
                let own = retained[candidate.number as usize];
                if at == 0 || is_reported && !is_nearly_all(own, retained[at as usize]) {
                    break;
                }
                if is_reported {
                    outer.insert(at);
                }
                at = self.tree.dominator[at as usize];
            }
        }
        outer
    }

    /// The numbers of the names from which something is reached with no other name in between.
    fn sharers(&self, number: u32) -> Vec<u32> {
        let blocks = self.kinds.len() as u32;
        let mut seen: HashSet<u32> = HashSet::new();
        seen.insert(number);
        let mut queue = VecDeque::from([number]);
        let mut names = Vec::new();
        while let Some(at) = queue.pop_front() {
            for &from in self.tree.predecessors(at) {
                if from == 0 || seen.len() >= MAX_SEARCHED || !seen.insert(from) {
                    continue;
                }
                let node = self.tree.node[from as usize];
                if node >= blocks {
                    names.push(from);
                    if names.len() >= MAX_SHARERS {
                        names.sort_unstable();
                        return names;
                    }
                } else if !self.names.is_space(node) {
                    queue.push_back(from);
                }
            }
        }
        names.sort_unstable();
        names
    }
}

/// Keeps those that retain most, in descending order.
fn largest(numbers: &mut Vec<u32>, retained: &[u64], most: usize) {
    let key = |number: &u32| (Reverse(retained[*number as usize]), *number);
    if numbers.len() > most {
        numbers.select_nth_unstable_by_key(most, key);
        numbers.truncate(most);
    }
    numbers.sort_unstable_by_key(key);
}

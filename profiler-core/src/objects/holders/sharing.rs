//! Things shared by several names: for each thing that no single name holds, the nearest names,
//! which reach it with no other name in between.

use std::cmp::Reverse;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::{Holders, Retained};
use crate::memory::TargetMemory;
use crate::objects::graph::{Graph, NONE};
use crate::objects::names::Name;

/// The most sharers that are named, the nearest ones.
pub(super) const MAX_SHARERS: usize = 8;
/// The most distinct sets of names.
const MAX_SETS: usize = 1 << 20;
/// References between things that are shared that are gone through.
const MAX_LINKS: usize = 1 << 26;
/// Distances from this number of steps on are not distinguished.
const FAR: u8 = u8::MAX;

/// Variables of calls of the same function, which have the same name: the first of them, and one
/// for all others.
///
/// Ten thousand waiting tasks are ten thousand calls. If each call's variable were a name of its
/// own, each task would be shared by other names than the next, and none would hold more than one
/// task.
#[derive(Debug, Default)]
pub(super) struct Alike(HashMap<u32, u32>);

impl Alike {
    /// The number that represents a name.
    pub(super) fn of(&self, name: u32) -> u32 {
        self.0.get(&name).copied().unwrap_or(name)
    }
}

/// A name from which something is reached, and its distance.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
struct Sharer {
    steps: u8,
    /// Its number.
    name: u32,
}

/// Sets of sharers, each stored once; set 0 is empty.
struct Sets {
    all: Vec<Vec<Sharer>>,
    with: HashMap<(u32, Sharer), u32>,
    known: HashMap<Vec<Sharer>, u32>,
}

impl Sets {
    fn new() -> Self {
        Self {
            all: vec![Vec::new()],
            with: HashMap::new(),
            known: HashMap::from_iter([(Vec::new(), 0)]),
        }
    }

    /// The set with one more sharer: of each name the nearest is kept, and of all names the
    /// nearest.
    fn with(&mut self, set: u32, sharer: Sharer) -> u32 {
        if let Some(&known) = self.with.get(&(set, sharer)) {
            return known;
        }
        let mut sharers = self.all[set as usize].clone();
        sharers.push(sharer);
        sharers.sort_unstable();
        let mut names = Vec::with_capacity(sharers.len());
        sharers.retain(|of| {
            !names.contains(&of.name) && {
                names.push(of.name);
                true
            }
        });
        sharers.truncate(MAX_SHARERS);
        let found = match self.known.get(&sharers) {
            Some(&found) => found,
            None if self.all.len() >= MAX_SETS => set,
            None => {
                let found = self.all.len() as u32;
                self.all.push(sharers.clone());
                self.known.insert(sharers, found);
                found
            }
        };
        if self.with.len() < 4 * MAX_SETS {
            self.with.insert((set, sharer), found);
        }
        found
    }
}

/// Everything shared by the same names.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// Numbers of the names, the nearest first.
    pub(super) names: Vec<u32>,
    pub(super) bytes: u64,
    /// Of these, the ones that `mmap` objects map.
    pub(super) mapped: u64,
    pub(super) blocks: u64,
    /// The number of the largest thing, and what that retains.
    pub(super) largest: u32,
    pub(super) largest_bytes: u64,
}

/// Which names share what.
pub(super) struct Sharing {
    /// What each number is below: a name, a module or class, or a shared thing.
    pub(super) zone: Vec<u32>,
    /// Numbers of the things that are right below a module or class without being a name, ascending.
    things: Vec<u32>,
    /// The group of each.
    of_group: Vec<u32>,
    pub(super) groups: Vec<Group>,
    pub(super) alike: Alike,
}

impl Sharing {
    /// The things with the groups that they are of, by ascending numbers.
    pub(super) fn things(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let of_group = self.of_group.iter().copied();
        self.things.iter().copied().zip(of_group)
    }

    /// The group of a thing that is shared.
    pub(super) fn group_of(&self, number: u32) -> Option<&Group> {
        let at = self.things.binary_search(&number).ok()?;
        self.groups.get(self.of_group[at] as usize)
    }
}

/// The tree, prepared for the search of sharers.
struct Zones {
    zone: Vec<u32>,
    /// Steps from what a number is below.
    depth: Vec<u8>,
    things: Vec<u32>,
}

impl<M: TargetMemory> Holders<'_, M> {
    /// Determines who shares what: a pass over all references to things that no single name holds,
    /// then one over the references among such things.
    pub(super) fn sharing(&self, retained: &Retained) -> Sharing {
        let zones = self.zones();
        let mut sets = Sets::new();
        let alike = self.alike();
        let (mut of_set, links) = self.direct_sharers(&zones, &alike, &mut sets);
        if let Some(links) = links {
            spread(&mut sets, &mut of_set, &links);
        }
        let Zones { zone, things, .. } = zones;
        let nodes = self.names.outputs(self.source.memory, self.source.layout);
        let outputs = Outputs {
            names: nodes.into_iter().map(|node| self.number(node)).collect(),
        };
        let (of_group, groups) = grouped(&things, &of_set, &sets, &outputs, retained);
        Sharing {
            zone,
            things,
            of_group,
            groups,
            alike,
        }
    }

    fn alike(&self) -> Alike {
        let mut known = HashMap::new();
        let mut alike = HashMap::new();
        for (node, name) in self.names.with_nodes() {
            let (Name::Variable(variable) | Name::Suspended(variable)) = name else {
                continue;
            };
            let number = self.number(node);
            if number == NONE {
                continue;
            }
            match known.get_mut(&variable) {
                None => {
                    known.insert(variable, None);
                }
                Some(others) => {
                    let other = *others.get_or_insert(number);
                    alike.insert(number, other);
                }
            }
        }
        Alike(alike)
    }

    fn zones(&self) -> Zones {
        let tree = self.tree;
        let blocks = self.kinds.len() as u32;
        let end = tree.first_phase_end();
        let is_space = |number: u32| number == 0 || self.names.is_space(tree.node[number as usize]);
        let mut zone = vec![0; end as usize];
        let mut depth = vec![0u8; end as usize];
        let mut things = Vec::new();
        for number in 1..end {
            let above = tree.dominator[number as usize];
            if tree.node[number as usize] >= blocks || is_space(number) {
                zone[number as usize] = number;
            } else if is_space(above) {
                zone[number as usize] = number;
                things.push(number);
            } else {
                zone[number as usize] = zone[above as usize];
                depth[number as usize] = depth[above as usize].saturating_add(1);
            }
        }
        Zones {
            zone,
            depth,
            things,
        }
    }

    /// The set of the names that refer to each thing with no other thing in between, and the
    /// references among things; no references if there are no things.
    fn direct_sharers(
        &self,
        zones: &Zones,
        alike: &Alike,
        sets: &mut Sets,
    ) -> (Vec<u32>, Option<Links>) {
        let tree = self.tree;
        let blocks = self.kinds.len() as u32;
        let mut links = Vec::new();
        let mut of_set = Vec::with_capacity(zones.things.len());
        let mut sharers: Vec<Sharer> = Vec::new();
        for (at, &thing) in zones.things.iter().enumerate() {
            sharers.clear();
            for &from in tree.predecessors(thing) {
                let top = zones.zone[from as usize];
                let steps = zones.depth[from as usize].saturating_add(1);
                if top != 0 && tree.node[top as usize] >= blocks {
                    let name = alike.of(top);
                    sharers.push(Sharer { steps, name });
                } else if top != thing
                    && links.len() < MAX_LINKS
                    && let Ok(from) = zones.things.binary_search(&top)
                {
                    links.push((from as u32, at as u32, steps));
                }
            }
            sharers.sort_unstable();
            let found = sharers.iter().fold(0, |set, of| sets.with(set, *of));
            of_set.push(found);
        }
        let links = (!links.is_empty()).then(|| Links::of(zones.things.len(), &links));
        (of_set, links)
    }
}

/// References between things that are shared, with how far each leads.
struct Links {
    graph: Graph,
    steps: Vec<u8>,
    starts: Vec<u32>,
}

impl Links {
    /// Of references from one to another thing.
    fn of(things: usize, all: &[(u32, u32, u8)]) -> Self {
        let mut starts = vec![0u32; things + 1];
        for (from, ..) in all {
            starts[*from as usize + 1] += 1;
        }
        for at in 0..things {
            starts[at + 1] += starts[at];
        }
        let mut next = starts.clone();
        let (mut targets, mut steps) = (vec![0; all.len()], vec![0; all.len()]);
        for (from, to, far) in all {
            let at = &mut next[*from as usize];
            targets[*at as usize] = *to;
            steps[*at as usize] = *far;
            *at += 1;
        }
        Self {
            graph: Graph::of(starts.clone(), targets, 0),
            steps,
            starts,
        }
    }

    /// The things that one refers to, with the steps to each.
    fn from(&self, thing: u32) -> impl Iterator<Item = (u32, u8)> + '_ {
        let start = self.starts[thing as usize] as usize;
        let targets = self.graph.targets(thing);
        targets
            .iter()
            .copied()
            .zip(self.steps[start..].iter().copied())
    }
}

/// Names that share a thing share what it refers to: the nearest first.
fn spread(sets: &mut Sets, of_set: &mut [u32], links: &Links) {
    let mut waiting: Vec<Vec<(u32, u32)>> = vec![Vec::new(); usize::from(FAR) + 1];
    let give = |waiting: &mut Vec<Vec<(u32, u32)>>, thing: u32, sharer: Sharer| {
        for (to, steps) in links.from(thing) {
            let steps = sharer.steps.saturating_add(steps);
            waiting[usize::from(steps)].push((to, sharer.name));
        }
    };
    for thing in 0..of_set.len() as u32 {
        for sharer in &sets.all[of_set[thing as usize] as usize] {
            give(&mut waiting, thing, *sharer);
        }
    }
    for steps in 0..=FAR {
        // At the largest distance, names also spread to things at the same distance.
        while !waiting[usize::from(steps)].is_empty() {
            for (thing, name) in std::mem::take(&mut waiting[usize::from(steps)]) {
                let sharer = Sharer { steps, name };
                let set = &mut of_set[thing as usize];
                let with = sets.with(*set, sharer);
                if *set != with {
                    *set = with;
                    give(&mut waiting, thing, sharer);
                }
            }
        }
    }
}

/// The names under which an interactive session keeps its outputs: the one for all, and those for
/// each.
struct Outputs {
    names: Vec<u32>,
}

impl Outputs {
    /// The names by which a thing is grouped with others, ascending: for an output without a name
    /// in the program itself, the name for all outputs.
    fn key(&self, names: &[u32]) -> Vec<u32> {
        if let Some(all) = self.names.first()
            && names.len() > 1
            && names.contains(all)
            && names.iter().all(|name| self.names.contains(name))
        {
            return vec![*all];
        }
        let mut key = names.to_vec();
        key.sort_unstable();
        key
    }

    /// Adds names to a group's names; the name for all outputs comes first.
    fn join(&self, names: &mut Vec<u32>, more: &[u32]) {
        for name in more {
            if !names.contains(name) {
                names.push(*name);
            }
        }
        let place = |name: &u32| self.names.iter().position(|of| of == name);
        names.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
        names.truncate(MAX_SHARERS);
    }
}

/// Groups things with the same names; returns the group of each.
fn grouped(
    things: &[u32],
    of_set: &[u32],
    sets: &Sets,
    outputs: &Outputs,
    retained: &Retained,
) -> (Vec<u32>, Vec<Group>) {
    let mut by_names: HashMap<Vec<u32>, u32> = HashMap::new();
    let mut of_sets = vec![NONE; sets.all.len()];
    let mut groups: Vec<Group> = Vec::new();
    let mut of_group = Vec::with_capacity(things.len());
    for (&thing, &set) in things.iter().zip(of_set) {
        let group = &mut of_sets[set as usize];
        if *group == NONE {
            let mut names: Vec<u32> = sets.all[set as usize].iter().map(|of| of.name).collect();
            *group = match by_names.entry(outputs.key(&names)) {
                Entry::Occupied(known) => {
                    let group = *known.get();
                    outputs.join(&mut groups[group as usize].names, &names);
                    group
                }
                Entry::Vacant(new) => {
                    let group = groups.len() as u32;
                    outputs.join(&mut names, &[]);
                    groups.push(Group {
                        names,
                        ..Group::default()
                    });
                    *new.insert(group)
                }
            };
        }
        let (bytes, blocks) = (
            retained.bytes[thing as usize],
            u64::from(retained.blocks[thing as usize]),
        );
        let sum = &mut groups[*group as usize];
        sum.bytes = sum.bytes.saturating_add(bytes);
        sum.mapped = sum.mapped.saturating_add(retained.mapped(thing));
        sum.blocks += blocks;
        if sum.largest == 0 || (bytes, Reverse(thing)) > (sum.largest_bytes, Reverse(sum.largest)) {
            (sum.largest, sum.largest_bytes) = (thing, bytes);
            // The distance from a name to the largest thing counts, not its distance to the others.
            let nearest = &sets.all[set as usize];
            let place = |name: &u32| nearest.iter().position(|of| of.name == *name);
            let is_of_outputs = sum.names.first() == outputs.names.first();
            if !is_of_outputs {
                (sum.names).sort_by_key(|name| place(name).unwrap_or(usize::MAX));
            }
        }
        of_group.push(*group);
    }
    (of_group, groups)
}

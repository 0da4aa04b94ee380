//! Who holds what: the dominator tree in the words of the program.

use hashbrown::{HashMap, HashSet};

use super::attributes::Attributes;
use super::census::{Amount, Census, Holder, PathStep, SHOWN, Via};
use super::dominators::Dominators;
use super::fold::Folded;
use super::graph::NONE;
use super::kinds::{Kind, PackedKind};
use super::names::{Name, Names};
use super::pins::{CopiedTypes, NOBODY, Nesting, Owners, Pinned};
use super::scan::Source;
use super::types::{Flags, Role, Type};
use super::words::read_word;
use crate::addr::AddrRange;
use crate::heap::HeapSnapshot;
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;

/// Holders that a census keeps at the most, so that those of them that grow are found among all.
pub(super) const KEPT: usize = 1000;
/// Beyond the largest, those that hold less than this are not kept, in bytes.
pub(super) const LEAST_KEPT: u64 = 16 << 10;
/// Names that are looked at for them, and things that several names share.
const CANDIDATES: usize = 2 * KEPT;
const SHARED_CANDIDATES: usize = 800;
/// Names that are given of those who share something.
const MAX_SHARERS: usize = 8;
/// Nodes that are gone through in search of them, of each thing shared.
const MAX_SEARCHED: usize = 20_000;
/// Nodes that a way down, or up to the next name, is followed over.
const MAX_STEPS: usize = 1 << 20;
/// Steps of a path that are reported.
const MAX_PATH: usize = 12;

/// What holders are made from.
pub(super) struct Holders<'a, M> {
    pub(super) source: &'a Source<'a, M>,
    pub(super) kinds: &'a [PackedKind],
    pub(super) types: &'a [Type],
    pub(super) names: &'a Names,
    pub(super) folded: &'a Folded,
    pub(super) tree: &'a Dominators,
    pub(super) heaps: &'a [HeapSnapshot],
    pub(super) residency: &'a ResidencyMap,
    /// Pages that were copied since a fork.
    pub(super) copied: &'a [AddrRange],
}

/// What lies on which pages, by the numbers of types.
pub(super) struct Pages {
    /// Free bytes that blocks pin.
    pub(super) pinned: Vec<u64>,
    pub(super) copied: CopiedTypes,
}

/// A candidate: what is retained, below which number, and under which names.
struct Candidate {
    bytes: u64,
    blocks: u64,
    /// The number of what is held: that of a name's value, or of what several share.
    number: u32,
    /// Numbers of names.
    names: Vec<u32>,
    /// The numbers of all that is retained with what is below it: the name's own, or of each thing
    /// shared.
    tops: Vec<u32>,
}

impl<M: TargetMemory> Holders<'_, M> {
    /// Fills in what is held by whom, and gives what blocks of each type pin.
    pub(super) fn report(&self, census: &mut Census) -> Pages {
        let tree = self.tree;
        let blocks = self.kinds.len() as u32;
        // Bytes and numbers of what is folded into each.
        let mut own = vec![(0u64, 0u64); tree.node.len()];
        for block in 0..blocks {
            let bytes = self.source.index.bytes(block);
            let number = self.number(block);
            if number == NONE {
                census.unreached.add(bytes);
                continue;
            }
            let (sum, count) = &mut own[number as usize];
            *sum += bytes;
            *count += 1;
            if number < tree.first_phase_end() {
                census.held_by_names.add(bytes);
            }
        }
        let retained = tree.retained(own.iter().map(|(bytes, _)| *bytes).collect());
        let counts = tree.retained(own.iter().map(|(_, count)| *count).collect());
        drop(own);
        let heaviest = tree.heaviest(&retained);
        let mut all = self.named(&retained, &counts);
        let shared = self.shared(&retained, &counts);
        let outer = self.around_shared(&shared, &retained);
        all.retain(|candidate| !outer.contains(&candidate.names[0]));
        let inner = shared.into_iter();
        all.extend(inner.filter(|candidate| !outer.contains(&candidate.number)));
        all.retain(|candidate| candidate.bytes > 0);
        all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.number.cmp(&b.number)));
        let kept = all.iter().take(KEPT).enumerate();
        let kept = kept.take_while(|(at, of)| *at < SHOWN || of.bytes >= LEAST_KEPT);
        all.truncate(kept.count());
        let ends: Vec<(Vec<u32>, u32)> = all
            .iter()
            .map(|candidate| self.way_down(candidate.number, &retained, &heaviest))
            .collect();
        let pinned = self.pinned(&all);
        let items = self.item_types(ends.iter().map(|(_, end)| *end), &retained);
        for (at, (candidate, (way, end))) in all.iter().zip(&ends).enumerate() {
            let mut names = candidate.names.iter().map(|name| self.name_text(*name));
            let path = self.path(way);
            let first = way.iter().find_map(|number| self.object(*number));
            let item = items.get(end).copied();
            census.holders.push(Holder {
                name: names.next().unwrap_or_default(),
                shared_with: names.collect(),
                is_name: candidate.names.iter().all(|name| {
                    let name = self.names.of_node(tree.node[*name as usize]);
                    !matches!(name, Some((Name::Root(_), _)))
                }),
                type_name: first.map(|(of, _)| of.name.clone()),
                length: first.and_then(|(of, addr)| self.length(of, addr)),
                retained_bytes: candidate.bytes,
                retained_blocks: candidate.blocks,
                path,
                item_type: item.map(|(of, _)| self.types[of as usize].name.clone()),
                items: item.map_or(0, |(_, count)| count),
                pinned_free_bytes: pinned.by_holder[at],
                dropped: pinned.dropped.as_ref().map(|dropped| dropped[at]),
            });
        }
        Pages {
            pinned: pinned.by_type,
            copied: pinned.copied,
        }
    }

    /// What the blocks of each candidate, and of each type, pin.
    fn pinned(&self, all: &[Candidate]) -> Pinned {
        let tree = self.tree;
        // The innermost candidate that has each number, and who is around each candidate.
        let mut owner = vec![NOBODY; tree.node.len()];
        let mut around: Vec<Option<u16>> = vec![None; all.len()];
        let tops: HashMap<u32, u16> = (0u16..)
            .zip(all)
            .flat_map(|(at, candidate)| candidate.tops.iter().map(move |&top| (top, at)))
            .collect();
        for number in 1..tree.node.len() {
            let above = owner[tree.dominator[number] as usize];
            owner[number] = match tops.get(&(number as u32)) {
                Some(&at) => {
                    // Of several things shared the first decides: so nobody is around himself.
                    around[usize::from(at)].get_or_insert(above);
                    at
                }
                None => above,
            };
        }
        let around = around.into_iter().map(|of| of.unwrap_or(NOBODY));
        let around: Vec<u16> = around.collect();
        let blocks = 0..self.kinds.len() as u32;
        let holders: Vec<u16> = blocks
            .map(|block| {
                let number = self.number(block);
                owner.get(number as usize).copied().unwrap_or(NOBODY)
            })
            .collect();
        drop(owner);
        let of_type = |block: u32| match self.kinds[block as usize].get() {
            Kind::Object { of, .. } | Kind::Storage { of, .. } => Some(of),
            _ => None,
        };
        let owners = Owners {
            index: self.source.index,
            holders: &holders,
            of_type: &of_type,
            nesting: &Nesting::of(around),
            has_gc_head: &|of| self.types[of as usize].facts.flags.has(Flags::HAVE_GC),
            types: self.types.len(),
        };
        owners.pinned(self.heaps, self.residency, self.copied)
    }

    /// What each name alone retains. Where another name below it has nearly all of it, that one is
    /// reported.
    fn named(&self, retained: &[u64], counts: &[u64]) -> Vec<Candidate> {
        let tree = self.tree;
        let blocks = self.kinds.len() as u32;
        let of_names =
            (1..tree.node.len() as u32).filter(|number| tree.node[*number as usize] >= blocks);
        let mut numbers: Vec<u32> = of_names.collect();
        largest(&mut numbers, retained, CANDIDATES);
        let mut outer = HashSet::new();
        for &number in &numbers {
            let mut at = tree.dominator[number as usize];
            for _ in 0..MAX_STEPS {
                if at == 0 {
                    break;
                }
                if tree.node[at as usize] >= blocks {
                    if retained[number as usize] >= retained[at as usize] / 10 * 9 {
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
            // A place without a name has no value, and one that is folded none of its own.
            let value = value.filter(|(_, value)| *value != NONE && !self.folded.is_folded(*value));
            let value = value.map(|(_, value)| self.number(value));
            let below =
                value.filter(|&value| value != NONE && tree.dominator[value as usize] == number);
            Candidate {
                bytes: retained[number as usize],
                blocks: counts[number as usize],
                number: below.unwrap_or(number),
                names: vec![number],
                tops: vec![number],
            }
        });
        candidates.collect()
    }

    /// What several names share: all that is right below modules and classes without being one, or a
    /// name. Things that the same names share are one candidate.
    fn shared(&self, retained: &[u64], counts: &[u64]) -> Vec<Candidate> {
        let tree = self.tree;
        let blocks = self.kinds.len() as u32;
        let is_space = |number: u32| number == 0 || self.names.is_space(tree.node[number as usize]);
        let right_below = (1..tree.first_phase_end()).filter(|&number| {
            let node = tree.node[number as usize];
            node < blocks && !is_space(number) && is_space(tree.dominator[number as usize])
        });
        // What generators' variables share with others lies anywhere.
        let of_generators = self.names.suspended_values().filter_map(|(node, value)| {
            let number = tree.number[self.folded.place(value) as usize];
            let is_shared = !self.folded.is_folded(value)
                && number != NONE
                && number < tree.first_phase_end()
                && !is_space(number)
                && tree.node[tree.dominator[number as usize] as usize] != node;
            is_shared.then_some(number)
        });
        let mut numbers: Vec<u32> = right_below.chain(of_generators).collect();
        numbers.sort_unstable();
        numbers.dedup();
        largest(&mut numbers, retained, SHARED_CANDIDATES);
        let mut by_names: HashMap<Vec<u32>, usize> = HashMap::new();
        let mut all: Vec<Candidate> = Vec::new();
        for number in numbers {
            let names = self.sharers(number);
            if names.len() < 2 {
                continue;
            }
            let (bytes, blocks) = (retained[number as usize], counts[number as usize]);
            if let Some(&at) = by_names.get(&names) {
                let same = &mut all[at];
                same.bytes = same.bytes.saturating_add(bytes);
                same.blocks += blocks;
                same.tops.push(number);
                continue;
            }
            by_names.insert(names.clone(), all.len());
            all.push(Candidate {
                bytes,
                blocks,
                number,
                names,
                tops: vec![number],
            });
        }
        all
    }

    /// Names, and things that names share, that have nearly all that they hold in something below that other
    /// names share: that is reported instead.
    fn around_shared(&self, shared: &[Candidate], retained: &[u64]) -> HashSet<u32> {
        let blocks = self.kinds.len() as u32;
        let numbers: HashSet<u32> = shared.iter().map(|candidate| candidate.number).collect();
        let mut outer = HashSet::new();
        for candidate in shared {
            let mut at = self.tree.dominator[candidate.number as usize];
            for _ in 0..MAX_STEPS {
                let is_reported = self.tree.node[at as usize] >= blocks || numbers.contains(&at);
                if at == 0 || is_reported && candidate.bytes < retained[at as usize] / 10 * 9 {
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

    /// Numbers of the names from which something is reached without another name between.
    fn sharers(&self, number: u32) -> Vec<u32> {
        let blocks = self.kinds.len() as u32;
        let mut seen: HashSet<u32> = HashSet::new();
        seen.insert(number);
        let mut queue = std::collections::VecDeque::from([number]);
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

    /// The numbers from one down to where what is retained spreads out, and the last of them.
    fn way_down(&self, number: u32, retained: &[u64], heaviest: &[u32]) -> (Vec<u32>, u32) {
        let mut way = vec![number];
        let mut at = number;
        while way.len() < MAX_STEPS {
            let next = heaviest[at as usize];
            if next == NONE || retained[next as usize] < retained[at as usize] / 2 {
                break;
            }
            at = next;
            way.push(at);
        }
        (way, at)
    }

    /// The objects on a way, like ones in a row together.
    fn path(&self, way: &[u32]) -> Vec<PathStep> {
        let mut path: Vec<PathStep> = Vec::new();
        let mut before: Option<(&Type, u64)> = None;
        // The dictionary of an instance, which is no step of its own.
        let mut own_dict = None;
        for number in way {
            let Some((of, addr)) = self.object(*number) else {
                continue;
            };
            if let Some((before, at)) = before
                && of.facts.role == Role::Dict
                && self.attributes().is_dict_of(before, at, addr)
            {
                own_dict = Some(addr);
                continue;
            }
            let length = self.length(of, addr);
            let via = before.and_then(|(before, at)| self.via(before, at, addr));
            let attribute = match (own_dict.take(), before) {
                (Some(dict), _) => self.attributes().in_dict(dict, addr),
                (None, Some((before, at))) => self.attributes().in_values(before, at, addr),
                (None, None) => None,
            };
            before = Some((of, addr));
            if let Some(last) = path.last_mut()
                && last.type_name == of.name
                && via.is_none()
                && attribute.is_none()
            {
                last.times += 1;
                last.length = length;
                continue;
            }
            if path.len() == MAX_PATH {
                break;
            }
            path.push(PathStep {
                via,
                attribute,
                type_name: of.name.clone(),
                length,
                times: 1,
            });
        }
        path
    }

    fn attributes(&self) -> Attributes<'_, M> {
        Attributes {
            memory: self.source.memory,
            layout: self.source.layout,
        }
    }

    /// What an object is to a function.
    fn via(&self, before: &Type, at: u64, addr: u64) -> Option<Via> {
        let function = &self.source.layout.function;
        let fields = [
            (Some(function.defaults), Via::Defaults),
            (function.keyword_defaults, Via::Defaults),
            (Some(function.closure), Via::Closure),
        ];
        let is = |offset: u64| read_word(self.source.memory, at.wrapping_add(offset)) == Some(addr);
        let mut fields = fields
            .iter()
            .filter(|_| before.facts.role == Role::Function);
        fields.find_map(|(offset, what)| offset.is_some_and(is).then_some(*what))
    }

    /// Of each of these numbers, the type of most of what is right below it, by bytes, and how many of that
    /// there are.
    fn item_types(
        &self,
        ends: impl Iterator<Item = u32>,
        retained: &[u64],
    ) -> HashMap<u32, (u32, u64)> {
        let mut sums: HashMap<u32, HashMap<u32, Amount>> =
            ends.map(|end| (end, HashMap::new())).collect();
        let mut add = |number: u32, item: Kind, blocks: u64, bytes: u64| {
            if let Some(sums) = sums.get_mut(&number)
                && let Kind::Object { of, .. } = item
            {
                let sum = sums.entry(of).or_default();
                sum.blocks += blocks;
                sum.bytes += bytes;
            }
        };
        for number in 1..self.tree.node.len() as u32 {
            if let Some(kind) = self.kind(number) {
                let above = self.tree.dominator[number as usize];
                add(above, kind, 1, retained[number as usize]);
            }
        }
        for block in 0..self.kinds.len() as u32 {
            let (into, below) = self.folded.within(block);
            if into != block {
                let number = self.tree.number[self.folded.place(into) as usize];
                let kind = self.kinds[below as usize].get();
                let bytes = self.source.index.bytes(block);
                add(number, kind, u64::from(below == block), bytes);
            }
        }
        let most = |of: &HashMap<u32, Amount>| {
            let most = of.iter().max_by_key(|(of, sum)| (sum.bytes, **of));
            most.map(|(of, sum)| (*of, sum.blocks))
        };
        let all = sums.iter().filter_map(|(end, of)| Some((*end, most(of)?)));
        all.collect()
    }

    /// The number of what a block is folded into, or [`NONE`].
    fn number(&self, block: u32) -> u32 {
        let (into, _) = self.folded.within(block);
        self.tree.number[self.folded.place(into) as usize]
    }

    fn kind(&self, number: u32) -> Option<Kind> {
        let node = self.tree.node[number as usize];
        self.kinds.get(node as usize).map(|kind| kind.get())
    }

    /// The type and the address of the object that a number is.
    fn object(&self, number: u32) -> Option<(&Type, u64)> {
        let node = self.tree.node[number as usize];
        match self.kind(number)? {
            Kind::Object { of, head } => {
                let start = self.source.index.range(node).start().get();
                Some((&self.types[of as usize], start + head))
            }
            _ => None,
        }
    }

    /// How many items a container has.
    fn length(&self, of: &Type, addr: u64) -> Option<u64> {
        let offset = self.source.layout.length(of.facts.role)?;
        read_word(self.source.memory, addr.checked_add(offset)?)
    }

    fn name_text(&self, number: u32) -> String {
        let node = self.tree.node[number as usize];
        let name = self.names.of_node(node);
        name.map_or_else(String::new, |(name, _)| {
            self.names
                .text(self.source.memory, self.source.layout, name)
        })
    }
}

/// Keeps those that retain most, in descending order.
fn largest(numbers: &mut Vec<u32>, retained: &[u64], most: usize) {
    let key = |number: &u32| (std::cmp::Reverse(retained[*number as usize]), *number);
    if numbers.len() > most {
        numbers.select_nth_unstable_by_key(most, key);
        numbers.truncate(most);
    }
    numbers.sort_unstable_by_key(key);
}

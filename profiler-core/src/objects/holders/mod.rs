//! Who holds what: the dominator tree in terms of the program's names.

mod bindings;
mod branches;
mod calls;
mod candidates;
mod items;
mod lengths_at;
mod origins;
mod packages;
mod path;
mod sharing;

use hashbrown::HashMap;

use self::candidates::Candidate;
pub(super) use self::origins::Origins;
use self::sharing::Sharing;
use super::census::{Amount, Census};
use super::dominators::Dominators;
use super::edges::{Resolver, Weak};
use super::fold::Folded;
use super::graph::NONE;
use super::holder::{Holder, NameKind};
use super::kinds::{Content, Kind, PackedKind};
use super::mapped::{Mapped, MappedBytes};
use super::names::{Name, Names};
use super::nesting::{NOBODY, Nesting};
use super::pins::{CopiedTypes, Owners, Pinned};
use super::scan::Source;
use super::types::{Flags, Role, Type};
use super::words::read_word;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::heap::HeapSnapshot;
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;

/// Nodes that a way down, or up to the next name, is followed over.
const MAX_STEPS: usize = 1 << 20;
/// A sharer that has no name: a field of a module or class, such as a class's bases.
const WITHOUT_NAME: &str = "(a place without a name)";

/// What holders are made from.
pub(super) struct Holders<'a, M> {
    pub(super) source: &'a Source<'a, M>,
    pub(super) kinds: &'a [PackedKind],
    pub(super) types: &'a [Type],
    pub(super) names: &'a Names,
    pub(super) folded: &'a Folded,
    pub(super) tree: &'a Dominators,
    pub(super) weak: &'a [Weak],
    pub(super) heaps: &'a [HeapSnapshot],
    pub(super) residency: &'a ResidencyMap,
    /// Pages that were copied since a fork.
    pub(super) copied: &'a [AddrRange],
    pub(super) mapped: &'a Mapped,
    pub(super) origins: Origins,
}

/// Sums over blocks, by the number of their types.
pub(super) struct ByType {
    /// Free bytes that blocks pin.
    pub(super) pinned: Vec<u64>,
    pub(super) copied: CopiedTypes,
    /// Those that no root was found for.
    pub(super) unreached: Vec<Amount>,
}

/// What each number of the tree keeps in memory: itself and everything it dominates.
struct Retained {
    /// Bytes of blocks and of memory mapped by `mmap` objects: these decide who is shown, and in
    /// which order.
    bytes: Vec<u64>,
    blocks: Vec<u32>,
    /// Those of the bytes that `mmap` objects map, in pages; empty if there are no such objects.
    mapped_pages: Vec<u32>,
}

impl Retained {
    /// Bytes that `mmap` objects map.
    fn mapped(&self, number: u32) -> u64 {
        let pages = self.mapped_pages.get(number as usize);
        pages.map_or(0, |pages| u64::from(*pages) * PAGE_SIZE)
    }

    /// Bytes of blocks.
    fn of_blocks(&self, number: u32) -> u64 {
        self.bytes[number as usize].saturating_sub(self.mapped(number))
    }
}

impl<M: TargetMemory> Holders<'_, M> {
    /// Fills in what each holder retains; returns the sums for each type.
    pub(super) fn report(&self, census: &mut Census) -> ByType {
        let mut unreached = vec![Amount::default(); self.types.len()];
        let retained = self.retained(census, &mut unreached);
        let heaviest = self.tree.heaviest(&retained.bytes);
        let sharing = self.sharing(&retained);
        let all = self.candidates(&retained, &sharing);
        let way = |candidate: &Candidate| match candidate.is_of_many(&retained.bytes) {
            true => (Vec::new(), NONE),
            false => self.way_down(candidate.number, &retained.bytes, &heaviest, MAX_STEPS),
        };
        let ways: Vec<(Vec<u32>, u32)> = all.iter().map(way).collect();
        let branches = self.branches(&ways, &retained, &heaviest);
        let pinned = self.pinned(&all, &sharing, census);
        let others = self.other_calls(&all, &retained, &heaviest);
        let of_holders = ways.iter().map(|(way, end)| (way.as_slice(), *end));
        let of_others = others.iter().map(|(_, way, end)| (way.as_slice(), *end));
        let of_branches = branches.iter().map(|of| (of.way.as_slice(), of.end));
        let all_ways = of_holders.chain(of_branches).chain(of_others);
        let mut items = self.items(all_ways, &retained.bytes);
        let of_others = items.split_off(ways.len() + branches.len());
        let (of_holders, of_branches) = items.split_at_mut(ways.len());
        for ((at, ..), more) in others.iter().zip(of_others) {
            if let (Some((of, count)), Some((of_more, more))) = (&mut of_holders[*at], more)
                && *of == of_more
            {
                *count = count.saturating_add(more);
            }
        }
        let of_many = self.types_of_many(&all, &sharing, &retained);
        for (at, (candidate, (way, _))) in all.iter().zip(&ways).enumerate() {
            census.holders.push(Holder {
                pinned_free_bytes: pinned.by_holder[at],
                // Memory freed with it beyond what it retains, such as weak references, is not
                // included.
                shared_bytes: Some(pinned.shared[at].min(candidate.of_blocks())),
                inner_bytes: Some(candidate.inner),
                mapped_bytes: Some(candidate.mapped),
                mapped_shared_bytes: Some(pinned.mapped[at].shared.min(candidate.mapped)),
                mapped_kept_bytes: Some(pinned.mapped[at].kept.min(candidate.mapped)),
                dropped: pinned
                    .dropped
                    .as_ref()
                    .map(|dropped| dropped[at].within(candidate.of_blocks())),
                ..self.holder(candidate, way, of_holders[at].or(of_many.get(&at).copied()))
            });
        }
        census.page_owners = pinned.page_owners;
        census.bindings = self.bindings();
        for (of, items) in branches.iter().zip(&*of_branches) {
            let branch = self.branch(of, &all[of.holder], *items, &retained);
            census.holders[of.holder].branches.extend(branch);
        }
        ByType {
            pinned: pinned.by_type,
            copied: pinned.copied,
            unreached,
        }
    }

    /// What each number retains; the census gets what names hold, and what is held by none.
    fn retained(&self, census: &mut Census, unreached: &mut [Amount]) -> Retained {
        let numbers = self.tree.node.len();
        // The bytes and the number of blocks folded into each.
        let (mut bytes, mut blocks) = (vec![0; numbers], vec![0u32; numbers]);
        for block in 0..self.kinds.len() as u32 {
            let own = self.source.index.bytes(block);
            let number = self.number(block);
            if number == NONE {
                census.unreached.add(own);
                if let Some(of) = self.type_of(block) {
                    unreached[of as usize].add(own);
                }
                continue;
            }
            bytes[number as usize] += own;
            blocks[number as usize] += 1;
            if number < self.tree.first_phase_end() {
                census.held_by_names.add(own);
            }
        }
        let mut mapped_pages = match self.mapped.all().is_empty() {
            true => Vec::new(),
            false => vec![0u32; numbers],
        };
        for (block, of) in self.mapped.all() {
            let number = self.number(*block);
            if number != NONE {
                bytes[number as usize] += of.all;
                let pages = u32::try_from(of.all / PAGE_SIZE).unwrap_or(u32::MAX);
                let sum = &mut mapped_pages[number as usize];
                *sum = sum.saturating_add(pages);
            }
        }
        let mapped_pages = match mapped_pages.is_empty() {
            true => mapped_pages,
            false => self.tree.retained_blocks(mapped_pages),
        };
        Retained {
            bytes: self.tree.retained(bytes),
            blocks: self.tree.retained_blocks(blocks),
            mapped_pages,
        }
    }

    /// A holder without what its blocks pin: its path, and the type and number of its items.
    fn holder(&self, candidate: &Candidate, way: &[u32], item: Option<(u32, u64)>) -> Holder {
        let names = candidate.names.iter();
        let names = names.map(|name| (*name, self.kind_of_name(*name), self.name_text(*name)));
        let mut names: Vec<(u32, NameKind, String)> = names.collect();
        // The program's own names are preferred to those of libraries and to variables of the code
        // that runs the program. Among these, a name that refers directly to the thing is preferred
        // to one from which it is far.
        let has_it = |name: u32| {
            let (_, value) = self.names.of_node(self.tree.node[name as usize])?;
            let is_block = (value as usize) < self.kinds.len();
            (is_block && self.number(value) == candidate.number).then_some(())
        };
        // A variable is gone when its function returns, so if neither name refers to it directly,
        // the permanent one is preferred.
        names.sort_by_key(|(at, kind, name)| {
            (
                self.origins.rank(name, *kind),
                has_it(*at).is_none(),
                *kind == NameKind::Variable,
            )
        });
        let first = way.iter().find_map(|number| self.object(*number));
        // What several names share may be far below what the first of them refers to.
        let value = names.first().and_then(|(name, ..)| self.value(*name));
        let (mut name_kinds, names): (Vec<NameKind>, Vec<String>) = names
            .into_iter()
            .map(|(_, kind, name)| (kind, name))
            .unzip();
        let mut names = names.into_iter();
        let name = names.next().unwrap_or_default();
        let mut shared_with: Vec<String> = names.collect();
        if candidate.group.is_some() && candidate.names.len() == 1 {
            shared_with.push(WITHOUT_NAME.to_owned());
            name_kinds.push(NameKind::Place);
        }
        let item_name = item.map(|(of, _)| self.types[of as usize].name.clone());
        Holder {
            name,
            shared_with,
            name_kinds,
            is_name: candidate.names.iter().all(|name| {
                let name = self.names.of_node(self.tree.node[*name as usize]);
                !matches!(name, Some((Name::Root(_), _)))
            }),
            type_name: match (value, way.is_empty()) {
                (Some((of, _)), _) => Some(of.name.clone()),
                (None, true) => item_name.clone(),
                (None, false) => first.map(|(of, _)| of.name.clone()),
            },
            object: value.map(|(_, addr)| RemoteAddr::new(addr)),
            length: value.or(first).and_then(|(of, addr)| self.length(of, addr)),
            retained_bytes: candidate.of_blocks(),
            retained_blocks: candidate.blocks,
            calls: candidate.calls,
            path: self.path(way),
            length_at: self.length_at_end(candidate, way),
            item_type: item_name,
            items: item.map_or(0, |(_, count)| count),
            ..Holder::default()
        }
    }

    /// The object that a name refers to.
    fn value(&self, name: u32) -> Option<(&Type, u64)> {
        let (_, value) = self.names.of_node(self.tree.node[name as usize])?;
        if value == NONE {
            return None;
        }
        let (addr, of) = self.resolver().object_in(value)?;
        Some((&self.types[of as usize], addr))
    }

    /// What the blocks of each candidate, and of each type, pin.
    fn pinned(&self, all: &[Candidate], sharing: &Sharing, census: &mut Census) -> Pinned {
        let tree = self.tree;
        // The innermost candidate for each number, and the candidate around each candidate.
        let mut owner = vec![NOBODY; tree.node.len()];
        let mut around: Vec<Option<u16>> = vec![None; all.len()];
        let tops: HashMap<u32, u16> = (0u16..)
            .zip(all)
            .flat_map(|(at, candidate)| candidate.tops.iter().map(move |&top| (top, at)))
            .collect();
        let of_groups: HashMap<u32, u16> = (0u16..)
            .zip(all)
            .filter_map(|(at, candidate)| Some((candidate.group?, at)))
            .collect();
        let mut things = sharing.things().peekable();
        for number in 1..tree.node.len() {
            let above = owner[tree.dominator[number] as usize];
            let thing = things.next_if(|(thing, _)| *thing == number as u32);
            let of_group = thing.and_then(|(_, group)| of_groups.get(&group));
            owner[number] = match of_group.or_else(|| tops.get(&(number as u32))) {
                Some(&at) => {
                    // If several things are shared, the first decides, so that none is around
                    // itself.
                    around[usize::from(at)].get_or_insert(above);
                    at
                }
                None => above,
            };
        }
        let around = around.into_iter().map(|of| of.unwrap_or(NOBODY));
        let around: Vec<u16> = around.collect();
        let blocks = 0..self.kinds.len() as u32;
        let mut holders: Vec<u16> = blocks
            .map(|block| {
                let number = self.number(block);
                owner.get(number as usize).copied().unwrap_or(NOBODY)
            })
            .collect();
        drop(owner);
        self.unlisted(&holders, &around, sharing, census);
        self.give_weak(&mut holders);
        let nesting = Nesting::of(around);
        let mut mapped = vec![MappedBytes::default(); all.len()];
        for &(block, of) in self.mapped.all() {
            if let Some(sum) = mapped.get_mut(usize::from(holders[block as usize])) {
                sum.add(of);
            }
        }
        nesting.add_up(&mut mapped, |above: &mut MappedBytes, own| above.add(own));
        let owners = Owners {
            index: self.source.index,
            holders: &holders,
            of_type: &|block| self.type_of(block),
            nesting: &nesting,
            has_gc_head: &|of| self.types[of as usize].facts.flags.has(Flags::HAVE_GC),
            types: self.types.len(),
        };
        Pinned {
            mapped,
            ..owners.pinned(self.heaps, self.residency, self.copied)
        }
    }

    /// A weak reference with a callback is removed from its set or dictionary when its referent is
    /// freed (`WeakSet`, `WeakValueDictionary`). So it counts as freed with the referent when
    /// computing returned pages, if only such a table holds it.
    fn give_weak(&self, holders: &mut [u16]) {
        let freed = self
            .weak
            .iter()
            .filter(|weak| weak.calls_back && self.is_in_a_table(weak.block));
        let freed: Vec<(u32, u16)> = freed
            .map(|weak| (weak.block, holders[weak.referent as usize]))
            .filter(|(_, holder)| *holder != NOBODY)
            .collect();
        for (block, holder) in freed {
            holders[block as usize] = holder;
        }
    }

    /// Whether a set or a dictionary alone refers to a block.
    fn is_in_a_table(&self, block: u32) -> bool {
        let only = self.folded.only_referrer(block);
        let kind = only.and_then(|only| self.kinds.get(only as usize));
        match kind.map(|kind| kind.get()) {
            Some(Kind::Object { of, .. }) => {
                matches!(self.types[of as usize].facts.role, Role::Set | Role::Dict)
            }
            Some(Kind::Storage { content, .. }) => matches!(
                content,
                Content::SetTable | Content::DictKeys | Content::OpenTable
            ),
            _ => false,
        }
    }

    /// The number of what a block is folded into, or [`NONE`].
    fn number(&self, block: u32) -> u32 {
        let (into, _) = self.folded.within(block);
        self.tree.number[self.folded.place(into) as usize]
    }

    /// The type of the object that a block holds, or belongs to.
    fn type_of(&self, block: u32) -> Option<u32> {
        match self.kinds[block as usize].get() {
            Kind::Object { of, .. } | Kind::Storage { of, .. } => Some(of),
            _ => None,
        }
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

    /// How many items a container has, an `lru_cache` results, or bytes an `mmap` object.
    fn length(&self, of: &Type, addr: u64) -> Option<u64> {
        read_word(self.source.memory, self.length_at(of, addr)?)
    }

    /// Where that number is.
    fn length_at(&self, of: &Type, addr: u64) -> Option<u64> {
        let layout = self.source.layout;
        match of.facts.role {
            Role::LruCache => self.results(addr)?.checked_add(layout.dict_used()),
            role => addr.checked_add(layout.length(role)?),
        }
    }

    /// The dictionary of an `lru_cache`.
    fn results(&self, addr: u64) -> Option<u64> {
        let (cache, _) = self.source.layout.lru_cache();
        let cache = read_word(self.source.memory, addr.checked_add(cache)?)?;
        let (_, of) = self.resolver().object(cache)?;
        (self.types[of as usize].facts.role == Role::Dict).then_some(cache)
    }

    fn resolver(&self) -> Resolver<'_, M> {
        Resolver {
            source: self.source,
            kinds: self.kinds,
        }
    }

    /// The kind of a name; a number that is not a name is a place.
    fn kind_of_name(&self, number: u32) -> NameKind {
        let name = self.names.of_node(self.tree.node[number as usize]);
        name.map_or(NameKind::Place, |(name, _)| name.kind())
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

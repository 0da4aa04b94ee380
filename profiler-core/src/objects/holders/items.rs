//! What a container contains: the type of most of its items at the moment of reading.

use std::cmp::Reverse;
use std::ops::Range;

use hashbrown::HashMap;

use super::candidates::Candidate;
use super::sharing::Sharing;
use super::{Holders, Retained};
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::objects::census::Amount;
use crate::objects::deque;
use crate::objects::dict::DictParts;
use crate::objects::edges::{Entries, Stored};
use crate::objects::graph::NONE;
use crate::objects::kinds::Kind;
use crate::objects::layout::{LRU_RESULT, SIZE};
use crate::objects::types::Role;
use crate::objects::words::{read_word, word, words};

/// The most items of one container that are examined; of a larger one, chunks that are spread
/// evenly over it.
const MAX_LOOKED_AT: u64 = 1 << 16;
/// The most results of one `lru_cache` that are examined, from the first on: each takes a separate
/// read.
const MAX_RESULTS: u64 = 256;
/// Entries that are read at once.
const CHUNK: u64 = 512;
/// The most blocks of a deque that are examined, from its left end on.
const MAX_BLOCKS: usize = 1 << 10;
/// The largest head of a container, in bytes, that gives the position of its items.
const HEAD: usize = 64;
/// The same for a dictionary from 3.6 on.
const DICT_HEAD: usize = 48;

/// The items examined.
#[derive(Default)]
struct Tally {
    /// The number of all, whatever their types.
    all: u64,
    by_type: HashMap<u32, u64>,
    /// Whether there are others.
    is_part: bool,
}

impl Tally {
    /// The type that most of them have, and how many of `length` that is if the others are like these.
    fn most(&self, length: u64) -> Option<(u32, u64)> {
        let most = self
            .by_type
            .iter()
            .max_by_key(|(of, count)| (**count, Reverse(**of)));
        let (of, count) = most?;
        let scaled = u128::from(*count) * u128::from(length) / u128::from(self.all.max(1));
        match self.is_part {
            true => Some((*of, scaled.try_into().unwrap_or(u64::MAX))),
            false => Some((*of, *count)),
        }
    }
}

impl<M: TargetMemory> Holders<'_, M> {
    /// For the end of each path ([`NONE`] if it has none): the type of its items, and the number of
    /// items of that type. For containers these are their actual items, for others the objects
    /// directly below.
    pub(super) fn items<'w>(
        &self,
        ways: impl Iterator<Item = (&'w [u32], u32)>,
        retained: &[u64],
    ) -> Vec<Option<(u32, u64)>> {
        let found = ways.map(|(way, end)| {
            let last = way
                .iter()
                .rev()
                .find(|number| self.object(**number).is_some());
            (end, last.and_then(|last| self.items_of_container(*last)))
        });
        let found: Vec<(u32, Option<(u32, u64)>)> = found.collect();
        let others = found.iter().filter(|(_, items)| items.is_none());
        let below = self.types_below(others.map(|(end, _)| *end), retained);
        let all = found.into_iter();
        all.map(|(end, items)| items.or_else(|| below.get(&end).copied()))
            .collect()
    }

    /// For each of these numbers, the type with most bytes directly below it, and the number of its
    /// objects.
    fn types_below(
        &self,
        ends: impl Iterator<Item = u32>,
        retained: &[u64],
    ) -> HashMap<u32, (u32, u64)> {
        let mut sums: HashMap<u32, HashMap<u32, Amount>> = (ends
            .filter(|end| *end != NONE)
            .map(|end| (end, HashMap::new())))
        .collect();
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
        let all = sums
            .iter()
            .filter_map(|(end, of)| Some((*end, heaviest(of)?)));
        all.collect()
    }

    /// For many things that are shared by the same names, the type with most bytes and the number
    /// of its objects, by the index of the candidate.
    pub(super) fn types_of_many(
        &self,
        all: &[Candidate],
        sharing: &Sharing,
        retained: &Retained,
    ) -> HashMap<usize, (u32, u64)> {
        let many = all.iter().enumerate();
        let many = many.filter(|(_, candidate)| candidate.is_of_many(&retained.bytes));
        let places: HashMap<u32, usize> = many
            .filter_map(|(at, candidate)| Some((candidate.group?, at)))
            .collect();
        let mut sums: HashMap<usize, HashMap<u32, Amount>> = HashMap::new();
        for (thing, group) in sharing.things() {
            if let Some(&at) = places.get(&group)
                && let Some(Kind::Object { of, .. }) = self.kind(thing)
            {
                let sum = sums.entry(at).or_default().entry(of).or_default();
                sum.add(retained.bytes[thing as usize]);
            }
        }
        let all = sums
            .iter()
            .filter_map(|(at, of)| Some((*at, heaviest(of)?)));
        all.collect()
    }

    /// The type of most items of a list, tuple, dictionary, set or deque, and the number of its
    /// items; `None` for anything else, and if it is unreadable. For a dictionary the values count,
    /// or its keys if its values are not in the heap, such as `None` and `True`.
    fn items_of_container(&self, number: u32) -> Option<(u32, u64)> {
        let (of, addr) = self.object(number)?;
        if of.facts.role == Role::LruCache {
            return self.items_of_cache(addr);
        }
        let mut head = [0; HEAD];
        let layout = self.source.layout;
        let known = &mut head[..of.facts.basic_size.min(HEAD as u64) as usize];
        self.source
            .memory
            .read_current(RemoteAddr::new(addr), known)
            .ok()?;
        let length = word(&head, layout.length(of.facts.role)?)?;
        if of.facts.role == Role::Deque {
            let mut tally = Tally::default();
            let blocks = deque::blocks(self.source.memory, layout, &head, MAX_BLOCKS + 1);
            for (nth, (at, items)) in blocks.enumerate() {
                if nth == MAX_BLOCKS {
                    tally.is_part = true;
                    break;
                }
                let entries = Entries {
                    at: at.checked_add(u64::from(items.start) * 8)?,
                    count: items.len() as u64,
                    stride: 1,
                    taken: 0..1,
                };
                self.look_at(&entries, 0..1, &mut tally);
            }
            return tally.most(length);
        }
        let entries = match of.facts.role {
            Role::Tuple => Entries {
                at: addr.checked_add(layout.tuple_items())?,
                count: word(&head, SIZE)?,
                stride: 1,
                taken: 0..1,
            },
            Role::Dict if DictParts::of(layout, &head)?.values != 0 => return None,
            role => Stored::of(layout, role, &head)?.entries(self.source)?,
        };
        let tallies = entries.taken.clone().rev().map(|taken| {
            let mut tally = Tally::default();
            self.look_at(&entries, taken..taken + 1, &mut tally);
            tally.most(length)
        });
        tallies.flatten().next()
    }

    /// The type of most results of an `lru_cache`, and the number of these.
    fn items_of_cache(&self, addr: u64) -> Option<(u32, u64)> {
        let (memory, layout) = (self.source.memory, self.source.layout);
        let mut head = [0; HEAD];
        let dict = RemoteAddr::new(self.results(addr)?);
        memory.read_current(dict, &mut head[..DICT_HEAD]).ok()?;
        let length = word(&head, layout.dict_used())?;
        let entries = Stored::of(layout, Role::Dict, &head)?.entries(self.source)?;
        let mut tally = Tally::default();
        let value = entries.taken.end.checked_sub(1)?;
        self.look_at(&entries, value..value + 1, &mut tally);
        tally.most(length)
    }

    /// The type of an item. For an element of a bounded `lru_cache` it is the type of the result,
    /// which takes another read: only `results_left` of these are read, the others have no type.
    fn type_of_item(&self, item: u64, results_left: &mut u64) -> Option<u32> {
        let resolve = self.resolver();
        let (_, of) = resolve.object(item)?;
        if self.types[of as usize].facts.role != Role::LruElement {
            return Some(of);
        }
        *results_left = results_left.checked_sub(1)?;
        let result = read_word(self.source.memory, item.checked_add(LRU_RESULT)?)?;
        resolve.object(result).map(|(_, of)| of)
    }

    /// Adds up the types of these words of the entries.
    fn look_at(&self, entries: &Entries, taken: Range<usize>, tally: &mut Tally) {
        let chunks = entries.count.div_ceil(CHUNK);
        let looked_at = chunks.min(MAX_LOOKED_AT / CHUNK);
        tally.is_part |= looked_at < chunks;
        let mut bytes = Vec::new();
        let mut results_left = MAX_RESULTS;
        for nth in 0..looked_at {
            let first =
                (u128::from(nth) * u128::from(chunks) / u128::from(looked_at)) as u64 * CHUNK;
            let count = CHUNK.min(entries.count - first);
            bytes.resize((count * entries.stride * 8) as usize, 0);
            let offset = first.checked_mul(entries.stride * 8);
            let at = offset.and_then(|offset| entries.at.checked_add(offset));
            let read = at.map(|at| {
                self.source
                    .memory
                    .read_current(RemoteAddr::new(at), &mut bytes)
            });
            if !matches!(read, Some(Ok(()))) {
                tally.is_part = true;
                continue;
            }
            for entry in bytes.chunks_exact(entries.stride as usize * 8) {
                let item = words(entry).nth(taken.start).filter(|item| *item != 0);
                let Some(item) = item else {
                    continue;
                };
                tally.all += 1;
                if let Some(of) = self.type_of_item(item, &mut results_left) {
                    *tally.by_type.entry(of).or_default() += 1;
                }
                if results_left == 0 {
                    tally.is_part = true;
                    return;
                }
            }
        }
    }
}

/// The type with most bytes, and the number of its objects.
fn heaviest(of: &HashMap<u32, Amount>) -> Option<(u32, u64)> {
    let most = of.iter().max_by_key(|(of, sum)| (sum.bytes, **of));
    most.map(|(of, sum)| (*of, sum.blocks))
}

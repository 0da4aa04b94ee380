//! Where the number of items of a holder's container is, and the word by which the container is referred to: a program
//! may bind the name to another container by the next count.

use super::Holders;
use super::candidates::Candidate;
use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;
use crate::objects::kinds::Kind;
use crate::objects::lengths::{Container, LengthAt};
use crate::objects::types::Role;
use crate::objects::words::{read_word, words};

/// Bytes of an object, or of its storage, that are searched for a reference.
const MAX_SEARCHED: u64 = 64 << 10;
/// Words of an object that may refer to its storage.
const MAX_PARTS: usize = 16;
/// Where an object has its type.
const TYPE: u64 = 8;

impl<M: TargetMemory> Holders<'_, M> {
    /// Of the last object on a way from one of these names.
    pub(super) fn length_at_end(&self, candidate: &Candidate, way: &[u32]) -> Option<LengthAt> {
        let mut objects = way.iter().enumerate().rev();
        let (nth, (of, addr)) = objects.find_map(|(nth, of)| Some((nth, self.object(*of)?)))?;
        let at = RemoteAddr::new(self.length_at(of, addr)?);
        // What is counted of a cache are the results, which a dictionary of its own has.
        if of.facts.role == Role::LruCache {
            return Some(LengthAt {
                at,
                container: None,
            });
        }
        let place = match nth.checked_sub(1) {
            Some(before) => self.place_within(way[before], addr),
            None => self.place_of_name(candidate, addr),
        };
        Some(LengthAt {
            at,
            container: read_word(self.source.memory, addr.checked_add(TYPE)?).map(|of_type| {
                Container {
                    at: RemoteAddr::new(addr),
                    of_type,
                    place: place.map(RemoteAddr::new),
                }
            }),
        })
    }

    /// The word by which one of the names refers to an object.
    fn place_of_name(&self, candidate: &Candidate, addr: u64) -> Option<u64> {
        let mut names = candidate.names.iter();
        names.find_map(|name| {
            let node = self.tree.node[*name as usize];
            let (_, value) = self.names.of_node(node)?;
            let (value, _) = self.resolver().object_in(value)?;
            (value == addr).then(|| self.names.place(self.source, node, addr))?
        })
    }

    /// The word by which an object, or storage, refers to the object at `addr`.
    fn place_within(&self, number: u32, addr: u64) -> Option<u64> {
        let block = self.tree.node[number as usize];
        self.kinds.get(block as usize)?;
        let range = self.source.index.range(block);
        let own = self.words_of(range)?;
        let is_it = |words: &[u64]| words.iter().position(|word| *word == addr);
        let within = |start: RemoteAddr, nth: usize| start.get().checked_add(nth as u64 * 8);
        if let Some(nth) = is_it(&own) {
            return within(range.start(), nth);
        }
        let parts = own.iter().filter_map(|word| {
            let (part, _) = self.source.index.at(*word)?;
            let is_storage = matches!(self.kinds[part as usize].get(), Kind::Storage { .. });
            (is_storage && part != block).then_some(part)
        });
        let mut parts = parts.take(MAX_PARTS);
        parts.find_map(|part| {
            let range = self.source.index.range(part);
            within(range.start(), is_it(&self.words_of(range)?)?)
        })
    }

    /// The words at the beginning of a block.
    fn words_of(&self, range: AddrRange) -> Option<Vec<u64>> {
        let mut bytes = vec![0; range.len().min(MAX_SEARCHED) as usize];
        let read = self.source.memory.read_current(range.start(), &mut bytes);
        read.ok().map(|()| words(&bytes).collect())
    }
}

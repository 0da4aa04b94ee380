//! Finds pools by their shape in all private memory.

use std::collections::BTreeMap;

use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;
use crate::pymalloc::pool::{HEADER, Pool};
use crate::residency::{Mapping, MappingKind, ResidencyMap};

/// Headers read at once.
const BATCH: usize = 4096;
/// What looks like pools of one arena is kept by stretches of this size, the smallest arena's.
const STRETCH: u64 = 256 << 10;
/// Places of allocator states that are kept at most.
const MAX_STATES: usize = 1 << 16;
/// The pool sizes looked for, in bytes.
const POOL_SIZES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];

/// Where pools may be looked for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Where {
    /// Anonymous mappings, where arenas are unless an embedder decides otherwise.
    Mapped,
    /// The brk area: arenas from malloc.
    Brk,
}

impl Where {
    fn has(self, mapping: &Mapping) -> bool {
        let kind = match &mapping.kind {
            MappingKind::Anonymous | MappingKind::NamedAnonymous(_) => self == Self::Mapped,
            MappingKind::Brk => self == Self::Brk,
            _ => false,
        };
        kind && mapping.read && mapping.write && !mapping.shared
    }
}

/// What looks like pools in use. Pages of other data may be among them; the search for arenas
/// leaves those out.
#[derive(Clone, Debug, Default)]
pub(super) struct FoundPools {
    /// The lowest and the highest pool by arena index and area of memory: an index used by two
    /// interpreters is distinguished by the pools' locations.
    pub(super) pools: BTreeMap<(u32, u64), (RemoteAddr, RemoteAddr)>,
    /// Addresses of the heads of the pools' lists (`usedpools`), with the number of pools that lead
    /// to each.
    states: BTreeMap<RemoteAddr, u32>,
}

impl FoundPools {
    fn add(&mut self, pool: &Pool) {
        let addr = pool.addr;
        let key = (pool.arena, addr.get() / STRETCH);
        let entry = self.pools.entry(key).or_insert((addr, addr));
        *entry = (entry.0.min(addr), entry.1.max(addr));
        for state in pool.list_heads().into_iter().flatten() {
            if self.states.len() < MAX_STATES || self.states.contains_key(&state) {
                *self.states.entry(state).or_default() += 1;
            }
        }
    }

    /// Removes the pools in one of these ranges, which ascend and do not overlap.
    pub(super) fn forget(&mut self, arenas: &[AddrRange]) {
        let known = |addr: RemoteAddr| {
            let after = arenas.partition_point(|arena| arena.end() <= addr);
            arenas.get(after).is_some_and(|arena| arena.contains(addr))
        };
        self.pools
            .retain(|_, (low, high)| !(known(*low) && known(*high)));
    }

    /// Addresses of the lists' heads, those named by most pools first.
    pub(super) fn states(&self) -> Vec<RemoteAddr> {
        let mut states: Vec<_> = self.states.iter().collect();
        states.sort_by_key(|&(_, &votes)| std::cmp::Reverse(votes));
        states.into_iter().map(|(&state, _)| state).collect()
    }
}

/// Checks every address in resident memory where a pool of this size may begin, except in `known`,
/// which ascend and do not overlap.
pub(super) fn pools<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    pool_size: u64,
    place: Where,
    known: &[AddrRange],
) -> FoundPools {
    let mut candidates = FoundPools::default();
    let places = Places {
        residency,
        place,
        step: pool_size,
        known,
    };
    places.headers(memory, |addr, header| {
        if let Some(pool) = Pool::parse(addr, header, pool_size) {
            candidates.add(&pool);
        }
    });
    candidates
}

/// The possible pool sizes according to headers, that of most pools first.
pub(super) fn pool_sizes<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    place: Where,
) -> Vec<u64> {
    let mut votes = POOL_SIZES.map(|size| (0u64, size));
    let places = Places {
        residency,
        place,
        step: POOL_SIZES[0],
        known: &[],
    };
    places.headers(memory, |addr, header| {
        for (votes, size) in &mut votes {
            let fits = addr.is_aligned(*size) && Pool::parse(addr, header, *size).is_some();
            *votes += u64::from(fits);
        }
    });
    votes.sort_by_key(|&(votes, _)| std::cmp::Reverse(votes));
    let voted = votes.iter().filter(|&&(votes, _)| votes > 0);
    voted.map(|&(_, size)| size).collect()
}

/// Every multiple of `step` in resident memory, except what is known.
struct Places<'a> {
    residency: &'a ResidencyMap,
    place: Where,
    step: u64,
    known: &'a [AddrRange],
}

impl Places<'_> {
    /// Yields the bytes at each of them.
    fn headers<M: TargetMemory>(
        &self,
        memory: &M,
        mut give: impl FnMut(RemoteAddr, &[u8; HEADER as usize]),
    ) {
        let mut addrs = Vec::with_capacity(BATCH);
        let mut headers = Vec::with_capacity(BATCH);
        let mut read_batch = |addrs: &mut Vec<RemoteAddr>| {
            memory.read_scattered::<{ HEADER as usize }>(addrs, &mut headers);
            for (addr, header) in addrs.drain(..).zip(&headers) {
                if let Some(header) = header {
                    give(addr, header);
                }
            }
        };
        let mappings = self.residency.mappings().iter();
        for mapping in mappings.filter(|mapping| self.place.has(mapping)) {
            for run in self.residency.runs_in(mapping.range) {
                if run.state.is_resident() {
                    self.each_in(run.range, |addr| {
                        addrs.push(addr);
                        if addrs.len() == BATCH {
                            read_batch(&mut addrs);
                        }
                    });
                }
            }
        }
        read_batch(&mut addrs);
    }

    fn each_in(&self, range: AddrRange, mut give: impl FnMut(RemoteAddr)) {
        let mut at = range.start().align_up(self.step);
        let first = self
            .known
            .partition_point(|known| known.end() <= range.start());
        let mut known = self.known[first..].iter().peekable();
        while let Some(addr) = at.filter(|&addr| range.contains(addr)) {
            while known.next_if(|known| known.end() <= addr).is_some() {}
            at = match known.peek().filter(|known| known.contains(addr)) {
                Some(known) => known.end().align_up(self.step),
                None => {
                    give(addr);
                    addr.checked_add(self.step)
                }
            };
        }
    }
}

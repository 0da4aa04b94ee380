//! Finding pools by their shape, and the array of arenas by what the pools say of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::addr::RemoteAddr;
use crate::memory::{PageCache, TargetMemory};
use crate::pymalloc::Geometry;
use crate::pymalloc::data::{self, Words};
use crate::pymalloc::pool::{HEADER, Pool};
use crate::residency::{Mapping, MappingKind, ResidencyMap};

/// Headers read at once.
const BATCH: usize = 4096;
/// Bytes of an `arena_object`.
const OBJECT: u64 = 48;
/// `INITIAL_ARENA_OBJECTS`: the array has 16 times a power of two entries.
const FIRST_ARENAS: u64 = 16;
/// Arenas that an array is trusted to have at the most: 64 GiB in small ones.
const MAX_ARENAS: u64 = 1 << 18;
/// Interpreters with their own arenas looked for at the most.
const MAX_ARRAYS: usize = 64;
/// Arenas that an array is asked for first.
const SAMPLES: usize = 8;
/// Agreeing arenas that an array must show, unless it has fewer in use.
const VOTES: usize = 4;

/// An `arena_object` that is in use.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct ArenaObject {
    /// Its index in the array.
    pub(super) index: u32,
    /// Where the arena begins.
    pub(super) address: RemoteAddr,
    /// The next pool never used.
    pub(super) pool_address: RemoteAddr,
    /// Free pools, never-used ones included.
    pub(super) free_pools: u64,
    /// Pools in all.
    pub(super) total_pools: u64,
}

/// An array of arenas.
pub(super) struct Array {
    pub(super) base: RemoteAddr,
    pub(super) arenas: Vec<ArenaObject>,
}

/// The lowest and highest address of what looks like pools in use, by arena index. Pages of other
/// data that look like pools may be among them; the vote leaves them out.
pub(super) type Seen = BTreeMap<(u32, u64), (RemoteAddr, RemoteAddr)>;

fn is_private_data(mapping: &Mapping) -> bool {
    let anonymous = matches!(
        mapping.kind,
        MappingKind::Anonymous | MappingKind::NamedAnonymous(_)
    );
    anonymous && mapping.read && mapping.write && !mapping.shared
}

/// Looks at every place in resident anonymous memory where a pool may begin.
pub(super) fn pools<M: TargetMemory>(memory: &M, residency: &ResidencyMap, of: Geometry) -> Seen {
    let mut seen = Seen::new();
    let mut addrs = Vec::with_capacity(BATCH);
    let mut headers = Vec::with_capacity(BATCH);
    let mut look = |addrs: &mut Vec<RemoteAddr>| {
        memory.read_scattered::<{ HEADER as usize }>(addrs, &mut headers);
        for (addr, header) in addrs.drain(..).zip(&headers) {
            if let Some(pool) = header.as_ref().and_then(|h| Pool::parse(addr, h, of)) {
                // Pools of one arena lie within its size; an index that two interpreters use is
                // told apart by where the arena is, to its size.
                let key = (pool.arena, addr.get() / of.arena);
                let entry = seen.entry(key).or_insert((addr, addr));
                *entry = (entry.0.min(addr), entry.1.max(addr));
            }
        }
    };
    for mapping in residency
        .mappings()
        .iter()
        .filter(|mapping| is_private_data(mapping))
    {
        for run in residency.runs_in(mapping.range) {
            if !run.state.is_resident() {
                continue;
            }
            let mut at = run.range.start().align_up(of.pool);
            while let Some(addr) = at.filter(|&addr| run.range.contains(addr)) {
                addrs.push(addr);
                if addrs.len() == BATCH {
                    look(&mut addrs);
                }
                at = addr.checked_add(of.pool);
            }
        }
    }
    look(&mut addrs);
    seen
}

/// The arrays of arenas that the pools point into. What they explain is taken out of `seen`.
///
/// The pointer to the array lies in the writable data of Python (`arenas`, from 3.12 in the
/// interpreter's state), so the words there are tried; one is right when its entries at the
/// indexes that pools name hold those pools' arenas.
pub(super) fn arrays<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    of: Geometry,
    seen: &mut Seen,
) -> Vec<Array> {
    let mut arrays: Vec<Array> = Vec::new();
    // Candidates lie close together, and entries of one array even more so.
    let memory = PageCache::new(memory);
    for of_python in [true, false] {
        for base in candidates(&memory, residency, of, of_python, seen) {
            if seen.is_empty() || arrays.len() == MAX_ARRAYS {
                return arrays;
            }
            if let Some(array) = try_array(&memory, of, base, seen) {
                for arena in &array.arenas {
                    forget(seen, of, arena);
                }
                arrays.push(array);
            }
        }
        if !arrays.is_empty() {
            break;
        }
    }
    arrays
}

/// The words in writable data that may point to an array of arenas, ascending, each once: to
/// malloc'd memory, so not into the pools themselves.
fn candidates<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    of: Geometry,
    of_python: bool,
    seen: &Seen,
) -> Vec<RemoteAddr> {
    let mut pools: Vec<_> = seen.values().copied().collect();
    pools.sort_unstable();
    let in_pools = |addr: RemoteAddr| {
        let after = pools.partition_point(|&(low, _)| low <= addr);
        let last = after.checked_sub(1).and_then(|i| pools.get(i));
        last.is_some_and(|&(_, high)| addr.get() < high.get() + of.pool)
    };
    let data = data::words(memory, residency, of_python);
    let all = data.iter().flat_map(Words::iter);
    let mut words: Vec<_> = all.map(|(_, word, _)| RemoteAddr::new(word)).collect();
    words.sort_unstable();
    words.dedup();
    words.retain(|&base| may_be_array(residency, base) && !in_pools(base));
    words
}

fn may_be_array(residency: &ResidencyMap, base: RemoteAddr) -> bool {
    base.is_aligned(8)
        && residency.mapping_at(base).is_some_and(|mapping| {
            let heap = matches!(
                mapping.kind,
                MappingKind::Brk | MappingKind::Anonymous | MappingKind::NamedAnonymous(_)
            );
            heap && mapping.write
        })
}

/// Whether entries at the pools' indexes agree; then all arenas of the array.
fn try_array<M: TargetMemory>(
    memory: &M,
    of: Geometry,
    base: RemoteAddr,
    seen: &Seen,
) -> Option<Array> {
    let agrees = |&(index, _): &(u32, u64), &(low, high): &(RemoteAddr, RemoteAddr)| {
        let arena = object(memory, of, base, index)?;
        (arena.address <= low && high.get() < arena.address.get() + of.arena).then_some(())
    };
    // A few first, from all over: most words are not the array. Where forged pools outnumber the
    // real ones, the array is known by its own shape.
    let step = seen.len().div_ceil(SAMPLES);
    let mut few = seen.iter().step_by(step);
    if !few.any(|(key, ends)| agrees(key, ends).is_some()) && !begins_like_array(memory, of, base) {
        return None;
    }
    let agreeing = seen
        .iter()
        .filter(|(key, ends)| agrees(key, ends).is_some());
    let voters: BTreeSet<u32> = agreeing.map(|(key, _)| key.0).collect();
    let highest = voters.last().copied()?;
    let mut length = FIRST_ARENAS;
    while length <= u64::from(highest) && length < MAX_ARENAS {
        length *= 2;
    }
    let arenas: Vec<_> = (0..length as u32)
        .filter_map(|index| object(memory, of, base, index))
        .collect();
    let in_use = |arena: &&ArenaObject| arena.free_pools < arena.total_pools;
    let all_agree = arenas
        .iter()
        .filter(in_use)
        .all(|arena| voters.contains(&arena.index));
    let enough = voters.len() >= VOTES || voters.len() * 2 >= seen.len() || all_agree;
    enough.then_some(Array { base, arenas })
}

/// Whether the first entries, which every array has, are each an arena or unused, and not all of
/// them unused.
fn begins_like_array<M: TargetMemory>(memory: &M, of: Geometry, base: RemoteAddr) -> bool {
    let mut arenas = 0;
    let fits = (0..FIRST_ARENAS).all(|index| {
        let sound = object(memory, of, base, index as u32).is_some();
        arenas += u64::from(sound);
        let entry = base.checked_add(index * OBJECT);
        // `address` is 0 when the entry is unused.
        sound || entry.and_then(|at| memory.read_value::<u64>(at).ok()) == Some(0)
    });
    fits && arenas > 0
}

/// The entry at `index`, when it is an arena in use that makes sense.
fn object<M: TargetMemory>(
    memory: &M,
    of: Geometry,
    base: RemoteAddr,
    index: u32,
) -> Option<ArenaObject> {
    let at = base.checked_add(u64::from(index) * OBJECT)?;
    let mut bytes = [0u8; 24];
    memory.read(at, &mut bytes).ok()?;
    let word = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().unwrap_or_default());
    let address = RemoteAddr::new(word(0));
    let pool_address = RemoteAddr::new(word(8));
    let (free_pools, total_pools) = (word(16) & 0xffff_ffff, word(16) >> 32);
    let first = address.align_up(of.pool)?;
    let end = address.checked_add(of.arena)?;
    let whole = end.align_down(of.pool).offset_from(first)? / of.pool;
    let sound = address.get() != 0
        && address.is_aligned(4096)
        && pool_address >= first
        && pool_address <= end
        && pool_address.is_aligned(of.pool)
        && total_pools == whole
        && free_pools <= total_pools;
    sound.then_some(ArenaObject {
        index,
        address,
        pool_address,
        free_pools,
        total_pools,
    })
}

fn forget(seen: &mut Seen, of: Geometry, arena: &ArenaObject) {
    let first = arena.address.get() / of.arena;
    for key in [(arena.index, first), (arena.index, first + 1)] {
        let inside = |&(low, high): &(RemoteAddr, RemoteAddr)| {
            arena.address <= low && high.get() < arena.address.get() + of.arena
        };
        if seen.get(&key).is_some_and(inside) {
            seen.remove(&key);
        }
    }
}

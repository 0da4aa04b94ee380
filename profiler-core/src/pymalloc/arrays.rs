//! The arrays of arenas, one for each interpreter with its own, located through the pools' headers.

use std::collections::BTreeSet;

use crate::addr::{AddrRange, RemoteAddr};
use crate::data::{self, Words};
use crate::memory::{PageCache, TargetMemory};
use crate::pymalloc::Geometry;
use crate::pymalloc::pool::Pool;
use crate::pymalloc::scan::FoundPools;
use crate::residency::{MappingKind, ResidencyMap};

/// Bytes of an `arena_object`.
const OBJECT: u64 = 48;
/// `INITIAL_ARENA_OBJECTS`: the array has 16 times a power of two entries.
const FIRST_ARENAS: u64 = 16;
/// Arenas that an array is trusted to have at most: 64 GiB in small ones.
const MAX_ARENAS: u64 = 1 << 18;
/// The most interpreters with their own arenas that are looked for.
const MAX_ARRAYS: usize = 256;
/// Places of states that are tried at most.
const MAX_STATES: usize = 4096;
/// Arenas that an array is asked for first.
const SAMPLES: usize = 8;
/// The number of matching arenas that identify an array, unless it has fewer in use.
const VOTES: usize = 4;
/// The largest credible number of arena allocations.
const MAX_TIMES: u64 = 1 << 48;

/// An `arena_object` that is in use.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct ArenaObject {
    /// Its index in the array.
    pub(super) index: u32,
    /// The start of the arena.
    pub(super) address: RemoteAddr,
    /// The next pool never used.
    pub(super) pool_address: RemoteAddr,
    /// Free pools, never-used ones included.
    pub(super) free_pools: u64,
    /// The total number of pools.
    pub(super) total_pools: u64,
}

/// pymalloc's own count of arenas.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Account {
    /// `narenas_currently_allocated`.
    pub(super) current: u64,
    /// `ntimes_arena_allocated`.
    pub(super) times: u64,
    /// `narenas_highwater`.
    pub(super) highwater: u64,
}

/// An array of arenas.
#[derive(Clone, Debug)]
pub(super) struct Array {
    /// Its address.
    pub(super) base: RemoteAddr,
    /// Its arenas in use.
    pub(super) arenas: Vec<ArenaObject>,
    /// The counts in its interpreter's state, if that was found.
    pub(super) account: Option<Account>,
    /// The address of the pointer to it.
    pub(super) place: RemoteAddr,
    /// How far behind a file's data that is.
    behind_file: u64,
}

impl Array {
    /// The ranges of its arenas.
    pub(super) fn ranges(&self, of: Geometry) -> impl Iterator<Item = AddrRange> {
        let arenas = self.arenas.iter();
        arenas.filter_map(move |arena| of.range(arena.address))
    }
}

/// The arrays of arenas that the pools belong to, the main interpreter's first. The pools they
/// explain are removed from `candidates`.
///
/// From 3.12 on, an interpreter's lists of pools (`usedpools`) and the pointer to its array are in
/// one structure (`struct _obmalloc_state`), so pools lead to it. Before that the pointer is in the
/// writable data of Python (`arenas`), so the words there are tried. A word is the pointer if the
/// entries at the indices named by pools contain those pools' arenas.
pub(super) fn arrays<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    of: Geometry,
    candidates: &mut FoundPools,
) -> Vec<Array> {
    let mut arrays: Vec<Array> = Vec::new();
    by_lists(memory, residency, of, candidates, &mut arrays);
    // Candidates are close together, and entries of one array even more so.
    let memory = PageCache::new(memory);
    for of_python in [true, false] {
        // Without a pool nothing would show which array is right.
        let data = match arrays.is_empty() && !candidates.pools.is_empty() {
            true => data::words(&memory, residency, of_python),
            false => break,
        };
        let words = || data.iter().flat_map(Words::with_counts);
        // The right word has the array's length next to it, unless the compiler did something
        // unexpected.
        let likely = words().filter(|(.., counts)| counts.iter().copied().any(is_length));
        for words in [
            &mut likely.into_iter() as &mut dyn Iterator<Item = _>,
            &mut words(),
        ] {
            if arrays.is_empty() {
                let places = pointers(residency, of, candidates, words).into_iter();
                try_all(&memory, residency, of, places, candidates, &mut arrays);
            }
        }
    }
    in_order(&mut arrays);
    arrays
}

/// The main interpreter's state is in Python's data or `.bss`, the others' in a heap, which may
/// also follow a file's data.
pub(super) fn in_order(arrays: &mut [Array]) {
    arrays.sort_by_key(|array| array.behind_file);
}

/// Adds the arrays found through the lists that the pools are in.
pub(super) fn by_lists<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    of: Geometry,
    candidates: &mut FoundPools,
    arrays: &mut Vec<Array>,
) {
    let memory = PageCache::new(memory);
    let lists = candidates.states();
    let after_lists = |&lists: &RemoteAddr| lists.checked_add(Pool::table_bytes(16));
    let places = lists.iter().take(MAX_STATES).filter_map(after_lists);
    try_all(&memory, residency, of, places, candidates, arrays);
}

/// The arrays that the pointers at these addresses lead to, as far as they are still arrays of
/// arenas, which their pools confirm: each pool names its arena.
pub(super) fn at<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    of: Geometry,
    places: &[RemoteAddr],
) -> Vec<Array> {
    let pages = PageCache::new(memory);
    let mut bases = BTreeSet::new();
    let known = places.iter().filter_map(|&place| {
        let base = RemoteAddr::new(pages.read_value::<u64>(place).ok()?);
        let length = length(&pages, place)?;
        if !may_be_array(residency, base) || !bases.insert(base) {
            return None;
        }
        let arenas = (0..length as u32).filter_map(|index| object(&pages, of, base, index));
        let arenas: Vec<_> = arenas.collect();
        are_confirmed(memory, of, &arenas).then(|| Array {
            base,
            account: account(&pages, of, place),
            place,
            behind_file: data::behind_file(residency, place),
            arenas,
        })
    });
    known.collect()
}

/// Whether the first pools of arenas confirm that they belong to them: at least one does, and none
/// belongs to another arena.
fn are_confirmed<M: TargetMemory>(memory: &M, of: Geometry, arenas: &[ArenaObject]) -> bool {
    let used = arenas.iter().filter_map(|arena| {
        let first = arena.address.align_up(of.pool)?;
        (first < arena.pool_address).then_some((first, arena.index))
    });
    let (addrs, indexes): (Vec<_>, Vec<_>) = used.unzip();
    let mut headers = Vec::new();
    memory.read_scattered(&addrs, &mut headers);
    let pools = addrs.iter().zip(&headers).map(|(&addr, header)| {
        let header = header.as_ref()?;
        Pool::parse(addr, header, of.pool)
    });
    let votes = pools.zip(indexes);
    let votes = votes.filter_map(|(pool, index)| Some(pool?.arena == index));
    let (agreeing, others): (Vec<_>, Vec<_>) = votes.partition(|&agrees| agrees);
    !agreeing.is_empty() && others.is_empty()
}

/// Tries each address that may contain a pointer to an array.
fn try_all<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    of: Geometry,
    places: impl Iterator<Item = RemoteAddr>,
    candidates: &mut FoundPools,
    arrays: &mut Vec<Array>,
) {
    let mut tried = BTreeSet::new();
    for place in places {
        if candidates.pools.is_empty() || arrays.len() == MAX_ARRAYS {
            return;
        }
        let Ok(base) = memory.read_value::<u64>(place).map(RemoteAddr::new) else {
            continue;
        };
        // Words next to the pointer may also point to the array: the address of the right one has
        // the length beside it.
        let length = length(memory, place);
        if !may_be_array(residency, base) || !tried.insert((base, length)) {
            continue;
        }
        if let Some(arenas) = try_array(memory, of, base, length, candidates) {
            let mut ranges: Vec<_> = arenas.iter().filter_map(|a| of.range(a.address)).collect();
            ranges.sort_unstable_by_key(AddrRange::start);
            candidates.forget(&ranges);
            arrays.push(Array {
                base,
                arenas,
                account: account(memory, of, place),
                place,
                behind_file: data::behind_file(residency, place),
            });
        }
    }
}

/// The words that may point to an array of arenas, which is in malloc'd memory and therefore not in
/// the pools themselves.
fn pointers(
    residency: &ResidencyMap,
    of: Geometry,
    candidates: &FoundPools,
    words: &mut dyn Iterator<Item = (RemoteAddr, u64, [u32; 3])>,
) -> Vec<RemoteAddr> {
    let mut pools: Vec<_> = candidates.pools.values().copied().collect();
    pools.sort_unstable();
    let in_pools = |addr: RemoteAddr| {
        let after = pools.partition_point(|&(low, _)| low <= addr);
        let last = after.checked_sub(1).and_then(|i| pools.get(i));
        last.is_some_and(|&(_, high)| addr.get() < high.get() + of.pool)
    };
    let pointers = words.filter(|&(_, base, _)| base != 0 && base % 8 == 0);
    let mut places: Vec<_> = pointers
        .map(|(at, base, _)| (RemoteAddr::new(base), at))
        .filter(|&(base, _)| !in_pools(base) && may_be_array(residency, base))
        .collect();
    places.sort_unstable();
    places.into_iter().map(|(_, at)| at).collect()
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

/// `maxarenas`, which follows the pointer to the array in the source, or precedes it if the
/// compiler lays out variables backwards; link-time optimisation may put another variable in
/// between.
fn length<M: TargetMemory>(memory: &M, place: RemoteAddr) -> Option<u64> {
    let places = [
        place.checked_add(8),
        place.checked_sub(8),
        place.checked_sub(16),
    ];
    let mut lengths = places.into_iter().flatten().filter_map(|at| {
        let length = memory.read_value::<u32>(at).ok()?;
        is_length(length).then_some(length.into())
    });
    lengths.next()
}

/// The array grows by doubling.
fn is_length(count: u32) -> bool {
    count.is_power_of_two() && (FIRST_ARENAS..=MAX_ARENAS).contains(&count.into())
}

/// pymalloc's counts, which come some words after the pointer to the array in the source, or before
/// it if the compiler lays out variables backwards. From 3.8 on `nfp2lasta` is in between, unless
/// link-time optimisation moved it.
fn account<M: TargetMemory>(memory: &M, of: Geometry, place: RemoteAddr) -> Option<Account> {
    let fingers = (of.arena / of.pool + 1) * 8;
    let word = |at: Option<RemoteAddr>| memory.read_value::<u64>(at?).ok();
    let mut accounts = [32 + fingers, 32, 24].into_iter().flat_map(|distance| {
        let after = |n: u64| word(place.checked_add(distance + 8 * n));
        let before = |n: u64| word(place.checked_sub(distance + 8 * n));
        let counts = [
            [after(0), after(1), after(2)],
            [before(0), before(1), before(2)],
        ];
        counts
            .into_iter()
            .filter_map(|[current, times, highwater]| {
                let (current, times, highwater) = (current?, times?, highwater?);
                let sound = (1..=MAX_ARENAS).contains(&current)
                    && (current..=MAX_ARENAS).contains(&highwater)
                    && (highwater..=MAX_TIMES).contains(&times);
                sound.then_some(Account {
                    current,
                    times,
                    highwater,
                })
            })
    });
    accounts.next()
}

/// Whether entries at the pools' indexes agree; then all arenas of the array.
fn try_array<M: TargetMemory>(
    memory: &M,
    of: Geometry,
    base: RemoteAddr,
    length: Option<u64>,
    candidates: &FoundPools,
) -> Option<Vec<ArenaObject>> {
    let pools = &candidates.pools;
    let agrees = |&(index, _): &(u32, u64), &(low, high): &(RemoteAddr, RemoteAddr)| {
        let arena = object(memory, of, base, index)?;
        let range = of.range(arena.address)?;
        (range.contains(low) && range.contains(high)).then_some(())
    };
    // First a few from all over: most words are not the array. If forged pools outnumber the real
    // ones, the array is recognised by its own shape.
    let step = pools.len().div_ceil(SAMPLES);
    let mut few = pools.iter().step_by(step);
    if !few.any(|(key, ends)| agrees(key, ends).is_some()) && !begins_like_array(memory, of, base) {
        return None;
    }
    let agreeing = pools
        .iter()
        .filter(|(key, ends)| agrees(key, ends).is_some());
    let voters: BTreeSet<u32> = agreeing.map(|(key, _)| key.0).collect();
    let highest = voters.last().copied()?;
    let enough = |length: &u64| *length > u64::from(highest);
    let by_voters = || (u64::from(highest) + 1).next_power_of_two();
    let length = length.filter(enough).unwrap_or_else(by_voters);
    let length = length.clamp(FIRST_ARENAS, MAX_ARENAS);
    let arenas: Vec<_> = (0..length as u32)
        .filter_map(|index| object(memory, of, base, index))
        .collect();
    let in_use = |arena: &&ArenaObject| arena.free_pools < arena.total_pools;
    let all_agree = arenas
        .iter()
        .filter(in_use)
        .all(|arena| voters.contains(&arena.index));
    let sure = voters.len() >= VOTES || voters.len() * 2 >= pools.len() || all_agree;
    sure.then_some(arenas)
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

/// The current state of an arena of this array; `None` if it no longer is one.
pub(super) fn renewed<M: TargetMemory>(
    memory: &M,
    of: Geometry,
    array: &Array,
    then: &ArenaObject,
) -> Option<ArenaObject> {
    let mut base = [0; 8];
    memory.read_meanwhile(array.place, &mut base).ok()?;
    let base = RemoteAddr::new(u64::from_le_bytes(base));
    let now = object(memory, of, base, then.index)?;
    (now.address == then.address).then_some(now)
}

/// The entry at `index`, if it is a plausible arena in use. Arenas from `mmap` begin on a page,
/// those from malloc anywhere.
fn object<M: TargetMemory>(
    memory: &M,
    of: Geometry,
    base: RemoteAddr,
    index: u32,
) -> Option<ArenaObject> {
    let at = base.checked_add(u64::from(index) * OBJECT)?;
    let mut bytes = [0u8; 24];
    memory.read_meanwhile(at, &mut bytes).ok()?;
    let word = |i: usize| u64::from_le_bytes(bytes[i..i + 8].try_into().unwrap_or_default());
    let address = RemoteAddr::new(word(0));
    let pool_address = RemoteAddr::new(word(8));
    let (free_pools, total_pools) = (word(16) & 0xffff_ffff, word(16) >> 32);
    let first = address.align_up(of.pool)?;
    let end = of.range(address)?.end();
    let whole = end.align_down(of.pool).offset_from(first)? / of.pool;
    let sound = address.get() != 0
        && address.is_aligned(8)
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

//! CPython's small-object allocator, read from outside with no symbols.
//!
//! Sources: `Objects/obmalloc.c` of CPython 2.7 and 3.6 to 3.14,
//! `Include/internal/pycore_obmalloc.h` from 3.12. The structures have the same layout in all of
//! them. Pools are 4 KiB in arenas of 256 KiB up to 3.9, and 16 KiB in arenas of 1 MiB from 3.10.
//! Builds differ (without the radix tree of 3.10, pools stay small but arenas do not), so the
//! headers of pools decide; the version only says what to try first. Blocks are 1 to 32 or 64 times
//! the alignment (16 bytes, 8 before 3.7), up to 512 bytes.

mod arena;
mod arrays;
mod domain;
mod pool;
mod roots;
mod scan;

pub use domain::{objects_allocator, objects_allocator_from};
pub use roots::{Roots, find_roots};

use arrays::{ArenaObject, Array};
use roots::FoundArenas;

use crate::addr::{AddrRange, RemoteAddr};
use crate::completeness::{Confidence, Defect};
use crate::heap::{Allocator, CrossCheck, Extent, ExtentKind, HeapSnapshot};
use crate::memory::TargetMemory;
use crate::parallel;
use crate::residency::ResidencyMap;
use crate::sample::PythonMalloc;
use crate::span::SpanList;

/// What is known about the target before the walk.
#[derive(Copy, Clone, Debug, Default)]
pub struct Context {
    /// Python's major and minor version; `None` if the target is not a Python process.
    pub python: Option<(u8, u8)>,
    /// The allocator of its objects, see [`objects_allocator`]: if it is not pymalloc, pools are
    /// looked for by the version alone.
    pub serves: PythonMalloc,
}

/// Why nothing was walked.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotWalked {
    /// The target is not a Python process.
    #[error("the target is not a Python process")]
    NotPython,
    /// No pool was found.
    #[error("no pymalloc pool is in use")]
    NoPools,
    /// Pools were found, but not the array of arenas that they point into.
    #[error("pools were found, but no array of arenas that agrees with them")]
    NoArenas,
}

/// Defects kept at most.
const MAX_DEFECTS: usize = 32;

/// pymalloc's own count of its arenas.
const ARENA_COUNT: &str = "narenas_currently_allocated";

/// Sizes of pools and arenas, in bytes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Geometry {
    pool: u64,
    arena: u64,
}

/// Up to CPython 3.9.
const SMALL_POOLS: Geometry = Geometry {
    pool: 4 << 10,
    arena: 256 << 10,
};
/// From CPython 3.10 on (`POOL_BITS` 14, `ARENA_BITS` 20).
const LARGE_POOLS: Geometry = Geometry {
    pool: 16 << 10,
    arena: 1 << 20,
};

/// Sizes that arenas have in builds of any kind, in bytes (`ARENA_BITS` 18 to 22).
const ARENA_SIZES: [u64; 5] = [256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

impl Geometry {
    fn of(python: (u8, u8)) -> Self {
        if python >= (3, 10) {
            LARGE_POOLS
        } else {
            SMALL_POOLS
        }
    }

    /// The range of an arena that begins there.
    fn range(self, address: RemoteAddr) -> Option<AddrRange> {
        AddrRange::with_len(address, self.arena)
    }
}

/// Walks all arenas of all interpreters in the target.
///
/// `memory` must reject what is not resident (see [`crate::memory::ResidentMemory`]).
///
/// # Errors
/// When there is nothing to walk, and why.
pub fn walk<M: TargetMemory + Sync>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context,
) -> Result<HeapSnapshot, NotWalked> {
    walk_from(memory, residency, context, &mut Roots::default())
}

/// As [`walk`], but starts from known addresses and records those found.
///
/// # Errors
/// As [`walk`].
pub fn walk_from<M: TargetMemory + Sync>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context,
    roots: &mut Roots,
) -> Result<HeapSnapshot, NotWalked> {
    let python = context.python.ok_or(NotWalked::NotPython)?;
    let found = roots::find_from(memory, residency, python, context.serves, roots)?;
    let version = format!("CPython {}.{}", python.0, python.1);
    let mut heap = HeapSnapshot::new(Allocator::Pymalloc, version);
    let geometry = found.geometry;
    let sizes = [("pool_size", geometry.pool), ("arena_size", geometry.arena)];
    let sizes = sizes.map(|(name, size)| (name.to_owned(), size.to_string()));
    heap.settings.extend(sizes);
    let arrays = found.arrays.iter().enumerate();
    let mut objects: Vec<(usize, &ArenaObject)> = arrays
        .flat_map(|(of, array)| array.arenas.iter().map(move |object| (of, object)))
        .collect();
    objects.sort_by_key(|(_, object)| object.address);
    // Arenas never overlap. If entries claim that, one is damaged, and the first is walked.
    objects.dedup_by(|(_, next), (_, before)| {
        next.address.get() < before.address.get() + geometry.arena
    });
    let mut totals = vec![arena::Totals::default(); found.arrays.len()];
    objects.retain(|&(of, object)| {
        let given_back = is_given_back(object, residency);
        totals[of].arenas_given_back += u64::from(given_back);
        !given_back
    });
    for (part, of_part) in walk_arenas(memory, &found, &objects) {
        heap.extents.extend(part.extents);
        heap.unreadable_bytes += part.unreadable_bytes;
        let room = MAX_DEFECTS.saturating_sub(heap.defects.len());
        heap.defects.extend(part.defects.into_iter().take(room));
        for (totals, more) in totals.iter_mut().zip(of_part) {
            *totals += more;
        }
    }
    judge_in_change(&mut totals, &mut heap, memory.epoch());
    let arrays = found.arrays.iter().zip(&totals).enumerate();
    heap.arenas = arrays
        .map(|(id, (array, totals))| totals.report(id as u32, array, geometry))
        .collect();
    heap.checks = checks(&found.arrays, &totals);
    // Before 3.12 there is one heap, and if its own count confirms that all its arenas are known,
    // the rest is other data that looks like pools by chance.
    let counted = |check: &CrossCheck| check.name == ARENA_COUNT && check.holds();
    let complete = python < (3, 12) && heap.checks.iter().any(counted);
    if found.outside > 0 && !complete && memory.epoch() > 0 {
        // They may belong to arenas newer than the arrays that were read.
        memory.note_changed(found.outside as u64 * geometry.pool);
    } else if found.outside > 0 && !complete {
        let places = found.outside;
        note(
            &mut heap,
            format!("{places} places look like pools of no known arena"),
        );
    }
    heap.confidence = confidence(&heap);
    Ok(heap)
}

fn confidence(heap: &HeapSnapshot) -> Confidence {
    match heap.checks.iter().all(CrossCheck::holds) {
        true if heap.unreadable_bytes == 0 => Confidence::High,
        true => Confidence::Medium,
        false => Confidence::Low,
    }
}

/// The number of arenas from which on a separate thread is worthwhile.
const ARENAS_A_THREAD: usize = 16;

/// Walks the arenas, each given with its interpreter, on several cores: returns parts, and the
/// totals of each interpreter.
fn walk_arenas<M: TargetMemory + Sync>(
    memory: &M,
    found: &FoundArenas,
    objects: &[(usize, &ArenaObject)],
) -> Vec<(HeapSnapshot, Vec<arena::Totals>)> {
    let (geometry, interpreters) = (found.geometry, found.arrays.len());
    let walk_part = |part: &[(usize, &ArenaObject)]| {
        let mut heap = HeapSnapshot::new(Allocator::Pymalloc, "");
        let mut totals = vec![arena::Totals::default(); interpreters];
        let mut walker = arena::Walker::new(memory, geometry);
        for &(of, object) in part {
            let walked = walk_arena(&mut walker, memory, found, (of, object));
            let Some((part, of_arena, (range, spans))) = walked else {
                memory.note_changed(geometry.arena);
                continue;
            };
            totals[of] += of_arena;
            heap.unreadable_bytes += part.unreadable_bytes;
            let room = MAX_DEFECTS.saturating_sub(heap.defects.len());
            heap.defects.extend(part.defects.into_iter().take(room));
            heap.extents.push(Extent {
                range,
                kind: ExtentKind::PoolArena,
                arena: of as u32,
                block_header_bytes: 0,
                spans,
            });
        }
        (heap, totals)
    };
    let parts = parallel::parts(objects.len(), ARENAS_A_THREAD);
    parallel::each(parts.map(|part| &objects[part]), walk_part)
}

/// How often an arena is walked again until the walk is from one moment.
const ARENA_TRIES: u32 = 4;

/// The result for one arena: unreadable and damaged parts, its totals, its range and its spans.
type WalkedArena = (HeapSnapshot, arena::Totals, (AddrRange, SpanList));

/// Walks an arena within one moment; `None` if it no longer is one, because the target has run
/// since the arrays were read.
fn walk_arena<M: TargetMemory>(
    walker: &mut arena::Walker<&M>,
    memory: &M,
    found: &FoundArenas,
    (of, object): (usize, &ArenaObject),
) -> Option<WalkedArena> {
    let mut tries = ARENA_TRIES;
    loop {
        let epoch = memory.epoch();
        let now = match epoch {
            0 => *object,
            _ => arrays::renewed(memory, found.geometry, found.arrays.get(of)?, object)?,
        };
        let mut heap = HeapSnapshot::new(Allocator::Pymalloc, "");
        let mut totals = arena::Totals::default();
        let spans = walker.walk(&now, &mut totals, &mut heap);
        tries -= 1;
        if tries == 0 || memory.epoch() == epoch {
            return Some((heap, totals, spans));
        }
    }
}

/// Whether an arena is gone but its object was not reset yet: `insert_to_freepool` unmaps an arena
/// whose pools are all free before it clears its address and decrements the count
/// (`Objects/obmalloc.c`).
fn is_given_back(object: &ArenaObject, residency: &ResidencyMap) -> bool {
    object.free_pools == object.total_pools && residency.mapping_at(object.address).is_none()
}

/// Distinguishes half-finished operations of stopped threads from damage.
///
/// A thread that allocates holds the interpreter's lock, so in each interpreter one step of one
/// thread may be half finished: a block being taken or freed, a pool that `nfreepools` no longer
/// counts or does not count yet, an arena being returned. Several are damage, unless the target has
/// run in between, `ran` times.
fn judge_in_change(totals: &mut [arena::Totals], heap: &mut HeapSnapshot, ran: u64) {
    let mut damaged = 0;
    for of in totals {
        match of.pools_in_change + of.arenas_in_change + of.arenas_given_back {
            0 => {}
            changes if changes <= 1 + ran => {
                of.pools_sound += of.pools_in_change;
                of.pools_free_by_account += of.arenas_in_change;
                heap.threads_inside += 1;
            }
            several => damaged += several,
        }
    }
    if damaged > 0 {
        let what = format!(
            "{damaged} pools or arenas look as if each were being taken or freed, which only one can be"
        );
        note(heap, what);
    }
}

/// The walk against what pymalloc counts itself.
fn checks(arrays: &[Array], totals: &[arena::Totals]) -> Vec<CrossCheck> {
    let sum = |figure: fn(&arena::Totals) -> u64| totals.iter().map(figure).sum();
    let mut checks = vec![
        CrossCheck::new(
            "pools whose blocks add up",
            sum(|of| of.pools_used),
            sum(|of| of.pools_sound),
        ),
        CrossCheck::new(
            "free pools in arenas",
            sum(|of| of.pools_free_by_account),
            sum(|of| of.pools_free),
        ),
    ];
    let counts: Option<Vec<_>> = arrays.iter().map(|array| array.account).collect();
    if let Some(counts) = counts {
        let arenas = counts.iter().map(|account| account.current).sum();
        checks.push(CrossCheck::new(
            ARENA_COUNT,
            arenas,
            sum(|of| of.arenas + of.arenas_given_back),
        ));
    }
    checks
}

fn note(heap: &mut HeapSnapshot, what: String) {
    if heap.defects.len() < MAX_DEFECTS {
        heap.defects.push(Defect::of_all(what));
    }
}

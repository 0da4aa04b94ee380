//! Addresses of the arenas, and what is kept of them for the next walk.

use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::pymalloc::arrays::{self, Array};
use crate::pymalloc::domain::{Tables, objects_allocator_from};
use crate::pymalloc::scan::{self, FoundPools, Where};
use crate::pymalloc::{ARENA_SIZES, Geometry, NotWalked};
use crate::residency::ResidencyMap;
use crate::sample::PythonMalloc;

/// Addresses of pymalloc's structures, as far as they were found before: these are tried first. A
/// structure that is not verified there is searched for again.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    pub(super) tables: Root<Tables>,
    arenas: Root<KnownArenas>,
}

impl Roots {
    /// Whether all were found.
    pub fn are_known(&self) -> bool {
        matches!(
            (&self.tables, &self.arenas),
            (Root::Known(_), Root::Known(_))
        )
    }
}

/// The known location of something.
#[derive(Clone, Debug, Default)]
pub(super) enum Root<T> {
    /// Not searched for yet.
    #[default]
    Unknown,
    /// It was found here.
    Known(T),
    /// It was searched for a moment ago and not found.
    Nowhere,
}

impl<T> From<Option<T>> for Root<T> {
    fn from(place: Option<T>) -> Self {
        place.map_or(Self::Unknown, Self::Known)
    }
}

impl<T> Root<T> {
    /// Its previous location, to be checked again.
    pub(super) fn take(&mut self) -> Option<T> {
        match std::mem::take(self) {
            Self::Known(place) => Some(place),
            Self::Unknown | Self::Nowhere => None,
        }
    }

    pub(super) fn is_nowhere(&self) -> bool {
        matches!(self, Self::Nowhere)
    }
}

/// How arenas were found.
#[derive(Clone, Debug)]
struct KnownArenas {
    geometry: Geometry,
    place: Where,
    /// The addresses of the pointers to the arrays of arenas, the main interpreter's first.
    pointers: Vec<RemoteAddr>,
}

/// The arenas of all interpreters.
pub(super) struct FoundArenas {
    pub(super) geometry: Geometry,
    /// Where their pools were looked for.
    place: Where,
    pub(super) arrays: Vec<Array>,
    /// What looks like pools and is in no known arena.
    pub(super) outside: usize,
}

/// Finds all locations for a walk that follows immediately: what is not found is not searched for
/// again then, unless it should exist. Returns the allocator of Python's objects.
pub fn find_roots<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    python: (u8, u8),
    roots: &mut Roots,
) -> PythonMalloc {
    *roots = Roots {
        tables: Root::from(roots.tables.take()),
        arenas: Root::from(roots.arenas.take()),
    };
    let serves = objects_allocator_from(memory, residency, python, roots);
    let arenas = find_from(memory, residency, python, serves, roots);
    // A search that was given up says nothing about where they are.
    if memory.is_out_of_time() {
        return serves;
    }
    if let Root::Unknown = roots.tables {
        roots.tables = Root::Nowhere;
    }
    if arenas.is_err() {
        roots.arenas = Root::Nowhere;
    }
    serves
}

/// Finds the arenas at their previous locations, or else wherever they are, and records these.
pub(super) fn find_from<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    python: (u8, u8),
    serves: PythonMalloc,
    roots: &mut Roots,
) -> Result<FoundArenas, NotWalked> {
    if roots.arenas.is_nowhere() && !serves.may_be_pymalloc() {
        return Err(NotWalked::NoPools);
    }
    let known = roots.arenas.take();
    let known = known.and_then(|known| known_arenas(memory, residency, python, &known));
    let found = match known {
        Some(found) => found,
        None => find(memory, residency, python, serves)?,
    };
    roots.arenas = Root::Known(KnownArenas {
        geometry: found.geometry,
        place: found.place,
        pointers: found.arrays.iter().map(|array| array.place).collect(),
    });
    Ok(found)
}

/// The arenas of arrays that were known, and of those that are new.
fn known_arenas<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    python: (u8, u8),
    known: &KnownArenas,
) -> Option<FoundArenas> {
    let (geometry, place) = (known.geometry, known.place);
    let mut arrays = arrays::at(memory, residency, geometry, &known.pointers);
    // Before 3.12 there is one heap; later a new interpreter with a heap of its own may have
    // started.
    let counts_all = |array: &Array| {
        let count = array.account.map(|account| account.current);
        count == Some(array.arenas.len() as u64)
    };
    let mut outside = 0;
    if python >= (3, 12) || !arrays.iter().all(counts_all) {
        let ranges = arrays.iter().flat_map(|array| array.ranges(geometry));
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        let mut end = RemoteAddr::default();
        ranges.retain(|range| {
            let is_apart = end <= range.start();
            end = end.max(range.end());
            is_apart
        });
        let mut others = scan::pools(memory, residency, geometry.pool, place, &ranges);
        arrays::by_lists(memory, residency, geometry, &mut others, &mut arrays);
        outside = others.pools.len();
    }
    arrays::in_order(&mut arrays);
    (!arrays.is_empty()).then_some(FoundArenas {
        geometry,
        place,
        arrays,
        outside,
    })
}

/// Finds the arenas: first as this version has them, then as the headers of pools say, and at last
/// in the memory of brk.
fn find<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    python: (u8, u8),
    serves: PythonMalloc,
) -> Result<FoundArenas, NotWalked> {
    let usual = Geometry::of(python);
    let candidates = scan::pools(memory, residency, usual.pool, Where::Mapped, &[]);
    let nothing = match candidates.pools.is_empty() {
        true => NotWalked::NoPools,
        false => NotWalked::NoArenas,
    };
    if candidates.pools.is_empty() && !serves.may_be_pymalloc() {
        return Err(nothing);
    }
    if let Some(found) = arenas(memory, residency, usual, Where::Mapped, candidates) {
        return Ok(found);
    }
    if !serves.may_be_pymalloc() {
        return Err(nothing);
    }
    for place in [Where::Mapped, Where::Brk] {
        for pool in scan::pool_sizes(memory, residency, place) {
            let candidates = scan::pools(memory, residency, pool, place, &[]);
            for arena in ARENA_SIZES {
                let geometry = Geometry { pool, arena };
                let candidates = candidates.clone();
                if let Some(found) = arenas(memory, residency, geometry, place, candidates) {
                    return Ok(found);
                }
            }
        }
    }
    Err(nothing)
}

fn arenas<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    geometry: Geometry,
    place: Where,
    mut candidates: FoundPools,
) -> Option<FoundArenas> {
    // One array of arenas per interpreter that has its own (from 3.12 on); most processes have one.
    let arrays = arrays::arrays(memory, residency, geometry, &mut candidates);
    (!arrays.is_empty()).then_some(FoundArenas {
        geometry,
        place,
        arrays,
        outside: candidates.pools.len(),
    })
}

//! CPython's small-object allocator, read from outside with no symbols.
//!
//! Sources: `Objects/obmalloc.c` of CPython 2.7 and 3.6 to 3.12, `Include/internal/pycore_obmalloc.h`
//! of 3.12 and 3.13. The structures have one layout in all of them; pools are 4 KiB in arenas of
//! 256 KiB up to 3.9, and 16 KiB in arenas of 1 MiB from 3.10. Blocks are of 1 to 32 or 64 times
//! the alignment (16 bytes, 8 before 3.7), up to 512 bytes.

mod arena;
mod data;
mod domain;
mod find;
mod pool;

pub use domain::objects_allocator;

use crate::completeness::{Confidence, Defect};
use crate::heap::{Allocator, Arena, CrossCheck, Extent, ExtentKind, HeapSnapshot};
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;
use crate::span::SpanState;

/// What is known of the target before the walk.
#[derive(Copy, Clone, Debug, Default)]
pub struct Context {
    /// Python's major and minor version; `None` when the target is no Python process.
    pub python: Option<(u8, u8)>,
}

/// Why nothing was walked.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotWalked {
    /// The target is no Python process.
    #[error("the target is not a Python process")]
    NotPython,
    /// No pool was found.
    #[error("no pymalloc pool is in use")]
    NoPools,
    /// Pools were found, but not the array of arenas that they point into.
    #[error("pools were found, but no array of arenas that agrees with them")]
    NoArenas,
}

/// Defects kept at the most.
const MAX_DEFECTS: usize = 32;

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

impl Geometry {
    fn of(python: (u8, u8)) -> Self {
        if python >= (3, 10) {
            LARGE_POOLS
        } else {
            SMALL_POOLS
        }
    }
}

/// Walks all arenas of all interpreters in the target.
///
/// `memory` must refuse what is not resident (see [`crate::memory::ResidentMemory`]).
///
/// # Errors
/// When there is nothing to walk, and why.
pub fn walk<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context,
) -> Result<HeapSnapshot, NotWalked> {
    let python = context.python.ok_or(NotWalked::NotPython)?;
    let geometry = Geometry::of(python);
    let mut seen = find::pools(memory, residency, geometry);
    if seen.is_empty() {
        return Err(NotWalked::NoPools);
    }
    let mut heap = HeapSnapshot::new(
        Allocator::Pymalloc,
        format!("CPython {}.{}", python.0, python.1),
    );
    let mut totals = arena::Totals::default();
    // One array of arenas for each interpreter that has its own (3.12 on), most have one.
    let arrays = find::arrays(memory, residency, geometry, &mut seen);
    if arrays.is_empty() {
        return Err(NotWalked::NoArenas);
    }
    let base = arrays.first().map(|array| array.base);
    let mut objects: Vec<_> = arrays.iter().flat_map(|array| &array.arenas).collect();
    objects.sort_by_key(|object| object.address);
    // Arenas never overlap; entries that claim so are damaged, and the first is walked.
    objects.dedup_by(|next, before| next.address.get() < before.address.get() + geometry.arena);
    for object in objects {
        let (range, spans) = arena::walk(memory, geometry, object, &mut totals, &mut heap);
        heap.extents.push(Extent {
            range,
            kind: ExtentKind::PoolArena,
            arena: 0,
            spans,
        });
    }
    let outside = seen.len() as u64;
    if outside > 0 {
        note(
            &mut heap,
            format!("{outside} places look like pools of no known arena"),
        );
    }
    heap.arenas
        .push(figures(&heap, geometry, &totals, base.unwrap_or_default()));
    heap.checks = vec![
        check(
            "pools whose blocks add up",
            totals.pools_used,
            totals.pools_sound,
        ),
        check(
            "free pools in arenas",
            totals.pools_free_by_account,
            totals.pools_free,
        ),
    ];
    heap.confidence = match heap.checks.iter().all(CrossCheck::holds) {
        true if heap.unreadable_bytes == 0 => Confidence::High,
        true => Confidence::Medium,
        false => Confidence::Low,
    };
    Ok(heap)
}

fn check(name: &str, expected: u64, found: u64) -> CrossCheck {
    CrossCheck {
        name: name.into(),
        expected,
        found,
    }
}

fn note(heap: &mut HeapSnapshot, what: String) {
    if heap.defects.len() < MAX_DEFECTS {
        heap.defects.push(Defect {
            addr: None,
            what,
            bytes: 0,
        });
    }
}

/// pymalloc as a whole, in the terms of `sys._debugmallocstats()`.
fn figures(
    heap: &HeapSnapshot,
    geometry: Geometry,
    totals: &arena::Totals,
    addr: crate::addr::RemoteAddr,
) -> Arena {
    let arenas = heap.extents.len() as u64;
    let spans = || {
        heap.extents
            .iter()
            .flat_map(|extent| extent.spans.iter(extent.range.start()))
    };
    let top = spans()
        .filter(|span| span.state == SpanState::Top)
        .map(|span| span.range.len());
    Arena {
        id: 0,
        kind: "pymalloc",
        addr,
        system_bytes: arenas * geometry.arena,
        live_blocks: totals.live_blocks,
        live_bytes: totals.live_bytes,
        free_blocks: totals.free_blocks,
        free_bytes: totals.free_bytes + totals.pools_carved_free * geometry.pool,
        cached_blocks: 0,
        cached_bytes: 0,
        top_bytes: top.sum(),
        figures: vec![
            ("arenas_allocated", arenas),
            ("pools_used", totals.pools_used),
            ("pools_free", totals.pools_free),
            ("free_block_bytes", totals.free_bytes),
            ("free_pool_bytes", totals.pools_free * geometry.pool),
            ("pool_header_bytes", totals.pools_used * pool::HEADER),
            ("quantization_bytes", totals.quantization_bytes),
            ("arena_alignment_bytes", totals.alignment_bytes),
        ],
    }
}

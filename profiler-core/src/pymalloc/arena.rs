//! Walking one arena: its pools, and the blocks of each.

use crate::addr::{AddrRange, RemoteAddr};
use crate::completeness::Defect;
use crate::heap::HeapSnapshot;
use crate::memory::TargetMemory;
use crate::pymalloc::find::ArenaObject;
use crate::pymalloc::pool::{HEADER, Pool};
use crate::pymalloc::{Geometry, MAX_DEFECTS};
use crate::span::{SpanList, SpanState};

/// Sums over all arenas.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) live_blocks: u64,
    pub(super) live_bytes: u64,
    /// Free blocks of pools in use.
    pub(super) free_blocks: u64,
    pub(super) free_bytes: u64,
    pub(super) pools_used: u64,
    /// Of those, the ones whose blocks add up.
    pub(super) pools_sound: u64,
    /// Pools not in use, never-used ones included.
    pub(super) pools_free: u64,
    /// Of those, the ones that were in use before.
    pub(super) pools_carved_free: u64,
    /// `nfreepools` of the arenas.
    pub(super) pools_free_by_account: u64,
    pub(super) quantization_bytes: u64,
    pub(super) alignment_bytes: u64,
    live: Vec<bool>,
    bytes: Vec<u8>,
}

/// The arena's range and its spans.
pub(super) fn walk<M: TargetMemory>(
    memory: &M,
    of: Geometry,
    object: &ArenaObject,
    totals: &mut Totals,
    heap: &mut HeapSnapshot,
) -> (AddrRange, SpanList) {
    let mut spans = SpanList::default();
    let range = AddrRange::with_len(object.address, of.arena).unwrap_or_default();
    // Checked when the object was read: both are inside the arena.
    let first = object.address.align_up(of.pool).unwrap_or(object.address);
    let end = RemoteAddr::new(first.get() + object.total_pools * of.pool);
    let before = first.get() - object.address.get();
    let after = range.end().get() - end.get();
    totals.alignment_bytes += before + after;
    totals.pools_free_by_account += object.free_pools;
    spans.push(before, SpanState::Metadata);

    let carved = object.pool_address.get() - first.get();
    let mut bytes = std::mem::take(&mut totals.bytes);
    bytes.resize(carved as usize, 0);
    let whole = memory.read(first, &mut bytes).is_ok();
    for offset in (0..carved).step_by(of.pool as usize) {
        let addr = RemoteAddr::new(first.get() + offset);
        let pool = &mut bytes[offset as usize..(offset + of.pool) as usize];
        // Where the arena is not readable as a whole, its pools may be.
        if !whole && memory.read(addr, pool).is_err() {
            heap.unreadable_bytes += of.pool;
            spans.push(of.pool, SpanState::Unknown);
            continue;
        }
        blocks(addr, pool, of, object.index, totals, heap, &mut spans);
    }
    totals.bytes = bytes;
    let never_used = (end.get() - object.pool_address.get()) / of.pool;
    totals.pools_free += never_used;
    spans.push(never_used * of.pool, SpanState::Top);
    spans.push(after, SpanState::Metadata);
    (range, spans)
}

fn blocks(
    addr: RemoteAddr,
    bytes: &[u8],
    of: Geometry,
    index: u32,
    totals: &mut Totals,
    heap: &mut HeapSnapshot,
    spans: &mut SpanList,
) {
    // A pool with no block in use is free, whatever its header still says.
    if bytes[..4] == [0; 4] {
        totals.pools_free += 1;
        totals.pools_carved_free += 1;
        spans.push(of.pool, SpanState::Free);
        return;
    }
    totals.pools_used += 1;
    let header = bytes[..HEADER as usize].try_into().ok();
    let pool = header.and_then(|header| Pool::parse(addr, header, of));
    let sound = pool.filter(|pool| pool.arena == index);
    let mut live = std::mem::take(&mut totals.live);
    match sound.and_then(|pool| pool.live(bytes, of, &mut live).map(|()| pool)) {
        None => {
            spans.push(of.pool, SpanState::Unknown);
            if heap.defects.len() < MAX_DEFECTS {
                let what = "the header and the free list of a pool do not add up".into();
                heap.defects.push(Defect {
                    addr: Some(addr),
                    what,
                    bytes: of.pool,
                });
            }
        }
        Some(pool) => {
            totals.pools_sound += 1;
            totals.live_blocks += pool.count;
            totals.live_bytes += pool.count * pool.block;
            let capacity = pool.capacity(of);
            totals.free_blocks += capacity - pool.count;
            totals.free_bytes += (capacity - pool.count) * pool.block;
            let rest = of.pool - HEADER - capacity * pool.block;
            totals.quantization_bytes += rest;
            spans.push(HEADER, SpanState::Metadata);
            for &live in &live {
                let state = if live {
                    SpanState::Live
                } else {
                    SpanState::Free
                };
                spans.push(pool.block, state);
            }
            spans.push(rest, SpanState::Metadata);
        }
    }
    totals.live = live;
}

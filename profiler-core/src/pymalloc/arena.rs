//! Walking one arena: its pools, and the blocks of each.

use crate::addr::{AddrRange, RemoteAddr};
use crate::completeness::Defect;
use crate::heap::{Arena, HeapSnapshot};
use crate::memory::TargetMemory;
use crate::pymalloc::arrays::{ArenaObject, Array};
use crate::pymalloc::pool::{HEADER, Pool};
use crate::pymalloc::{Geometry, MAX_DEFECTS};
use crate::span::{SpanList, SpanState};

/// Sums over the arenas of one interpreter.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) arenas: u64,
    live_blocks: u64,
    live_bytes: u64,
    /// Free blocks of pools in use.
    free_blocks: u64,
    free_bytes: u64,
    pub(super) pools_used: u64,
    /// Of those, the ones whose blocks add up.
    pub(super) pools_sound: u64,
    /// Pools not in use, never-used ones included.
    pub(super) pools_free: u64,
    /// Of those, the ones that were in use before.
    pools_carved_free: u64,
    /// `nfreepools` of the arenas.
    pub(super) pools_free_by_account: u64,
    quantization_bytes: u64,
    alignment_bytes: u64,
}

impl Totals {
    /// They, in the terms of `sys._debugmallocstats()`.
    pub(super) fn report(&self, id: u32, array: &Array, of: Geometry) -> Arena {
        let mut figures = vec![
            ("arenas_allocated", self.arenas),
            ("pools_total", self.pools_used + self.pools_free),
            ("pools_used", self.pools_used),
            ("pools_free", self.pools_free),
            ("free_block_bytes", self.free_bytes),
            ("free_pool_bytes", self.pools_free * of.pool),
            ("pool_header_bytes", self.pools_used * HEADER),
            ("quantization_bytes", self.quantization_bytes),
            ("arena_alignment_bytes", self.alignment_bytes),
        ];
        if let Some(account) = array.account {
            figures.extend([
                ("arenas_allocated_total", account.times),
                ("arenas_reclaimed", account.times - account.current),
                ("arenas_highwater", account.highwater),
            ]);
        }
        Arena {
            id,
            kind: "pymalloc",
            addr: array.base,
            system_bytes: self.arenas * of.arena,
            live_blocks: self.live_blocks,
            live_bytes: self.live_bytes,
            free_blocks: self.free_blocks,
            free_bytes: self.free_bytes + self.pools_carved_free * of.pool,
            cached_blocks: 0,
            cached_bytes: 0,
            top_bytes: (self.pools_free - self.pools_carved_free) * of.pool,
            figures,
        }
    }
}

/// Walks arenas one after another, with buffers that are reused.
pub(super) struct Walker<M> {
    memory: M,
    of: Geometry,
    bytes: Vec<u8>,
    live: Vec<bool>,
}

impl<M: TargetMemory> Walker<M> {
    /// For arenas of this geometry in `memory`.
    pub(super) fn new(memory: M, of: Geometry) -> Self {
        Self {
            memory,
            of,
            bytes: Vec::new(),
            live: Vec::new(),
        }
    }

    /// The arena's range and its spans.
    pub(super) fn walk(
        &mut self,
        object: &ArenaObject,
        totals: &mut Totals,
        heap: &mut HeapSnapshot,
    ) -> (AddrRange, SpanList) {
        let of = self.of;
        let mut spans = SpanList::default();
        let range = of.range(object.address).unwrap_or_default();
        // Checked when the object was read: both are inside the arena.
        let first = object.address.align_up(of.pool).unwrap_or(object.address);
        let end = RemoteAddr::new(first.get() + object.total_pools * of.pool);
        let before = first.get() - object.address.get();
        let after = range.end().get() - end.get();
        totals.arenas += 1;
        totals.alignment_bytes += before + after;
        totals.pools_free_by_account += object.free_pools;
        spans.push(before, SpanState::Metadata);

        let carved = object.pool_address.get() - first.get();
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(carved as usize, 0);
        let whole = self.memory.read(first, &mut bytes).is_ok();
        for offset in (0..carved).step_by(of.pool as usize) {
            let addr = RemoteAddr::new(first.get() + offset);
            let pool = &mut bytes[offset as usize..(offset + of.pool) as usize];
            // Where the arena is not readable as a whole, its pools may be.
            if !whole && self.memory.read(addr, pool).is_err() {
                heap.unreadable_bytes += of.pool;
                spans.push(of.pool, SpanState::Unknown);
                continue;
            }
            self.blocks(addr, pool, object.index, totals, heap, &mut spans);
        }
        self.bytes = bytes;
        let never_used = (end.get() - object.pool_address.get()) / of.pool;
        totals.pools_free += never_used;
        spans.push(never_used * of.pool, SpanState::Top);
        spans.push(after, SpanState::Metadata);
        (range, spans)
    }

    fn blocks(
        &mut self,
        addr: RemoteAddr,
        bytes: &[u8],
        index: u32,
        totals: &mut Totals,
        heap: &mut HeapSnapshot,
        spans: &mut SpanList,
    ) {
        let of = self.of;
        // A pool with no block in use is free, whatever its header still says.
        if bytes[..4] == [0; 4] {
            totals.pools_free += 1;
            totals.pools_carved_free += 1;
            spans.push(of.pool, SpanState::Free);
            return;
        }
        totals.pools_used += 1;
        let header = bytes[..HEADER as usize].try_into().ok();
        let pool = header.and_then(|header| Pool::parse(addr, header, of.pool));
        let sound = pool.filter(|pool| pool.arena == index);
        let mut live = std::mem::take(&mut self.live);
        match sound.and_then(|pool| pool.live(bytes, &mut live).map(|()| pool)) {
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
                let capacity = pool.capacity();
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
        self.live = live;
    }
}

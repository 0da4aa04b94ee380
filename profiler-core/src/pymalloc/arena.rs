//! Walks one arena: its pools, and the blocks of each pool.

use crate::addr::{AddrRange, RemoteAddr};
use crate::arena::{ArenaFigure, ArenaKind};
use crate::completeness::Defect;
use crate::heap::{Arena, HeapSnapshot};
use crate::memory::{ReadError, TargetMemory};
use crate::pymalloc::arrays::{ArenaObject, Array};
use crate::pymalloc::pool::{Count, HEADER, Pool};
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
    /// The pools in use in which a block is being taken or freed.
    pub(super) pools_in_change: u64,
    /// Pools not in use, never-used ones included.
    pub(super) pools_free: u64,
    /// Of those, the ones that were in use before.
    pools_carved_free: u64,
    /// `nfreepools` of the arenas.
    pub(super) pools_free_by_account: u64,
    /// Arenas with one free pool more than they count: it is being taken or freed.
    pub(super) arenas_in_change: u64,
    /// Arenas that were unmapped while their object still names and counts them.
    pub(super) arenas_given_back: u64,
    quantization_bytes: u64,
    alignment_bytes: u64,
}

impl Totals {
    /// They, in the terms of `sys._debugmallocstats()`.
    pub(super) fn report(&self, id: u32, array: &Array, of: Geometry) -> Arena {
        let mut figures = vec![
            (ArenaFigure::ArenasAllocated, self.arenas),
            (ArenaFigure::PoolsTotal, self.pools_used + self.pools_free),
            (ArenaFigure::PoolsUsed, self.pools_used),
            (ArenaFigure::PoolsFree, self.pools_free),
            (ArenaFigure::FreeBlockBytes, self.free_bytes),
            (ArenaFigure::FreePoolBytes, self.pools_free * of.pool),
            (ArenaFigure::PoolHeaderBytes, self.pools_used * HEADER),
            (ArenaFigure::QuantizationBytes, self.quantization_bytes),
            (ArenaFigure::ArenaAlignmentBytes, self.alignment_bytes),
        ];
        if let Some(account) = array.account {
            figures.extend([
                (ArenaFigure::ArenasAllocatedTotal, account.times),
                (
                    ArenaFigure::ArenasReclaimed,
                    account.times - account.current,
                ),
                (ArenaFigure::ArenasHighwater, account.highwater),
            ]);
        }
        Arena {
            id,
            kind: ArenaKind::Pymalloc,
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

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.arenas += other.arenas;
        self.live_blocks += other.live_blocks;
        self.live_bytes += other.live_bytes;
        self.free_blocks += other.free_blocks;
        self.free_bytes += other.free_bytes;
        self.pools_used += other.pools_used;
        self.pools_sound += other.pools_sound;
        self.pools_in_change += other.pools_in_change;
        self.pools_free += other.pools_free;
        self.pools_carved_free += other.pools_carved_free;
        self.pools_free_by_account += other.pools_free_by_account;
        self.arenas_in_change += other.arenas_in_change;
        self.arenas_given_back += other.arenas_given_back;
        self.quantization_bytes += other.quantization_bytes;
        self.alignment_bytes += other.alignment_bytes;
    }
}

/// How often a pool is read before it counts as damaged: its owner may be changing it.
const POOL_TRIES: u32 = 3;

/// Walks arenas one after another, with buffers that are reused.
pub(super) struct Walker<M> {
    memory: M,
    of: Geometry,
    addrs: Vec<RemoteAddr>,
    headers: Vec<Option<[u8; HEADER as usize]>>,
    bytes: Vec<u8>,
    live: Vec<bool>,
}

impl<M: TargetMemory> Walker<M> {
    /// For arenas of this geometry in `memory`.
    pub(super) fn new(memory: M, of: Geometry) -> Self {
        Self {
            memory,
            of,
            addrs: Vec::new(),
            headers: Vec::new(),
            bytes: Vec::new(),
            live: Vec::new(),
        }
    }

    /// The arena's range and spans.
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
        let free_before = totals.pools_free;
        spans.push(before, SpanState::Metadata);

        let carved = object.pool_address.get() - first.get();
        let (mut addrs, mut headers) = (
            std::mem::take(&mut self.addrs),
            std::mem::take(&mut self.headers),
        );
        addrs.clear();
        let offsets = (0..carved).step_by(of.pool as usize);
        addrs.extend(offsets.map(|offset| RemoteAddr::new(first.get() + offset)));
        self.memory.read_scattered_meanwhile(&addrs, &mut headers);
        for (&addr, header) in addrs.iter().zip(&headers) {
            let read = header.map(|header| self.pool(addr, &header, object.index));
            match read.unwrap_or(Read::Unreadable) {
                // A pool without a block in use is free, whatever its header says.
                Read::Free => {
                    totals.pools_free += 1;
                    totals.pools_carved_free += 1;
                    spans.push(of.pool, SpanState::Free);
                }
                Read::Used(pool, count) => self.account(pool, count, totals, &mut spans),
                Read::Damaged => {
                    totals.pools_used += 1;
                    spans.push(of.pool, SpanState::Unknown);
                    if heap.defects.len() < MAX_DEFECTS {
                        let what = "the header and the free list of a pool do not add up".into();
                        heap.defects.push(Defect {
                            addr: Some(addr),
                            what,
                            bytes: of.pool,
                            unreadable: false,
                        });
                    }
                }
                Read::Unreadable => {
                    heap.unreadable_bytes += of.pool;
                    spans.push(of.pool, SpanState::Unknown);
                }
            }
        }
        (self.addrs, self.headers) = (addrs, headers);
        let never_used = (end.get() - object.pool_address.get()) / of.pool;
        totals.pools_free += never_used;
        let free = totals.pools_free - free_before;
        totals.arenas_in_change += u64::from(free == object.free_pools + 1);
        spans.push(never_used * of.pool, SpanState::Top);
        spans.push(after, SpanState::Metadata);
        (range, spans)
    }

    /// Determines which blocks of the pool at `addr` are live, in `self.live`.
    fn pool(&mut self, addr: RemoteAddr, header: &[u8; HEADER as usize], index: u32) -> Read {
        let mut header = *header;
        let parse = |header: &[u8; HEADER as usize], size| {
            Pool::parse(addr, header, size).filter(|pool| pool.arena == index)
        };
        for attempt in 1..=POOL_TRIES {
            if header[..4] == [0; 4] {
                return Read::Free;
            }
            let mut pool = parse(&header, self.of.pool);
            self.bytes.clear();
            // Only a list of freed blocks leads into the pool; without one it need not be read.
            if pool.is_none_or(|pool| pool.first_free != 0) {
                if self.read(addr, attempt).is_err() {
                    return Read::Unreadable;
                }
                // The header may be another by now.
                header = *self.bytes.first_chunk().unwrap_or(&header);
                pool = parse(&header, self.of.pool);
            }
            let counted =
                pool.and_then(|pool| Some((pool, pool.live(&self.bytes, &mut self.live)?)));
            match counted {
                Some((_, Count::InChange)) if attempt < POOL_TRIES => {}
                Some((pool, count)) => return Read::Used(pool, count),
                None => {}
            }
            if self.bytes.is_empty() {
                if self.read(addr, attempt).is_err() {
                    return Read::Unreadable;
                }
                header = *self.bytes.first_chunk().unwrap_or(&header);
            }
        }
        Read::Damaged
    }

    /// Reads the bytes of a pool: first without a stop, since consistency shows that they are from
    /// one moment; later while the target is stopped.
    fn read(&mut self, addr: RemoteAddr, attempt: u32) -> Result<(), ReadError> {
        self.bytes.resize(self.of.pool as usize, 0);
        match attempt {
            1 => self.memory.read_meanwhile(addr, &mut self.bytes),
            _ => self.memory.read(addr, &mut self.bytes),
        }
    }

    fn account(&self, pool: Pool, count: Count, totals: &mut Totals, spans: &mut SpanList) {
        let capacity = pool.capacity();
        let rest = self.of.pool - HEADER - capacity * pool.block;
        totals.pools_used += 1;
        match count {
            Count::Agrees => totals.pools_sound += 1,
            Count::InChange => totals.pools_in_change += 1,
        }
        let live = self.live.iter().filter(|&&live| live).count() as u64;
        totals.live_blocks += live;
        totals.live_bytes += live * pool.block;
        totals.free_blocks += capacity - live;
        totals.free_bytes += (capacity - live) * pool.block;
        totals.quantization_bytes += rest;
        spans.push(HEADER, SpanState::Metadata);
        for &live in &self.live {
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

/// The state of a pool.
enum Read {
    Free,
    Used(Pool, Count),
    Damaged,
    Unreadable,
}

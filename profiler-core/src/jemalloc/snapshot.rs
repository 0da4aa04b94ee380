//! Builds a heap from extents: spans, totals by arena, and jemalloc's own account for comparison.

use std::collections::HashMap;
use std::iter::Peekable;

use super::arena::State;
use super::extent::{self, Bitmap, Extent, Use};
use super::tcache::Cached;
use super::{Notes, confidence};
use crate::addr::{AddrRange, HEAP_END, PAGE_SIZE, RemoteAddr};
use crate::allocator::jemalloc_classes::BINS;
use crate::arena::{ArenaFigure, ArenaKind};
use crate::heap::{self, Arena, CrossCheck, ExtentKind, HeapSnapshot};
use crate::span::{SpanList, SpanState};

/// What the walk found in one arena.
#[derive(Clone, Default)]
struct Totals {
    live: (u64, u64),
    free: (u64, u64),
    cached: (u64, u64),
    slabs: u64,
    slab_bytes: u64,
    /// Live and cached regions, as `curregs` counts.
    regions: u64,
    large: (u64, u64),
    /// Blocks smaller than a page with an extent of their own: sampled by jemalloc's heap profiler.
    promoted: u64,
    large_pad: u64,
    active: u64,
    dirty: u64,
    muzzy: u64,
    retained: u64,
    unknown: u64,
}

impl Totals {
    /// Counts the regions of a slab; gives how many of them are cached.
    fn slab(
        &mut self,
        range: AddrRange,
        region: u64,
        free: &Bitmap,
        cached: &mut Peekable<impl Iterator<Item = u64>>,
        spans: &mut SpanList,
    ) -> u64 {
        let regions = range.len() / region;
        let mut used = 0;
        for i in 0..regions {
            let (state, total) = if extent::is_free(free, i) {
                (SpanState::Free, &mut self.free)
            } else {
                self.regions += 1;
                let is_cached = takes(cached, range.start().get() + i * region);
                used += u64::from(is_cached);
                match is_cached {
                    true => (SpanState::Cached, &mut self.cached),
                    false => (SpanState::Live, &mut self.live),
                }
            };
            add(total, region);
            spans.push(region, state);
        }
        spans.push(range.len() - regions * region, SpanState::Metadata);
        self.slabs += 1;
        self.slab_bytes += range.len();
        self.active += range.len();
        used
    }

    /// Counts a block with its own extent: `len` bytes of extent, `usable` bytes of block.
    fn large(&mut self, len: u64, usable: u64, is_cached: bool) {
        let total = match is_cached {
            true => &mut self.cached,
            false => &mut self.live,
        };
        add(total, usable);
        add(&mut self.large, usable);
        self.large_pad += len - usable;
        self.active += len;
    }
}

fn add(total: &mut (u64, u64), bytes: u64) {
    total.0 += 1;
    total.1 += bytes;
}

/// Takes `block` from the ascending cached blocks if it is the next; returns whether it was.
fn takes(cached: &mut Peekable<impl Iterator<Item = u64>>, block: u64) -> bool {
    while cached.next_if(|&before| before < block).is_some() {}
    cached.next_if_eq(&block).is_some()
}

/// Builds the heap.
pub(super) struct Builder<'a> {
    heap: HeapSnapshot,
    states: &'a [State],
    notes: Notes,
    /// Whether the target ran during the walk: then its parts are from different moments.
    has_run: bool,
    /// By arena index, the place in `states` and `totals`.
    places: HashMap<u32, usize>,
    totals: Vec<Totals>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        heap: HeapSnapshot,
        states: &'a [State],
        notes: Notes,
        has_run: bool,
    ) -> Self {
        Self {
            has_run,
            heap,
            states,
            notes,
            places: (0..).zip(states).map(|(i, s)| (s.place.ind, i)).collect(),
            totals: vec![Totals::default(); states.len()],
        }
    }

    pub(super) fn build(mut self, extents: Vec<Extent>, cached: Cached) -> HeapSnapshot {
        let mut blocks = cached.blocks.iter().copied().peekable();
        let mut used = 0;
        for extent in &extents {
            let Some(&place) = self.places.get(&extent.arena) else {
                let what = format!("an extent of arena {}, which was not found", extent.arena);
                let addr = extent.range.start().get();
                self.notes.defect(addr, extent.range.len(), what);
                continue;
            };
            let start = extent.range.start().get();
            while blocks.next_if(|&block| block < start).is_some() {}
            used += self.add(place, extent, &mut blocks);
        }
        let stray = cached.blocks.len() as u64 - used;
        self.metadata();
        self.join();
        self.judge(&extents, &cached, stray);
        self.heap
    }

    /// Adds one extent; returns how many of the cached blocks it contains.
    fn add(
        &mut self,
        place: usize,
        extent: &Extent,
        cached: &mut Peekable<impl Iterator<Item = u64>>,
    ) -> u64 {
        let totals = &mut self.totals[place];
        let mut spans = SpanList::default();
        let len = extent.range.len();
        let mut used = 0;
        match &extent.used {
            Use::Slab {
                region,
                nfree,
                free,
            } => {
                if extent::count_free(free, len / region) != *nfree {
                    let what = "a slab's bitmap and its count of free regions differ";
                    let start = extent.range.start().get();
                    self.notes.defect(start, len, what);
                }
                used = totals.slab(extent.range, *region, free, cached, &mut spans);
            }
            Use::Large { offset, usable } => {
                let block = extent.range.start().get() + offset;
                let is_cached = takes(cached, block);
                used = u64::from(is_cached);
                totals.large(len, *usable, is_cached);
                totals.promoted += u64::from(extent.class < BINS);
                spans.push(*offset, SpanState::Metadata);
                spans.push(
                    *usable,
                    match is_cached {
                        true => SpanState::Cached,
                        false => SpanState::Live,
                    },
                );
                spans.push(len - offset - usable, SpanState::Metadata);
            }
            Use::Dirty | Use::Muzzy => {
                match extent.used {
                    Use::Dirty => totals.dirty += len,
                    _ => totals.muzzy += len,
                }
                // What `arena.<i>.purge` gives back.
                self.heap.trimmable.push(extent.range);
                spans.push(len, SpanState::Retained);
            }
            Use::Retained => {
                totals.retained += len;
                spans.push(len, SpanState::Retained);
            }
            Use::Moving => {
                totals.unknown += len;
                spans.push(len, SpanState::Unknown);
            }
        }
        self.push(place, extent.range, spans);
        used
    }

    fn push(&mut self, place: usize, range: AddrRange, spans: SpanList) {
        self.heap.extents.push(heap::Extent {
            range,
            kind: ExtentKind::Region,
            arena: place as u32,
            block_header_bytes: 0,
            spans,
        });
    }

    /// Adds the blocks of the arenas' bases, which contain their metadata. Bytes already claimed by
    /// an extent of the tree, or by an earlier block, are left out: the tree is verified page by
    /// page, a base's list is not.
    fn metadata(&mut self) {
        let mut blocks: Vec<_> = (0..)
            .zip(self.states)
            .flat_map(|(place, state)| state.blocks.iter().map(move |&block| (block, place)))
            .collect();
        blocks.sort_unstable();
        let found = self.heap.extents.len();
        let mut end = RemoteAddr::default();
        for (block, place) in blocks {
            let extents = &self.heap.extents[..found];
            let next = extents.partition_point(|extent| extent.range.end() <= block.start());
            let in_extent = extents
                .get(next)
                .is_some_and(|extent| extent.range.start() < block.end());
            if in_extent || block.start() < end {
                let what = "a block of metadata overlaps what is there already";
                self.notes.defect(block.start().get(), block.len(), what);
                continue;
            }
            end = block.end();
            let mut spans = SpanList::default();
            spans.push(block.len(), SpanState::Metadata);
            self.push(place, block, spans);
        }
    }

    /// Sorts the extents and joins adjacent ones of one arena, so that a long run of slabs costs
    /// only its spans.
    fn join(&mut self) {
        self.heap.extents.sort_by_key(|extent| extent.range);
        self.heap.extents.dedup_by(|extent, last| {
            if extent.range.start() != last.range.end() || extent.arena != last.arena {
                return false;
            }
            let Some(both) = AddrRange::new(last.range.start(), extent.range.end()) else {
                return false;
            };
            for span in extent.spans.iter(extent.range.start()) {
                last.spans.push(span.range.len(), span.state);
            }
            last.range = both;
            true
        });
    }

    /// Compares the totals with jemalloc's own.
    fn judge(&mut self, extents: &[Extent], cached: &Cached, stray: u64) {
        // Built without statistics, jemalloc counts nothing and links no caches.
        let has_stats = self.states.iter().any(|state| state.base_allocated != 0);
        let mut note = |what: String| self.notes.push(None, 0, what, false);
        if !has_stats {
            note("this jemalloc is built without statistics: the blocks in thread caches count as live, and little can be checked".into());
        }
        if cached.broken > 0 {
            let broken = cached.broken;
            note(format!(
                "{broken} thread caches or bins of them could not be followed: the blocks in them count as live"
            ));
        }
        if stray > 0 && !self.has_run {
            note(format!("{stray} cached blocks belong to no extent"));
        }
        if extents.iter().any(|extent| extent.hpa) {
            note("opt.hpa is in use: free pages inside its huge pages are in no extent and count as unknown".into());
        }
        for (state, totals) in self.states.iter().zip(&self.totals) {
            let ind = state.place.ind;
            if state.unreadable > 0 {
                let what = format!("part of arena {ind} is swapped out");
                self.notes
                    .lost(Some(state.place.addr), state.unreadable, &what);
            }
            if !state.blocks_end {
                let what = "the list of an arena's metadata blocks is damaged";
                self.notes.defect(state.place.base, 0, what);
            }
            let mut check = |name: &str, expected, found| {
                let name = format!("arena {ind} {name}");
                self.heap
                    .checks
                    .push(CrossCheck::new(name, expected, found));
            };
            let pages = |pages: u64| pages.saturating_mul(PAGE_SIZE);
            check("nactive", pages(state.nactive), totals.active);
            check("dirty", pages(state.npages[0]), totals.dirty);
            check("muzzy", pages(state.npages[1]), totals.muzzy);
            check("retained", pages(state.npages[2]), totals.retained);
            if has_stats {
                let mapped = totals.active + totals.dirty + totals.muzzy;
                check("mapped", state.mapped, mapped);
                check("curregs", state.curregs, totals.regions);
                check("curslabs", state.curslabs, totals.slabs);
                check("curlextents", state.large, totals.large.0 - totals.promoted);
                let base: u64 = state.blocks.iter().map(AddrRange::len).sum();
                check("base mapped", state.base_mapped, base);
            }
            self.heap.arenas.push(arena(state, totals));
        }
        self.heap.settings.extend(settings(self.states));
        self.heap.defects = std::mem::take(&mut self.notes.defects);
        self.heap.unreadable_bytes = self.notes.unreadable_bytes;
        let caches_known = has_stats && cached.broken == 0 && stray == 0;
        self.heap.confidence = confidence(&self.heap, caches_known);
    }
}

/// A byte count from the target, limited to the size of an address space, so that sums of damaged
/// counts do not overflow.
fn bounded(bytes: u64) -> u64 {
    bytes.min(HEAP_END)
}

fn arena(state: &State, totals: &Totals) -> Arena {
    Arena {
        id: state.place.ind,
        kind: if state.place.ind == 0 {
            ArenaKind::Main
        } else {
            ArenaKind::Arena
        },
        addr: RemoteAddr::new(state.place.addr),
        system_bytes: bounded(state.mapped) + bounded(state.base_mapped),
        live_blocks: totals.live.0,
        live_bytes: totals.live.1,
        free_blocks: totals.free.0,
        free_bytes: totals.free.1,
        cached_blocks: totals.cached.0,
        cached_bytes: totals.cached.1,
        top_bytes: 0,
        figures: vec![
            (ArenaFigure::ActiveBytes, totals.active),
            (ArenaFigure::DirtyBytes, totals.dirty),
            (ArenaFigure::MuzzyBytes, totals.muzzy),
            (ArenaFigure::RetainedBytes, totals.retained),
            // As counted by `stats.metadata`: what the base gave out, and internal blocks, which
            // are also live blocks.
            (
                ArenaFigure::MetadataBytes,
                bounded(state.base_allocated) + bounded(state.internal),
            ),
            (ArenaFigure::InternalBytes, bounded(state.internal)),
            (ArenaFigure::BaseMappedBytes, bounded(state.base_mapped)),
            (ArenaFigure::Slabs, totals.slabs),
            (ArenaFigure::SlabBytes, totals.slab_bytes),
            (ArenaFigure::LargeBlocks, totals.large.0),
            (ArenaFigure::LargeBytes, totals.large.1),
            (ArenaFigure::LargePadBytes, totals.large_pad),
            (ArenaFigure::UnknownBytes, totals.unknown),
        ],
    }
}

/// The settings that the arenas show in force.
fn settings(states: &[State]) -> Vec<(String, String)> {
    let mut settings = vec![("arenas".to_owned(), states.len().to_string())];
    for (i, name) in ["dirty_decay_ms", "muzzy_decay_ms"].into_iter().enumerate() {
        let first = states.first().map(|state| state.decay_ms[i]);
        let same = states.iter().all(|state| Some(state.decay_ms[i]) == first);
        let value = match first {
            Some(ms) if same => ms.to_string(),
            Some(ms) => format!("{ms}, other arenas differ"),
            None => continue,
        };
        settings.push((name.to_owned(), value));
    }
    settings
}

//! Finds arenas from the object's data and reads each arena's own account.

use super::bytes::{Bytes, word_at};
use super::layout::{Bins, Layout};
use crate::addr::{AddrRange, HEAP_END, PAGE_SIZE, RemoteAddr};
use crate::allocator::jemalloc_classes::{BINS, SIZES};
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};

/// `MALLOCX_ARENA_LIMIT`.
pub(super) const MAX_ARENAS: usize = 4095;
/// Blocks of one base: each is larger than the previous one by at least a size class.
const MAX_BLOCKS: usize = 4096;
/// Words of data that are tried as pointers to arena 0.
const MAX_TRIES: usize = 1 << 20;

/// A found arena: its index, and the addresses of it and of its base.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct ArenaPlace {
    pub(super) ind: u32,
    pub(super) addr: u64,
    pub(super) base: u64,
}

/// Finds `arenas[]` (`src/jemalloc.c`): the place in the data where words are null or point to
/// arenas whose base has the word's index. If there are several (`a0` points to arena 0 too), the
/// one with most arenas.
pub(super) fn find<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    data: &[Bytes],
    layout: &Layout,
) -> Option<Vec<ArenaPlace>> {
    let mut tries = 0;
    let mut best: Option<Vec<ArenaPlace>> = None;
    for piece in data {
        for at in (0..piece.bytes.len() as u64).step_by(8) {
            let addr = piece.word(at);
            if addr == 0 || addr % 64 != 0 || addr >> 56 != 0 || !is_heap(residency, addr) {
                continue;
            }
            tries += 1;
            if tries > MAX_TRIES {
                return best;
            }
            if place(memory, residency, layout, addr, 0).is_none() {
                continue;
            }
            let found = array(memory, residency, piece, at, layout);
            if best.as_ref().is_none_or(|b| b.len() < found.len()) {
                best = Some(found);
            }
        }
    }
    best
}

/// The arenas of an array that begins at `at`, up to the first word that is neither null nor the
/// arena with its index.
fn array<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    data: &Bytes,
    at: u64,
    layout: &Layout,
) -> Vec<ArenaPlace> {
    let mut found = Vec::new();
    for ind in 0..MAX_ARENAS {
        let at = at + 8 * ind as u64;
        if at + 8 > data.bytes.len() as u64 {
            break;
        }
        match data.word(at) {
            0 => {}
            addr => match place(memory, residency, layout, addr, ind as u32) {
                Some(place) => found.push(place),
                None => break,
            },
        }
    }
    found
}

/// The arena at `addr`, if it has this index.
fn place<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    layout: &Layout,
    addr: u64,
    ind: u32,
) -> Option<ArenaPlace> {
    let base = word_at(memory, addr.checked_add(layout.arena.base)?)?;
    if base == 0 || base % 16 != 0 || !is_heap(residency, base) {
        return None;
    }
    if let Some(at) = layout.arena.ind {
        let own_index: u32 = memory
            .read_value(RemoteAddr::new(addr.checked_add(at)?))
            .ok()?;
        if own_index != ind {
            return None;
        }
    }
    let own_index: u32 = memory.read_value(RemoteAddr::new(base)).ok()?;
    let blocks = word_at(memory, base.checked_add(layout.base.blocks)?)?;
    let size = word_at(memory, blocks)?;
    let fits = own_index == ind
        && blocks % PAGE_SIZE == 0
        && size % PAGE_SIZE == 0
        && (PAGE_SIZE..HEAP_END).contains(&size);
    fits.then_some(ArenaPlace { ind, addr, base })
}

/// Memory that jemalloc may have mapped.
fn is_heap(residency: &ResidencyMap, addr: u64) -> bool {
    residency
        .mapping_at(RemoteAddr::new(addr))
        .is_some_and(|m| {
            m.write && !matches!(m.kind, MappingKind::File(_) | MappingKind::Special(_))
        })
}

/// An arena's own account.
pub(super) struct State {
    pub(super) place: ArenaPlace,
    pub(super) mapped: u64,
    pub(super) internal: u64,
    pub(super) nactive: u64,
    /// Pages of dirty, muzzy and retained extents.
    pub(super) npages: [u64; 3],
    /// Times of decay of dirty and muzzy pages, in ms; -1 for never.
    pub(super) decay_ms: [i64; 2],
    /// Large extents in use, by `lstats`.
    pub(super) large: u64,
    /// Regions in use and slabs, over all bins.
    pub(super) curregs: u64,
    pub(super) curslabs: u64,
    /// First thread cache or descriptor.
    pub(super) tcaches: u64,
    /// The slab that each bin serves from; null if it has none.
    pub(super) slabcur: Vec<u64>,
    pub(super) base_allocated: u64,
    pub(super) base_mapped: u64,
    pub(super) blocks: Vec<AddrRange>,
    /// Whether the list of blocks ended as it should.
    pub(super) blocks_end: bool,
    pub(super) unreadable: u64,
}

/// Reads an arena.
pub(super) fn state<M: TargetMemory>(memory: &M, layout: &Layout, place: ArenaPlace) -> State {
    let at = &layout.arena;
    let after = match at.bins {
        Bins::Inline(bins) => bins + BINS as u64 * layout.bin.bytes,
        Bins::Pointers(_) => 0,
    };
    let arena = Bytes::read(memory, place.addr, at.bytes.max(after));
    let base = Bytes::read(memory, place.base, layout.base.mapped + 8);
    let bins: Vec<Bytes> = (0..BINS as u64)
        .map(|i| {
            let addr = match at.bins {
                Bins::Inline(bins) => place.addr + bins + i * layout.bin.bytes,
                Bins::Pointers(bins) => arena.word(bins + 8 * i),
            };
            Bytes::read(memory, addr, layout.bin.bytes)
        })
        .collect();
    let sum = |field: u64| {
        bins.iter()
            .fold(0, |n: u64, b| n.saturating_add(b.word(field)))
    };
    let (first, step) = at.lstats;
    let large = (0..(SIZES - BINS) as u64).fold(0_u64, |n, i| {
        let made = arena.word(first + i * step);
        n.saturating_add(made.wrapping_sub(arena.word(first + i * step + 8)))
    });
    let (blocks, blocks_end) = blocks(memory, base.word(layout.base.blocks));
    State {
        place,
        mapped: arena.word(at.mapped),
        internal: arena.word(at.internal),
        nactive: arena.word(at.nactive),
        npages: at.npages.map(|parts| {
            parts
                .iter()
                .fold(0, |n: u64, &p| n.saturating_add(arena.word(p)))
        }),
        decay_ms: at.decay_ms.map(|ms| arena.word(ms) as i64),
        large,
        curregs: sum(layout.bin.curregs),
        curslabs: sum(layout.bin.curslabs),
        tcaches: arena.word(at.tcaches),
        slabcur: bins.iter().map(|b| b.word(layout.bin.slabcur)).collect(),
        base_allocated: base.word(layout.base.allocated),
        base_mapped: base.word(layout.base.mapped),
        blocks,
        blocks_end,
        unreadable: arena.unreadable
            + base.unreadable
            + bins.iter().map(|b| b.unreadable).sum::<u64>(),
    }
}

/// The blocks of a base; each begins with its size and a pointer to the next (`base_block_s`).
fn blocks<M: TargetMemory>(memory: &M, first: u64) -> (Vec<AddrRange>, bool) {
    let mut found = Vec::new();
    let mut at = first;
    while at != 0 {
        let block = word_at(memory, at)
            .filter(|size| {
                *size > 0 && size.is_multiple_of(PAGE_SIZE) && at.is_multiple_of(PAGE_SIZE)
            })
            .and_then(|size| AddrRange::with_len(RemoteAddr::new(at), size));
        let next = at.checked_add(8).and_then(|next| word_at(memory, next));
        let (Some(block), Some(next)) = (block, next) else {
            return (found, false);
        };
        if found.len() == MAX_BLOCKS {
            return (found, false);
        }
        found.push(block);
        at = next;
    }
    (found, true)
}

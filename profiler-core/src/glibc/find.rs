//! Finds `main_arena` and `mp_` in libc's writable data without symbols.

use std::cell::OnceCell;

use super::layout::{Layout, candidates};
use super::state::{ArenaState, MallocPar, ring, word_at};
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};

/// Pairs of words in `malloc_state.bins`.
const BINS: u64 = 127;
/// No libc has more writable data; anything beyond is not examined.
const MAX_DATA: u64 = 16 << 20;

/// Libc's writable data, read once, when it is first searched.
pub(super) struct Data<'a, M> {
    memory: &'a M,
    ranges: &'a [AddrRange],
    content: OnceCell<Content>,
}

impl<'a, M: TargetMemory> Data<'a, M> {
    /// The data in these ranges.
    pub(super) fn new(memory: &'a M, ranges: &'a [AddrRange]) -> Self {
        Self {
            memory,
            ranges,
            content: OnceCell::new(),
        }
    }

    /// The contents of the ranges.
    pub(super) fn read(&self) -> &Content {
        self.content
            .get_or_init(|| Content::read(self.memory, self.ranges))
    }
}

/// The contents of the data. Unreadable pages are zeros.
pub(super) struct Content {
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Content {
    /// Reads `ranges`, those that touch as one.
    fn read<M: TargetMemory>(memory: &M, ranges: &[AddrRange]) -> Self {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable();
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for range in sorted {
            let bytes = read_pages(memory, range);
            match pieces.last_mut() {
                Some((start, before)) if *start + before.len() as u64 == range.start().get() => {
                    before.extend(bytes);
                }
                _ => pieces.push((range.start().get(), bytes)),
            }
        }
        Self { pieces }
    }

    /// Every aligned address with `len` bytes after it, and those bytes.
    fn places(&self, len: u64) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().flat_map(move |(start, bytes)| {
            (0..bytes.len().saturating_sub(len as usize - 1))
                .step_by(8)
                .map(move |at| (start + at as u64, &bytes[at..at + len as usize]))
        })
    }
}

fn read_pages<M: TargetMemory>(memory: &M, range: AddrRange) -> Vec<u8> {
    let mut bytes = vec![0; range.len().min(MAX_DATA) as usize];
    if memory.read(range.start(), &mut bytes).is_ok() {
        return bytes;
    }
    let mut at = range.start();
    for page in bytes.chunks_mut(PAGE_SIZE as usize) {
        if memory.read(at, page).is_err() {
            page.fill(0);
        }
        at = at.checked_add(PAGE_SIZE).unwrap_or(at);
    }
    bytes
}

/// The main arena's address, its layout, and the ring of arenas that begins with it.
pub(super) struct Main {
    pub(super) layout: &'static Layout,
    pub(super) ring: Vec<ArenaState>,
}

/// The main arena at its previous address, if it is verified to be still there.
pub(super) fn main_arena_at<M: TargetMemory>(
    memory: &M,
    layout: &'static Layout,
    addr: u64,
) -> Option<Main> {
    let mut bytes = vec![0; layout.state_bytes as usize];
    memory.read(RemoteAddr::new(addr), &mut bytes).ok()?;
    empty_bins(layout, addr, &bytes)?;
    let (ring, closes) = ring(memory, layout, addr);
    closes.then_some(Main { layout, ring })
}

/// Finds the main arena: the place whose bins are all either empty (both links point back to the
/// bin) or contain two pointers to elsewhere, and whose `next` ring closes. If there are several,
/// the one with most empty bins.
pub(super) fn main_arena<M: TargetMemory>(
    memory: &M,
    data: &Content,
    version: (u32, u32),
) -> Option<Main> {
    candidates(version).find_map(|layout| {
        let best = data
            .places(layout.state_bytes)
            .filter_map(|(addr, bytes)| Some((empty_bins(layout, addr, bytes)?, addr)))
            .filter_map(|(empty, addr)| {
                let (ring, closes) = ring(memory, layout, addr);
                closes.then_some((empty, ring))
            })
            .max_by_key(|(empty, _)| *empty);
        best.map(|(_, ring)| Main { layout, ring })
    })
}

/// The number of empty bins of a `malloc_state` at `addr`; `None` if its bins are implausible.
fn empty_bins(layout: &Layout, addr: u64, bytes: &[u8]) -> Option<u32> {
    let end = addr + layout.state_bytes;
    let mut empty = 0;
    for bin in 0..BINS {
        let at = layout.bins + 16 * bin;
        let itself = addr + at - 16;
        let (forward, back) = (word_at(bytes, at), word_at(bytes, at + 8));
        if forward == itself && back == itself {
            empty += 1;
        } else if [forward, back]
            .iter()
            .any(|&link| link == 0 || link % 16 != 0 || (addr..end).contains(&link))
        {
            return None;
        }
    }
    Some(empty)
}

/// Finds `mp_`: all fields are plausible, and `sbrk_base` is the start of the main arena's memory.
/// The start of `[heap]` is the strongest evidence, then anonymous memory (where brk was not
/// available).
pub(super) fn malloc_par(
    data: &Content,
    layout: &Layout,
    main: &ArenaState,
    residency: &ResidencyMap,
) -> Option<(u64, MallocPar)> {
    data.places(MallocPar::bytes(layout))
        .map(|(addr, bytes)| (addr, MallocPar::parse(layout, bytes)))
        .filter_map(|(addr, par)| Some((proof(&par, main, residency)?, addr, par)))
        .max_by_key(|(proof, ..)| *proof)
        .map(|(_, addr, par)| (addr, par))
}

/// `mp_` at its previous address, if the evidence there is the strongest possible. If it is not
/// (settings differ from the defaults, or brk was not available), other places may fit better.
pub(super) fn malloc_par_at<M: TargetMemory>(
    memory: &M,
    layout: &Layout,
    addr: u64,
    main: &ArenaState,
    residency: &ResidencyMap,
) -> Option<MallocPar> {
    let mut bytes = vec![0; MallocPar::bytes(layout) as usize];
    memory.read(RemoteAddr::new(addr), &mut bytes).ok()?;
    let par = MallocPar::parse(layout, &bytes);
    (proof(&par, main, residency) == Some(BEST_PROOF)).then_some(par)
}

/// What [`proof`] gives at best.
const BEST_PROOF: u32 = 10;

/// How well a candidate for `mp_` fits the main arena; `None` if it does not.
fn proof(par: &MallocPar, main: &ArenaState, residency: &ResidencyMap) -> Option<u32> {
    if !par.is_plausible() || par.sbrk_base == 0 && !is_initialised(par) {
        return None;
    }
    let heap = residency
        .mappings()
        .iter()
        .find(|m| m.kind == MappingKind::Brk)
        .map(|m| m.range.start().get());
    let base = par.sbrk_base;
    let by_base = match residency.mapping_at(RemoteAddr::new(base)) {
        _ if base == 0 => return main.is_unused().then_some(1),
        _ if Some(base) == heap => 8,
        Some(m) if m.kind == MappingKind::Brk => 4,
        Some(m) if is_anonymous(&m.kind) && base.is_multiple_of(PAGE_SIZE) => 2,
        _ => return None,
    };
    // The defaults of malloc.c: M_MMAP_MAX and TCACHE_MAX_BINS. They only break ties.
    let by_default = u32::from(par.n_mmaps_max == 65536)
        + u32::from(par.tcache.is_none_or(|[bins, ..]| bins == 64));
    Some(by_base + by_default)
}

/// Distinguishes an `mp_` of an unused heap from zeros.
fn is_initialised(par: &MallocPar) -> bool {
    par.n_mmaps_max != 0 && par.thresholds[2] != 0
}

/// Memory that glibc's malloc may have mapped: unnamed, or named by its own `decorate_maps`.
pub(super) fn is_anonymous(kind: &MappingKind) -> bool {
    match kind {
        MappingKind::Anonymous | MappingKind::Stack => true,
        MappingKind::NamedAnonymous(name) => name.contains("glibc: malloc"),
        _ => false,
    }
}

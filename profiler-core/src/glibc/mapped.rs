//! Mmapped chunks: blocks with a mapping of their own, which no list leads to.
//!
//! Such a chunk begins its mapping with `prev_size` 0 and its whole size with the flag
//! `IS_MMAPPED`; after `memalign` it lies further in, `prev_size` being its distance from the
//! mapping's start, and the header at the start is stale. The kernel merges neighbouring mappings,
//! so a chunk may begin at any page.

use super::chunks::{IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE};
use super::ranges::{Claims, areas, page_heads};
use super::state::MallocPar;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;

/// The largest alignment looked for: larger ones are served, but nobody asks for them.
const MAX_ALIGNMENT: u64 = 1 << 30;

/// Beyond so many chunks no pair is looked for: the time for it grows with the square.
const MAX_PAIRED: usize = 4096;

/// An mmapped chunk: its mapping, and where the chunk's header lies in it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Mapped {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) lead: u64,
}

/// Finds the mmapped chunks in what is not claimed. First where mappings begin and where one chunk
/// ends; when `mp_` counts more than those, at every resident page.
pub(super) fn find<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    par: &MallocPar,
    claims: &mut Claims,
) -> Vec<Mapped> {
    let mut found = Vec::new();
    let areas = areas(residency);
    let starts = residency.mappings().iter().map(|m| m.range);
    let complete = |found: &[Mapped]| {
        let bytes: u64 = found.iter().map(|m: &Mapped| m.bytes).sum();
        found.len() as u64 >= u64::from(par.n_mmaps) && bytes >= par.mmapped_mem
    };
    for range in starts {
        let start = range.start();
        if let Some(area) = areas.iter().find(|a| a.contains(start)) {
            chain(memory, start.get(), area, claims, &mut found);
        }
    }
    for area in &areas {
        for [page, prev_size, head] in page_heads(memory, residency, *area) {
            if complete(&found) {
                break;
            }
            if looks_mapped(prev_size, head) && !claims.holds(page) {
                chain(memory, page, area, claims, &mut found);
            }
        }
    }
    reject_excess(par, claims, &mut found);
    found.sort_unstable_by_key(|m| m.start);
    found
}

fn looks_mapped(prev_size: u64, head: u64) -> bool {
    let flags = PREV_INUSE | IS_MMAPPED | NON_MAIN_ARENA;
    let size = head & !7;
    prev_size == 0 && head & flags == IS_MMAPPED && size != 0 && size.is_multiple_of(PAGE_SIZE)
}

/// Takes the chunk at `at`, and those that follow it without a gap.
fn chain<M: TargetMemory>(
    memory: &M,
    mut at: u64,
    area: &AddrRange,
    claims: &mut Claims,
    found: &mut Vec<Mapped>,
) {
    while let Some(chunk) = chunk_at(memory, at, area) {
        let end = chunk.start + chunk.bytes;
        if !claims.is_free(chunk.start, end) {
            return;
        }
        claims.claim(chunk.start, end);
        found.push(chunk);
        at = end;
    }
}

/// The mmapped chunk whose mapping begins at `at`.
fn chunk_at<M: TargetMemory>(memory: &M, at: u64, area: &AddrRange) -> Option<Mapped> {
    let header = |p: u64| -> Option<[u64; 2]> { memory.read_value(RemoteAddr::new(p)).ok() };
    let [prev_size, head] = header(at)?;
    let room = area.end().get().checked_sub(at)?;
    let total = head & !7;
    if !looks_mapped(prev_size, head) {
        return None;
    }
    // `_int_memalign` moves the header up to the next aligned place with a chunk's room before it.
    let aligned = (5..=MAX_ALIGNMENT.ilog2())
        .map(|bits| 1u64 << bits)
        .take_while(|&alignment| alignment <= room)
        .filter_map(|alignment| {
            let mem = at.checked_add(16)?.checked_next_multiple_of(alignment)?;
            let near = mem - 16 - at < 32;
            Some(mem - 16 - at + if near { alignment } else { 0 })
        });
    let moved = aligned.filter(|&lead| lead + 16 < room).find_map(|lead| {
        let [prev_size, head] = header(at + lead)?;
        let bytes = lead.checked_add(head & !7)?;
        let sound = prev_size == lead && head & 7 == IS_MMAPPED && bytes % PAGE_SIZE == 0;
        (sound && bytes <= room).then_some(Mapped {
            start: at,
            bytes,
            lead,
        })
    });
    moved.or_else(|| {
        (total <= room).then_some(Mapped {
            start: at,
            bytes: total,
            lead: 0,
        })
    })
}

/// When there are more than `mp_` counts, drops those that make the difference, if that is plain:
/// one chunk, or two, of exactly the bytes too many.
fn reject_excess(par: &MallocPar, claims: &mut Claims, found: &mut Vec<Mapped>) {
    let bytes: u64 = found.iter().map(|m| m.bytes).sum();
    let (Some(excess), Some(too_many)) = (
        bytes.checked_sub(par.mmapped_mem),
        found.len().checked_sub(par.n_mmaps as usize),
    ) else {
        return;
    };
    let drop: Vec<usize> = match too_many {
        1 => found
            .iter()
            .position(|m| m.bytes == excess)
            .into_iter()
            .collect(),
        2 if found.len() <= MAX_PAIRED => (0..found.len())
            .find_map(|i| {
                let rest = excess.checked_sub(found[i].bytes)?;
                let j = found[i + 1..].iter().position(|m| m.bytes == rest)?;
                Some(vec![i, i + 1 + j])
            })
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    for &i in drop.iter().rev() {
        claims.release(found.remove(i).start);
    }
}

//! What a gap between live blocks may once have held.

use fastrand::Rng;
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::glibc::{MIN_CHUNK, WHOLE_HEADER};
use profiler_core::residency::ResidencyMap;

/// The parts of a glibc gap that have pages and room for a chunk each, at addresses that a chunk
/// can have; all of the gap if it is shorter than two pages. Parts without pages were given back,
/// or never used.
pub fn parts_with_pages(
    gap: AddrRange,
    residency: &ResidencyMap,
) -> impl Iterator<Item = AddrRange> {
    let is_short = gap.len() < 2 * PAGE_SIZE;
    let mut runs = residency.runs_in(gap).peekable();
    let mut at = gap.start();
    let parts = std::iter::from_fn(move || {
        loop {
            let run = runs.next()?;
            if is_short || !run.state.has_data() {
                continue;
            }
            let goes_on = runs
                .peek()
                .is_some_and(|next| next.range.start() == run.range.end() && next.state.has_data());
            let start = aligned_like(gap.start(), run.range.start()).max(at);
            let after = aligned_like(gap.start(), run.range.end());
            // The header of the chunk behind must not be on a page that has none.
            let end = match after > run.range.end() && !goes_on {
                true => RemoteAddr::new(after.get() - WHOLE_HEADER),
                false => after,
            };
            let len = end.min(gap.end()).get().checked_sub(start.get());
            let part = len.and_then(|len| AddrRange::with_len(start, len));
            if let Some(part) = part.filter(|part| part.len() >= MIN_CHUNK) {
                at = part.end();
                return Some(part);
            }
        }
    });
    is_short.then_some(gap).into_iter().chain(parts)
}

/// The first address from `addr` on that is a multiple of 16 bytes away from `base`.
fn aligned_like(base: RemoteAddr, addr: RemoteAddr) -> RemoteAddr {
    let off = addr.get().wrapping_sub(base.get()) % 16;
    RemoteAddr::new(addr.get().saturating_add((16 - off) % 16))
}

/// Bytes that the next chunk of a gap takes if `left` bytes remain: at most `largest`, the largest
/// chunk of a fill, or all of them if the rest would be too short for a chunk.
pub fn room(left: u64, largest: u64) -> u64 {
    if left >= largest + MIN_CHUNK {
        largest
    } else {
        left
    }
}

/// How many of the last live blocks before a gap suggest what may have been in it.
const REMEMBERED: usize = 8;

/// A gap of more units can be filled exactly by any two sizes, as good as always.
const LARGEST_TILED: usize = 4096;

/// The sizes of the last blocks, headers included.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    sizes: [u64; REMEMBERED],
    seen: usize,
}

impl Neighbours {
    /// Notes a live block.
    pub fn note(&mut self, bytes: u64) {
        self.sizes[self.seen % REMEMBERED] = bytes;
        self.seen += 1;
    }

    /// Whether blocks of these sizes can fill a gap exactly.
    pub fn tile(&self, gap: u64) -> bool {
        const UNIT: u64 = 16;
        let mut sizes = self.sizes[..self.seen.min(REMEMBERED)].to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let units = (gap / UNIT) as usize;
        if units > LARGEST_TILED {
            return sizes.len() > 1 || sizes.iter().any(|size| gap.is_multiple_of(*size));
        }
        let mut reached = vec![false; units + 1];
        reached[0] = true;
        for at in 0..units {
            if reached[at] {
                for size in &sizes {
                    let next = at + (*size / UNIT) as usize;
                    if next <= units {
                        reached[next] = true;
                    }
                }
            }
        }
        reached[units]
    }

    /// A size to fill a gap of `room` bytes with, that leaves nothing or enough for another.
    pub fn draw(&self, room: u64, random: &mut Rng) -> u64 {
        let known = &self.sizes[..self.seen.min(REMEMBERED)];
        let fitting = known.iter().filter(|size| **size <= room).count();
        let Some(chosen) = (fitting > 0).then(|| random.usize(..fitting)) else {
            return room;
        };
        let mut fitting = known.iter().filter(|size| **size <= room);
        match fitting.nth(chosen) {
            Some(size) if room - size >= MIN_CHUNK => *size,
            _ => room,
        }
    }
}

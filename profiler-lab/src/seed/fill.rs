//! What a gap is filled with.

use fastrand::Rng;

/// Which blocks fill a gap.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Fill {
    /// None: only what is live is allocated. The least that an allocator could need.
    Dense,
    /// Blocks of the sizes of the live ones just before it.
    #[default]
    Neighbours,
    /// The same where these can fill it exactly, else one block.
    Exact,
    /// One block, or few.
    Whole,
}

/// Whether the fill of several arenas was there at once.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Overlap {
    /// All of it.
    #[default]
    Together,
    /// Each arena's is freed before the next has any.
    OneByOne,
}

/// What gaps as large as glibc's grown mmap threshold are taken for: a block of that size was freed
/// once, which is not to say that it was here.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum LargeGaps {
    /// Large blocks, where most of the heap is such gaps; else as all gaps.
    #[default]
    ByShare,
    /// Large blocks, and smaller gaps down to the threshold that glibc begins with as well.
    LargeBlocks,
    /// As all gaps.
    AsOthers,
}

/// In which order the fill is freed.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum FreeOrder {
    /// At random.
    #[default]
    Random,
    /// By address: first allocated, first freed.
    Address,
    /// The last allocated first.
    Reverse,
}

/// No chunk is smaller (glibc: `MINSIZE`).
pub(super) const LEAST: u64 = 32;
/// How many live blocks before a gap tell what was in it.
const REMEMBERED: usize = 8;

/// A gap of more units can be filled exactly by any two sizes, as good as always.
const LARGEST_TILED: usize = 4096;

/// The sizes of the last blocks, headers included.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    sizes: [u64; REMEMBERED],
    seen: usize,
}

impl Neighbours {
    /// Takes note of a live block.
    pub(super) fn note(&mut self, bytes: u64) {
        self.sizes[self.seen % REMEMBERED] = bytes;
        self.seen += 1;
    }

    /// Whether blocks of these sizes can fill a gap exactly.
    pub(super) fn tile(&self, gap: u64) -> bool {
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
    pub(super) fn draw(&self, room: u64, random: &mut Rng) -> u64 {
        let known = &self.sizes[..self.seen.min(REMEMBERED)];
        let fitting = known.iter().filter(|size| **size <= room).count();
        let Some(chosen) = (fitting > 0).then(|| random.usize(..fitting)) else {
            return room;
        };
        let mut fitting = known.iter().filter(|size| **size <= room);
        match fitting.nth(chosen) {
            Some(size) if room - size >= LEAST => *size,
            _ => room,
        }
    }
}

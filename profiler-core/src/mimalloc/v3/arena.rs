//! An arena's own account (`mi_arena_t`): its size, and which of its slices begin a page.

use std::collections::BTreeSet;

use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::mimalloc::number;

use super::page::{Memory, SLICE};

/// Bytes read of an arena's description.
const ARENA: usize = 256;
/// `sizeof(mi_memid_t)`; an arena begins with one.
const MEMID: usize = 24;
/// Bits of a chunk of a bitmap (`src/bitmap.h`); the chunks are behind their number and their map.
const CHUNK_BITS: u64 = 512;
const CHUNKS: u64 = 128;
/// Slices of an arena at most: 1 TiB.
const MAX_SLICES: u64 = 1 << 24;

/// An arena.
pub(super) struct Arena {
    addr: u64,
    pub(super) slices: u64,
    /// The number of slices occupied by its own data.
    pub(super) info: u64,
    bytes: [u8; ARENA],
}

impl Arena {
    pub(super) fn read<M: TargetMemory>(memory: &M, addr: u64) -> Option<Self> {
        let bytes: [u8; ARENA] = memory.read_value(RemoteAddr::new(addr)).ok()?;
        // `slice_count` and `info_slices`; from 3.4 on they are after the arena's number.
        [32, 40].into_iter().find_map(|at| {
            let (slices, info) = (number(&bytes, at, 8), number(&bytes, at + 8, 8));
            let sound = info > 0 && info < slices && slices <= MAX_SLICES;
            let arena = Self {
                addr,
                slices,
                info,
                bytes,
            };
            (sound && arena.end().is_some()).then_some(arena)
        })
    }

    /// Its end.
    pub(super) fn end(&self) -> Option<u64> {
        self.addr.checked_add(self.slices * SLICE)
    }

    /// The slices that begin a page: the arena's bitmap `pages`. Its offset differs by release, so
    /// it is recognised by its bits: of all bitmaps it agrees best with the pages that are `known`.
    pub(super) fn pages<M: TargetMemory>(
        &self,
        memory: &M,
        known: &BTreeSet<u64>,
    ) -> Option<BTreeSet<u64>> {
        let (words, _) = self.bytes.as_chunks::<8>();
        let own = self.addr + 1..self.addr + self.info * SLICE;
        let bitmaps = words.iter().map(|word| u64::from_le_bytes(*word));
        let bitmaps = bitmaps.filter(|at| own.contains(at) && at.is_multiple_of(8));
        let scored = bitmaps.filter_map(|at| self.bits(memory, at)).map(|bits| {
            let hits = bits.intersection(known).count() as i64;
            (2 * hits - bits.len() as i64, bits)
        });
        let best = scored.max_by_key(|(score, _)| *score);
        best.filter(|(score, _)| *score > 0).map(|(_, bits)| bits)
    }

    /// The indices of the bits set in the bitmap at `at`, if it is one.
    fn bits<M: TargetMemory>(&self, memory: &M, at: u64) -> Option<BTreeSet<u64>> {
        let chunks: u64 = memory.read_value(RemoteAddr::new(at)).ok()?;
        if chunks != self.slices.div_ceil(CHUNK_BITS) {
            return None;
        }
        let mut bytes = vec![0; (chunks * CHUNK_BITS / 8) as usize];
        let first = RemoteAddr::new(at).checked_add(CHUNKS)?;
        memory.read(first, &mut bytes).ok()?;
        let bits = (0u64..).zip(&bytes).flat_map(|(i, byte)| {
            let bits = (0..8).filter(move |bit| byte >> bit & 1 == 1);
            bits.map(move |bit| 8 * i + bit)
        });
        Some(bits.collect())
    }
}

/// How many bytes from `slice` on are mimalloc's own data in this arena: a `mi_meta_page_t`
/// (`src/arena-meta.c`), which contains a link and the origin of its memory.
pub(super) fn own_bytes<M: TargetMemory>(memory: &M, arena: u64, slice: u64) -> Option<u64> {
    let bytes: [u8; 8 + MEMID] = memory.read_value(RemoteAddr::new(slice)).ok()?;
    match Memory::parse(bytes.get(8..)?)? {
        Memory::Arena {
            arena: of,
            slice: index,
            count,
        } if of == arena && slice == arena.checked_add(index * SLICE)? => Some(count * SLICE),
        _ => None,
    }
}

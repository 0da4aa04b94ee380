//! Extents: `extent_t` to 5.2 (`extent_structs.h`), `edata_t` in 5.3 (`edata.h`). Both are 128 bytes
//! with the same fields at the same places; the bits in the first word differ.

use super::bytes::word;
use super::layout::Bits;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr, USER_END};
use crate::allocator::jemalloc_classes::{self, BINS};

/// `sizeof`.
pub(super) const BYTES: usize = 128;
/// Words of a slab's bitmap (`BITMAP_GROUPS_MAX` for 512 regions). A set bit is a free region
/// (`bitmap.h`).
const BITMAP_WORDS: usize = 8;
/// The free regions of a slab.
pub(super) type Bitmap = [u64; BITMAP_WORDS];
/// `e_slab_data`.
const BITMAP: usize = 0x40;

/// The use of an extent.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Use {
    /// Regions of `region` bytes each.
    Slab {
        region: u64,
        nfree: u32,
        free: Bitmap,
    },
    /// One block of `usable` bytes that begins `offset` into the extent (`opt.cache_oblivious`
    /// places large blocks at random within their first page).
    Large { offset: u64, usable: u64 },
    /// In no use, dirty: given back by decay only.
    Dirty,
    /// Unused, lazily purged (`MADV_FREE`): the kernel takes it when it needs memory.
    Muzzy,
    /// Unused; its pages were returned, its addresses kept.
    Retained,
    /// Between two states.
    Moving,
}

/// One extent.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    pub(super) range: AddrRange,
    pub(super) arena: u32,
    pub(super) used: Use,
    /// Index of its size class; not a valid one for an unused extent.
    pub(super) class: usize,
    /// Whether the huge-page allocator owns it (`opt.hpa`).
    pub(super) hpa: bool,
}

impl Extent {
    /// The extent that `bytes` describe; `None` when they cannot be one.
    pub(super) fn parse(bits: &Bits, bytes: &[u8; BYTES]) -> Option<Self> {
        let e_bits = word(bytes, 0);
        let addr = word(bytes, 8);
        let size = word(bytes, 16) & !(PAGE_SIZE - 1);
        let field = |shift: u32, width: u32| (e_bits >> shift) & ((1 << width) - 1);
        let start = addr & !(PAGE_SIZE - 1);
        let range = AddrRange::with_len(RemoteAddr::new(start), size)?;
        if start == 0 || size == 0 || range.end() > USER_END {
            return None;
        }
        let class = field(bits.szind, 8) as usize;
        let is_slab = field(12, 1) == 1;
        let used = match field(bits.state, bits.state_width) {
            0 if is_slab => {
                let region = jemalloc_classes::bytes(class).filter(|_| class < BINS)?;
                if addr != start || size / region > 64 * BITMAP_WORDS as u64 {
                    return None;
                }
                Use::Slab {
                    region,
                    nfree: field(bits.nfree, 10) as u32,
                    free: std::array::from_fn(|i| word(bytes, BITMAP + 8 * i)),
                }
            }
            0 => {
                let usable = jemalloc_classes::bytes(class)?;
                let offset = addr - start;
                // A page more, or the next size class, are for `settle`.
                if !addr.is_multiple_of(8) || usable / 2 > size {
                    return None;
                }
                Use::Large { offset, usable }
            }
            1 => Use::Dirty,
            2 => Use::Muzzy,
            3 => Use::Retained,
            _ => Use::Moving,
        };
        Some(Self {
            range,
            arena: field(0, 12) as u32,
            used,
            class,
            hpa: bits.pai.is_some_and(|at| field(at, 1) == 1),
        })
    }
}

/// The padding page that every large extent has besides its block (`sz_large_pad`): 4096 bytes with
/// `opt.cache_oblivious`, the default, else 0. Any extent whose size is only possible with padding
/// shows it.
pub(super) fn large_pad(extents: &[Extent]) -> u64 {
    let padded = extents.iter().any(|extent| match extent.used {
        Use::Large { offset, usable } if extent.class >= BINS => {
            offset > 0 || extent.range.len() > usable
        }
        _ => false,
    });
    if padded { PAGE_SIZE } else { 0 }
}

impl Extent {
    /// Determines the size of a large block: that of its size class or, since 5.3.1 (`sz.h`,
    /// `opt.disable_large_size_classes`), whole pages up to it. Returns whether the result is
    /// plausible.
    pub(super) fn settle(&mut self, pad: u64) -> bool {
        let Use::Large { offset, usable } = &mut self.used else {
            return true;
        };
        let size = self.range.len();
        if self.class >= BINS {
            let below = jemalloc_classes::bytes(self.class - 1).unwrap_or(0);
            let rest = size.saturating_sub(pad);
            if *usable < rest || below >= rest {
                return false;
            }
            *usable = rest;
        }
        offset.checked_add(*usable).is_some_and(|end| end <= size)
    }
}

/// Whether region `i` is free by the slab's bitmap.
pub(super) fn is_free(free: &Bitmap, i: u64) -> bool {
    free[(i / 64) as usize % BITMAP_WORDS] >> (i % 64) & 1 == 1
}

/// The free regions among the first `regions`.
pub(super) fn count_free(free: &Bitmap, regions: u64) -> u32 {
    (0..regions).filter(|&i| is_free(free, i)).count() as u32
}

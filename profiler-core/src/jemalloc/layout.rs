//! Where jemalloc keeps what, release by release, for x86-64 with 4 KiB pages.
//!
//! Offsets were compiled from each release's headers as `./configure` makes them. They do not
//! depend on its options, except `--enable-debug`, `--with-lg-page` and `--with-lg-slab-maxregs`,
//! which no layout here fits; then the shape is not found and nothing is walked.

use crate::allocator::known_of;

/// One release's structures. All numbers are bytes from the start of the structure.
#[derive(Debug)]
pub(super) struct Layout {
    /// The versions it holds for begin so.
    pub(super) versions: &'static [&'static str],
    pub(super) bits: Bits,
    pub(super) arena: ArenaLayout,
    pub(super) bin: BinLayout,
    pub(super) base: BaseLayout,
    pub(super) tcache: TcacheLayout,
}

/// Shifts in `e_bits` of `extent_t` (to 5.2, `extent_structs.h`) or `edata_t` (5.3, `edata.h`). The
/// arena's index is in the lowest 12 bits, the slab flag in bit 12.
#[derive(Debug)]
pub(super) struct Bits {
    pub(super) state: u32,
    /// Two to 5.2, three since 5.3.
    pub(super) state_width: u32,
    pub(super) szind: u32,
    pub(super) nfree: u32,
    /// `e_pai`, 5.3: whether a huge-page allocator owns the extent.
    pub(super) pai: Option<u32>,
}

/// `struct arena_s` (`arena_structs_b.h` to 5.2, `arena_structs.h` since 5.3).
#[derive(Debug)]
pub(super) struct ArenaLayout {
    /// `sizeof`, with its bins as far as they are part of it.
    pub(super) bytes: u64,
    /// `stats.mapped`, 5.3: `stats.pa_shard_stats.pac_stats.pac_mapped`.
    pub(super) mapped: u64,
    /// `stats.internal`.
    pub(super) internal: u64,
    /// `stats.lstats`, and the size of one; `nmalloc` and `ndalloc` are its first words.
    pub(super) lstats: (u64, u64),
    /// Head of the list of thread caches.
    pub(super) tcaches: u64,
    /// `nactive`, in pages.
    pub(super) nactive: u64,
    /// `npages` of the dirty, muzzy and retained extents; 5.3 counts guarded ones apart.
    pub(super) npages: [&'static [u64]; 3],
    /// `decay_dirty.time_ms`, `decay_muzzy.time_ms`.
    pub(super) decay_ms: [u64; 2],
    pub(super) bins: Bins,
    /// `base`, a pointer.
    pub(super) base: u64,
    /// `ind`, where it has one (5.3).
    pub(super) ind: Option<u64>,
}

/// Where the bins of an arena are.
#[derive(Debug)]
pub(super) enum Bins {
    /// One after another in or right after the arena.
    Inline(u64),
    /// Pointers to them (5.2).
    Pointers(u64),
}

/// `struct bin_s` (`bin.h`; `arena_bin_s` in 5.0).
#[derive(Debug)]
pub(super) struct BinLayout {
    pub(super) bytes: u64,
    pub(super) curregs: u64,
    pub(super) curslabs: u64,
    pub(super) slabcur: u64,
}

/// `struct base_s` (`base_structs.h` to 5.2, `base.h` since 5.3). `ind` is its first word; in 5.3
/// that of `ehooks`. A block begins with `size` and `next`.
#[derive(Debug)]
pub(super) struct BaseLayout {
    pub(super) blocks: u64,
    pub(super) allocated: u64,
    pub(super) mapped: u64,
}

/// How thread caches are found from an arena, and what a cache bin (`cache_bin_s`, 24 bytes) is.
#[derive(Debug)]
pub(super) enum TcacheLayout {
    /// 5.0 (`tcache_structs.h`): the list links `tcache_t` at `link`; the bins are inside.
    Inside { link: u64, small: u64, large: u64 },
    /// 5.1 and 5.2 (`cache_bin.h`): the list links descriptors that point to small and large bins.
    Described,
    /// 5.3: descriptors with one pointer to all bins, of which there are so many
    /// (`TCACHE_NBINS_MAX`); a bin is a stack that grows down.
    Stacks { bins: u64 },
}

const OLD_BASE: BaseLayout = BaseLayout {
    blocks: 0x88,
    allocated: 0x7d0,
    mapped: 0x7e0,
};

const BITS_5_1: Bits = Bits {
    state: 16,
    state_width: 2,
    szind: 18,
    nfree: 26,
    pai: None,
};

const BITS_5_3: Bits = Bits {
    state: 17,
    state_width: 3,
    szind: 20,
    nfree: 28,
    pai: Some(14),
};

const BASE_5_2: BaseLayout = BaseLayout {
    blocks: 0x90,
    allocated: 0x7d8,
    mapped: 0x7e8,
};

const BIN_5_3: BinLayout = BinLayout {
    bytes: 0xe0,
    curregs: 0x88,
    curslabs: 0xb0,
    slabcur: 0xc0,
};

static LAYOUTS: [Layout; 6] = [
    Layout {
        versions: &["5.3.1"],
        bits: BITS_5_3,
        arena: ArenaLayout {
            bytes: 0x13b40,
            mapped: 0xc0,
            internal: 0x48,
            lstats: (0x3e0, 0x38),
            tcaches: 0x2ed0,
            nactive: 0x3008,
            npages: [&[0x5658, 0x7c10], &[0xa248, 0xc800], &[0xee38, 0x113f0]],
            decay_ms: [0x11598, 0x11c90],
            bins: Bins::Inline(0x13b40),
            base: 0x13b08,
            ind: Some(0x13b00),
        },
        bin: BIN_5_3,
        base: BaseLayout {
            blocks: 0xa0,
            allocated: 0xf38,
            mapped: 0xf58,
        },
        tcache: TcacheLayout::Stacks { bins: 41 },
    },
    Layout {
        versions: &["5.3.0"],
        bits: BITS_5_3,
        arena: ArenaLayout {
            bytes: 0x13468,
            mapped: 0xb0,
            internal: 0x38,
            lstats: (0x3d0, 0x30),
            tcaches: 0x28a0,
            nactive: 0x29a0,
            npages: [&[0x5000, 0x75b8], &[0x9bf0, 0xc1a8], &[0xe7e0, 0x10d98]],
            decay_ms: [0x10f40, 0x11638],
            bins: Bins::Inline(0x13468),
            base: 0x13458,
            ind: Some(0x13450),
        },
        bin: BIN_5_3,
        base: BaseLayout {
            blocks: 0xa0,
            allocated: 0xf28,
            mapped: 0xf38,
        },
        tcache: TcacheLayout::Stacks { bins: 73 },
    },
    Layout {
        versions: &["5.2.1"],
        bits: BITS_5_1,
        arena: ArenaLayout {
            bytes: 0x7338,
            mapped: 0x18,
            internal: 0x68,
            lstats: (0x300, 0x30),
            tcaches: 0x27d0,
            nactive: 0x2868,
            npages: [&[0x3c40], &[0x4fa8], &[0x6310]],
            decay_ms: [0x6398, 0x6a90],
            bins: Bins::Pointers(0x7208),
            base: 0x7328,
            ind: None,
        },
        bin: BinLayout {
            bytes: 0x118,
            curregs: 0xa0,
            curslabs: 0xc8,
            slabcur: 0x70,
        },
        base: BASE_5_2,
        tcache: TcacheLayout::Described,
    },
    Layout {
        versions: &["5.2.0"],
        bits: BITS_5_1,
        arena: ArenaLayout {
            bytes: 0x66e8,
            mapped: 0x18,
            internal: 0x68,
            lstats: (0x2e8, 0x20),
            tcaches: 0x1b78,
            nactive: 0x1c18,
            npages: [&[0x2ff0], &[0x4358], &[0x56c0]],
            decay_ms: [0x5748, 0x5e40],
            bins: Bins::Pointers(0x65b8),
            base: 0x66d8,
            ind: None,
        },
        bin: BinLayout {
            bytes: 0x110,
            curregs: 0xa0,
            curslabs: 0xc8,
            slabcur: 0x70,
        },
        base: BASE_5_2,
        tcache: TcacheLayout::Described,
    },
    Layout {
        versions: &["5.1."],
        bits: BITS_5_1,
        arena: ArenaLayout {
            bytes: 0x6508,
            mapped: 0x10,
            internal: 0x58,
            lstats: (0x2d8, 0x20),
            tcaches: 0x1b68,
            nactive: 0x1c00,
            npages: [&[0x2348], &[0x2a28], &[0x3108]],
            decay_ms: [0x3188, 0x3878],
            bins: Bins::Inline(0x3fd8),
            base: 0x64f8,
            ind: None,
        },
        bin: BinLayout {
            bytes: 0x108,
            curregs: 0x98,
            curslabs: 0xc0,
            slabcur: 0x68,
        },
        base: OLD_BASE,
        tcache: TcacheLayout::Described,
    },
    Layout {
        versions: &["5.0."],
        bits: Bits {
            state: 15,
            state_width: 2,
            szind: 17,
            nfree: 25,
            pai: None,
        },
        arena: ArenaLayout {
            bytes: 0x64f8,
            mapped: 0x10,
            internal: 0x58,
            lstats: (0x2d0, 0x20),
            tcaches: 0x1b58,
            nactive: 0x1bf0,
            npages: [&[0x2338], &[0x2a18], &[0x30f8]],
            decay_ms: [0x3178, 0x3868],
            bins: Bins::Inline(0x3fc8),
            base: 0x64e8,
            ind: None,
        },
        bin: BinLayout {
            bytes: 0x108,
            curregs: 0x98,
            curslabs: 0xc0,
            slabcur: 0x68,
        },
        base: OLD_BASE,
        tcache: TcacheLayout::Inside {
            link: 0x370,
            small: 0x10,
            large: 0x3b0,
        },
    },
];

/// The versions that are known, in words.
pub(super) fn known() -> String {
    let versions = LAYOUTS.iter().flat_map(|layout| layout.versions);
    known_of(versions.map(|version| version.trim_end_matches('.')))
}

/// The layouts that may fit a version: its own, or all when the object does not name it.
pub(super) fn candidates(version: Option<&str>) -> impl Iterator<Item = &'static Layout> {
    LAYOUTS.iter().filter(move |layout| match version {
        Some(version) => layout.versions.iter().any(|v| version.starts_with(v)),
        None => true,
    })
}

//! jemalloc 5.1.0, configured on a machine with 57 bits of virtual addresses.

use profiler_core::allocator::Allocator;
use profiler_core::jemalloc::walk;
use profiler_core::object::AllocatorObject;
use profiler_core::residency::MappingKind;

use super::{Specimen, object};
use crate::image::{HeapImage, Values, WeakPoints, Words, range};

const DATA: u64 = 0x7f00_0000_0000;
const DATA_BYTES: u64 = 0x50000;
const ROOT: u64 = DATA + 0x1000;
const ARENAS: u64 = DATA + 0x42000;
/// The address of the only block of metadata.
pub const META: u64 = 0x7f10_0000_0000;
/// The size of the only block of metadata, in bytes.
pub const META_BYTES: u64 = 0x20000;
const BASE: u64 = META + 0x100;
const ARENA: u64 = META + 0x1040;
/// The arena's count of its active pages.
pub const ACTIVE_PAGES: u64 = ARENA + 0x1c00;
const EXTENTS: u64 = META + 0x10000;
const DESCRIPTOR: u64 = META + 0x18000;
const BINS: u64 = META + 0x18100;
const LARGE_BINS: u64 = META + 0x19000;
const STACK: u64 = META + 0x1a000;
const NODE: u64 = 0x7f11_0000_0000;
const LEAF: u64 = 0x7f12_0000_0000;
/// The address of the extents.
pub const HEAP: u64 = 0x7f20_0000_0000;
const HEAP_BYTES: u64 = 0x20000;
/// The word of the tree's root that leads to them.
pub const ROOT_ENTRY: u64 = ROOT + 8 * (HEAP >> 42);

/// Bits of `e_bits`: whether a slab, the state, the class, the free regions.
fn bits(slab: u64, state: u64, class: u64, nfree: u64) -> u64 {
    slab << 12 | state << 16 | class << 18 | nfree << 26
}

/// A slab of 256 regions of 16 bytes, the first 100 free and three in a thread's cache; a full one of
/// 32 of 128 bytes; a large block; dirty, muzzy and retained pages.
pub fn sound() -> HeapImage {
    let mut image = HeapImage::default();
    image.map(DATA, DATA_BYTES, MappingKind::Anonymous);
    image.map(META, META_BYTES, MappingKind::Anonymous);
    image.map(NODE, 8 << 15, MappingKind::Anonymous);
    image.map(LEAF, 16 << 15, MappingKind::Anonymous);
    image.map_partly(HEAP, HEAP_BYTES, 0, MappingKind::Anonymous);
    image.put(ARENAS, ARENA);
    image.put(ROOT_ENTRY, NODE);
    image.put(NODE + 8 * (HEAP >> 27 & 0x7fff), LEAF);

    // The base and its one block.
    image.put(META, META_BYTES);
    image.put(BASE + 0x88, META);
    image.put(BASE + 0x7d0, 0x19000);
    image.put(BASE + 0x7e0, META_BYTES);
    image.put(ARENA + 0x64f8, BASE);

    let extents = [
        (0x1000, bits(1, 0, 1, 100), 0),
        (0x1000, bits(1, 0, 8, 0), 0),
        (0x5000, bits(0, 0, 36, 0), 0x40),
        (0x3000, bits(0, 1, 232, 0), 0),
        (0x1000, bits(0, 2, 232, 0), 0),
        (0x10000, bits(0, 3, 232, 0), 0),
    ];
    let mut at = HEAP;
    for (i, (size, bits, offset)) in (0..).zip(extents) {
        let extent = EXTENTS + 128 * i;
        image.put(extent, bits);
        image.put(extent + 8, at + offset);
        image.put(extent + 16, size);
        for page in [at, at + size - 0x1000] {
            image.put(LEAF + 16 * (page >> 12 & 0x7fff), extent);
        }
        at += size;
    }
    image.put(EXTENTS + 0x40, u64::MAX);
    image.put(EXTENTS + 0x48, (1 << 36) - 1);

    // The arena's counters.
    image.put(ARENA + 0x10, 0xb000); // mapped
    image.put(ARENA + 0x2d8, 5); // lstats[0].nmalloc
    image.put(ARENA + 0x2e0, 4); // ndalloc
    image.put(ARENA + 0x1b68, DESCRIPTOR);
    image.put(ACTIVE_PAGES, 7);
    image.put(ARENA + 0x2348, 3); // extents_dirty.npages
    image.put(ARENA + 0x2a28, 1);
    image.put(ARENA + 0x3108, 16);
    image.put(ARENA + 0x3188, 10_000);
    for (bin, slab, regions) in [(1, 0, 156), (8, 1, 32)] {
        let bin = ARENA + 0x3fd8 + 0x108 * bin;
        image.put(bin + 0x68, EXTENTS + 128 * slab);
        image.put(bin + 0x98, regions);
        image.put(bin + 0xc0, 1);
    }

    // The only thread cache in the ring.
    image.put(DESCRIPTOR, DESCRIPTOR);
    image.put(DESCRIPTOR + 16, BINS);
    image.put(DESCRIPTOR + 24, LARGE_BINS);
    image.put(BINS + 24, 3 << 32);
    image.put(BINS + 24 + 16, STACK + 24);
    for i in 0..3 {
        image.put(STACK + 8 * i, HEAP + 16 * (200 + i));
    }
    image
}

/// The mapped object whose heap it is.
pub fn library(version: Option<&str>) -> AllocatorObject {
    let data = vec![range(DATA, DATA_BYTES)];
    object(
        Allocator::Jemalloc,
        version,
        "/usr/lib/libjemalloc.so.2",
        data,
    )
}

/// For damage.
pub fn specimen() -> Specimen {
    Specimen {
        image: sound(),
        weak: WeakPoints {
            words: vec![
                Words::of(BASE, 0x100),
                Words::of(ARENA, 0x6508),
                Words::of(EXTENTS, 6 * 128),
                Words::of(DESCRIPTOR, 0x200),
                Words::of(STACK, 0x20),
                Words::of(META, META_BYTES),
                Words::of(LEAF, 0x400),
                Words::of(ROOT_ENTRY, 8),
                Words::of(ARENAS + 8, 8),
                Words::of(NODE + 8 * (HEAP >> 27 & 0x7fff), 8),
            ],
            values: vec![
                Values::Addresses(META, 0x20000, 1),
                Values::Addresses(HEAP, 0x40000, 1),
                Values::Addresses(NODE, 0x1000, 64),
            ],
        },
        walk: |image| {
            let library = library(Some("5.1.0"));
            image
                .walk(|memory, residency| walk(memory, residency, &library))
                .into_iter()
                .collect()
        },
    }
}

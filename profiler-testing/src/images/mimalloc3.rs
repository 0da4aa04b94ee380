//! mimalloc 3.0.1: an arena with its own slice, a page of mimalloc's own data, two pages with blocks,
//! and free slices; and the map of pages.

use profiler_core::heap::HeapSnapshot;
use profiler_core::mimalloc::NotWalked;
use profiler_core::residency::MappingKind;

use super::{Specimen, walk_mimalloc};
use crate::image::{HeapImage, Values, WeakPoints, Words, range};

/// Bytes of a slice.
pub const SLICE: u64 = 64 << 10;
const ARENA: u64 = 0x4000_0000;
/// Slices of the arena.
pub const SLICES: u64 = 512;
const OWN: u64 = ARENA + SLICE;
const PAGE: u64 = ARENA + 2 * SLICE;
const FIRST_BLOCK: u64 = PAGE + 128;
/// The first page.
pub const FIRST: u64 = PAGE;
/// The second.
pub const SECOND: u64 = ARENA + 3 * SLICE;
/// The arena's bitmap.
const BITMAP: u64 = ARENA + 0x1000;
/// The word of it that has a bit for each slice at which a page begins.
pub const PAGES: u64 = BITMAP + 128;
const MAP: u64 = 0x7f00_0000_0000;
const PART: u64 = 0x7f10_0000_0000;
const DATA: u64 = 0x7f20_0000_0000;
const PATH: &str = "/lib/libmimalloc.so.3";
/// Bytes of a block.
pub const BLOCK: u64 = 80;

/// Of the first page's 40 blocks, 4 are in its lists and 2 in that of other threads; the second
/// page's 10 are live.
pub fn sound() -> HeapImage {
    let mut image = HeapImage::default();
    image.map_partly(ARENA, SLICES * SLICE, 5 * SLICE, MappingKind::Anonymous);
    image.map_partly(MAP, 4 << 20, 4096, MappingKind::Anonymous);
    image.map(PART, SLICE, MappingKind::Anonymous);
    image.map(DATA, 4096, MappingKind::File(PATH.into()));
    image.put(DATA + 0x100, MAP);
    image.put(MAP + 8 * (ARENA >> 29), PART);
    let entry = |addr: u64| PART + 8 * (addr >> 16 & 0x1fff);
    image.put(entry(PAGE), PAGE);
    image.put(entry(SECOND), SECOND);
    image.put(ARENA + 32, SLICES);
    image.put(ARENA + 40, 1); // info_slices
    image.put(ARENA + 96, BITMAP);
    image.put(BITMAP, 1);
    image.put(PAGES, 0b1100);
    memid(&mut image, OWN + 8, 1);
    let block = |i: u64| FIRST_BLOCK + BLOCK * i;
    // used, capacity, reserved
    page(&mut image, PAGE, 2, 36 | 40 << 16 | 800 << 32);
    image.put(PAGE + 8, block(3)); // free
    image.put(PAGE + 24, block(9)); // local_free
    image.put(PAGE + 32, block(20) | 1); // xthread_free
    image.put(block(3), block(5));
    image.put(block(5), block(39));
    image.put(block(20), block(21));
    page(&mut image, SECOND, 3, 10 | 10 << 16 | 800 << 32);
    image
}

fn page(image: &mut HeapImage, page: u64, slice: u64, counts: u64) {
    image.put(page + 16, counts);
    image.put(page + 40, BLOCK);
    image.put(page + 48, page + 128);
    memid(image, page + 96, slice);
}

fn memid(image: &mut HeapImage, at: u64, slice: u64) {
    image.put(at, ARENA);
    image.put(at + 8, slice | 1 << 32);
    image.put(at + 16, 7);
}

/// The walk of such an image.
///
/// # Errors
/// Those of the walker.
pub fn walk(image: &HeapImage) -> Result<Vec<HeapSnapshot>, NotWalked> {
    walk_mimalloc(image, "3.0.1", PATH, range(DATA, 4096))
}

/// For damage.
pub fn specimen() -> Specimen {
    Specimen {
        image: sound(),
        weak: WeakPoints {
            // Pages' descriptions, the arena's, the map, its part, blocks.
            words: vec![
                Words::of(PAGE, 17 * 8),
                Words::of(SECOND, 17 * 8),
                Words::of(ARENA, 14 * 8),
                Words::of(BITMAP, 20 * 8),
                Words::of(OWN, 4 * 8),
                Words::of(MAP, 4 * 8),
                Words::of(PART, 16 * 8),
                Words::of_each(FIRST_BLOCK, 8, 45, BLOCK),
            ],
            values: vec![
                Values::Addresses(ARENA, 0xc000, 8),
                Values::Addresses(PART, 0x4000, 8),
                Values::Addresses(FIRST_BLOCK, 900, BLOCK),
                Values::Fields(&[(0, 600), (32, 600)], 0),
            ],
        },
        walk: |image| walk(image).unwrap_or_default(),
    }
}

//! mimalloc 2.0.9: a segment with one page of 80-byte blocks, its heap, and the data of its object.

use profiler_core::heap::HeapSnapshot;
use profiler_core::mimalloc::NotWalked;
use profiler_core::residency::MappingKind;

use super::{Specimen, walk_mimalloc};
use crate::image::{HeapImage, Values, WeakPoints, Words, range};

/// The segment.
pub const SEGMENT: u64 = 0x2000_0000_0000;
/// The size of a slice, of which the segment has 512.
pub const SLICE: u64 = 64 << 10;
const HEAP: u64 = 0x7f10_0000_0000;
const DATA: u64 = 0x7f00_0000_0000;
const PATH: &str = "/lib/libmimalloc.so.2.0";
/// The block size, for which the releases place a page's first block differently.
pub const BLOCK: u64 = 80;
const FIRST_BLOCK: u64 = SEGMENT + SLICE + 384;
const SECRET: u64 = 0x1234_5678_9abc_def1;
/// The head of the heap's list of blocks that other threads freed.
const DELAYED: u64 = HEAP + 2840;

/// Of 40 blocks, 3 and 1 are free, 2 were freed by other threads, 1 is in the heap's list.
pub fn sound() -> HeapImage {
    let mut image = HeapImage::default();
    image.map_partly(SEGMENT, 512 * SLICE, 2 * SLICE, MappingKind::Anonymous);
    image.map(HEAP, 4096, MappingKind::Anonymous);
    image.map(DATA, 4096, MappingKind::File(PATH.into()));
    image.put(DATA + 0x100, SECRET);
    image.put(SEGMENT + 208, 1); // used
    image.put(SEGMENT + 216, SEGMENT ^ SECRET); // cookie
    image.put(SEGMENT + 224, 512); // segment_slices
    image.put(SEGMENT + 232, 1); // segment_info_slices
    image.put(SEGMENT + 248, 512); // slice_entries
    image.put(SEGMENT + 256, 0x7f20_0000_0000); // thread_id
    let page = SEGMENT + 264 + 80;
    let block = |i: u64| FIRST_BLOCK + BLOCK * i;
    image.put(page, 1); // slice_count
    image.put(page + 8, 40 << 16 | 814 << 32); // capacity, reserved
    image.put(page + 16, block(3)); // free
    image.put(page + 24, 36 | BLOCK << 32); // used, xblock_size
    image.put(page + 32, block(9)); // local_free
    image.put(page + 40, block(20) | 2); // xthread_free
    image.put(page + 48, HEAP); // xheap
    image.put(block(3), block(5));
    image.put(block(5), block(39));
    image.put(block(20), block(21));
    image.put(DELAYED, block(30));
    image.put(page + 80, 510); // the rest of the segment
    image
}

/// The walk of such an image.
///
/// # Errors
/// Those of the walker.
pub fn walk(image: &HeapImage) -> Result<Vec<HeapSnapshot>, NotWalked> {
    walk_mimalloc(image, "2.0.9", PATH, range(DATA, 4096))
}

/// For damage.
pub fn specimen() -> Specimen {
    Specimen {
        image: sound(),
        weak: WeakPoints {
            // The segment's header, its first pages, blocks, the heap's list.
            words: vec![
                Words::of(SEGMENT + 208, 64),
                Words::of(SEGMENT + 344, 216),
                Words::of_each(FIRST_BLOCK, 8, 45, BLOCK),
                Words::of(DELAYED, 8),
            ],
            values: vec![
                Values::Addresses(SEGMENT, 0x6000, 8),
                Values::Addresses(FIRST_BLOCK, 1100, BLOCK),
                Values::Fields(&[(16, 1 << 16), (32, 1 << 16)], 0),
            ],
        },
        walk: |image| walk(image).unwrap_or_default(),
    }
}

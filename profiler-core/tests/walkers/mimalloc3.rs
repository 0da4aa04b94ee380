//! mimalloc 3.x on images.

use profiler_core::arena::ArenaFigure;
use profiler_core::completeness::Confidence;
use profiler_testing::heap::assert_verified;
use profiler_testing::images::mimalloc3::{
    BLOCK, FIRST, PAGES, SECOND, SLICE, SLICES, sound, specimen, walk,
};

use crate::damage::assert_survives;

#[test]
fn a_sound_image_is_walked_whole() {
    let heaps = walk(&sound()).expect("a heap");
    let [heap] = heaps.as_slice() else {
        panic!("{heaps:?}")
    };
    assert_verified(heap);
    let arena = &heap.arenas[0];
    assert_eq!(arena.live_blocks, 34 + 10);
    assert_eq!((arena.free_blocks, arena.free_bytes), (6, 6 * BLOCK));
    assert_eq!(arena.top_bytes, (760 + 790) * BLOCK);
    assert_eq!(arena.system_bytes, SLICES * SLICE);
    let retained = arena.figure(ArenaFigure::RetainedBytes);
    assert_eq!(retained, Some((SLICES - 4) * SLICE));
    // What `mi_collect(true)` purges: the slices that no page has.
    let purged: u64 = heap.trimmable.iter().map(|range| range.len()).sum();
    assert_eq!(purged, (SLICES - 4) * SLICE);
}

#[test]
fn pages_without_a_live_block_are_collected_by_the_thread_that_has_them() {
    let purged = |owners: [u64; 2]| {
        let mut image = sound();
        for (page, owner) in [FIRST, SECOND].into_iter().zip(owners) {
            image.put(page, owner);
            // Of 800 blocks that there is room for none was ever handed out.
            image.put(page + 16, 800 << 32);
            for list in [8, 24, 32] {
                image.put(page + list, 0);
            }
        }
        let heaps = walk(&image).expect("a heap");
        assert_verified(&heaps[0]);
        let slices: u64 = heaps[0]
            .trimmable
            .iter()
            .map(|range| range.len() / SLICE)
            .sum();
        slices - (SLICES - 4)
    };
    // The lowest bits are flags; 4 stands for a thread that has ended.
    assert_eq!(purged([0x7000, 0x7001]), 2);
    assert_eq!(purged([0x7000, 0x8000]), 1, "one thread calls it");
    assert_eq!(purged([0x7000, 4]), 1);
    assert_eq!(purged([0, 4]), 0);
}

#[test]
fn a_freed_page_that_the_map_still_has_is_left_out() {
    let mut image = sound();
    image.put(PAGES, 0b0100);
    let heaps = walk(&image).expect("a heap");
    assert_eq!(heaps[0].arenas[0].live_blocks, 34);
    assert_eq!(heaps[0].confidence, Confidence::High);
}

#[test]
fn damage_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&specimen());
}

//! mimalloc 3.x on images.

use profiler_core::arena::ArenaFigure;
use profiler_core::completeness::Confidence;
use profiler_testing::heap::assert_verified;
use profiler_testing::images::mimalloc3::{BLOCK, PAGES, SLICE, SLICES, sound, specimen, walk};

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

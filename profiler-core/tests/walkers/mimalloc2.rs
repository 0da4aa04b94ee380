//! mimalloc 2.x on images.

use profiler_core::mimalloc::NotWalked;
use profiler_testing::heap::assert_verified;
use profiler_testing::images::mimalloc2::{BLOCK, SEGMENT, SLICE, sound, specimen, walk};

use crate::damage::assert_survives;

#[test]
fn a_sound_image_is_walked_whole() {
    let heaps = walk(&sound()).expect("a heap");
    let [heap] = heaps.as_slice() else {
        panic!("{heaps:?}")
    };
    assert_verified(heap);
    assert_eq!(heap.version, "2.0.9");
    let arena = &heap.arenas[0];
    assert_eq!((arena.live_blocks, arena.live_bytes), (33, 33 * BLOCK));
    assert_eq!((arena.free_blocks, arena.free_bytes), (7, 7 * BLOCK));
    assert_eq!(arena.top_bytes, (814 - 40) * BLOCK);
    assert_eq!(arena.system_bytes, 512 * SLICE);
}

#[test]
fn memory_without_a_segment_is_refused() {
    let mut image = sound();
    image.put(SEGMENT + 232, 0);
    assert_eq!(walk(&image), Err(NotWalked::NothingFound));
}

#[test]
fn damage_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&specimen());
}

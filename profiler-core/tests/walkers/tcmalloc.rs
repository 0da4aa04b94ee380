//! tcmalloc on images.

use profiler_core::allocator::FoundVersion;
use profiler_core::heap::HeapSnapshot;
use profiler_core::tcmalloc::NotWalked;
use profiler_testing::heap::assert_verified;
use profiler_testing::image::range;
use profiler_testing::images::tcmalloc::{
    FREE_LISTS, HEAP, META, PAGE, PATH, sound, specimen, walk,
};

use crate::damage::assert_survives;

fn assert_whole(heap: &HeapSnapshot) {
    assert_verified(heap);
    let arena = &heap.arenas[0];
    assert_eq!(
        (arena.live_blocks, arena.live_bytes),
        (4, 3 * 1024 + 3 * PAGE)
    );
    assert_eq!(
        (arena.free_blocks, arena.free_bytes),
        (3, 2 * 1024 + 2 * PAGE)
    );
    assert_eq!((arena.cached_blocks, arena.cached_bytes), (3, 3 * 1024));
    assert_eq!(heap.extents.len(), 1);
    assert_eq!(heap.extents[0].spans.bytes(), 8 * PAGE);
    assert_eq!(heap.trimmable, [range(HEAP + 4 * PAGE, 2 * PAGE)]);
}

#[test]
fn a_sound_image_is_walked_whole() {
    assert_whole(&walk(&sound(), "2.10").expect("a heap"));
}

/// The sets of large free spans lie before the list heads and have their shape unless empty.
#[test]
fn large_free_spans_do_not_hide_the_page_heap() {
    let mut image = sound();
    for set in [FREE_LISTS - 48, FREE_LISTS - 96] {
        for word in 2..5 {
            image.put(set + 8 * word, META + 0x3000);
        }
        image.put(set + 40, 1);
    }
    assert_whole(&walk(&image, "2.10").expect("a heap"));
}

#[test]
fn what_cannot_be_walked_says_why() {
    let sentence = NotWalked::UnknownVersion(FoundVersion::Unknown).to_string();
    assert_eq!(
        sentence,
        "gperftools of unknown version is not known to this fragscope, which can walk 2.10"
    );
    let unknown = Err(NotWalked::UnknownVersion(FoundVersion::Known(
        "2.99".into(),
    )));
    assert_eq!(walk(&sound(), "2.99"), unknown);
    let mut image = sound();
    image.put(FREE_LISTS + 16, 0);
    let missing = NotWalked::NoPageHeap(PATH.into());
    assert_eq!(walk(&image, "2.10"), Err(missing));
}

#[test]
fn damage_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&specimen());
}

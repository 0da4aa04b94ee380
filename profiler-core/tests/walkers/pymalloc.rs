//! pymalloc on images.

use profiler_core::arena::ArenaFigure;
use profiler_core::completeness::Confidence;
use profiler_core::heap::HeapSnapshot;
use profiler_core::pymalloc::{self, Context, NotWalked, Roots};
use profiler_core::sample::PythonMalloc;
use profiler_testing::heap::{assert_sound, assert_verified};
use profiler_testing::image::HeapImage;
use profiler_testing::images::pymalloc::{
    ARENA, ARENA_OBJECTS, ARENAS, ARENAS_COUNT, ARENAS_POINTER, CONTEXT, FIRST_POOL, HEAP, POOL,
    POOLS, roots_of, specimen, with_arenas,
};

use crate::damage::assert_survives;

/// Walks it: from nothing, and from the roots that a walk before found, which must be the same.
fn walk_with(image: &HeapImage, context: &Context) -> Result<HeapSnapshot, NotWalked> {
    image.walk(|memory, residency| {
        let walked = pymalloc::walk(memory, residency, context);
        let mut roots = Roots::default();
        for _ in 0..3 {
            let again = pymalloc::walk_from(memory, residency, context, &mut roots);
            assert_eq!(again, walked);
        }
        walked
    })
}

fn walk(image: &HeapImage) -> HeapSnapshot {
    walk_with(image, &CONTEXT).expect("a heap")
}

#[test]
fn a_sound_image_is_walked_whole() {
    let (image, truth) = with_arenas(5);
    let heap = walk(&image);
    assert_verified(&heap);
    let total = &heap.arenas[0];
    assert_eq!(total.live_blocks, truth.live_blocks);
    assert_eq!(total.live_bytes, truth.live_bytes);
    for figure in [
        (ArenaFigure::ArenasAllocated, 5),
        (ArenaFigure::ArenasAllocatedTotal, 12),
        (ArenaFigure::ArenasReclaimed, 7),
        (ArenaFigure::ArenasHighwater, 7),
        (ArenaFigure::PoolsUsed, truth.pools_used),
        (ArenaFigure::PoolsFree, 5 * POOLS - truth.pools_used),
        (ArenaFigure::ArenaAlignmentBytes, 5 << 14),
    ] {
        assert!(total.figures.contains(&figure), "{figure:?} {total:?}");
    }
}

#[test]
fn what_is_not_pymalloc_is_refused_with_the_reason() {
    let (mut image, _) = with_arenas(2);
    let refused = walk_with(&image, &Context::default());
    assert_eq!(refused, Err(NotWalked::NotPython));
    // 4 KiB pools, of which there are none, and no other size is looked for without pymalloc.
    let without = Context {
        python: Some((3, 9)),
        serves: PythonMalloc::Malloc,
    };
    let refused = walk_with(&image, &without);
    assert_eq!(refused, Err(NotWalked::NoPools));
    let refused = walk_with(&HeapImage::default(), &CONTEXT);
    assert_eq!(refused, Err(NotWalked::NoPools));
    image.bytes_mut(HEAP).fill(0);
    let refused = walk_with(&image, &CONTEXT);
    assert_eq!(refused, Err(NotWalked::NoArenas));
}

#[test]
fn pools_of_another_size_than_the_version_has_are_recognised_by_their_headers() {
    let (image, truth) = with_arenas(2);
    let patched = Context {
        python: Some((3, 9)),
        serves: PythonMalloc::Pymalloc,
    };
    let heap = walk_with(&image, &patched).expect("a heap");
    assert_verified(&heap);
    assert_eq!(heap.arenas[0].live_blocks, truth.live_blocks);
    for (name, value) in [("pool_size", "16384"), ("arena_size", "1048576")] {
        let setting = (name.to_owned(), value.to_owned());
        assert!(heap.settings.contains(&setting), "{:?}", heap.settings);
    }
}

/// In 3.11 and before, the lists of pools and the pointer to the array are variables apart, and
/// compilers differ in the order of what is beside the pointer.
#[test]
fn an_array_that_the_lists_do_not_lead_to_is_found_in_the_data() {
    for backwards in [false, true] {
        let (mut image, truth) = with_arenas(3);
        let state = &mut image.bytes_mut(ARENAS_POINTER)[..0x240];
        let moved = state.to_vec();
        state.fill(0);
        for (n, word) in (0..).zip(moved.as_chunks().0) {
            let distance = if backwards {
                0x1000 - 8 * n
            } else {
                0x1000 + 8 * n
            };
            image.put(ARENAS_POINTER + distance, u64::from_le_bytes(*word));
        }
        let heap = walk(&image);
        assert_verified(&heap);
        assert_eq!(heap.checks.len(), 3, "{:?}", heap.checks);
        assert_eq!(heap.arenas[0].live_blocks, truth.live_blocks);
        // Where it was before, it is not looked for in vain.
        let mut roots = roots_of(&with_arenas(3).0);
        let moved = image
            .walk(|memory, residency| pymalloc::walk_from(memory, residency, &CONTEXT, &mut roots));
        assert_eq!(moved, Ok(heap));
    }
}

#[test]
fn arenas_that_were_got_since_are_found_from_roots() {
    let (image, _) = with_arenas(3);
    let mut roots = roots_of(&image);
    let later = Context {
        python: Some((3, 12)),
        ..CONTEXT
    };
    let (image, truth) = with_arenas(5);
    let walk_from = |roots: &mut Roots| {
        image.walk(|memory, residency| pymalloc::walk_from(memory, residency, &later, roots))
    };
    let heap = walk_from(&mut roots).expect("a heap");
    assert_verified(&heap);
    assert_eq!(heap.arenas[0].live_blocks, truth.live_blocks);
}

#[test]
fn an_arena_that_pymalloc_counts_and_nothing_names_is_reported_as_missed() {
    let (mut image, _) = with_arenas(3);
    image.put(ARENAS_COUNT, 4);
    let heap = walk(&image);
    assert_eq!(heap.confidence, Confidence::Low, "{:?}", heap.checks);
}

#[test]
fn a_free_list_in_a_circle_makes_its_pool_unknown_and_no_other() {
    let (mut image, truth) = with_arenas(2);
    let first = image.get(FIRST_POOL + 8);
    image.put(first, first);
    let lost = u64::from(image.get_u32(FIRST_POOL));
    let heap = walk(&image);
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.defects.len(), 1);
    assert_eq!(heap.defects[0].bytes, POOL);
    assert_eq!(heap.confidence, Confidence::Low);
    assert_eq!(heap.arenas[0].live_blocks, truth.live_blocks - lost);
}

/// Changes a pool's count of blocks in use (`ref.count`) in the image's first arena.
fn change_count(image: &mut HeapImage, pool: u64, by: i32) {
    let at = FIRST_POOL + pool * POOL;
    let count = image.get_u32(at);
    image.put_u32(at, count.wrapping_add_signed(by));
}

/// `pymalloc_alloc` counts a block before it takes it from the list, `pymalloc_free` puts it there
/// before it counts: a thread that is stopped in between leaves one pool so, and nothing is wrong.
#[test]
fn a_block_that_is_being_taken_or_freed_is_no_damage() {
    for by in [1, -1] {
        let (mut image, truth) = with_arenas(2);
        change_count(&mut image, 0, by);
        let heap = walk(&image);
        assert_verified(&heap);
        assert_eq!(heap.threads_inside, 1);
        let live = heap.arenas[0].live_blocks;
        assert_eq!(live, truth.live_blocks, "as the list has it");
    }
}

/// `pymalloc_pool_extend` makes a new block the first free one before it counts it as carved.
#[test]
fn a_block_that_is_being_carved_is_no_damage() {
    let (mut image, truth) = with_arenas(2);
    // The first pool, with all that was carved of it in use.
    let next_offset = image.get_u32(FIRST_POOL + 40);
    let block = POOL as u32 - image.get_u32(FIRST_POOL + 44);
    let count = (next_offset - 48) / block;
    let freed = u64::from(count - image.get_u32(FIRST_POOL));
    image.put_u32(FIRST_POOL, count);
    image.put(FIRST_POOL + 8, FIRST_POOL + u64::from(next_offset));
    let heap = walk(&image);
    assert_sound(&heap);
    assert_eq!(heap.threads_inside, 1);
    assert_eq!(heap.arenas[0].live_blocks, truth.live_blocks + freed);
}

/// `nfreepools` of an arena in the image, changed by `by`.
fn change_free_pools(image: &mut HeapImage, arena: u64, by: i32) {
    let at = ARENA_OBJECTS + 48 * arena + 16;
    let count = image.get_u32(at);
    image.put_u32(at, count.wrapping_add_signed(by));
}

/// The last block of a pool is counted off before the pool goes to the arena's free ones, and a
/// pool leaves those before its first block is counted: copying a page that a fork shares may
/// take long in between.
#[test]
fn a_pool_that_is_being_taken_or_freed_is_no_damage() {
    let (mut image, truth) = with_arenas(2);
    change_free_pools(&mut image, 1, -1);
    let heap = walk(&image);
    assert_verified(&heap);
    assert_eq!(heap.threads_inside, 1);
    assert_eq!(heap.arenas[0].live_blocks, truth.live_blocks);
    for by in [-2, 1] {
        let (mut image, _) = with_arenas(2);
        change_free_pools(&mut image, 1, by);
        assert_eq!(walk(&image).confidence, Confidence::Low, "{by}");
    }
}

/// Names an arena beside `arenas` others, all of whose pools are free and which is not mapped.
fn name_unmapped(image: &mut HeapImage, arenas: u64) {
    let (object, address) = (ARENA_OBJECTS + 48 * arenas, ARENAS + 16 * ARENA * arenas);
    image.put(object, address);
    image.put(object + 8, address.next_multiple_of(POOL) + 40 * POOL);
    image.put(object + 16, POOLS | POOLS << 32);
    image.put(ARENAS_COUNT, arenas + 1);
}

/// `insert_to_freepool` unmaps an arena before it counts it off.
#[test]
fn an_arena_that_is_being_given_back_is_no_damage() {
    let (mut image, truth) = with_arenas(3);
    name_unmapped(&mut image, 3);
    let heap = walk(&image);
    assert_verified(&heap);
    assert_eq!(heap.threads_inside, 1);
    assert_eq!(heap.unreadable_bytes, 0);
    assert_eq!(heap.arenas[0].live_blocks, truth.live_blocks);
    assert_eq!(heap.arenas[0].system_bytes, 3 * ARENA);
    // One thread does one thing at a time.
    change_free_pools(&mut image, 1, -1);
    let heap = walk(&image);
    assert_eq!(heap.confidence, Confidence::Low);
    assert_eq!(heap.defects.len(), 1, "{:?}", heap.defects);
}

/// Whoever allocates holds the interpreter's lock: two pools that are off by one are damage.
#[test]
fn two_pools_whose_counts_are_off_are_damaged() {
    let (mut image, _) = with_arenas(2);
    change_count(&mut image, 0, 1);
    change_count(&mut image, 1, 1);
    let heap = walk(&image);
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.confidence, Confidence::Low, "{:?}", heap.checks);
    assert_eq!(heap.threads_inside, 0);
    assert_eq!(heap.defects.len(), 1, "{:?}", heap.defects);
    assert!(heap.defects[0].what.starts_with("2 pools or arenas "));
}

#[test]
fn damage_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&specimen());
}

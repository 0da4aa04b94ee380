//! The pymalloc walker on images: one that is sound, and any damage to it.

mod pymalloc_image;

use profiler_core::arena::ArenaFigure;
use profiler_core::completeness::Confidence;
use profiler_core::memory::{MemoryImage, ResidentMemory};
use profiler_core::pymalloc::{Context, NotWalked, walk};
use profiler_core::residency::ResidencyMap;
use profiler_core::sample::PythonMalloc;
use proptest::prelude::*;
use pymalloc_image::{CONTEXT, Image, POOLS};

#[test]
fn a_sound_image_is_told_whole() {
    let image = Image::new(5);
    let (memory, residency) = image.finish();
    let heap = walk(&memory, &residency, &CONTEXT).expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.defects, []);
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    let total = &heap.arenas[0];
    assert_eq!((total.live_blocks, total.live_bytes), image.live);
    for figure in [
        (ArenaFigure::ArenasAllocated, 5),
        (ArenaFigure::ArenasAllocatedTotal, 12),
        (ArenaFigure::ArenasReclaimed, 7),
        (ArenaFigure::ArenasHighwater, 7),
        (ArenaFigure::PoolsUsed, image.pools_used),
        (ArenaFigure::PoolsFree, 5 * POOLS - image.pools_used),
        (ArenaFigure::ArenaAlignmentBytes, 5 << 14),
    ] {
        assert!(total.figures.contains(&figure), "{figure:?} {total:?}");
    }
}

#[test]
fn what_is_not_pymalloc_is_refused_with_the_reason() {
    let (memory, residency) = Image::new(2).finish();
    let refused = walk(&memory, &residency, &Context::default());
    assert_eq!(refused, Err(NotWalked::NotPython));
    // 4 KiB pools, of which there are none, and no other size is looked for without pymalloc.
    let without = Context {
        python: Some((3, 9)),
        serves: PythonMalloc::Malloc,
    };
    let refused = walk(&memory, &residency, &without);
    assert_eq!(refused, Err(NotWalked::NoPools));
    let (nothing, nowhere) = (MemoryImage::default(), ResidencyMap::default());
    let refused = walk(&nothing, &nowhere, &CONTEXT);
    assert_eq!(refused, Err(NotWalked::NoPools));
    let mut image = Image::new(2);
    image.pieces[1].1.fill(0);
    let (memory, residency) = image.finish();
    let refused = walk(&memory, &residency, &CONTEXT);
    assert_eq!(refused, Err(NotWalked::NoArenas));
}

#[test]
fn pools_of_another_size_than_the_version_has_are_told_by_their_headers() {
    let image = Image::new(2);
    let (memory, residency) = image.finish();
    let patched = Context {
        python: Some((3, 9)),
        serves: PythonMalloc::Pymalloc,
    };
    let heap = walk(&memory, &residency, &patched).expect("a heap");
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    assert_eq!(heap.arenas[0].live_blocks, image.live.0);
    assert!(
        heap.settings
            .contains(&("pool_size".into(), "16384".into()))
    );
    assert!(
        heap.settings
            .contains(&("arena_size".into(), "1048576".into()))
    );
}

/// In 3.11 and before, the lists of pools and the pointer to the array are variables apart, and
/// compilers differ in the order of what is beside the pointer.
#[test]
fn an_array_that_the_lists_do_not_lead_to_is_found_in_the_data() {
    for backwards in [false, true] {
        let mut image = Image::new(3);
        let data = &mut image.pieces[0].1;
        let state = data[0x808..0x808 + 0x240].to_vec();
        data[0x808..0x808 + 0x240].fill(0);
        let words = state.chunks_exact(8);
        for (n, word) in words.enumerate() {
            let at = if backwards {
                0x1808 - 8 * n
            } else {
                0x1808 + 8 * n
            };
            data[at..at + 8].copy_from_slice(word);
        }
        let (memory, residency) = image.finish();
        let heap = walk(&memory, &residency, &CONTEXT).expect("a heap");
        assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
        assert_eq!(heap.checks.len(), 3, "{:?}", heap.checks);
        assert_eq!(heap.arenas[0].live_blocks, image.live.0);
    }
}

#[test]
fn an_arena_that_pymalloc_counts_and_nothing_names_is_missed_and_said_so() {
    let mut image = Image::new(3);
    image.pieces[0].1[0x808 + 552] = 4;
    let (memory, residency) = image.finish();
    let heap = walk(&memory, &residency, &CONTEXT).expect("a heap");
    assert_eq!(heap.confidence, Confidence::Low, "{:?}", heap.checks);
}

#[test]
fn a_free_list_in_a_circle_makes_its_pool_unknown_and_no_other() {
    let sound = Image::new(2);
    let mut image = Image::new(2);
    let pool = &mut image.pieces[2].1[0x3000..0x7000];
    let first = u64::from_le_bytes(pool[8..16].try_into().expect("eight bytes"));
    let at = (first % (16 << 10)) as usize;
    pool[at..at + 8].copy_from_slice(&first.to_le_bytes());
    let lost = u64::from(pool[0]) | u64::from(pool[1]) << 8;
    let (memory, residency) = image.finish();
    let heap = walk(&memory, &residency, &CONTEXT).expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.defects.len(), 1);
    assert_eq!(heap.defects[0].bytes, 16 << 10);
    assert_eq!(heap.confidence, Confidence::Low);
    assert_eq!(heap.arenas[0].live_blocks, sound.live.0 - lost);
}

/// A pool's count of blocks in use (`ref.count`) in the image's first arena, `nth` of those in use.
fn change_count(image: &mut Image, nth: usize, by: i32) {
    let pool = &mut image.pieces[2].1[0x3000 + nth * 0x4000..][..4];
    let count = i32::from_le_bytes(pool.try_into().expect("four bytes"));
    pool.copy_from_slice(&(count + by).to_le_bytes());
}

/// `pymalloc_alloc` counts a block before it takes it from the list, `pymalloc_free` puts it there
/// before it counts: a thread that is stopped in between leaves one pool so, and nothing is wrong.
#[test]
fn a_block_that_is_being_taken_or_freed_is_no_damage() {
    let sound = Image::new(2);
    for by in [1, -1] {
        let mut image = Image::new(2);
        change_count(&mut image, 0, by);
        let (memory, residency) = image.finish();
        let heap = walk(&memory, &residency, &CONTEXT).expect("a heap");
        assert_eq!(heap.check(), Vec::<String>::new());
        assert_eq!(heap.defects, []);
        assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
        assert_eq!(heap.threads_inside, 1);
        assert_eq!(heap.arenas[0].live_blocks, sound.live.0, "as the list says");
    }
}

/// `pymalloc_pool_extend` makes a new block the first free one before it counts it as carved.
#[test]
fn a_block_that_is_being_carved_is_no_damage() {
    let sound = Image::new(2);
    let mut image = Image::new(2);
    let arena = &mut image.pieces[2].1;
    let word = |arena: &[u8], at: usize| {
        u32::from_le_bytes(arena[at..at + 4].try_into().expect("four bytes"))
    };
    // The first pool, with all that was carved of it in use.
    let at = 0x3000;
    let next_offset = word(arena, at + 40);
    let count = (next_offset - 48) / ((16 << 10) - word(arena, at + 44));
    let freed = u64::from(count - word(arena, at));
    arena[at..at + 4].copy_from_slice(&count.to_le_bytes());
    let next = 0x7f10_0000_1000 + at as u64 + u64::from(next_offset);
    arena[at + 8..at + 16].copy_from_slice(&next.to_le_bytes());
    let (memory, residency) = image.finish();
    let heap = walk(&memory, &residency, &CONTEXT).expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.defects, []);
    assert_eq!(heap.threads_inside, 1);
    assert_eq!(heap.arenas[0].live_blocks, sound.live.0 + freed);
}

/// Whoever allocates holds the interpreter's lock: two pools that are off by one are damage.
#[test]
fn two_pools_whose_counts_are_off_are_damaged() {
    let mut image = Image::new(2);
    change_count(&mut image, 0, 1);
    change_count(&mut image, 1, 1);
    let (memory, residency) = image.finish();
    let heap = walk(&memory, &residency, &CONTEXT).expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.confidence, Confidence::Low, "{:?}", heap.checks);
    assert_eq!(heap.threads_inside, 0);
    assert_eq!(heap.defects.len(), 1, "{:?}", heap.defects);
    assert!(heap.defects[0].what.starts_with("2 pools "));
}

/// Values that break walks: ends, small numbers, and addresses of the image itself.
fn value() -> impl Strategy<Value = u64> {
    let heap = (0u64..0x2000).prop_map(|at| 0x5555_0000_0000 + at);
    let arenas = (0u64..0x30_0000).prop_map(|at| 0x7f10_0000_0000 + at);
    let pages = (0u64..0x300).prop_map(|page| 0x7f10_0000_0000 + (page << 12));
    let pairs = (0u64..0x4100, 0u64..0x4100).prop_map(|(low, high)| low | high << 32);
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        any::<u64>(),
        heap,
        arenas,
        pages,
        pairs
    ]
}

/// Where words matter most: the pointer, the array, the headers of pools; or anywhere.
fn place() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        (0usize..2, 0usize..0x400),
        (Just(1usize), 0x54usize..0x84),
        (0usize..128, 0usize..16).prop_map(|(pool, word)| (2, 0x600 + pool * 0x800 + word)),
        (Just(2usize), 0usize..0x6_0000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]
    #[test]
    fn damage_never_panics_always_ends_and_keeps_the_laws(
        damage in prop::collection::vec((place(), value()), 1..30),
    ) {
        let mut image = Image::new(3);
        for ((piece, word), value) in damage {
            let bytes = &mut image.pieces[piece].1;
            let at = word * 8 % bytes.len();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let (memory, residency) = image.finish();
        let memory = ResidentMemory::new(memory, &residency);
        if let Ok(heap) = walk(&memory, &residency, &CONTEXT) {
            prop_assert_eq!(heap.check(), Vec::<String>::new());
        }
    }
}

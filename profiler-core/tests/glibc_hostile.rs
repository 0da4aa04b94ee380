//! The glibc walker on images: one that is sound, and any damage to it.

mod glibc_image;

use glibc_image::{Chunk, Image, MMAPPED_BYTES};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::completeness::Confidence;
use profiler_core::glibc::{NotWalked, walk};
use profiler_core::memory::ResidentMemory;
use profiler_core::residency::{PageRun, PageState, ResidencyMap};
use proptest::prelude::*;

fn sound() -> Image {
    let mut chunks = vec![];
    for i in 0..40 {
        chunks.push((0x20 + 0x10 * (i % 9), Chunk::Live));
        chunks.push((0x30, Chunk::Fastbin));
        chunks.push((0x400 + 0x40 * i, Chunk::Free));
    }
    chunks.push((0x40, Chunk::Live));
    chunks.extend([(0x50, Chunk::Tcache); 7]);
    chunks.extend([(0x410, Chunk::Tcache), (0x3000, Chunk::Live)]);
    Image::new(&chunks)
}

#[test]
fn a_sound_image_is_told_whole() {
    let image = sound();
    let (memory, residency) = image.finish();
    let heap = walk(&memory, &residency, &image.context()).expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.defects, []);
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    let main = &heap.arenas[0];
    assert_eq!(main.live_blocks, 42);
    assert_eq!(main.free_blocks, 40);
    assert_eq!(
        (main.cached_blocks, main.cached_bytes),
        (48, 40 * 0x30 + 7 * 0x50 + 0x410)
    );
    assert_eq!(heap.arenas[1].live_bytes, 0x500);
    assert_eq!(heap.large_mapped(), (1, MMAPPED_BYTES));
}

#[test]
fn a_release_that_is_not_known_is_refused_by_name() {
    let image = sound();
    let (memory, residency) = image.finish();
    let mut context = image.context();
    context.version = Some((2, 99));
    let refused = walk(&memory, &residency, &context);
    assert_eq!(refused, Err(NotWalked::UnknownVersion(2, 99)));
    context.version = None;
    assert_eq!(
        walk(&memory, &residency, &context),
        Err(NotWalked::NoVersion)
    );
    context.version = Some((2, 23)); // another layout than the image's
    let refused = walk(&memory, &residency, &context);
    assert_eq!(refused, Err(NotWalked::NoMainArena(2, 23)));
}

#[test]
fn without_threads_the_caches_are_live_and_it_says_so() {
    let image = sound();
    let (memory, residency) = image.finish();
    let mut context = image.context();
    context.threads = &[];
    let heap = walk(&memory, &residency, &context).expect("a heap");
    assert_eq!(heap.arenas[0].live_blocks, 42 + 8 + 1);
    assert!(heap.confidence < Confidence::High);
    assert_eq!(heap.defects.len(), 1);
}

#[test]
fn swapped_pages_are_unknown_and_the_walk_goes_on_behind_them() {
    let image = Image::new(&[(0x110, Chunk::Live); 400]);
    let (memory, residency) = image.finish();
    let whole = walk(&memory, &residency, &image.context()).expect("a heap");
    let heap_start = whole.extents[0].range.start();

    let mut swapped = ResidencyMap::new(residency.mappings().to_vec());
    for run in residency.runs() {
        let pages = run.range.start().page()..run.range.end().page();
        for page in pages {
            let start = RemoteAddr::new(page * PAGE_SIZE);
            let nth = page.wrapping_sub(heap_start.page());
            swapped.push_run(PageRun {
                range: AddrRange::with_len(start, PAGE_SIZE).expect("a page"),
                state: if [3, 7, 8, 20].contains(&nth) {
                    PageState::SWAPPED
                } else {
                    run.state
                },
            });
        }
    }
    let memory = ResidentMemory::new(memory, &swapped);
    let heap = walk(&memory, &swapped, &image.context()).expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.confidence, Confidence::Medium, "{:?}", heap.checks);
    let (main, all) = (&heap.arenas[0], &whole.arenas[0]);
    assert_eq!(main.top_bytes, all.top_bytes);
    // Each hole costs the chunks that begin in it and the one before it: of 15 or 16 a page.
    let lost = all.live_blocks - main.live_blocks;
    assert!((4 * 15..=4 * 16 + 3 * 2).contains(&lost), "{lost}");
    assert_eq!(heap.unreadable_bytes, lost * 0x110);
}

/// Values that break walks: ends, flags, near misses, and addresses of the image itself.
fn value() -> impl Strategy<Value = u64> {
    let heap = (0u64..0x30000).prop_map(|at| 0x5555_0000_0000 + at);
    let thread = (0u64..0x30000).prop_map(|at| 0x7f10_0000_0000 + at);
    let libc = (0u64..0x2000).prop_map(|at| 0x7f00_0000_0000 + (at & !7));
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        0u64..0x5000,
        any::<u64>(),
        heap,
        thread,
        libc
    ]
}

/// Where a piece's words matter most: its beginning, or anywhere.
fn place() -> impl Strategy<Value = (usize, usize)> {
    (0usize..5, prop_oneof![0usize..0x200, 0usize..0x4400])
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    })]
    #[test]
    fn damage_never_panics_always_ends_and_keeps_the_laws(
        damage in prop::collection::vec((place(), value()), 1..20),
    ) {
        let mut image = sound();
        for ((piece, word), value) in damage {
            let bytes = &mut image.pieces[piece].1;
            let at = word * 8 % bytes.len();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let (memory, residency) = image.finish();
        let memory = ResidentMemory::new(memory, &residency);
        if let Ok(heap) = walk(&memory, &residency, &image.context()) {
            prop_assert_eq!(heap.check(), Vec::<String>::new());
        }
    }
}

//! glibc's malloc on images.

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::completeness::Confidence;
use profiler_core::glibc::{self, Context, NotWalked, Roots};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::ResidentMemory;
use profiler_core::residency::{PageRun, PageState, ResidencyMap};
use profiler_testing::heap::assert_verified;
use profiler_testing::image::HeapImage;
use profiler_testing::images::glibc::{
    Chunk, LIBC, MAIN_ARENA, MMAPPED_BYTES, MP, context, sound, specimen, with_chunks,
};

use crate::damage::assert_survives;

/// Walks it: from nothing, and from the roots that a walk or a look before found, which must be the same.
fn walk(image: &HeapImage, context: &Context<'_>) -> Result<HeapSnapshot, NotWalked> {
    image.walk(|memory, residency| {
        let walked = glibc::walk(memory, residency, context);
        let mut roots = Roots::default();
        glibc::find_roots(memory, residency, context, &mut roots);
        for _ in 0..2 {
            let again = glibc::walk_from(memory, residency, context, &mut roots);
            assert_eq!(again, walked);
            assert_eq!(roots.are_known(), walked.is_ok());
        }
        walked
    })
}

#[test]
fn a_sound_image_is_walked_whole() {
    let heap = walk(&sound(), &context()).expect("a heap");
    assert_verified(&heap);
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
    let mut context = context();
    context.version = Some((2, 99));
    let refused = walk(&image, &context);
    assert_eq!(refused, Err(NotWalked::UnknownVersion(2, 99)));
    context.version = None;
    assert_eq!(walk(&image, &context), Err(NotWalked::NoVersion));
    context.version = Some((2, 23)); // another layout than the image's
    let refused = walk(&image, &context);
    assert_eq!(refused, Err(NotWalked::NoMainArena(2, 23)));
}

#[test]
fn without_threads_the_caches_are_live_and_it_says_so() {
    let image = sound();
    let mut context = context();
    context.threads = &[];
    let heap = walk(&image, &context).expect("a heap");
    assert_eq!(heap.arenas[0].live_blocks, 42 + 8 + 1);
    assert!(heap.confidence < Confidence::High);
    assert_eq!(heap.defects.len(), 1);
}

#[test]
fn swapped_pages_are_unknown_and_the_walk_goes_on_behind_them() {
    let image = with_chunks(&[(0x110, Chunk::Live); 400]);
    let residency = image.residency();
    let whole = walk(&image, &context()).expect("a heap");
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
    let memory = ResidentMemory::new(image.memory(), &swapped);
    let heap = profiler_core::glibc::walk(&memory, &swapped, &context()).expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.confidence, Confidence::Medium, "{:?}", heap.checks);
    let (main, all) = (&heap.arenas[0], &whole.arenas[0]);
    assert_eq!(main.top_bytes, all.top_bytes);
    // Each hole costs the chunks that begin in it and the one before it: of 15 or 16 a page.
    let lost = all.live_blocks - main.live_blocks;
    assert!((4 * 15..=4 * 16 + 3 * 2).contains(&lost), "{lost}");
    assert_eq!(heap.unreadable_bytes, lost * 0x110);
}

#[test]
fn damage_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&specimen());
}

#[test]
fn roots_that_are_none_any_more_are_not_believed() {
    let mut roots = Roots::default();
    let mut image = sound();
    image.walk(|memory, residency| glibc::find_roots(memory, residency, &context(), &mut roots));
    assert!(roots.are_known());
    // Both links of a bin that is not empty.
    image.put(MAIN_ARENA + 0x70, 0);
    let walk_from = |image: &HeapImage, roots: &mut Roots| {
        image.walk(|memory, residency| glibc::walk_from(memory, residency, &context(), roots))
    };
    let refused = walk_from(&image, &mut roots);
    assert_eq!(refused, Err(NotWalked::NoMainArena(2, 36)));
    assert!(!roots.are_known());
    let heap = walk_from(&sound(), &mut roots).expect("a heap");
    assert_verified(&heap);
    assert!(roots.are_known(), "they are found anew");
}

/// `n_mmaps` and `mmapped_mem` are written one after the other: between them `mp_` makes no sense, and what
/// looks a little like one may be taken for it.
#[test]
fn what_was_taken_for_mp_while_it_changed_is_not_believed_later() {
    const OTHER: u64 = LIBC + 0x1800;
    const MMAPPED_MEM: u64 = 0x50;
    const SBRK_BASE: u64 = 0x60;
    let mut torn = sound();
    let whole: Vec<u8> = torn.bytes(MP)[..0x100].to_vec();
    torn.bytes_mut(OTHER)[..0x100].copy_from_slice(&whole);
    // Its memory would begin within the heap, not where that does.
    let base = torn.get(OTHER + SBRK_BASE);
    torn.put(OTHER + SBRK_BASE, base + 0x1000);
    let whole = torn.clone();
    torn.put(MP + MMAPPED_MEM, 0);
    let mut roots = Roots::default();
    torn.walk(|memory, residency| glibc::find_roots(memory, residency, &context(), &mut roots));
    assert!(roots.are_known());
    let heap = whole.walk(|memory, residency| {
        glibc::walk_from(memory, residency, &context(), &mut roots).expect("a heap")
    });
    assert_verified(&heap);
    assert_eq!(Ok(heap), walk(&whole, &context()));
}

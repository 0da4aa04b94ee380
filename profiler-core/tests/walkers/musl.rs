//! musl's mallocng on images.

use profiler_core::addr::RemoteAddr;
use profiler_core::arena::ArenaFigure;
use profiler_core::heap::ExtentKind;
use profiler_core::memory::MemoryImage;
use profiler_core::musl::{Context, NotWalked};
use profiler_core::residency::ResidencyMap;
use profiler_core::span::SpanState;
use profiler_testing::heap::{assert_verified, figure};
use profiler_testing::images::musl::{LARGE, STACK, sound, specimen, walk};

use crate::damage::assert_survives;

#[test]
fn a_sound_image_is_walked_whole() {
    let heap = walk(&sound()).expect("a heap");
    assert_verified(&heap);
    let arena = &heap.arenas[0];
    assert_eq!((arena.live_blocks, arena.live_bytes), (2, 48 + 4080));
    assert_eq!(
        (arena.free_blocks, arena.free_bytes),
        (4, 2 * 48 + 2032 + 4080)
    );
    assert_eq!(arena.top_bytes, 4080);
    assert_eq!(heap.large_mapped(), (1, 64 * 4096));
    assert_eq!(
        figure(&heap, ArenaFigure::RequestedBytes),
        44 - 3 + 4076 - 76
    );
    assert_eq!(
        figure(&heap, ArenaFigure::MappedLargeRequestedBytes),
        64 * 4096 - 20
    );
    assert_eq!(figure(&heap, ArenaFigure::NestedGroups), 1);
    let large = heap
        .extents
        .iter()
        .find(|e| e.kind == ExtentKind::LargeMapped);
    let spans: Vec<_> = large
        .expect("one")
        .spans
        .iter(RemoteAddr::new(LARGE))
        .collect();
    assert_eq!(spans[1].state, SpanState::Live);
}

#[test]
fn what_cannot_be_walked_says_why() {
    let mut image = sound();
    image.bytes_mut(STACK + 8)[0] ^= 1;
    assert_eq!(walk(&image), Err(NotWalked::NoContext));
    let nothing = ResidencyMap::default();
    let walk = |at_random, version: &str| {
        let version = version.to_owned();
        profiler_core::musl::walk(
            &MemoryImage::default(),
            &nothing,
            &Context { at_random, version },
        )
    };
    assert_eq!(walk(None, "1.2.5"), Err(NotWalked::NoSecret));
    let sentence = NotWalked::OldMalloc("1.1.24".into()).to_string();
    assert!(
        sentence.ends_with("; 1.2.1 to 1.2.6 are known"),
        "{sentence}"
    );
    let old = Err(NotWalked::OldMalloc("1.1.24".into()));
    assert_eq!(walk(Some(RemoteAddr::new(STACK)), "1.1.24"), old);
}

#[test]
fn damage_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&specimen());
}

//! jemalloc on images.

use profiler_core::allocator::FoundVersion;
use profiler_core::completeness::Confidence;
use profiler_core::heap::HeapSnapshot;
use profiler_core::jemalloc::NotWalked;
use profiler_core::span::SpanState;
use profiler_testing::heap::assert_verified;
use profiler_testing::image::HeapImage;
use profiler_testing::images::jemalloc::{
    ACTIVE_PAGES, HEAP, META, META_BYTES, ROOT_ENTRY, library, sound, specimen,
};

use crate::damage::assert_survives;

fn walk(image: &HeapImage, version: Option<&str>) -> Result<HeapSnapshot, NotWalked> {
    let library = library(version);
    image.walk(|memory, residency| profiler_core::jemalloc::walk(memory, residency, &library))
}

#[test]
fn a_sound_image_is_walked_whole() {
    // Where the object does not name its version, the shape of its data does.
    for version in [Some("5.1.0"), None] {
        let heap = walk(&sound(), version).expect("a heap");
        assert_verified(&heap);
        let [arena] = heap.arenas.as_slice() else {
            panic!("one arena: {:?}", heap.arenas);
        };
        assert_eq!(arena.live_blocks, 153 + 32 + 1);
        assert_eq!(arena.live_bytes, 153 * 16 + 0x1000 + 0x4000);
        assert_eq!((arena.free_blocks, arena.free_bytes), (100, 1600));
        assert_eq!((arena.cached_blocks, arena.cached_bytes), (3, 48));
        assert_eq!(arena.system_bytes, 0xb000 + META_BYTES);
        // The metadata's block; all else is one run.
        assert_eq!(heap.extents.len(), 2);
        let run = &heap.extents[1];
        let cached: Vec<_> = run
            .spans
            .iter(run.range.start())
            .filter(|span| span.state == SpanState::Cached)
            .map(|span| span.range.start().get())
            .collect();
        assert_eq!(cached, [200, 201, 202].map(|i| HEAP + 16 * i));
        assert_eq!(heap.trimmable.len(), 2);
        assert!(
            heap.settings
                .contains(&("dirty_decay_ms".to_owned(), "10000".to_owned()))
        );
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let mut image = sound();
    let unknown = Err(NotWalked::UnknownVersion(FoundVersion::Known(
        "3.6.0".to_owned(),
    )));
    assert_eq!(walk(&image, Some("3.6.0")), unknown);
    // Another layout than the image's.
    let sentence = NotWalked::UnknownVersion(FoundVersion::Unknown).to_string();
    assert_eq!(
        sentence,
        "jemalloc of unknown version is not known to this fragscope, so its heap is not walked; 5.0 to 5.3.1 are"
    );
    let no_arenas = Err(NotWalked::NoArenas(FoundVersion::Known("5.3.0".to_owned())));
    assert_eq!(walk(&image, Some("5.3.0")), no_arenas);
    image.put(ROOT_ENTRY, 0);
    let no_tree = Err(NotWalked::NoTree(FoundVersion::Known("5.1.0".to_owned())));
    assert_eq!(walk(&image, Some("5.1.0")), no_tree);
}

#[test]
fn a_count_that_differs_is_reported() {
    let mut image = sound();
    image.put(ACTIVE_PAGES, 8);
    let heap = walk(&image, Some("5.1.0")).expect("a heap");
    let off: Vec<_> = heap.checks.iter().filter(|c| !c.holds()).collect();
    assert_eq!(off.len(), 1, "{off:?}");
    assert_eq!(off[0].name, "arena 0 nactive");
    assert_eq!(heap.confidence, Confidence::Low);
}

#[test]
fn metadata_that_claims_an_extent_does_not_have_it() {
    let mut image = sound();
    image.put(META, HEAP - META + 0x1000);
    let heap = walk(&image, Some("5.1.0")).expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    let defects: Vec<_> = heap.defects.iter().map(|d| d.what.as_str()).collect();
    let overlap = "a block of metadata overlaps what is there already";
    assert_eq!(defects, [overlap]);
}

#[test]
fn damage_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&specimen());
}

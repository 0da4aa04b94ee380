//! The walkers on images of heaps: sound ones, those that lack something, and any damage to them.

mod damage;
mod glibc;
mod jemalloc;
mod mimalloc2;
mod mimalloc3;
mod musl;
mod pymalloc;
mod tcmalloc;

use profiler_core::heap::Allocator;
use profiler_testing::images::SPECIMENS;

#[test]
fn every_allocator_has_images_that_are_walked() {
    let walked = SPECIMENS.map(|of| of());
    let heaps = walked
        .iter()
        .flat_map(|specimen| (specimen.walk)(&specimen.image));
    let kinds: Vec<Allocator> = heaps.map(|heap| heap.allocator).collect();
    for kind in Allocator::ALL {
        assert!(kinds.contains(&kind), "no specimen of {kind}");
    }
}

#[test]
fn values_that_rows_speak_of_are_listed_by_walks() {
    for specimen in SPECIMENS.map(|of| of()) {
        for heap in (specimen.walk)(&specimen.image) {
            let listed = &heap.allocator.row().listed;
            let all = listed.bytes.iter().chain(listed.counters);
            // Options of jemalloc's lie in its file, of which the image has none.
            for name in all.filter(|name| !name.starts_with("opt.")) {
                let mut settings = heap.settings.iter();
                assert!(
                    settings.any(|(one, _)| one == name),
                    "{} has no {name}",
                    heap.allocator
                );
            }
        }
    }
}

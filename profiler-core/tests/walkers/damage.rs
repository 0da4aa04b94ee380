//! Whatever an image holds, a walk of it does not panic, ends, and breaks no law.

use profiler_testing::image::Damage;
use profiler_testing::images::{
    Specimen, glibc, jemalloc, mimalloc2, mimalloc3, musl, pymalloc, tcmalloc,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn assert_survives(specimen: &Specimen) {
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(500)
    };
    let damage = (any::<u32>(), any::<u8>(), any::<u64>())
        .prop_map(|(place, kind, value)| Damage { place, kind, value });
    let kept = TestRunner::new(config).run(&vec(damage, 1..24), |damage| {
        specimen.assert_survives(damage);
        Ok(())
    });
    kept.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn damage_to_a_heap_of_glibc_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&glibc::specimen());
}

#[test]
fn damage_to_a_heap_of_jemalloc_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&jemalloc::specimen());
}

#[test]
fn damage_to_a_heap_of_mimalloc2_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&mimalloc2::specimen());
}

#[test]
fn damage_to_a_heap_of_mimalloc3_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&mimalloc3::specimen());
}

#[test]
fn damage_to_a_heap_of_musl_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&musl::specimen());
}

#[test]
fn damage_to_a_heap_of_pymalloc_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&pymalloc::specimen());
}

#[test]
fn damage_to_a_heap_of_tcmalloc_never_panics_always_ends_and_keeps_the_laws() {
    assert_survives(&tcmalloc::specimen());
}

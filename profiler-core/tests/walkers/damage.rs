//! Whatever an image holds, a walk of it does not panic, ends, and breaks no law.

use profiler_testing::image::Damage;
use profiler_testing::images::Specimen;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Walks damaged copies of the specimen.
pub(crate) fn assert_survives(specimen: &Specimen) {
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

//! The census of Python's objects in memory that is damaged: no panic, an end, and sums that add up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_testing::image::Damage;
use profiler_testing::images::objects::sound;

fuzz_target!(|input: &[u8]| {
    sound().assert_survives(Damage::all_of(input));
});

//! The census of Python objects in damaged memory: no panic, termination, and sums that add up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_testing::image::Damage;
use profiler_testing::images::objects::sound;

fuzz_target!(|input: &[u8]| {
    sound().assert_survives(Damage::all_of(input));
});

//! Every walker on a damaged heap: no panic, termination, and conservation of bytes. The first byte
//! selects the walker.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profiler_testing::image::Damage;
use profiler_testing::images::SPECIMENS;

fuzz_target!(|input: &[u8]| {
    let Some((first, damage)) = input.split_first() else {
        return;
    };
    let specimen = SPECIMENS[usize::from(*first) % SPECIMENS.len()]();
    specimen.assert_survives(Damage::all_of(damage));
});

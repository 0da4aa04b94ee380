//! Damaged or generated core files: no panic, termination, and conservation of bytes.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use profiler_core::report::FragReport;
use profiler_core::residency::MappingKind;
use profiler_sampling::sample_of_core;
use profiler_testing::core_file;
use profiler_testing::image::{Damage, HeapImage, WeakPoints, Words};

fuzz_target!(|input: &[u8]| {
    let core = if input.starts_with(b"\x7fELF") {
        input.to_vec()
    } else {
        damaged(input)
    };
    let mut file = tempfile::NamedTempFile::new().expect("room in the temporary folder");
    file.write_all(&core).expect("room in the temporary folder");
    if let Ok(core) = sample_of_core(file.path(), None, None) {
        let sample = core.sample;
        for heap in &sample.heaps {
            assert_eq!(heap.check(), Vec::<String>::new());
        }
        let _ = FragReport::from_sample(&sample);
    }
});

/// A sound core, with damage to its headers and notes as often as to all of it.
fn damaged(input: &[u8]) -> Vec<u8> {
    let sound = core_file::sound();
    let len = sound.len() as u64;
    let mut file = HeapImage::default();
    file.map(0, len, MappingKind::Anonymous);
    file.bytes_mut(0).copy_from_slice(&sound);
    let weak = WeakPoints {
        words: vec![Words::of(0, 0x1000), Words::of(0, len)],
        values: Vec::new(),
    };
    for damage in Damage::all_of(input) {
        damage.apply(&mut file, &weak);
    }
    file.bytes(0).to_vec()
}

//! Core files, damaged or made up: no panic, an end, and conservation.
#![no_main]

#[allow(dead_code, reason = "only the image's bytes are wanted")]
#[path = "../../profiler-core/tests/glibc_image/mod.rs"]
mod glibc_image;
mod patches;
#[path = "../../profiler/tests/small_core/mod.rs"]
mod small_core;

use std::io::Write;

use profiler_sampling::sample_of_core;
use libfuzzer_sys::fuzz_target;
use profiler_core::report::FragReport;

fuzz_target!(|input: &[u8]| {
    let core = if input.starts_with(b"\x7fELF") {
        input.to_vec()
    } else {
        let mut parts = small_core::sound();
        // Headers and notes are one piece, memory the other.
        let mut pieces = [parts.drain(..0x1000).collect::<Vec<u8>>(), parts];
        patches::apply(input, &mut pieces);
        pieces.concat()
    };
    let mut file = tempfile::NamedTempFile::new().expect("room in the temporary folder");
    file.write_all(&core).expect("room in the temporary folder");
    if let Ok(core) = sample_of_core(file.path(), None) {
        let sample = core.sample;
        for heap in &sample.heaps {
            assert_eq!(heap.check(), Vec::<String>::new());
        }
        let _ = FragReport::from_sample(&sample);
    }
});

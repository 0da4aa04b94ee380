//! The pymalloc walker on arenas that are damaged: no panic, an end, and conservation.
#![no_main]

mod patches;
#[allow(dead_code, reason = "what the image is by construction is the tests' oracle")]
#[path = "../../profiler-core/tests/pymalloc_image/mod.rs"]
mod pymalloc_image;

use libfuzzer_sys::fuzz_target;
use profiler_core::memory::ResidentMemory;
use profiler_core::pymalloc::walk;
use pymalloc_image::{CONTEXT, Image};

fuzz_target!(|input: &[u8]| {
    let mut image = Image::new(2);
    patches::apply(input, image.pieces.iter_mut().map(|(_, bytes)| bytes));
    let (memory, residency) = image.finish();
    let memory = ResidentMemory::new(&memory, &residency);
    if let Ok(heap) = walk(&memory, &residency, &CONTEXT) {
        assert_eq!(heap.check(), Vec::<String>::new());
    }
});

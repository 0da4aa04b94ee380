//! The glibc walker on a heap that is damaged: no panic, an end, and conservation.
#![no_main]

#[path = "../../profiler-core/tests/glibc_image/mod.rs"]
mod glibc_image;
mod patches;

use glibc_image::{Chunk, Image};
use libfuzzer_sys::fuzz_target;
use profiler_core::glibc::walk;
use profiler_core::memory::ResidentMemory;

fuzz_target!(|input: &[u8]| {
    let mut chunks = vec![];
    for i in 0..8 {
        chunks.push((0x20 + 0x10 * i, Chunk::Live));
        chunks.push((0x30, Chunk::Fastbin));
        chunks.push((0x400 + 0x40 * i, Chunk::Free));
    }
    chunks.extend([(0x50, Chunk::Tcache), (0x410, Chunk::Tcache), (0x3000, Chunk::Live)]);
    let mut image = Image::new(&chunks);
    patches::apply(input, image.pieces.iter_mut().map(|(_, bytes)| bytes));
    let (memory, residency) = image.finish();
    let memory = ResidentMemory::new(&memory, &residency);
    if let Ok(heap) = walk(&memory, &residency, &image.context()) {
        assert_eq!(heap.check(), Vec::<String>::new());
    }
});

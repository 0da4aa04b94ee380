//! How many chunks a second the glibc walker walks, on an image of two million chunks.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use profiler_core::completeness::Confidence;
use profiler_core::glibc::walk;
use profiler_testing::images::glibc::{Chunk, MMAPPED_BYTES, context, with_chunks};

fn chunks_a_second(criterion: &mut Criterion) {
    const CHUNKS: u64 = 2_000_000;
    let kinds: Vec<_> = (0..CHUNKS)
        .map(|i| match i % 8 {
            _ if i < 7 => (0x40, Chunk::Tcache),
            0 | 3 => (0x90, Chunk::Free),
            5 => (0x30, Chunk::Fastbin),
            _ => (0x20 + 16 * (i % 7), Chunk::Live),
        })
        .collect();
    let image = with_chunks(&kinds);
    let (memory, residency) = (image.memory(), image.residency());
    let heap = walk(&memory, &residency, &context()).expect("a heap");
    assert_eq!(heap.large_mapped(), (1, MMAPPED_BYTES));
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    let mut group = criterion.benchmark_group("glibc_walk");
    group.sample_size(10);
    group.throughput(Throughput::Elements(CHUNKS));
    group.bench_function("chunks", |bench| {
        bench.iter(|| walk(&memory, &residency, &context()).expect("a heap"));
    });
    group.finish();
}

criterion_group!(benches, chunks_a_second);
criterion_main!(benches);

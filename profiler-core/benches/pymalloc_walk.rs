//! How many bytes of arenas a second the pymalloc walker walks, on an image of 256 MiB.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use profiler_core::completeness::Confidence;
use profiler_core::pymalloc::walk;
use profiler_testing::images::pymalloc::{CONTEXT, POOLS, with_arenas};

fn arenas_a_second(criterion: &mut Criterion) {
    const ARENAS: u64 = 256;
    let (image, truth) = with_arenas(ARENAS);
    let (memory, residency) = (image.memory(), image.residency());
    let heap = walk(&memory, &residency, &CONTEXT).expect("a heap");
    let total = &heap.arenas[0];
    assert_eq!(
        (total.live_blocks, total.live_bytes),
        (truth.live_blocks, truth.live_bytes)
    );
    assert!(truth.pools_used < ARENAS * POOLS);
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    let mut group = criterion.benchmark_group("pymalloc_walk");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(ARENAS << 20));
    group.bench_function("arenas", |bench| {
        bench.iter(|| walk(&memory, &residency, &CONTEXT).expect("a heap"));
    });
    group.finish();
}

criterion_group!(benches, arenas_a_second);
criterion_main!(benches);

//! How many spans a second a report is made from: the sweep over pages, size classes, packing.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::heap::{Allocator, Arena, Extent, ExtentKind, HeapSnapshot};
use profiler_core::report::FragReport;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::sample::Sample;
use profiler_core::span::{SpanList, SpanState};

const SPANS: u64 = 5_000_000;
const BASE: u64 = 0x5555_0000_0000;

/// A brk heap of live and free chunks of 32 to 208 bytes, every tenth page not resident.
fn sample() -> Sample {
    let mut spans = SpanList::default();
    for i in 0..SPANS {
        let state = match i % 5 {
            0 => SpanState::Free,
            1 => SpanState::Cached,
            _ => SpanState::Live,
        };
        spans.push(32 + 16 * (i * 7 % 12), state);
    }
    let len = spans.bytes().next_multiple_of(PAGE_SIZE);
    let range =
        |at: u64, len| AddrRange::with_len(RemoteAddr::new(BASE + at), len).expect("a range");
    let mut residency = ResidencyMap::new(vec![Mapping::private(range(0, len), MappingKind::Brk)]);
    for start in (0..len).step_by(10 * PAGE_SIZE as usize) {
        let len = (9 * PAGE_SIZE).min(len - start);
        residency.push_run(PageRun {
            range: range(start, len),
            state: PageState::PRESENT,
        });
    }
    let mut heap = HeapSnapshot::new(Allocator::Glibc, "2.36");
    heap.arenas = vec![Arena::default()];
    heap.extents = vec![Extent {
        range: range(0, len),
        kind: ExtentKind::Brk,
        arena: 0,
        block_header_bytes: 8,
        spans,
    }];
    let mut sample = Sample::default();
    sample.kernel.rss_bytes = residency.resident_bytes();
    sample.residency = residency;
    sample.heaps = vec![heap];
    sample
}

fn spans_a_second(criterion: &mut Criterion) {
    let sample = sample();
    let mut group = criterion.benchmark_group("report");
    group.sample_size(10);
    group.throughput(Throughput::Elements(SPANS));
    group.bench_function("spans", |bench| {
        bench.iter(|| FragReport::from_sample(&sample))
    });
    group.finish();
}

criterion_group!(benches, spans_a_second);
criterion_main!(benches);

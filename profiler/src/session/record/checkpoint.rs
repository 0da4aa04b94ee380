//! What a checkpoint holds: figures of a sample of the recorded process.

use profiler_core::heap::Allocator;
use profiler_core::metrics::malloc_resident;
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;

/// Why a checkpoint is taken.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Occasion {
    /// It was time.
    Due,
    /// SIGUSR1 asked for it: a moment that can be told from the others.
    Asked,
    /// The recording of the process ends.
    Last,
}

/// The figures of a checkpoint, by the names that `docs/trace-format.md` lists.
pub(crate) fn figures(sample: &Sample, occasion: Occasion) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut put = |name: &str, value| all.push((name.to_owned(), value));
    let resident = malloc_resident(&sample.residency, &sample.heaps);
    put("malloc_resident_bytes", resident.resident_bytes);
    put("malloc_swapped_bytes", resident.swapped_bytes);
    put("rss_bytes", sample.kernel.rss_bytes);
    put("swap_bytes", sample.kernel.swap_bytes);
    put("stopped", sample.completeness.stopped.into());
    put("stop_ns", sample.completeness.stop_ns);
    let malloc = sample.heaps.iter();
    let malloc: Vec<_> = malloc
        .filter(|heap| heap.allocator != Allocator::Pymalloc)
        .collect();
    if !malloc.is_empty() {
        let sum = |figure: fn(&profiler_core::heap::Arena) -> u64| {
            malloc.iter().map(|heap| heap.total(figure)).sum()
        };
        let large = malloc.iter().map(|heap| heap.large_mapped());
        let (blocks, bytes) = large.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let live_bytes: u64 = sum(|arena| arena.live_bytes);
        let live_blocks: u64 = sum(|arena| arena.live_blocks);
        put("live_bytes", live_bytes + bytes);
        put("live_blocks", live_blocks + blocks);
    }
    for row in &FragReport::from_sample(sample).ledger {
        put(&format!("ledger.{}", row.class.name()), row.resident_bytes);
    }
    match occasion {
        Occasion::Due => {}
        Occasion::Asked => put("asked", 1),
        Occasion::Last => put("final", 1),
    }
    all
}

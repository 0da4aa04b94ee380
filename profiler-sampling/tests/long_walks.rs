//! Walks that a target makes long, and how they end.

use std::time::{Duration, Instant};

use profiler_core::heap::Allocator;
use profiler_core::objects::NoCensus;
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_testing::child::Child;

const OPTIONS: SamplingOptions = SamplingOptions {
    stop: true,
    swap_in: false,
    max_stop: Duration::from_millis(50),
    slices: false,
    max_walk: Some(Duration::from_millis(500)),
};

/// Each page begins like an mmapped chunk that is longer than its space, and one chunk counted by
/// malloc has no header: the possible new places of each are searched on all pages after it.
const MADE_UP_CHUNKS: &str = "
import ctypes, mmap, struct, sys
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ctypes.memset(libc.malloc(64 << 20) - 16, 0, 16)
size = 200 << 20
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, size - 4096, 4096):
    area[at:at + 16] = struct.pack('<QQ', 0, 1 << 40 | 2)
print('READY', flush=True)
sys.stdin.read()
";

/// Far longer than a walk of it may take, and far less than the walk of made-up chunks would.
const ENOUGH: Duration = Duration::from_secs(20);

#[test]
fn a_heap_that_takes_long_to_walk_is_walked_for_as_long_as_it_may_be() {
    let child = Child::python(MADE_UP_CHUNKS);
    let sampler = Sampler::open(child.pid()).expect("our own child");
    for slices in [false, true] {
        let options = SamplingOptions { slices, ..OPTIONS };
        let began = Instant::now();
        let sample = sampler.take(options).expect("alive");
        assert!(began.elapsed() < ENOUGH, "{:?}", began.elapsed());
        let seen = &sample.completeness;
        assert_eq!(seen.out_of_time_ns, Some(500_000_000), "{seen:?}");
        let mut said = seen.defects.iter().map(|defect| defect.what.as_str());
        assert!(said.any(|what| what.starts_with("the walk ended after 500")));
        // What was walked before is in the sample.
        let glibc = sample
            .heaps
            .iter()
            .find(|heap| heap.allocator == Allocator::Glibc);
        assert!(
            glibc.is_some_and(|heap| !heap.arenas.is_empty()),
            "{seen:?}"
        );
    }
}

#[test]
fn nothing_is_read_when_there_is_no_time() {
    let child = Child::python("print('READY', flush=True); import sys; sys.stdin.read()");
    let sampler = Sampler::open(child.pid()).expect("our own child");
    let whole = sampler
        .take(SamplingOptions {
            max_walk: None,
            ..OPTIONS
        })
        .expect("alive");
    assert_eq!(whole.completeness.out_of_time_ns, None);
    let none = SamplingOptions {
        max_walk: Some(Duration::ZERO),
        ..OPTIONS
    };
    let sample = sampler.take(none).expect("alive");
    assert_eq!(sample.completeness.out_of_time_ns, Some(0));
    // Missing data after the time limit is not a reason.
    for defect in &sample.completeness.defects {
        assert!(!defect.what.contains("not found"), "{defect:?}");
    }
    let census = sampler.census(&sample, None, OPTIONS);
    assert_eq!(census.err(), Some(NoCensus::PartOfBlocks));
    let census = sampler.census(&whole, None, none);
    assert_eq!(census.err(), Some(NoCensus::OutOfTime { after_ns: 0 }));
    let usual = SamplingOptions {
        max_walk: None,
        ..OPTIONS
    };
    assert!(sampler.census(&whole, None, usual).is_ok());
    // What the search for roots could not reach is searched for again.
    let again = sampler.take(usual).expect("alive");
    assert!(
        again
            .heaps
            .iter()
            .any(|heap| heap.allocator == Allocator::Pymalloc)
    );
}

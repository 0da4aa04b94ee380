use std::collections::BTreeMap;
use std::io;

use fastrand::Rng;
use profiler_common::program::{Only, Op, OpCode};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::glibc::CHUNK_HEADER;
use profiler_core::heap::{Allocator, Extent, ExtentKind, HeapSnapshot};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::sample::Sample;
use profiler_core::span::SpanState;
use profiler_testing::heap::extent;
use profiler_trace::compile::Sink;

use super::*;

const BASE: u64 = 0x5555_0000_0000;
/// Addresses between the extents of two arenas.
const APART: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Keeps the operations.
#[derive(Default)]
struct Ops(Vec<Op>);

impl Sink for Ops {
    fn push(&mut self, op: Op) -> io::Result<u64> {
        self.0.push(op);
        Ok(self.0.len() as u64 - 1)
    }

    fn patch(&mut self, number: u64, op: Op) -> io::Result<()> {
        self.0[number as usize] = op;
        Ok(())
    }
}

fn range(start: u64, bytes: u64) -> AddrRange {
    AddrRange::with_len(RemoteAddr::new(start), bytes).expect("a range")
}

/// A heap of glibc's: the spans of each arena, and how many bytes from the start of each have pages.
fn sample(arenas: &[&[(u64, SpanState)]], present: u64, threshold: u64) -> Sample {
    let mut heap = HeapSnapshot::new(Allocator::Glibc, "2.36");
    heap.settings = vec![
        ("mmap_threshold".into(), threshold.to_string()),
        ("no_dyn_threshold".into(), "0".into()),
    ];
    let (mut mappings, mut runs) = (Vec::new(), Vec::new());
    for (number, parts) in (0u32..).zip(arenas) {
        let start = BASE + u64::from(number) * APART;
        let extent = extent(ExtentKind::Brk, start, parts);
        let bytes = extent.spans.bytes().next_multiple_of(PAGE_SIZE);
        heap.extents.push(Extent {
            arena: number,
            block_header_bytes: CHUNK_HEADER,
            ..extent
        });
        mappings.push(Mapping::private(range(start, bytes), MappingKind::Brk));
        runs.push(PageRun {
            range: range(start, present.min(bytes)),
            state: PageState::PRESENT,
        });
    }
    let mut residency = ResidencyMap::new(mappings);
    runs.into_iter().for_each(|run| residency.push_run(run));
    Sample {
        residency,
        heaps: vec![heap],
        ..Sample::default()
    }
}

fn written(sample: &Sample, options: &SeedOptions) -> (Vec<Op>, Written) {
    let heap = WalkedHeap::of(sample).expect("it serves malloc");
    let mut ops = Ops::default();
    let written = write(&heap, options, &mut ops).expect("there is room");
    (ops.0, written)
}

fn all_options() -> impl Iterator<Item = SeedOptions> {
    let fills = [Fill::Dense, Fill::Neighbours, Fill::Exact, Fill::Whole];
    fills.into_iter().flat_map(|fill| {
        let overlaps = [Overlap::Together, Overlap::OneByOne];
        overlaps.map(|overlap| SeedOptions {
            fill,
            overlap,
            goes_on: false,
            ..SeedOptions::DEFAULT
        })
    })
}

/// Bytes that stay allocated: those of slot 0, which is never freed, and what else was not.
fn kept(ops: &[Op]) -> (u64, BTreeMap<u32, u64>) {
    let (mut kept, mut open) = (0, BTreeMap::new());
    for op in ops {
        match op.code {
            OpCode::ALLOC if op.slot == 0 => kept += op.value,
            OpCode::ALLOC => {
                let before = open.insert(op.slot, op.value);
                assert_eq!(before, None, "slot {} is taken", op.slot);
            }
            OpCode::FREE => {
                open.remove(&op.slot).expect("what is freed was allocated");
            }
            _ => {}
        }
    }
    (kept, open)
}

#[test]
fn at_the_end_of_every_history_the_heap_has_its_live_blocks_and_nothing_else() {
    use SpanState::{Cached, Free, Live, Top};
    let mut random = Rng::with_seed(7);
    for _ in 0..50 {
        let mut arena = || {
            let mut parts = Vec::new();
            for _ in 0..random.usize(1..80) {
                let state = [Live, Free, Cached, Live][random.usize(..4)];
                parts.push((random.u64(2..600) * 16, state));
            }
            parts.push((random.u64(2..20_000) * 16, Top));
            parts
        };
        let (first, second) = (arena(), arena());
        let sample = sample(&[&first, &second], random.u64(..200) * PAGE_SIZE, 128 << 10);
        let live = first.iter().chain(&second);
        let live = live.filter(|(_, state)| *state == Live);
        let asked: u64 = live.map(|(bytes, _)| bytes - 8).sum();
        for options in all_options() {
            let (ops, written) = written(&sample, &options);
            let (kept, open) = kept(&ops);
            assert_eq!((kept, written.live_bytes), (asked, asked), "{options:?}");
            assert!(open.is_empty(), "{options:?}: {open:?}");
            assert_eq!(written.threads, 2);
            let freed = ops.iter().any(|op| op.code == OpCode::FREE);
            assert!(options.fill != Fill::Dense || !freed, "nothing was filled");
            assert!(ops.iter().all(|op| op.slot < written.slots.max(2)));
        }
    }
}

#[test]
fn what_of_a_gap_has_no_pages_is_not_touched() {
    let parts = [
        (64, SpanState::Live),
        (MIB, SpanState::Free),
        (64, SpanState::Live),
    ];
    let sample = sample(&[&parts], 512 << 10, 128 << 10);
    let options = SeedOptions {
        goes_on: false,
        ..SeedOptions::DEFAULT
    };
    let (ops, written) = written(&sample, &options);
    let pairs = ops.windows(2).filter(|pair| pair[0].code == OpCode::TOUCH);
    let untouched = pairs.filter(|pair| pair[0].value == 0 && pair[1].code == OpCode::ALLOC);
    let untouched: u64 = untouched.map(|pair| pair[1].value).sum();
    assert!((500 << 10..525 << 10).contains(&untouched), "{untouched}");
    assert!(written.peak_bytes < 525 << 10, "{written:?}");
}

#[test]
fn arenas_that_were_full_one_after_the_other_had_a_lower_peak() {
    let parts = [(4096, SpanState::Live), (MIB, SpanState::Free)];
    let sample = sample(&[&parts, &parts], 2 * MIB, 128 << 10);
    let peak = |overlap| {
        let options = SeedOptions {
            overlap,
            ..SeedOptions::DEFAULT
        };
        written(&sample, &options).1.peak_bytes
    };
    assert!(peak(Overlap::Together) > 19 * MIB / 10);
    assert!(peak(Overlap::OneByOne) < 12 * MIB / 10);
}

#[test]
fn a_grown_threshold_is_made_to_grow_in_the_c_library_alone() {
    let parts = [(64, SpanState::Live)];
    let (grown, _) = written(&sample(&[&parts], MIB, 8 * MIB), &SeedOptions::DEFAULT);
    let of_library: Vec<_> = grown
        .iter()
        .filter(|op| op.only == Only::C_LIBRARY)
        .collect();
    let alloc = of_library.iter().find(|op| op.code == OpCode::ALLOC);
    // With its header a page more than whole would be mapped.
    assert_eq!(alloc.expect("one block").value, 8 * MIB - 32);
    let (initial, _) = written(&sample(&[&parts], MIB, 128 << 10), &SeedOptions::DEFAULT);
    assert!(initial.iter().all(|op| op.only != Only::C_LIBRARY));
}

#[test]
fn large_gaps_are_large_blocks_where_the_threshold_has_grown() {
    let parts = [
        (64, SpanState::Live),
        (4 * MIB, SpanState::Free),
        (64, SpanState::Live),
    ];
    let sample = sample(&[&parts], 8 * MIB, 4 * MIB);
    assert!(fill_blocks(&sample, LargeGaps::LargeBlocks) <= 2);
    assert!(
        fill_blocks(&sample, LargeGaps::ByShare) <= 2,
        "most of the heap is this gap"
    );
}

#[test]
fn gaps_below_the_threshold_are_large_blocks_where_nearly_all_that_is_free_is_such_gaps() {
    let mut parts = vec![(64, SpanState::Live)];
    for _ in 0..4 {
        parts.extend([(MIB, SpanState::Free), (64, SpanState::Live)]);
    }
    let large = sample(&[&parts], 8 * MIB, 4 * MIB);
    assert!(fill_blocks(&large, LargeGaps::ByShare) <= 8);
    for _ in 0..64 {
        parts.extend([(64 << 10, SpanState::Free), (64, SpanState::Live)]);
    }
    let mixed = sample(&[&parts], 16 * MIB, 4 * MIB);
    assert!(fill_blocks(&mixed, LargeGaps::ByShare) > 1000);
}

#[test]
fn gaps_that_are_much_larger_than_the_threshold_may_have_been_anything() {
    let gap = |bytes| {
        let parts = [
            (64, SpanState::Live),
            (bytes, SpanState::Free),
            (64, SpanState::Live),
        ];
        sample(&[&parts], 16 * MIB, 256 << 10)
    };
    assert!(fill_blocks(&gap(MIB), LargeGaps::ByShare) <= 8);
    assert!(fill_blocks(&gap(8 * MIB), LargeGaps::ByShare) > 1000);
}

/// How many blocks fill the gaps.
fn fill_blocks(sample: &Sample, large: LargeGaps) -> usize {
    let options = SeedOptions {
        large,
        goes_on: false,
        ..SeedOptions::DEFAULT
    };
    let (ops, _) = written(sample, &options);
    let fill = ops
        .iter()
        .filter(|op| op.code == OpCode::ALLOC && op.slot > 1);
    fill.count()
}

//! Samples and predictions that are made up.

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::allocator::{Allocator, AllocatorTitle};
use profiler_core::candidate::CandidateName;
use profiler_core::heap::{Arena, Extent, ExtentKind, HeapSnapshot};
use profiler_core::prediction::{Needs, Prediction, Predictions, SelfCheck};
use profiler_core::report::Mechanism;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::sample::{KernelCount, Sample};
use profiler_core::span::{SpanList, SpanState};
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) const BASE: u64 = 0x5555_0000_0000;
pub(crate) const STATES: [PageState; 6] = [
    PageState::ABSENT,
    PageState::PRESENT,
    PageState::SWAPPED,
    PageState::PRESENT.with(PageState::ZERO),
    PageState::PRESENT.with(PageState::SHARED),
    PageState::PRESENT.with(PageState::HUGE),
];

pub(crate) fn range(start: u64, len: u64) -> AddrRange {
    let start = RemoteAddr::new(start);
    AddrRange::with_len(start, len)
        .or_else(|| AddrRange::new(start, RemoteAddr::new(u64::MAX)))
        .expect("a range")
}

pub(crate) fn mapping(start: u64, pages: u64, kind: MappingKind) -> Mapping {
    Mapping::private(range(start, pages * PAGE_SIZE), kind)
}

pub(crate) fn kind_of(n: u8) -> MappingKind {
    match n % 5 {
        0 => MappingKind::Brk,
        1 => MappingKind::Stack,
        2 => MappingKind::File("/lib/x.so".into()),
        3 => MappingKind::SharedAnonymous("/memfd:x".into()),
        _ => MappingKind::Anonymous,
    }
}

pub(crate) fn heap(
    allocator: Allocator,
    extents: Vec<Extent>,
    trimmable: Vec<AddrRange>,
) -> HeapSnapshot {
    let mut heap = HeapSnapshot::new(allocator, "1");
    heap.arenas = vec![Arena::default(), Arena::default()];
    heap.extents = extents;
    heap.trimmable = trimmable;
    heap
}

/// An extent of these spans, so many bytes behind the base.
pub(crate) fn extent(kind: ExtentKind, at: u64, spans: &[(u64, SpanState)]) -> Extent {
    profiler_testing::heap::extent(kind, BASE + at, spans)
}

pub(crate) fn spans(parts: &[(u64, u8)]) -> SpanList {
    let span = |&(granules, state): &(u64, u8)| {
        let state = SpanState::ALL[usize::from(state) % SpanState::ALL.len()];
        (granules.saturating_mul(8), state)
    };
    parts.iter().map(span).collect()
}

/// Mappings side by side with gaps, a state for each page, and a kernel that counts the same.
pub(crate) fn residency() -> impl Strategy<Value = ResidencyMap> {
    let mappings = vec((0..3u64, 1..24u64, any::<u8>()), 1..6);
    (mappings, vec(0..STATES.len(), 160)).prop_map(|(mappings, states)| {
        let mut at = BASE;
        let mut list = Vec::new();
        for (gap, pages, kind) in mappings {
            at += gap * PAGE_SIZE;
            list.push(mapping(at, pages, kind_of(kind)));
            at += pages * PAGE_SIZE;
        }
        let mut map = ResidencyMap::new(list.clone());
        let pages = list.iter().flat_map(|m| {
            (0..m.range.len() / PAGE_SIZE).map(|i| m.range.start().get() + i * PAGE_SIZE)
        });
        for (page, state) in pages.zip(states.iter().cycle()) {
            map.push_run(PageRun {
                range: range(page, PAGE_SIZE),
                state: STATES[*state],
            });
        }
        map
    })
}

/// A heap whose extents lie anywhere about the mappings, beyond them and over their edges too.
pub(crate) fn any_heap(allocator: Allocator) -> impl Strategy<Value = HeapSnapshot> {
    let parts = vec((1..3000u64, any::<u8>()), 0..40);
    let extents = vec(
        (0..40_000u64, 0..30_000u64, 0..4u32, any::<u8>(), parts),
        0..5,
    );
    let trimmable = vec((0..70u64, 0..9u64), 0..6);
    (extents, trimmable).prop_map(move |(extents, trimmable)| {
        let extents = extents
            .into_iter()
            .map(|(at, granules, arena, kind, parts)| Extent {
                range: range(BASE + at * 8, granules * 8),
                kind: match kind % 4 {
                    0 => ExtentKind::Brk,
                    1 => ExtentKind::ThreadHeap,
                    2 => ExtentKind::LargeMapped,
                    _ => ExtentKind::PoolArena,
                },
                arena,
                block_header_bytes: 8 * u64::from(kind % 4 < 2),
                spans: spans(&parts),
            });
        let trimmable = trimmable
            .into_iter()
            .map(|(at, pages)| range(BASE + at * PAGE_SIZE, pages * PAGE_SIZE));
        heap(allocator, extents.collect(), trimmable.collect())
    })
}

pub(crate) fn sample(residency: ResidencyMap, heaps: Vec<HeapSnapshot>, beyond: u64) -> Sample {
    let kernel = KernelCount {
        rss_bytes: residency.resident_bytes() + beyond,
        swap_bytes: residency.swapped_bytes() + beyond,
        ..KernelCount::default()
    };
    Sample {
        residency,
        heaps,
        kernel,
        ..Sample::default()
    }
}

/// A glibc heap of `pages` resident pages, tiled by `part` over and over, beside a resident file.
pub(crate) fn worker(pages: u64, part: &[(u64, SpanState)], file_pages: u64) -> Sample {
    let mut residency = ResidencyMap::new(vec![
        mapping(BASE, pages, MappingKind::Brk),
        mapping(
            BASE + (pages + 1) * PAGE_SIZE,
            file_pages.max(1),
            kind_of(2),
        ),
    ]);
    for (start, pages) in [(BASE, pages), (BASE + (pages + 1) * PAGE_SIZE, file_pages)] {
        residency.push_run(PageRun {
            range: range(start, pages * PAGE_SIZE),
            state: PageState::PRESENT,
        });
    }
    let mut list = SpanList::default();
    for &(len, state) in part.iter().cycle() {
        if list.bytes() + len > pages * PAGE_SIZE {
            break;
        }
        list.push(len, state);
    }
    let extent = Extent {
        range: range(BASE, pages * PAGE_SIZE),
        kind: ExtentKind::Brk,
        arena: 0,
        block_header_bytes: 8,
        spans: list,
    };
    sample(
        residency,
        vec![heap(Allocator::Glibc, vec![extent], vec![])],
        0,
    )
}

/// Predictions of a heap that takes 100 MiB.
pub(crate) fn predicted(candidates: &[(&str, Option<Mechanism>, [u64; 3])]) -> Predictions {
    let mib = |mib: u64| mib << 20;
    let candidate =
        |(name, remedies, [low, middle, high]): &(&str, Option<Mechanism>, [u64; 3])| Prediction {
            remedies: *remedies,
            needs: Some(Needs {
                bytes: mib(*middle),
                low_bytes: mib(*low),
                high_bytes: mib(*high),
            }),
            ..Prediction::of(CandidateName::parse(name), AllocatorTitle::parse(name))
        };
    Predictions {
        self_check: Some(SelfCheck {
            measured_bytes: mib(100),
            predicted_bytes: mib(101),
        }),
        candidates: candidates.iter().map(candidate).collect(),
        ..Predictions::default()
    }
}

//! A view for tests: a small heap with figures chosen so that each is distinguishable.

use std::sync::Arc;

use hdrhistogram::Histogram;
use profiler_core::activity::{Activity, ClassActivity, ProbeCost, ProbeState, ProbeStatus};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::allocator::AllocatorTitle;
use profiler_core::arena::{ArenaFigure, ArenaKind};
use profiler_core::candidate::CandidateName;
use profiler_core::completeness::{Confidence, Defect, StandStill};
use profiler_core::evidence::{Evidence, EvidenceId};
use profiler_core::glibc::CHUNK_HEADER;
use profiler_core::heap::{Allocator, Arena, CrossCheck, Extent, ExtentKind, HeapSnapshot};
use profiler_core::metrics::MetricId;
use profiler_core::prediction::{Needs, Prediction, Predictions, SelfCheck};
use profiler_core::report::{Finding, FragReport, Mechanism, Remedy, Step};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::sample::{KernelCount, Sample, Target};
use profiler_core::size_class::SizeClass;
use profiler_core::span::SpanState;
use profiler_core::units::Value;
use profiler_core::view::{Point, View};
use profiler_testing::heap::extent;

/// 2026-01-02T03:04:05.678Z.
pub(super) const TAKEN_AT_NS: u64 = 1_767_323_045_678_000_000;

const HEAP: u64 = 0x5555_0000_0000;

fn range(start: u64, pages: u64) -> AddrRange {
    AddrRange::with_len(RemoteAddr::new(start), pages * PAGE_SIZE).expect("in range")
}

/// Four heap pages: one full, one pinned by 64 bytes, one free in memory, one free in swap.
fn sample() -> Sample {
    let mapping = Mapping::private(range(HEAP, 4), MappingKind::Brk);
    let mut residency = ResidencyMap::new(vec![mapping]);
    for (page, pages, state) in [(0, 3, PageState::PRESENT), (3, 1, PageState::SWAPPED)] {
        residency.push_run(PageRun {
            range: range(HEAP + page * PAGE_SIZE, pages),
            state,
        });
    }
    let spans = [
        (PAGE_SIZE, SpanState::Live),
        (64, SpanState::Live),
        (3 * PAGE_SIZE - 64, SpanState::Free),
    ];
    let mut heap = HeapSnapshot::new(Allocator::Glibc, "2.36");
    heap.arenas.push(Arena {
        kind: ArenaKind::Main,
        system_bytes: 4 * PAGE_SIZE,
        live_blocks: 2,
        live_bytes: PAGE_SIZE + 64,
        free_blocks: 1,
        free_bytes: 3 * PAGE_SIZE - 64,
        figures: vec![(ArenaFigure::TcacheBytes, 0)],
        ..Arena::default()
    });
    heap.extents.push(Extent {
        block_header_bytes: CHUNK_HEADER,
        ..extent(ExtentKind::Brk, HEAP, &spans)
    });
    heap.settings = vec![
        ("mmap_threshold".into(), "131072".into()),
        ("trim".into(), "on".into()),
    ];
    heap.checks.push(CrossCheck {
        name: "system_mem".into(),
        expected: 4 * PAGE_SIZE,
        found: 4 * PAGE_SIZE,
    });
    heap.confidence = Confidence::High;
    assert_eq!(heap.check(), Vec::<String>::new());
    let mut sample = Sample {
        taken_at_ns: TAKEN_AT_NS,
        target: Target {
            pid: 4711,
            comm: "worker, \"one\"".into(),
            cmdline: vec!["python".into(), "-c".into(), "a\u{1b}[2J\nb".into()],
            libc: Some("glibc 2.36".into()),
            threads: 1,
            ..Target::default()
        },
        kernel: KernelCount {
            rss_bytes: 3 * PAGE_SIZE,
            swap_bytes: PAGE_SIZE,
            peak_rss_bytes: 9 * PAGE_SIZE,
            ..KernelCount::default()
        },
        residency,
        heaps: vec![heap],
        ..Sample::default()
    };
    sample.completeness.stand_still = StandStill::Throughout;
    sample.completeness.stop_ns = 1_500_000;
    sample.completeness.walk_ns = 2_000_000;
    sample.completeness.layout_confidence = Confidence::High;
    sample
}

/// The view without probes, history or defects.
pub(crate) fn passive() -> View {
    View {
        report: Arc::new(FragReport::from_sample(&sample())),
        activity: None,
        sites: None,
        probes_wanted: false,
        probes_attaching: false,
        notices: Vec::new(),
        history: Arc::default(),
        over_time: Default::default(),
        objects: Default::default(),
        what_if: None,
        ended: None,
    }
}

/// Predictions of a walk eighteen seconds before.
fn predictions() -> Predictions {
    let needs = |bytes: u64| Needs {
        bytes,
        low_bytes: bytes - (4 << 20),
        high_bytes: bytes + (4 << 20),
    };
    let one = |candidate: &str, needs| Prediction {
        set: vec![("MALLOC_MMAP_THRESHOLD_".into(), "131072".into())],
        needs,
        runs: 4,
        ..Prediction::of(
            CandidateName::parse(candidate),
            AllocatorTitle::parse("glibc"),
        )
    };
    Predictions {
        walk_ns: TAKEN_AT_NS - 18_000_000_000,
        rss_bytes: Some(130 << 20),
        self_check: Some(SelfCheck {
            measured_bytes: 100 << 20,
            predicted_bytes: 101 << 20,
        }),
        candidates: vec![
            one("mmap_threshold=128K", Some(needs(50 << 20))),
            Prediction {
                failure: Some("it ran out of memory".into()),
                ..one("arena_max=1", None)
            },
        ],
        ..Predictions::default()
    }
}

fn histogram(values: &[u64]) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("three digits");
    for &value in values {
        histogram.record(value).expect("in range");
    }
    histogram
}

fn activity() -> Activity {
    let class = |bytes, frees| ClassActivity {
        class: SizeClass::of(bytes),
        allocs: 3,
        frees,
        alloc_bytes: 3 * bytes,
        lifetime_p50_ns: 10 * frees,
        lifetime_p90_ns: 20 * frees,
        lifetime_p99_ns: 30 * frees,
    };
    let probe = |function: &str, state| ProbeStatus {
        function: function.into(),
        object: "/lib/libc.so.6".into(),
        site: "+0x9 push, emulated".into(),
        hits: 12,
        state,
    };
    Activity {
        elapsed_ns: 10_000_000_000,
        armed_ns: 2_500_000_000,
        allocs: u64::MAX / 8,
        alloc_bytes: 1 << 20,
        frees: 5,
        frees_of_older: 1,
        events_lost: 7,
        alloc_rate: 1234.5,
        free_rate: 2.0,
        alloc_byte_rate: 4096.0,
        tracked_blocks: 6,
        tracked_bytes: 600,
        untracked_blocks: 0,
        lifetimes: histogram(&[1_000, 2_000, 1_000_000]),
        sizes: histogram(&[16, 64, 64, 100_000]),
        classes: vec![class(16, 2), class(64, 0)],
        probes: vec![
            probe("malloc", ProbeState::Firing),
            probe("valloc", ProbeState::Silent),
            probe("free", ProbeState::Failed("no such symbol".into())),
        ],
        cost: ProbeCost {
            hits: 24,
            ns_per_hit: 1_350.0,
            share: 0.03,
            budget: Some(0.05),
        },
        ended: None,
    }
}

fn finding() -> Finding {
    Finding {
        mechanism: Mechanism::PinnedPages,
        claim: "64 bytes hold a page.".into(),
        bytes: Some(PAGE_SIZE - 64),
        held_bytes: PAGE_SIZE - 64,
        evidence: vec![Evidence {
            id: EvidenceId::Metric(MetricId::HeldBy64BytesPages),
            value: Some(Value::Whole(1)),
        }],
        prediction: None,
        remedy: &Remedy {
            steps: &[Step::Call("free(them)")],
            sentences: "Free them.",
        },
        confidence: Confidence::Medium,
    }
}

/// The view with everything that can be in one.
pub(crate) fn full() -> View {
    let mut sample = sample();
    sample.completeness.defects.push(Defect {
        addr: Some(RemoteAddr::new(HEAP)),
        what: "a chunk's size is odd".into(),
        bytes: 16,
        unreadable: false,
    });
    let mut report = FragReport::from_sample(&sample).with_predictions(predictions());
    // Three pages are too few for a rule to speak.
    report.findings.push(finding());
    let point = |seconds: u64, live_bytes| Point {
        time_ns: TAKEN_AT_NS + seconds * 1_000_000_000,
        rss_bytes: 5 * PAGE_SIZE,
        swap_bytes: 0,
        live_bytes,
        heap_bytes: live_bytes.map(|live| 2 * live),
        live_resident_bytes: live_bytes.map(|live| live / 2),
        threads: None,
    };
    View {
        report: Arc::new(report),
        activity: Some(Arc::new(activity())),
        sites: Some(Arc::new(super::sites::tests::sites())),
        probes_wanted: true,
        probes_attaching: false,
        notices: vec!["probes: 2 of 3 work".into()],
        history: Arc::new(vec![point(0, None), point(1, Some(PAGE_SIZE))]),
        over_time: Default::default(),
        objects: Default::default(),
        what_if: None,
        ended: Some("the target exited with 0".into()),
    }
}

//! A worker as the screens are tested with: every class, both allocators, swap, damage, probes.

use std::sync::Arc;

use hdrhistogram::Histogram;
use profiler_core::activity::{Activity, ClassActivity, ProbeCost, ProbeState, ProbeStatus};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::allocator::AllocatorTitle;
use profiler_core::arena::{ArenaFigure, ArenaKind};
use profiler_core::completeness::{Completeness, Confidence, Defect, StandStill};
use profiler_core::heap::{Allocator, Arena, CrossCheck, RequestedSetting};
use profiler_core::metrics::{Metric, MetricId};
use profiler_core::objects::{
    Amount, Census, Dropped, Growth, Holder, NativeRow, PathStep, TypeRow, Via,
};
use profiler_core::report::{
    ArenaReport, Finding, FragReport, HeapReport, HugeOccupancyRow, LedgerClass, LedgerRow,
    MapExtent, MapPage, Mechanism, OccupancyRow, PackedClass, Packing, Remedy, Setting,
    SizeClassRow,
};
use profiler_core::residency::PageState;
use profiler_core::sample::{Host, KernelCount, Target};
use profiler_core::size_class::SizeClass;
use profiler_core::units::Value;
use profiler_core::view::{ObjectsState, Point, View};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;
/// 2026-01-02 03:04:05 UTC.
const TAKEN_AT_NS: u64 = 1_767_323_045 * SECOND;

/// Everything there is to show, `map_pages` of it on the map.
pub(super) fn view(map_pages: usize) -> View {
    View {
        report: Arc::new(report(map_pages)),
        activity: Some(Arc::new(activity())),
        probes_wanted: true,
        notices: Vec::new(),
        history: Arc::new(history()),
        over_time: Default::default(),
        objects: ObjectsState::Planned,
        what_if: None,
        ended: None,
    }
}

/// A target of which nothing could be walked or probed.
pub(super) fn unknown() -> View {
    let mut report = report(0);
    report.target.python = None;
    report.target.malloc = None;
    report.heaps.clear();
    report.size_classes.clear();
    report.page_occupancy.clear();
    report.map.clear();
    report.packing = None;
    report.objects = None;
    report.objects_before = None;
    report.growth = None;
    report.findings.clear();
    report.verdict = "No verdict: no heap could be walked.".into();
    for metric in &mut report.metrics {
        metric.value = None;
    }
    for row in &mut report.ledger {
        let rest = match row.class {
            LedgerClass::OtherAnonymous => 462 * MIB,
            LedgerClass::File => 50 * MIB,
            _ => 0,
        };
        (row.resident_bytes, row.shared_bytes, row.swapped_bytes) = (rest, 0, 0);
    }
    report.completeness.layout_confidence = Confidence::None;
    View {
        report: Arc::new(report),
        activity: None,
        probes_wanted: true,
        notices: vec![
            "No probes: this user lacks CAP_BPF. Run it with sudo.".into(),
            "No walk: glibc 2.99 is not known to this version.".into(),
        ],
        history: Arc::new(Vec::new()),
        over_time: Default::default(),
        objects: ObjectsState::Planned,
        what_if: None,
        ended: Some("the target exited with status 1".into()),
    }
}

/// A census, ten seconds after the walk before for each `later`.
fn census(later: u64) -> Census {
    let amount = |blocks, bytes| Amount { blocks, bytes };
    let of_type = |name: &str, objects, bytes, storage| TypeRow {
        name: name.into(),
        objects: amount(objects, bytes),
        storage: amount(objects, storage),
        tracked: objects,
        entries: storage / 8,
        pinned_free_bytes: bytes / 16,
        copied_bytes: 0,
    };
    let step = |type_name: &str, length, via| PathStep {
        attribute: None,
        via,
        type_name: type_name.into(),
        length,
        times: 1,
    };
    let sessions = 372_003 + 40_000 * later;
    let holder = |name: &str, bytes: u64, path: Vec<PathStep>, item: &str| Holder {
        name: name.into(),
        is_name: true,
        type_name: path.first().map(|step| step.type_name.clone()),
        length: path.first().and_then(|step| step.length),
        retained_bytes: bytes,
        retained_blocks: bytes / 64,
        path,
        item_type: Some(item.into()),
        items: bytes / 256,
        pinned_free_bytes: bytes / 10,
        dropped: Some(Dropped {
            live_bytes: bytes / 8 * 7,
            unpinned_bytes: bytes / 5,
        }),
        ..Holder::default()
    };
    let mut shared = holder(
        "app.db.POOL",
        6 * MIB,
        vec![step("list", Some(80), None)],
        "bytes",
    );
    shared.shared_with = vec!["app.db.connections".into(), "app.web.pool".into()];
    Census {
        taken_at_ns: TAKEN_AT_NS - 13 * SECOND + 10 * SECOND * later,
        python: (3, 11),
        live: amount(1_210_000, (150 + 31 * later) * MIB),
        types: vec![
            of_type("app.models.Session", sessions, sessions * 64, 0),
            of_type("str", 420_000 + 40_000 * later, 31 * MIB, 0),
            of_type("dict", 12_000, 3 * MIB, (22 + 4 * later) * MIB),
            of_type(
                "a.module.of.a.long.name.with.many.parts.inside.Order",
                9,
                KIB,
                0,
            ),
        ],
        native: vec![NativeRow {
            allocator: Allocator::Glibc,
            class: SizeClass::of(88),
            native: amount(70_000 + 28_000 * later, (6 + 3 * later) * MIB),
        }],
        holders: vec![
            holder(
                "app.tasks.SESSIONS",
                (60 + 22 * later) * MIB,
                vec![step("dict", Some(sessions), None)],
                "app.models.Session",
            ),
            holder(
                "app.cache.remember",
                9 * MIB,
                vec![
                    step("function", None, None),
                    step("tuple", Some(1), Some(Via::Defaults)),
                    step("list", Some(20_000), None),
                ],
                "float",
            ),
            shared,
        ],
        ..Census::default()
    }
}

fn report(map_pages: usize) -> FragReport {
    FragReport {
        taken_at_ns: TAKEN_AT_NS,
        host: Host {
            kernel: "6.1.0".into(),
            arch: "x86_64".into(),
            cpus: 8,
            memory_bytes: 32 << 30,
        },
        target: Target {
            python_malloc: None,
            pid: 1_234_567,
            comm: "celery".into(),
            cmdline: vec!["celery".into(), "worker".into()],
            python: Some("CPython 3.11.2".into()),
            libc: Some("glibc 2.36".into()),
            malloc: Some(AllocatorTitle::parse("glibc 2.36")),
            threads: 17,
            began_ticks: Some(4_200),
            boot_id: None,
        },
        kernel: KernelCount {
            rss_bytes: 512 * MIB,
            swap_bytes: 96 * MIB,
            peak_rss_bytes: 700 * MIB,
            pss_bytes: Some(480 * MIB),
            ..KernelCount::default()
        },
        fork: None,
        ledger: ledger(),
        heaps: heaps(),
        size_classes: size_classes(),
        page_occupancy: occupancy(),
        occupancy_deciles: Vec::new(),
        huge_occupancy: huge_occupancy(),
        heap_live_bytes: Some(217 * MIB),
        map: map(map_pages),
        metrics: metrics(),
        predictions: None,
        growth: Growth::between(&census(0), &census(1)),
        objects_before: Some(Arc::new(census(0))),
        objects: Some(Arc::new(census(1))),
        packing: Some(Packing {
            packed_bytes: 201 * MIB,
            present_bytes: 372 * MIB,
            blocks: 1_210_000,
            live_bytes: 181 * MIB,
            rounding_bytes: 14 * MIB,
            classes: vec![PackedClass {
                size: 48,
                blocks: 400_000,
                bytes: 19 * MIB,
            }],
        }),
        findings: findings(),
        verdict: "142.0 MiB: free memory is pinned by live blocks; jemalloc would save \
                  at most 171.0 MiB."
            .into(),
        explanation: "Of 512.0 MiB resident, 372.0 MiB are malloc's heap, and 181.0 MiB of those \
                      are live. Most of the rest is free memory on pages that a live block keeps \
                      resident, so that no trim returns it.\n\nA trim would return 12.0 MiB now. \
                      Python's own pools are 88.1 % full."
            .into(),
        completeness: Completeness {
            stand_still: StandStill::Throughout,
            stop_ns: 41_300_000,
            walk_ns: 187_000_000,
            threads_in_allocator: 1,
            events_lost: 1_234,
            unreadable_bytes: 36 * KIB,
            layout_confidence: Confidence::Medium,
            defects: vec![Defect {
                addr: Some(RemoteAddr::new(0x5555_5577_1230)),
                what: "the chunk at 0x555555771230 has size 7, which is not a multiple of 16"
                    .into(),
                bytes: 36 * KIB,
            }],
        },
    }
}

fn ledger() -> Vec<LedgerRow> {
    let mib = |class| match class {
        LedgerClass::Live => (181, 3, 40),
        LedgerClass::InternalSlop => (0, 0, 0),
        LedgerClass::Cached => (6, 0, 0),
        LedgerClass::FreeTrimmable => (12, 0, 8),
        LedgerClass::FreeStuck => (19, 0, 0),
        LedgerClass::FreePinned => (142, 2, 48),
        LedgerClass::Top => (5, 0, 0),
        LedgerClass::AllocatorMetadata => (7, 0, 0),
        LedgerClass::PymallocLive => (52, 9, 0),
        LedgerClass::PymallocFree => (7, 1, 0),
        LedgerClass::LargeMapped => (24, 0, 0),
        LedgerClass::PrivateHeap => (0, 0, 0),
        LedgerClass::Stacks => (1, 0, 0),
        LedgerClass::File => (50, 31, 0),
        LedgerClass::SharedMemory => (0, 0, 0),
        LedgerClass::OtherAnonymous => (6, 0, 0),
        LedgerClass::Unknown => (0, 0, 0),
    };
    let row = |class| {
        let (resident, shared, swapped) = mib(class);
        LedgerRow {
            class,
            resident_bytes: resident * MIB,
            shared_bytes: shared * MIB,
            swapped_bytes: swapped * MIB,
        }
    };
    LedgerClass::ALL.into_iter().map(row).collect()
}

fn heaps() -> Vec<HeapReport> {
    let arena = |id: u32, kind, system: u64, live: u64, resident: u64| ArenaReport {
        arena: Arena {
            id,
            kind,
            addr: RemoteAddr::new(0x7fff_f7fa_0000 + u64::from(id)),
            system_bytes: system * MIB,
            live_blocks: live * 6_700,
            live_bytes: live * MIB,
            free_blocks: live * 1_100,
            free_bytes: (system - live) * MIB / 2,
            cached_blocks: 900,
            cached_bytes: 1_500 * KIB,
            top_bytes: 133 * KIB,
            figures: vec![
                (ArenaFigure::TcacheBytes, 1_200 * KIB),
                (ArenaFigure::AttachedThreads, 2),
            ],
        },
        resident_bytes: resident * MIB,
        swapped_bytes: (system - resident) * MIB,
        trimmable_bytes: 3 * MIB,
        pinned_free_bytes: (system - live) * MIB / 3,
        below_highest_live_bytes: (system - live) * MIB / 2,
        top_pinned_bytes: MIB,
    };
    let check = |name: &str, expected, found| CrossCheck {
        name: name.into(),
        expected,
        found,
    };
    let setting = |name: &str, value: &str, default: &str| Setting {
        name: name.to_owned(),
        value: value.to_owned(),
        default: Some(default.to_owned()),
    };
    vec![
        HeapReport {
            allocator: Allocator::Glibc,
            version: "2.36".into(),
            library: None,
            arenas: vec![
                arena(0, ArenaKind::Main, 380, 150, 300),
                arena(1, ArenaKind::Thread, 64, 20, 48),
                arena(2, ArenaKind::Thread, 24, 11, 24),
            ],
            live_bytes: 181 * MIB,
            live_blocks: 1_212_700,
            free_bytes: 173 * MIB,
            cached_bytes: 6 * MIB,
            mapped_large_bytes: 24 * MIB,
            mapped_large_blocks: 11,
            settings: vec![
                setting("mmap_threshold", "33554432", "131072"),
                setting("trim_threshold", "67108864", "131072"),
                setting("arena_max", "0", "0"),
            ],
            requested: vec![RequestedSetting {
                request: "MALLOC_ARENA_MAX=two".into(),
                in_force: Some(false),
                note: "the value is no number, so it is ignored".into(),
            }],
            checks: vec![
                check("system_mem of arena 0", 398_458_880, 398_458_880),
                check("mapped chunks", 12, 11),
            ],
            confidence: Confidence::Medium,
        },
        HeapReport {
            allocator: Allocator::Pymalloc,
            version: "3.11".into(),
            library: None,
            arenas: vec![arena(0, ArenaKind::Pymalloc, 64, 52, 59)],
            live_bytes: 52 * MIB,
            live_blocks: 640_000,
            free_bytes: 7 * MIB,
            cached_bytes: 0,
            mapped_large_bytes: 0,
            mapped_large_blocks: 0,
            settings: Vec::new(),
            requested: Vec::new(),
            checks: vec![check("arenas", 59, 59)],
            confidence: Confidence::High,
        },
    ]
}

fn size_classes() -> Vec<SizeClassRow> {
    let row = |allocator, size: u64, live: u64, free: u64| SizeClassRow {
        allocator,
        class: SizeClass::of(size),
        live_blocks: live,
        live_bytes: live * size,
        free_blocks: free,
        free_bytes: free * size,
        pinned_free_bytes: free * size / 2,
    };
    let glibc = (1..=40u64).map(|i| {
        let size = if i <= 32 { i * 16 } else { 512 << (i - 32) };
        row(Allocator::Glibc, size, 900_000 / i, 700_000 / (41 - i))
    });
    let pymalloc = (1..=32u64).map(|i| row(Allocator::Pymalloc, i * 16, 80_000 / i, 900 * (i % 5)));
    glibc.chain(pymalloc).collect()
}

fn huge_occupancy() -> Vec<HugeOccupancyRow> {
    let row = |tenth: u32| HugeOccupancyRow {
        allocator: Allocator::Glibc,
        max_percent: 10 * tenth,
        ranges: [4, 31, 40, 22, 19, 12, 9, 8, 6, 5, 0][tenth as usize],
        resident_bytes: u64::from(tenth) * MIB,
        huge_bytes: MIB,
    };
    (0..=10).map(row).collect()
}

fn occupancy() -> Vec<OccupancyRow> {
    const BOUNDS: [u32; 13] = [
        0, 64, 128, 256, 512, 1024, 1536, 2048, 2560, 3072, 3584, 4095, 4096,
    ];
    let rows = |allocator, resident: [u64; 13], swapped: u64| {
        (0..BOUNDS.len()).map(move |i| OccupancyRow {
            allocator,
            min_bytes: if i == 0 { 0 } else { BOUNDS[i - 1] + 1 },
            max_bytes: BOUNDS[i],
            resident_pages: resident[i],
            swapped_pages: swapped * (i as u64 % 4),
        })
    };
    let glibc = [
        7_900, 2_100, 4_000, 6_100, 9_300, 12_000, 11_000, 9_100, 7_200, 6_000, 5_000, 4_500,
        11_032,
    ];
    let pymalloc = [
        120, 3, 9, 40, 90, 180, 240, 410, 700, 1_300, 3_900, 8_000, 12,
    ];
    rows(Allocator::Glibc, glibc, 2_000)
        .chain(rows(Allocator::Pymalloc, pymalloc, 0))
        .collect()
}

/// Two extents of glibc and one of pymalloc, in stretches of absent, swapped, sparse, full pages.
fn map(pages: usize) -> Vec<MapExtent> {
    let extent = |allocator, arena, start: u64, pages: usize| MapExtent {
        allocator,
        arena,
        range: AddrRange::with_len(RemoteAddr::new(start), pages as u64 * PAGE_SIZE)
            .expect("far from the end of the address space"),
        pages: (0..pages as u64).map(page).collect(),
    };
    if pages == 0 {
        return Vec::new();
    }
    vec![
        extent(Allocator::Glibc, 0, 0x5555_5575_0000, pages * 6 / 10),
        extent(Allocator::Glibc, 1, 0x7fff_e000_0000, pages * 2 / 10),
        extent(Allocator::Pymalloc, 0, 0x7fff_f000_0000, pages * 2 / 10),
    ]
}

fn page(index: u64) -> MapPage {
    let stretch = index / 97 % 7;
    let (state, live) = match stretch {
        0 => (PageState::ABSENT, 0),
        1 => (PageState::SWAPPED, 900),
        2 => (PageState::PRESENT, 0),
        3 => (PageState::PRESENT, 300 + index % 500),
        4 => (PageState::PRESENT, 1_500 + index % 500),
        5 => (PageState::PRESENT, 2_500 + index % 500),
        _ => (PageState::PRESENT, 4_000),
    };
    MapPage {
        live_bytes: live as u16,
        other_bytes: 64,
        state,
    }
}

fn metrics() -> Vec<Metric> {
    let metric = |id, value| Metric { id, value };
    let mib = |value: u64| Some(Value::Whole(value * MIB));
    vec![
        metric(MetricId::Utilisation, Some(Value::Fraction(0.5123))),
        metric(MetricId::FragmentationBytes, mib(191)),
        metric(MetricId::PinnedFreeBytes, mib(142)),
        metric(MetricId::TrimReturnableBytes, mib(12)),
        metric(MetricId::StuckFreeBytes, mib(19)),
        metric(MetricId::CachedBytes, mib(6)),
        metric(MetricId::CompactionFloorBytes, mib(233)),
        metric(MetricId::HeldBy64BytesPages, Some(Value::Whole(2_100))),
        metric(MetricId::HeldBy512BytesPages, Some(Value::Whole(21_500))),
        metric(MetricId::PymallocUtilisation, Some(Value::Fraction(0.881))),
        metric(MetricId::InternalSlopBytes, None),
    ]
}

fn findings() -> Vec<Finding> {
    const APART: Remedy = Remedy {
        steps: &[],
        sentences: "LD_PRELOAD=libjemalloc.so.2 keeps sizes apart; measure it before the fleet gets it.",
    };
    const TRIM: Remedy = Remedy {
        steps: &[],
        sentences: "Call malloc_trim(0) after each peak, or set MALLOC_TRIM_THRESHOLD_=131072.",
    };
    let finding = |mechanism, mib: u64, claim: &str, remedy, confidence| Finding {
        mechanism,
        claim: claim.into(),
        bytes: Some(mib * MIB),
        held_bytes: mib * MIB,
        evidence: Vec::new(),
        remedy,
        confidence,
    };
    vec![
        finding(
            Mechanism::PinnedPages,
            142,
            "21.5k pages are kept resident by 512 live bytes or fewer each.",
            &APART,
            Confidence::Medium,
        ),
        finding(
            Mechanism::Untrimmed,
            12,
            "Whole free pages lie inside the heap.",
            &TRIM,
            Confidence::High,
        ),
    ]
}

fn history() -> Vec<Point> {
    let point = |i: u64| Point {
        time_ns: TAKEN_AT_NS - 57 * SECOND + i * SECOND,
        rss_bytes: (380 + 120 * (i % 20) / 19 + i / 2) * MIB,
        swap_bytes: 96 * MIB,
        live_bytes: (i >= 5).then_some((200 + 40 * (i / 5 % 3)) * MIB),
        heap_bytes: (i >= 5).then_some((360 + i) * MIB),
    };
    (0..=60).map(point).collect()
}

fn activity() -> Activity {
    let mut lifetimes = Histogram::new(2).expect("two digits");
    let mut sizes = Histogram::new(2).expect("two digits");
    for i in 1..=1_000u64 {
        lifetimes.record(i * i * 700).expect("it resizes");
        sizes.record(16 + i % 60 * 16).expect("it resizes");
    }
    let class = |size: u64, allocs: u64| ClassActivity {
        class: SizeClass::of(size),
        allocs,
        frees: if size > 512 { 0 } else { allocs * 9 / 10 },
        alloc_bytes: allocs * size,
        lifetime_p50_ns: size * 9_000,
        lifetime_p90_ns: size * 900_000,
        lifetime_p99_ns: size * 9_000_000,
    };
    let probe = |function: &str, site: &str, hits, state| ProbeStatus {
        function: function.into(),
        object: "/usr/lib/x86_64-linux-gnu/libc.so.6".into(),
        site: site.into(),
        hits,
        state,
    };
    Activity {
        elapsed_ns: 61 * SECOND,
        armed_ns: 7 * SECOND,
        allocs: 1_051_000,
        alloc_bytes: 141 * MIB,
        frees: 998_000,
        frees_of_older: 21_000,
        events_lost: 1_234,
        alloc_rate: 150_321.0,
        free_rate: 148_900.0,
        alloc_byte_rate: 20.1 * MIB as f64,
        tracked_blocks: 32_000,
        tracked_bytes: 5 * MIB,
        untracked_blocks: 0,
        lifetimes,
        sizes,
        classes: [
            (32, 400_000),
            (48, 300_000),
            (96, 200_000),
            (512, 100_000),
            (4_096, 51_000),
        ]
        .map(|(size, allocs)| class(size, allocs))
        .into(),
        probes: vec![
            probe(
                "malloc",
                "+0x9c je +0x262, emulated; +0x12f jne +0x1f0, emulated; return probe",
                1_051_000,
                ProbeState::Firing,
            ),
            probe(
                "free",
                "+0x12 push, emulated",
                1_019_000,
                ProbeState::Firing,
            ),
            probe(
                "memalign, aligned_alloc",
                "return probe",
                0,
                ProbeState::Silent,
            ),
            probe(
                "valloc",
                "",
                0,
                ProbeState::Failed("the object has no such symbol".into()),
            ),
        ],
        cost: ProbeCost {
            hits: 2_070_000,
            ns_per_hit: 812.0,
            share: 0.047,
            budget: Some(0.05),
        },
        ended: None,
    }
}

//! The report's laws on made-up samples: rows sum to the kernel's account, each page counts once,
//! and no sample makes it panic.

mod samples;

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::allocator::{Allocator, AllocatorTitle, Home, ROWS};
use profiler_core::heap::{Arena, Extent, ExtentKind, HeapSnapshot};
use profiler_core::metrics::MetricId;
use profiler_core::prediction::{Needs, Prediction, Predictions, SelfCheck};
use profiler_core::report::{FragReport, LedgerClass, Mechanism};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::sample::{KernelCount, Sample};
use profiler_core::span::{SpanList, SpanState};
use profiler_core::units::Value;
use proptest::collection::vec;
use proptest::prelude::*;
use samples::*;

proptest! {
    #[test]
    fn rows_sum_to_rss_and_swap_whatever_heaps_claim(
        residency in residency(),
        outer in any_heap(Allocator::Glibc),
        inner in any_heap(Allocator::Pymalloc),
        beyond in 0..9u64,
    ) {
        let sample = sample(residency, vec![outer, inner], beyond * PAGE_SIZE);
        let report = FragReport::from_sample(&sample);
        let sum = |of: fn(&profiler_core::report::LedgerRow) -> u64| {
            report.ledger.iter().map(of).sum::<u64>()
        };
        prop_assert_eq!(sum(|row| row.resident_bytes), sample.kernel.rss_bytes);
        prop_assert_eq!(sum(|row| row.swapped_bytes), sample.kernel.swap_bytes);
        let shared: u64 = sample.residency.runs().iter()
            .filter(|run| run.state.is_resident() && run.state.is_shared())
            .map(|run| run.range.len())
            .sum();
        prop_assert_eq!(sum(|row| row.shared_bytes), shared);
        prop_assert!(report.completeness.defects.is_empty());
        prop_assert!(report.verdict.chars().count() <= 100, "{}", report.verdict);

        // Every page that a heap claims a byte of is counted once, byte by byte as the oracle.
        let claimed = |page: u64| sample.heaps.iter().flat_map(|h| &h.extents).any(|extent| {
            extent.range.intersect(&range(page, PAGE_SIZE)).is_some()
        });
        let pages: Vec<_> = sample.residency.runs().iter()
            .flat_map(|run| (0..run.range.len() / PAGE_SIZE)
                .map(|i| (run.range.start().get() + i * PAGE_SIZE, run.state)))
            .filter(|&(page, _)| claimed(page))
            .collect();
        let resident = pages.iter().filter(|(_, state)| state.is_resident()).count() as u64;
        let swapped = pages.iter().filter(|(_, state)| state.is_swapped()).count() as u64;
        prop_assert_eq!(report.page_occupancy.iter().map(|r| r.resident_pages).sum::<u64>(), resident);
        prop_assert_eq!(report.page_occupancy.iter().map(|r| r.swapped_pages).sum::<u64>(), swapped);
        let huge: u64 = report.huge_occupancy.iter().map(|row| row.resident_bytes).sum();
        prop_assert_eq!(huge, resident * PAGE_SIZE);
        prop_assert_eq!(report.heap_resident_bytes(), Some(huge));
        for (metric, id) in report.metrics.iter().zip(MetricId::ALL) {
            prop_assert_eq!(metric.id, *id, "in the order of their declaration");
            let whole = metric.value.map(|value| matches!(value, Value::Whole(_)));
            prop_assert!(whole.is_none_or(|whole| whole == id.unit().is_whole()), "{:?}", metric);
        }
        for deciles in &report.occupancy_deciles {
            prop_assert!(deciles.live_bytes.is_sorted(), "{:?}", deciles);
        }
        let pinned = |row: &profiler_core::report::SizeClassRow| row.pinned_free_bytes;
        let by_class: u64 = report.size_classes.iter().map(pinned).sum();
        let by_arena: u64 = report.heaps.iter().flat_map(|h| &h.arenas)
            .map(|arena| arena.pinned_free_bytes)
            .sum();
        prop_assert!(by_class <= huge && by_arena <= huge);
        for pair in report.map.windows(2) {
            prop_assert!(pair[0].range.end() <= pair[1].range.start());
        }
        for extent in &report.map {
            prop_assert_eq!(extent.pages.len() as u64 * PAGE_SIZE, extent.range.len());
            for page in &extent.pages {
                prop_assert!(u64::from(page.live_bytes) + u64::from(page.other_bytes) <= PAGE_SIZE);
            }
        }
    }

    #[test]
    fn no_sample_makes_it_panic(
        mappings in vec((any::<u64>(), any::<u64>(), any::<u8>()), 0..4),
        runs in vec((any::<u64>(), 0..1u64 << 20, 0..STATES.len()), 0..4),
        extents in vec((any::<u64>(), 0..1u64 << 22, vec((0..1u64 << 20, any::<u8>()), 0..4)), 0..4),
        rss in any::<u64>(),
    ) {
        let mut mappings: Vec<_> = mappings.into_iter()
            .map(|(at, len, kind)| Mapping { range: range(at, len), ..mapping(0, 1, kind_of(kind)) })
            .collect();
        mappings.sort_by_key(|m| m.range.start());
        let mut residency = ResidencyMap::new(mappings);
        for (at, len, state) in runs {
            residency.push_run(PageRun { range: range(at, len), state: STATES[state] });
        }
        let extents = extents.into_iter().map(|(at, len, parts)| Extent {
            range: range(at, len),
            kind: ExtentKind::Brk,
            arena: u32::MAX,
            block_header_bytes: 8,
            spans: spans(&parts),
        });
        let mut sample = sample(residency, vec![], 0);
        sample.heaps = vec![heap(Allocator::Glibc, extents.collect(), vec![])];
        sample.kernel.rss_bytes = rss;
        let report = FragReport::from_sample(&sample);
        prop_assert_eq!(report.ledger.len(), LedgerClass::ALL.len());
    }
}

#[test]
fn verdicts_read_as_they_should() {
    let live = |len| (len, SpanState::Live);
    let free = |len| (len, SpanState::Free);
    // 25,600 blocks of 56 usable bytes fill 400 slabs of one page: 98.4 MiB less than 100.
    let verdict = |sample: &Sample| FragReport::from_sample(sample).verdict;
    assert_eq!(
        verdict(&worker(25_600, &[live(64), free(4032)], 0)),
        "98.4 MiB: free memory is pinned by live blocks. 1.4 % is live."
    );
    assert_eq!(
        verdict(&worker(25_600, &[live(4096)], 0)),
        "99.8 MiB: the memory is in use."
    );
    assert_eq!(
        verdict(&worker(256, &[live(4096)], 25_600)),
        "100.0 MiB: the memory is not in the heap."
    );
    let mut not_walked = worker(256, &[], 0);
    not_walked.heaps.clear();
    assert_eq!(verdict(&not_walked), "No verdict: no heap could be walked.");
    // glibc is walked, but it is not what serves malloc.
    let mut another = worker(25_600, &[live(64), free(4032)], 0);
    another.target.malloc = Some(AllocatorTitle::parse("jemalloc"));
    let report = FragReport::from_sample(&another);
    assert_eq!(
        report.verdict,
        "No verdict: malloc is served by jemalloc, whose heap was not walked."
    );
    assert_eq!(report.packing, None);
    assert_eq!(report.findings.len(), 1);
}

#[test]
fn a_remedy_that_was_not_played_is_not_ranked_by_all_that_it_might_return() {
    let pinned = worker(25_600, &[(64, SpanState::Live), (4032, SpanState::Free)], 0);
    let report = FragReport::from_sample(&pinned);
    assert_eq!(report.findings[0].bytes, Some(25_200 << 12));
    let nothing = report.with_predictions(predicted(&[]));
    assert_eq!(nothing.findings[0].bytes, None);
}

#[test]
fn ends_of_arenas_stay_when_the_trim_threshold_has_grown() {
    let mut kept = worker(
        25_600,
        &[(4096, SpanState::Live), (99 << 20, SpanState::Top)],
        0,
    );
    let mechanisms = |sample: &Sample| -> Vec<Mechanism> {
        let report = FragReport::from_sample(sample);
        report.findings.iter().map(|f| f.mechanism).collect()
    };
    let unknown = mechanisms(&kept);
    assert_eq!(
        unknown,
        [Mechanism::Unexplained],
        "more than a fifth is free"
    );
    let verdict = FragReport::from_sample(&kept).verdict;
    assert!(
        verdict.ends_with("are free but resident; the cause is not known."),
        "{verdict}"
    );
    let settings = |threshold: u64| {
        vec![
            ("trim_threshold".into(), threshold.to_string()),
            ("no_dyn_threshold".into(), "0".into()),
        ]
    };
    kept.heaps[0].settings = settings(128 << 10);
    assert_eq!(mechanisms(&kept), unknown);
    kept.heaps[0].settings = settings(32 << 20);
    assert_eq!(mechanisms(&kept), [Mechanism::KeptTop]);
}

#[test]
fn what_was_freed_lazily_is_a_finding_by_the_kernels_count() {
    let mut sample = worker(25_600, &[(4096, SpanState::Live)], 0);
    sample.kernel.lazy_free_bytes = Some(50 << 20);
    let report = FragReport::from_sample(&sample);
    let finding = report
        .findings
        .iter()
        .find(|f| f.mechanism == Mechanism::LazilyFreed);
    assert_eq!(finding.expect("half of it").bytes, Some(50 << 20));
    sample.kernel.lazy_free_bytes = Some(1 << 20);
    let report = FragReport::from_sample(&sample);
    assert!(
        report
            .findings
            .iter()
            .all(|f| f.mechanism != Mechanism::LazilyFreed)
    );
}

#[test]
fn the_bound_counts_what_lies_in_swap() {
    let mut sample = worker(2560, &[(64, SpanState::Live), (4032, SpanState::Free)], 0);
    let resident = FragReport::from_sample(&sample).packing;
    let mut residency = ResidencyMap::new(sample.residency.mappings().to_vec());
    residency.push_run(PageRun {
        range: range(BASE, 2560 * PAGE_SIZE),
        state: PageState::SWAPPED,
    });
    sample.residency = residency;
    let swapped = FragReport::from_sample(&sample).packing.expect("a bound");
    assert_eq!(swapped.present_bytes, 2560 * PAGE_SIZE);
    // What could not be read there is in neither figure.
    let mut unread = sample.clone();
    let mut spans = spans(&[]);
    spans.push(2560 * PAGE_SIZE, SpanState::Unknown);
    unread.heaps[0].extents[0].spans = spans;
    let none = FragReport::from_sample(&unread).packing.expect("a bound");
    assert_eq!((none.present_bytes, none.packed_bytes), (0, 0));
    assert_eq!(resident, Some(swapped));
}

#[test]
fn pins_are_laid_at_the_door_of_the_blocks_that_hold_them() {
    let live = |len| (len, SpanState::Live);
    let free = |len| (len, SpanState::Free);
    // Page 0: one block of 64 and one of 128, the rest free. Page 1: only a cached block.
    // Pages 2 to 11: free. Page 12: one small live block, then the top.
    let sample = worker(
        14,
        &[
            live(64),
            free(1024),
            live(128),
            free(4096 - 1216),
            (32, SpanState::Cached),
            free(11 * PAGE_SIZE - 32),
            live(48),
            (2 * PAGE_SIZE - 48, SpanState::Top),
        ],
        0,
    );
    let report = FragReport::from_sample(&sample);
    let pinned = |upper: u64| {
        let mut rows = report.size_classes.iter();
        rows.find(|row| row.class.upper_bytes() == upper)
            .map(|row| row.pinned_free_bytes)
    };
    let on_the_first_page = 4096 - 64 - 128;
    assert_eq!(pinned(64), Some(on_the_first_page / 2));
    assert_eq!(pinned(128), Some(on_the_first_page / 2));
    // Nothing free lies on its page: the rest there is the top.
    assert_eq!(pinned(48), Some(0));
    let arena = &report.heaps[0].arenas[0];
    assert_eq!(arena.pinned_free_bytes, on_the_first_page + 4096 - 32);
    assert_eq!(
        arena.below_highest_live_bytes,
        on_the_first_page + 11 * PAGE_SIZE - 32
    );
    // The three blocks below the top have 272 bytes in all.
    assert_eq!(arena.top_pinned_bytes, 10 * PAGE_SIZE);
    assert_eq!(report.amount(MetricId::PurgeFloorBytes), Some(2 * 4096));
    assert_eq!(report.amount(MetricId::CompactionFloorBytes), Some(4096));
    let [deciles] = report.occupancy_deciles.as_slice() else {
        panic!("one allocator")
    };
    assert_eq!(deciles.live_bytes, [0, 0, 0, 0, 0, 0, 0, 0, 48]);
}

#[test]
fn spans_cut_by_inner_heaps_are_gone_through_once_and_count_once() {
    // One outer block of 400 pages in which 100 inner arenas lie, each a page, four pages apart.
    let mut sample = worker(402, &[(400 * PAGE_SIZE, SpanState::Live)], 0);
    let inner = (0..100).map(|i| Extent {
        range: range(BASE + 4 * i * PAGE_SIZE, PAGE_SIZE),
        kind: ExtentKind::PoolArena,
        arena: 0,
        block_header_bytes: 0,
        spans: spans(&[(512, 0)]),
    });
    let inner = heap(Allocator::Pymalloc, inner.collect(), vec![]);
    sample.heaps.push(inner);
    let report = FragReport::from_sample(&sample);
    let resident = |class| {
        let row = report.ledger_row(class).expect("a row");
        row.resident_bytes
    };
    assert_eq!(resident(LedgerClass::PymallocLive), 100 * PAGE_SIZE);
    assert_eq!(resident(LedgerClass::Live), 300 * PAGE_SIZE);
}

#[test]
fn the_bound_of_large_blocks_is_what_they_touch() {
    // Twelve mappings of their own, of 16 MiB and the page that the header takes.
    let size = (16 << 20) + PAGE_SIZE;
    let mut sample = worker(12 * size / PAGE_SIZE, &[(size, SpanState::Live)], 0);
    sample.heaps[0].extents = (0..12)
        .map(|i| {
            let mut spans = SpanList::default();
            spans.push(16, SpanState::Metadata);
            spans.push(size - 16, SpanState::Live);
            Extent {
                range: range(BASE + i * size, size),
                kind: ExtentKind::LargeMapped,
                arena: 0,
                block_header_bytes: 0,
                spans,
            }
        })
        .collect();
    let packing = FragReport::from_sample(&sample).packing.expect("a bound");
    assert_eq!(packing.packed_bytes, 12 * size);
    assert_eq!(packing.present_bytes, 12 * size);
    // One more that was never touched changes nothing.
    let mut spans = SpanList::default();
    spans.push(8 << 30, SpanState::Live);
    sample.heaps[0].extents.push(Extent {
        range: range(BASE + (1 << 40), 8 << 30),
        kind: ExtentKind::LargeMapped,
        arena: 0,
        block_header_bytes: 0,
        spans,
    });
    let with_more = FragReport::from_sample(&sample).packing.expect("a bound");
    assert_eq!(with_more.packed_bytes, packing.packed_bytes);
}

#[test]
fn what_a_trim_returns_is_pinned_by_nothing() {
    // Fastbin chunks between free ones, all of it returned by a trim.
    let mut sample = worker(2560, &[(32, SpanState::Cached), (1008, SpanState::Free)], 0);
    sample.heaps[0].trimmable = vec![range(BASE, 2560 * PAGE_SIZE)];
    let report = FragReport::from_sample(&sample);
    let row = |class| report.ledger_row(class).expect("a row").resident_bytes;
    // What no span reaches at the end of the extent is unknown.
    let known = sample.heaps[0].extents[0].spans.bytes();
    assert_eq!(row(LedgerClass::FreeTrimmable), known);
    assert_eq!(row(LedgerClass::FreePinned) + row(LedgerClass::Cached), 0);
    let mechanisms: Vec<_> = report.findings.iter().map(|f| f.mechanism.name()).collect();
    assert_eq!(mechanisms, ["untrimmed"]);
}

/// malloc's figures, bounds and remedies leave out what a library allocates for itself.
#[test]
fn the_heap_of_a_library_is_a_class_of_its_own() {
    let part = [(64, SpanState::Live), (PAGE_SIZE - 64, SpanState::Free)];
    let alone = worker(2560, &part, 2560);
    let mut sample = alone.clone();
    let mut private = heap(
        Allocator::Mimalloc,
        vec![Extent {
            range: range(BASE + 2561 * PAGE_SIZE, 2560 * PAGE_SIZE),
            kind: ExtentKind::Region,
            arena: 0,
            block_header_bytes: 0,
            spans: [
                (PAGE_SIZE, SpanState::Live),
                (2559 * PAGE_SIZE, SpanState::Retained),
            ]
            .into_iter()
            .fold(SpanList::default(), |mut spans, (bytes, state)| {
                spans.push(bytes, state);
                spans
            }),
        }],
        vec![range(BASE + 2562 * PAGE_SIZE, 2559 * PAGE_SIZE)],
    );
    private.library = Some("/usr/lib/libarrow.so.2400".into());
    private.arenas[0].live_bytes = PAGE_SIZE;
    sample.heaps.push(private);
    let (without, with) = (
        FragReport::from_sample(&alone),
        FragReport::from_sample(&sample),
    );
    let row = |report: &FragReport, class| report.ledger_row(class).expect("a row").resident_bytes;
    assert_eq!(row(&with, LedgerClass::PrivateHeap), 2560 * PAGE_SIZE);
    for class in [
        LedgerClass::Live,
        LedgerClass::FreePinned,
        LedgerClass::FreeTrimmable,
    ] {
        assert_eq!(row(&with, class), row(&without, class), "{class:?}");
    }
    for id in [
        MetricId::Utilisation,
        MetricId::TrimReturnableBytes,
        MetricId::PinnedFreeBytes,
    ] {
        assert_eq!(with.metric(id), without.metric(id), "{id:?}");
    }
    assert_eq!(with.packing, without.packing);
    let mut findings = with.findings.iter();
    let finding = findings
        .find(|finding| finding.mechanism == Mechanism::PrivateHeap)
        .expect("a finding");
    assert_eq!(finding.bytes, Some(2559 * PAGE_SIZE));
    assert!(
        finding
            .claim
            .starts_with("mimalloc 1 in libarrow.so.2400 has"),
        "{finding:?}"
    );
    assert!(
        finding.remedy.prose().contains("release_unused()"),
        "{finding:?}"
    );
}

#[test]
fn nothing_is_said_in_glibcs_words_of_another_allocator() {
    // A page with pinned free bytes, a cached one, and two that are free.
    let part = [
        (64, SpanState::Live),
        (PAGE_SIZE - 64, SpanState::Free),
        (PAGE_SIZE, SpanState::Cached),
        (2 * PAGE_SIZE, SpanState::Free),
    ];
    let names = [
        "glibc",
        "malloc_trim",
        "GLIBC_TUNABLES",
        "MALLOC_ARENA",
        "MALLOC_MMAP",
        "fastbin",
    ];
    for row in ROWS.iter().filter(|row| row.home != Home::Python) {
        let mut sample = worker(25_600, &part, 0);
        let heap = &mut sample.heaps[0];
        heap.allocator = row.kind;
        heap.trimmable = vec![range(BASE + 4 * PAGE_SIZE, 12_000 * PAGE_SIZE)];
        if row.kind != Allocator::Glibc {
            heap.extents[0].kind = ExtentKind::Region;
        }
        let report = FragReport::from_sample(&sample);
        let said = format!("{} {:?}", report.explanation, report.findings);
        assert!(report.findings.len() >= 3, "{said}");
        let of_glibc = names.iter().any(|name| said.contains(name));
        assert_eq!(of_glibc, row.kind == Allocator::Glibc, "{said}");
    }
}

#[test]
fn verdicts_with_predictions_promise_what_was_predicted() {
    let pinned = worker(25_600, &[(64, SpanState::Live), (4032, SpanState::Free)], 0);
    let report = FragReport::from_sample(&pinned);
    let with = |candidates: &[_]| report.with_predictions(predicted(candidates));
    let jemalloc = |needs| ("jemalloc", Some(Mechanism::PinnedPages), needs);

    let saves = with(&[jemalloc([20, 30, 40])]);
    assert_eq!(
        saves.verdict,
        "70.0 MiB: free memory is pinned by live blocks; with jemalloc malloc would need 20.0 to 40.0 \
         MiB, now 100.0 MiB. 1.4 % is live."
    );
    assert_eq!(saves.findings[0].bytes, Some(70 << 20));

    let costs = with(&[jemalloc([110, 115, 120])]);
    assert_eq!(
        costs.verdict,
        "98.4 MiB: free memory is pinned by live blocks; jemalloc would need more: 110.0 to 120.0 MiB, \
         now 100.0 MiB. 1.4 % is live."
    );
    assert_eq!(costs.findings[0].bytes, Some(0));
    assert!(!costs.findings[0].remedy.prose().contains("jemalloc"));

    let unclear = with(&[jemalloc([60, 90, 120])]);
    assert_eq!(unclear.findings[0].bytes, None);
    assert!(
        unclear
            .verdict
            .contains("jemalloc may help or not: 60.0 to 120.0 MiB")
    );

    // A remedy that the walk's own figures do not speak of comes first when it returns most.
    let threshold = (
        "mmap_threshold=128K",
        Some(Mechanism::DynamicMmapThreshold),
        [5, 6, 7],
    );
    let mut grown = pinned.clone();
    grown.heaps[0].settings = vec![
        ("mmap_threshold".into(), "8388608".into()),
        ("no_dyn_threshold".into(), "0".into()),
    ];
    let report = FragReport::from_sample(&grown);
    let both = report.with_predictions(predicted(&[jemalloc([20, 30, 40]), threshold]));
    assert_eq!(both.findings[0].mechanism, Mechanism::DynamicMmapThreshold);
    assert_eq!(both.findings[0].bytes, Some(94 << 20));

    // What is not reproduced carries no conclusion.
    let mut off = predicted(&[jemalloc([20, 30, 40])]);
    off.self_check = Some(SelfCheck {
        measured_bytes: 100 << 20,
        predicted_bytes: 120 << 20,
    });
    let off = report.with_predictions(off);
    assert!(
        off.verdict
            .contains("no prediction (its heap is not reproduced: +20 %)"),
        "{}",
        off.verdict
    );
    assert_eq!(off.findings[0].bytes, report.findings[0].bytes);
}

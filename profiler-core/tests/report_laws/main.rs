//! The report's laws on made-up samples: rows sum to the kernel's account, each page counts once,
//! and no sample makes it panic.

mod findings;
mod samples;

use profiler_core::addr::PAGE_SIZE;
use profiler_core::allocator::Allocator;
use profiler_core::heap::{Extent, ExtentKind};
use profiler_core::metrics::MetricId;
use profiler_core::over_time::OverTime;
use profiler_core::report::{FragReport, LedgerClass};
use profiler_core::residency::{Mapping, PageRun, PageState, ResidencyMap};
use profiler_core::span::SpanState;
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
        // Those over a session are not of one sample.
        let of_samples = MetricId::ALL.len() - OverTime::default().ratios().len();
        prop_assert_eq!(report.metrics.len(), of_samples, "each is computed");
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
    unread.kernel.swap_bytes = 2560 * PAGE_SIZE;
    let report = FragReport::from_sample(&unread);
    let said = &report.explanation;
    assert!(
        said.contains("10.0 MiB are in swap. How much of that is fragmentation is not known: up to 10.0 MiB may be"),
        "{said}"
    );
    // That what is left is not the heap's is not what is wrong with it.
    unread.kernel.rss_bytes = 1 << 20;
    let beside =
        "10.0 MiB are in swap, beside 1.0 MiB resident: most of the heap lies there, unread.";
    assert_eq!(FragReport::from_sample(&unread).verdict, beside);
    let none = report.packing.expect("a bound");
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
    let live = [(PAGE_SIZE, SpanState::Live)];
    let inner = (0..100).map(|i| extent(ExtentKind::PoolArena, 4 * i * PAGE_SIZE, &live));
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
            let spans = [(16, SpanState::Metadata), (size - 16, SpanState::Live)];
            extent(ExtentKind::LargeMapped, i * size, &spans)
        })
        .collect();
    let packing = FragReport::from_sample(&sample).packing.expect("a bound");
    assert_eq!(packing.packed_bytes, 12 * size);
    assert_eq!(packing.present_bytes, 12 * size);
    // One more that was never touched changes nothing.
    let large = [(8 << 30, SpanState::Live)];
    let untouched = extent(ExtentKind::LargeMapped, 1 << 40, &large);
    sample.heaps[0].extents.push(untouched);
    let with_more = FragReport::from_sample(&sample).packing.expect("a bound");
    assert_eq!(with_more.packed_bytes, packing.packed_bytes);
}

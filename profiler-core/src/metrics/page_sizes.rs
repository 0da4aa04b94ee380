//! The same heap on kernels with pages of 4, 16 and 64 KiB: a larger page has more blocks that can
//! pin it.

use crate::addr::{AddrRange, PAGE_SIZE, PageSize, RemoteAddr};
use crate::arena::ArenaKind;
use crate::heap::{Allocator, Arena, Extent, ExtentKind, HeapSnapshot};
use crate::metrics::{Metric, MetricId};
use crate::report::FragReport;
use crate::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use crate::sample::Sample;
use crate::span::{SpanList, SpanState};
use crate::tables::LedgerClass;
use crate::units::Value;

/// The start of the heap: a multiple of all page sizes.
const BASE: u64 = 0x10_0000;

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::with_len(RemoteAddr::new(start), len).expect("a range")
}

/// Four resident pages of this size: a block of 64 bytes alone on the first, the second free, the
/// third full, the top on the fourth. A trim returns none of the free ones.
fn sample(page_size: PageSize) -> Sample {
    let page = page_size.bytes();
    let brk = range(BASE, 4 * page);
    let mut spans = SpanList::default();
    spans.push(64, SpanState::Live);
    spans.push(2 * page - 64, SpanState::Free);
    spans.push(page, SpanState::Live);
    spans.push(page, SpanState::Top);
    let mut heap = HeapSnapshot::new(Allocator::Glibc, "2.41");
    heap.arenas = vec![Arena {
        id: 0,
        kind: ArenaKind::Main,
        live_blocks: 2,
        live_bytes: page + 64,
        system_bytes: brk.len(),
        ..Arena::default()
    }];
    heap.extents = vec![Extent {
        range: brk,
        kind: ExtentKind::Brk,
        arena: 0,
        block_header_bytes: 0,
        spans,
    }];
    let mapping = Mapping::private(brk, MappingKind::Brk);
    let mut residency = ResidencyMap::new(vec![mapping]).of_pages(page_size);
    residency.push_run(PageRun {
        range: brk,
        state: PageState::PRESENT,
    });
    let mut sample = Sample {
        residency,
        heaps: vec![heap],
        ..Sample::default()
    };
    sample.host.page_size = page_size;
    sample.kernel.rss_bytes = brk.len();
    sample
}

fn metric(report: &FragReport, id: MetricId) -> Option<Value> {
    let found = report.metrics.iter().find(|one| one.id == id);
    found.and_then(|Metric { value, .. }| *value)
}

#[test]
fn each_page_is_kept_by_what_it_holds_whatever_its_size() {
    for page_size in PageSize::ALL {
        let page = page_size.bytes();
        let report = FragReport::from_sample(&sample(page_size));
        let of = |class| report.resident_bytes(class);
        assert_eq!(of(LedgerClass::Live), page + 64, "{page}");
        assert_eq!(of(LedgerClass::FreePinned), page - 64, "{page}");
        assert_eq!(of(LedgerClass::FreeStuck), page, "{page}");
        assert_eq!(of(LedgerClass::Top), page, "{page}");
        assert_eq!(of(LedgerClass::Unknown), 0, "{page}");
        assert_eq!(report.heap_resident_bytes(), Some(4 * page));
        let whole = |value| Some(Value::Whole(value));
        assert_eq!(metric(&report, MetricId::HeldBy64BytesPages), whole(1));
        assert_eq!(metric(&report, MetricId::HeldByOneBlockPages), whole(1));
        assert_eq!(metric(&report, MetricId::PurgeFloorBytes), whole(2 * page));
        assert_eq!(
            metric(&report, MetricId::CompactionFloorBytes),
            whole(2 * page)
        );
        let huge: u64 = report
            .huge_occupancy
            .iter()
            .map(|row| row.resident_bytes)
            .sum();
        assert_eq!(huge, 4 * page);
    }
}

#[test]
fn buckets_are_the_same_shares_of_larger_pages() {
    for page_size in PageSize::ALL {
        let page = page_size.bytes() as u32;
        let report = FragReport::from_sample(&sample(page_size));
        let rows = &report.page_occupancy;
        let bounds: Vec<_> = rows
            .iter()
            .map(|row| (row.min_bytes, row.max_bytes))
            .collect();
        assert_eq!((bounds[0], bounds[12]), ((0, 0), (page, page)));
        assert_eq!(bounds[11].1, page - 1);
        assert!(
            bounds.windows(2).all(|two| two[0].1 + 1 == two[1].0),
            "{bounds:?}"
        );
        let pages: Vec<_> = rows.iter().map(|row| row.resident_pages).collect();
        // The free page and the top's; the small block's; the full one.
        assert_eq!((pages[0], pages[1], pages[12]), (2, 1, 1), "{page}");
        assert_eq!(pages.iter().sum::<u64>(), 4);
        assert_eq!(report.occupancy_deciles[0].live_bytes[8], page);
    }
}

#[test]
fn the_map_has_a_cell_for_each_of_the_smallest_pages() {
    for page_size in PageSize::ALL {
        let report = FragReport::from_sample(&sample(page_size));
        let [extent] = report.map.as_slice() else {
            panic!("{:?}", report.map);
        };
        let units = page_size.units() as usize;
        assert_eq!(extent.pages.len(), 4 * units);
        assert_eq!(extent.range.len(), extent.pages.len() as u64 * PAGE_SIZE);
        let live = |number: usize| u64::from(extent.pages[number * units].live_bytes);
        assert_eq!(live(0), 64_u64.div_ceil(page_size.units()));
        assert_eq!((live(1), live(2), live(3)), (0, PAGE_SIZE, 0));
        assert_eq!(u64::from(extent.pages[3 * units].other_bytes), PAGE_SIZE);
    }
}

#[test]
fn a_huge_page_is_what_a_page_of_entries_leads_to() {
    let bytes = PageSize::ALL.map(PageSize::huge_bytes);
    assert_eq!(bytes, [2 << 20, 32 << 20, 512 << 20]);
    assert_eq!(PageSize::new(8192), None);
}

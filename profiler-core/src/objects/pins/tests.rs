use super::*;
use crate::allocator::Allocator;
use crate::glibc::CHUNK_HEADER;
use crate::residency::{Mapping, MappingKind};

const BASE: u64 = 0x5555_0000_0000;

/// A heap of one extent of these spans, all of it resident.
fn heap(allocator: Allocator, kind: ExtentKind, parts: &[(u64, SpanState)]) -> HeapSnapshot {
    let extent = Extent::of_spans(kind, RemoteAddr::new(BASE), parts.iter().copied().collect());
    let mut heap = HeapSnapshot::new(allocator, "");
    heap.extents.push(Extent {
        block_header_bytes: match allocator {
            Allocator::Glibc => CHUNK_HEADER,
            _ => 0,
        },
        ..extent.expect("low")
    });
    heap
}

fn pinned(heap: HeapSnapshot, holders: &[u16], around: &[u16]) -> Pinned {
    let range = heap.extents[0].range;
    let mut residency = ResidencyMap::new(vec![Mapping::private(range, MappingKind::Brk)]);
    residency.push_run(PageRun {
        range,
        state: PageState::PRESENT,
    });
    let heaps = [heap];
    let index = BlockIndex::of(&heaps);
    assert_eq!(index.len(), holders.len());
    let owners = Owners {
        index: &index,
        holders,
        of_type: &|_| Some(0),
        has_gc_head: &|_| true,
        nesting: &Nesting::of(around.to_vec()),
        types: 1,
    };
    owners.pinned(&heaps, &residency, &[range])
}

#[test]
fn a_page_goes_with_who_has_all_that_lives_on_it() {
    use SpanState::{Free, Live};
    // 1 is within 0; the page in the middle belongs to both, the last one to another as well.
    let parts = [
        (64, Live),
        (PAGE_SIZE - 64, Free),
        (64, Live),
        (64, Live),
        (PAGE_SIZE - 128, Free),
        (PAGE_SIZE, Free),
        (64, Live),
        (PAGE_SIZE - 64, Free),
    ];
    let of = |holders: &[u16]| {
        let heap = heap(Allocator::Glibc, ExtentKind::Brk, &parts);
        pinned(heap, holders, &[NOBODY, 0]).dropped.expect("glibc")
    };
    let dropped = of(&[NOBODY, 0, 1, NOBODY]);
    let page = Dropped {
        live_bytes: 128,
        unpinned_bytes: PAGE_SIZE - 128,
        untouched: NeverWritten::default(),
    };
    assert_eq!(dropped, [page, Dropped::default()]);
    let dropped = of(&[NOBODY, 1, 1, 0]);
    assert_eq!(dropped[1], page);
    assert_eq!(dropped[0].live_bytes, 128 + 64);
    assert_eq!(of(&[0, NOBODY, 1, 1])[1].live_bytes, 64);
}

#[test]
fn an_arena_goes_when_nothing_lives_in_it() {
    use SpanState::{Free, Live, Metadata};
    let parts = [
        (48, Metadata),
        (64, Live),
        (PAGE_SIZE - 112, Free),
        (64, Live),
        (PAGE_SIZE - 64, Free),
    ];
    let of = |holders: &[u16]| {
        let heap = heap(Allocator::Pymalloc, ExtentKind::PoolArena, &parts);
        pinned(heap, holders, &[NOBODY, NOBODY])
    };
    let both = of(&[0, 0]).dropped.expect("pymalloc");
    let whole = Dropped {
        live_bytes: 128,
        unpinned_bytes: 2 * PAGE_SIZE - 128,
        untouched: NeverWritten::default(),
    };
    assert_eq!(both, [whole, Dropped::default()]);
    let apart = of(&[0, 1]);
    assert_eq!(apart.dropped, Some(vec![Dropped::default(); 2]));
    assert_eq!(apart.by_holder, [PAGE_SIZE - 112, PAGE_SIZE - 64]);
    assert_eq!(apart.by_type, [2 * PAGE_SIZE - 176]);
    assert_eq!(apart.copied.by_type, [2 * PAGE_SIZE]);
    assert_eq!(apart.copied.sums.collector_bytes, 2 * PAGE_SIZE);
}

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::heap::Allocator;
use profiler_core::objects::{Census, Holder, PageOwner};
use profiler_core::prediction::Predictions;
use profiler_core::report::{FragReport, LedgerClass, LedgerRow, MapExtent, MapPage};
use profiler_core::residency::PageState;
use std::sync::Arc;

use super::page;
use crate::export::sample_view;

/// Pages that are all unlike their neighbours.
fn uneven(pages: u64) -> MapExtent {
    let start = RemoteAddr::new(1 << 40);
    let of = |at: u64| MapPage {
        live_bytes: (at * 977 % 4097) as u16,
        other_bytes: 0,
        state: PageState::PRESENT,
    };
    MapExtent {
        allocator: Allocator::Glibc,
        arena: 0,
        range: AddrRange::with_len(start, pages * PAGE_SIZE).expect("in the address space"),
        pages: (0..pages).map(of).collect(),
    }
}

#[test]
fn it_has_its_parts_and_loads_nothing() {
    let page = page(&sample_view::full());
    for part in [
        "<h1>",
        "id=\"ledger\"",
        "id=\"why\"",
        "id=\"heaps\"",
        "id=\"metrics\"",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for loads in ["http:", "https:", " src=", "@import", "url("] {
        assert!(!page.contains(loads), "{loads}");
    }
}

#[test]
fn what_was_not_predicted_is_said_and_the_unknown_row_of_the_ledger_is_always_there() {
    let mut view = sample_view::full();
    let report = Arc::make_mut(&mut view.report);
    report.predictions = Some(Predictions::none(1, "no room"));
    report
        .ledger
        .retain(|row| row.class != LedgerClass::Unknown);
    report.ledger.push(LedgerRow::empty(LedgerClass::Unknown));
    let page = page(&view);
    assert!(page.contains("id=\"predicted\""));
    assert!(page.contains("Nothing was predicted: no room."));
    assert!(page.contains(LedgerClass::Unknown.help()));
}

#[test]
fn no_id_is_there_twice() {
    let page = page(&sample_view::full());
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).collect();
    ids.iter_mut()
        .for_each(|id| *id = id.split('"').next().unwrap_or(id));
    ids.sort_unstable();
    let twice = ids.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None);
}

#[test]
fn what_others_chose_is_shown_and_not_obeyed() {
    const EVIL: &str = "</title></script><img src=x onerror=alert(1)>\u{1b}[31m\"'&";
    let mut view = sample_view::full();
    let report = Arc::make_mut(&mut view.report);
    report.target.comm = EVIL.into();
    report.target.cmdline = vec![EVIL.into()];
    report.verdict = EVIL.into();
    report.explanation = EVIL.into();
    for heap in &mut report.heaps {
        heap.library = Some(EVIL.into());
        heap.version = EVIL.into();
        for setting in &mut heap.settings {
            setting.name = EVIL.into();
            setting.value = EVIL.into();
        }
    }
    let extent = uneven(4);
    report.objects = Some(Arc::new(Census {
        page_owners: vec![PageOwner {
            range: extent.range,
            holder: 0,
        }],
        holders: vec![Holder {
            name: EVIL.into(),
            ..Holder::default()
        }],
        ..Census::default()
    }));
    report.map = vec![extent];
    view.notices = vec![EVIL.into()];
    let page = page(&view);
    assert!(!page.contains("<img"), "markup of a name");
    assert!(!page.contains('\u{1b}'), "a control character");
    assert_eq!(
        page.matches("</script>").count(),
        page.matches("<script").count()
    );
    assert!(page.contains("&lt;img src=x"), "it is shown");
    assert!(page.contains("\\u003cimg src=x"), "on the map, too");
}

#[test]
fn the_page_of_a_large_heap_is_small() {
    let mut view = sample_view::full();
    let two_gib = (2 << 30) / PAGE_SIZE;
    for pages in [two_gib, 8 * two_gib] {
        let report: &mut FragReport = Arc::make_mut(&mut view.report);
        report.map = vec![uneven(pages)];
        let page = page(&view);
        assert!(
            page.len() < 2_000_000,
            "{} bytes of {pages} pages",
            page.len()
        );
    }
    let report = Arc::make_mut(&mut view.report);
    report.map = (0..100_000).map(|_| uneven(2)).collect();
    assert!(page(&view).len() < 2_000_000);
}

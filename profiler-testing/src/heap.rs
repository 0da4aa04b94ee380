//! Assertions on a walked heap, and extents of heaps that were never walked.

use profiler_core::addr::RemoteAddr;
use profiler_core::arena::ArenaFigure;
use profiler_core::completeness::Confidence;
use profiler_core::heap::{Extent, ExtentKind, HeapSnapshot};
use profiler_core::span::SpanState;

/// An extent at this address, filled by these spans, in the first arena and without block headers.
///
/// # Panics
/// If it ends beyond all addresses.
pub fn extent(kind: ExtentKind, at: u64, spans: &[(u64, SpanState)]) -> Extent {
    let spans = spans.iter().copied().collect();
    Extent::of_spans(kind, RemoteAddr::new(at), spans).expect("low")
}

/// Asserts that a walk found nothing wrong and that every check against the allocator's counters holds.
pub fn assert_sound(heap: &HeapSnapshot) {
    let what = format!(
        "{:#?}\n{:#?}\n{:#?}",
        heap.arenas, heap.checks, heap.defects
    );
    assert_eq!(heap.check(), Vec::<String>::new(), "{what}");
    assert_eq!(heap.defects, [], "{what}");
    assert!(heap.checks.iter().all(|check| check.holds()), "{what}");
}

/// A figure, summed over the arenas that have it.
pub fn figure(heap: &HeapSnapshot, figure: ArenaFigure) -> u64 {
    heap.total(|arena| arena.figure(figure).unwrap_or(0))
}

/// As [`assert_sound`], and nothing that should be checked could not be.
pub fn assert_verified(heap: &HeapSnapshot) {
    assert_sound(heap);
    assert_eq!(heap.confidence, Confidence::High, "{:#?}", heap.checks);
}

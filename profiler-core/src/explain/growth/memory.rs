//! How all memory changed between two walks, and what of it goes on.

use std::cmp::Ordering;

use crate::memory_growth::{Half, MemoryGrowth};
use crate::report::FragReport;
use crate::tables::{LedgerClass, LedgerPart};
use crate::trend::Point;

/// What goes on gains at least this share, in each half of the time, of what it would at a steady rate.
const STEADY: f64 = 0.25;
/// Memory that gained at least this share of what live blocks gained shows when these did.
const SAME: f64 = 0.8;

/// Whether it shows when live blocks gained so many bytes: it gained as much.
pub(super) fn shows(memory: &MemoryGrowth, live: f64) -> bool {
    live >= memory.least_bytes && memory.bytes >= live * SAME
}

/// How memory changed from an earlier report to a later one; `None` of cores, and where no time has passed between them.
pub(in crate::explain) fn memory_between(
    earlier: &FragReport,
    later: &FragReport,
) -> Option<MemoryGrowth> {
    if later.kernel.is_core || earlier.kernel.is_core {
        return None;
    }
    let gained = |class: LedgerClass| {
        let held = |report: &FragReport| {
            let row = report.ledger.iter().find(|row| row.class == class);
            row.map_or(0.0, |row| {
                row.resident_bytes as f64 + row.swapped_bytes as f64
            })
        };
        held(later) - held(earlier)
    };
    let is_of_heaps = |class: LedgerClass| {
        matches!(class.part(), LedgerPart::InUse | LedgerPart::Fragmentation)
            || class == LedgerClass::AllocatorMetadata
    };
    let (heaps, other): (Vec<LedgerClass>, _) = LedgerClass::ALL
        .iter()
        .partition(|class| is_of_heaps(**class));
    let mut classes: Vec<_> = other
        .into_iter()
        .map(|class| (class, gained(class)))
        .collect();
    classes.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    let mut growth = MemoryGrowth::of_counts(&Point::of(earlier), &Point::of(later))?;
    growth.heap_bytes = (!later.heaps.is_empty()).then(|| heaps.into_iter().map(gained).sum());
    growth.classes = classes;
    Some(growth)
}

/// Whether memory gained in both halves something of what a steady growth by so many bytes would have given it.
pub(super) fn goes_on(halves: [Half; 2], bytes: f64) -> bool {
    halves
        .iter()
        .all(|half| half.bytes >= bytes * half.share * STEADY)
}

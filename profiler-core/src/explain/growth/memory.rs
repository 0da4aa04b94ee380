//! How all memory changed between two walks, and what of it goes on.

use std::cmp::Ordering;

use crate::memory_growth::{Half, MemoryGrowth};
use crate::report::FragReport;
use crate::tables::{LedgerClass, LedgerPart};
use crate::trend::Point;

/// What goes on gains at least this share, in each half of the time, of what it would at a steady rate.
const STEADY: f64 = 0.25;
/// Memory that gained at least this share of what live blocks gained shows when these did.
pub(super) const SAME: f64 = 0.8;
/// Rates that differ by more than this share of the smaller one are two.
const DIFFERENT: f64 = 0.15;
/// Of so many threads more, what their functions have in hand is work that piles up,
const MORE_THREADS: u32 = 16;
/// where they are this share of those there were.
const MORE_THREADS_SHARE: f64 = 0.2;

/// Whether it shows when live blocks gained so many bytes: it gained as much, and more than it loses at times.
pub(super) fn shows(memory: &MemoryGrowth, live: f64) -> bool {
    live >= memory.least_bytes && memory.bytes >= live * SAME && memory.bytes > memory.fell_bytes
}

/// What of the bytes that live blocks gained takes memory and stays: less than these where a block was copied just when
/// it was looked at, or where buffers have room at their end that was not written to yet.
pub(super) fn lasting_of(memory: &MemoryGrowth, live: f64) -> f64 {
    let differs = |bytes: f64| bytes >= memory.least_bytes && live > bytes * (1.0 + DIFFERENT);
    let lasting = memory
        .lasting_bytes()
        .filter(|bytes| shows(memory, live) && differs(*bytes));
    let written = memory.live_bytes.filter(|bytes| {
        let is_all = (memory.bytes - bytes).abs() <= bytes * DIFFERENT;
        differs(*bytes) && is_all
    });
    lasting.or(written).unwrap_or(live)
}

/// Whether so many threads came that what their functions have in hand is no moment of work.
pub(super) fn gains_threads(memory: &MemoryGrowth) -> bool {
    let more = memory.more_threads();
    memory.threads.is_some_and(|(before, _)| {
        more >= MORE_THREADS && f64::from(more) >= f64::from(before) * MORE_THREADS_SHARE
    })
}

/// Bytes a second that all memory gained, where that goes on and is clearly more than live blocks gain.
pub(super) fn beside(memory: &MemoryGrowth, live: f64) -> Option<f64> {
    let gained = memory.lasting_bytes()?;
    let live = live * memory.seconds();
    let rest = gained - live;
    let beside_live = memory.halves?.map(|half| Half {
        bytes: half.bytes - live * half.share,
        ..half
    });
    let is_more =
        gained >= memory.least_bytes && rest > live * DIFFERENT && rest > memory.fell_bytes;
    (is_more && goes_on(beside_live, rest)).then_some(gained / memory.seconds())
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
    // What a walk had no time for is in another class than it was.
    let reports = [earlier, later];
    if reports
        .iter()
        .all(|of| of.completeness.out_of_time_ns.is_none())
    {
        growth.heap_bytes = (!later.heaps.is_empty()).then(|| heaps.into_iter().map(gained).sum());
        growth.classes = classes;
    }
    Some(growth)
}

/// Whether memory gained in both halves something of what a steady growth by so many bytes would have given it.
pub(super) fn goes_on(halves: [Half; 2], bytes: f64) -> bool {
    halves
        .iter()
        .all(|half| half.bytes >= bytes * half.share * STEADY)
}

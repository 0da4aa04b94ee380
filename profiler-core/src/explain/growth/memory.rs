//! How all memory changed between two walks, and which part of the change continues.

use std::cmp::Ordering;

use crate::memory_growth::{Half, MemoryGrowth};
use crate::report::FragReport;
use crate::tables::{LedgerClass, LedgerPart};
use crate::trend::Point;

/// Growth continues if each half of the interval gained at least this share of what a steady rate
/// gives.
const STEADY: f64 = 0.25;
/// A gain of live blocks shows in memory if memory gained at least this share of it.
pub(super) const SAME: f64 = 0.8;
/// Rates that differ by more than this share of the smaller one are two.
const DIFFERENT: f64 = 0.15;
/// When at least this many threads were added, data held by their functions is work piling up,
const MORE_THREADS: u32 = 16;
/// provided that they are at least this share of the earlier number.
const MORE_THREADS_SHARE: f64 = 0.2;

/// Whether a gain of `live` bytes in live blocks shows in memory: memory gained about as much, and
/// more than its largest temporary drop.
pub(super) fn shows(memory: &MemoryGrowth, live: f64) -> bool {
    live >= memory.least_bytes && memory.bytes >= live * SAME && memory.bytes > memory.fell_bytes
}

/// The part of live blocks' gain that takes memory and stays. It is smaller than the gain if a
/// block was being copied at the time of an observation, or if buffers have unwritten space at
/// their end.
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

/// Whether enough threads were added that the data in their functions is not just work in progress.
pub(super) fn gains_threads(memory: &MemoryGrowth) -> bool {
    let more = memory.more_threads();
    memory.threads.is_some_and(|(before, _)| {
        more >= MORE_THREADS && f64::from(more) >= f64::from(before) * MORE_THREADS_SHARE
    })
}

/// Bytes per second that all memory gained, if that continues and is clearly more than live blocks
/// gain.
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

/// How memory changed from an earlier report to a later one; `None` for cores, and if no time
/// passed between them.
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
    // Memory that a walk had no time for is in another class than before.
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

/// Whether memory gained, in both halves of the interval, a fair part of what steady growth by
/// `bytes` predicts.
pub(super) fn goes_on(halves: [Half; 2], bytes: f64) -> bool {
    halves
        .iter()
        .all(|half| half.bytes >= bytes * half.share * STEADY)
}

//! Free memory that an allocator keeps: on pages with live blocks, in caches, in pools, or until a
//! trim or purge is requested.

use super::{is_notable, of_metric, serving, walk_confidence};
use crate::arena::ArenaFigure;
use crate::evidence::{Evidence, EvidenceId};
use crate::explain::remedies;
use crate::heap::Allocator;
use crate::mechanism::Mechanism;
use crate::metrics::MetricId;
use crate::remedy::Remedy;
use crate::report::{Finding, FragReport};
use crate::tables::{ArenaReport, LedgerClass};
use crate::units::{bytes, count};

pub(super) fn pinned_pages(report: &FragReport) -> Option<Finding> {
    // Pages kept only by cached blocks or by the top are not pinned permanently.
    let rows = report.size_classes.iter();
    let of_malloc = rows.filter(|row| row.allocator != Allocator::Pymalloc);
    let pinned: u64 = of_malloc.map(|row| row.pinned_free_bytes).sum();
    is_notable(report, pinned).then(|| Finding {
        mechanism: Mechanism::PinnedPages,
        claim: format!(
            "{} are free but lie on pages that live blocks keep resident.",
            bytes(pinned)
        ),
        bytes: Some(pinned),
        held_bytes: pinned,
        evidence: vec![
            Evidence::whole(EvidenceId::PinnedByLiveBytes, pinned),
            of_metric(report, MetricId::PinnedFreeBytes),
            of_metric(report, MetricId::HeldBy512BytesPages),
        ],
        prediction: None,
        remedy: Remedy::of(Mechanism::PinnedPages, serving(report)),
        confidence: walk_confidence(report),
    })
}

pub(super) fn untrimmed(report: &FragReport) -> Option<Finding> {
    let trimmable = report.amount(MetricId::TrimReturnableBytes)?;
    is_notable(report, trimmable).then(|| Finding {
        mechanism: Mechanism::Untrimmed,
        claim: format!(
            "{} are whole free pages that {} would return at once.",
            bytes(trimmable),
            remedies::give_back(serving(report))
        ),
        bytes: Some(trimmable),
        held_bytes: trimmable,
        evidence: vec![
            of_metric(report, MetricId::TrimReturnableBytes),
            Evidence::whole(
                EvidenceId::TopBytes,
                report.resident_bytes(LedgerClass::Top),
            ),
        ],
        prediction: None,
        remedy: match report.purging() {
            Some(purging) => remedies::of_unpurged(purging, report.fork.is_some()),
            None => Remedy::of(Mechanism::Untrimmed, serving(report)),
        },
        confidence: walk_confidence(report),
    })
}

pub(super) fn stuck_pages(report: &FragReport) -> Option<Finding> {
    let stuck = report.amount(MetricId::StuckFreeBytes)?;
    is_notable(report, stuck).then(|| Finding {
        mechanism: Mechanism::StuckPages,
        claim: format!(
            "{} are whole free pages that {} would not return.",
            bytes(stuck),
            remedies::give_back(serving(report))
        ),
        bytes: None,
        held_bytes: stuck,
        evidence: vec![of_metric(report, MetricId::StuckFreeBytes)],
        prediction: None,
        remedy: Remedy::of(Mechanism::StuckPages, serving(report)),
        confidence: walk_confidence(report),
    })
}

pub(super) fn caches(report: &FragReport) -> Option<Finding> {
    let cached = report.resident_bytes(LedgerClass::Cached);
    is_notable(report, cached).then(|| Finding {
        mechanism: Mechanism::Caches,
        claim: format!(
            "{} are freed blocks in {}.",
            bytes(cached),
            remedies::caches(serving(report))
        ),
        bytes: Some(cached),
        held_bytes: cached,
        evidence: vec![of_metric(report, MetricId::CachedBytes)],
        prediction: None,
        remedy: Remedy::of(Mechanism::Caches, serving(report)),
        confidence: walk_confidence(report),
    })
}

pub(super) fn sparse_pools(report: &FragReport) -> Option<Finding> {
    let free = report.resident_bytes(LedgerClass::PymallocFree);
    is_notable(report, free).then(|| Finding {
        mechanism: Mechanism::SparsePools,
        claim: match pools(report) {
            Some((used, all)) if used > 0 => format!(
                "{} are room in Python's own pools and arenas: {} of {} pools are in use, and an \
                 arena is given back only when none of its pools is.",
                bytes(free),
                count(used),
                count(all)
            ),
            _ => format!("{} are room in Python's own pools and arenas.", bytes(free)),
        },
        bytes: Some(free),
        held_bytes: free,
        evidence: vec![
            Evidence::whole(EvidenceId::PymallocFreeBytes, free),
            of_metric(report, MetricId::PymallocUtilisation),
        ],
        prediction: None,
        remedy: Remedy::of(Mechanism::SparsePools, serving(report)),
        confidence: walk_confidence(report),
    })
}

/// pymalloc's pools: in use, and in total.
fn pools(report: &FragReport) -> Option<(u64, u64)> {
    let mut heaps = report.heaps.iter();
    let heap = heaps.find(|heap| heap.allocator == Allocator::Pymalloc)?;
    let sum = |wanted| {
        let arenas = heap.arenas.iter();
        arenas
            .filter_map(|report| report.arena.figure(wanted))
            .sum::<u64>()
    };
    Some((sum(ArenaFigure::PoolsUsed), sum(ArenaFigure::PoolsTotal)))
}

/// The library heap that keeps most free memory. The effect of its own purge is known if the walker
/// determines it (mimalloc 3).
pub(super) fn private_heap(report: &FragReport) -> Option<Finding> {
    let heaps = report.heaps.iter().filter(|heap| heap.library.is_some());
    let sums = heaps.map(|heap| {
        let sum = |of: fn(&ArenaReport) -> u64| heap.arenas.iter().map(of).sum::<u64>();
        let resident = heap.resident_bytes();
        let live = sum(|arena| arena.live_resident_bytes);
        let free = resident.saturating_sub(live);
        (
            free,
            resident,
            live,
            sum(|arena| arena.trimmable_bytes),
            heap,
        )
    });
    let (free, resident, live, purged, heap) = sums.max_by_key(|(free, ..)| *free)?;
    let purge = remedies::give_back(Some(heap.allocator));
    let returned = match purged {
        0 => String::new(),
        // Only the thread itself can return memory that is private to it.
        _ if heap.allocator == Allocator::Mimalloc => format!(
            "; {purge} would return up to {}, called by the thread that has used most of it",
            bytes(purged)
        ),
        _ => format!("; {purge} would return {}", bytes(purged)),
    };
    is_notable(report, free).then(|| Finding {
        mechanism: Mechanism::PrivateHeap,
        claim: format!(
            "{} has {} resident, of which {} are live{returned}. malloc and what is preloaded for it have \
             no part in that.",
            heap.title(),
            bytes(resident),
            bytes(live),
        ),
        bytes: (purged > 0).then_some(purged),
        held_bytes: free,
        evidence: vec![
            Evidence::whole(EvidenceId::ResidentBytes, resident),
            Evidence::whole(EvidenceId::LiveBytes, heap.live_bytes),
            Evidence::whole(EvidenceId::LiveResidentBytes, live),
            Evidence::whole(EvidenceId::TrimmableBytes, purged),
        ],
        prediction: None,
        remedy: Remedy::of_library(heap.library_name().unwrap_or_default(), heap.allocator),
        confidence: heap.confidence,
    })
}

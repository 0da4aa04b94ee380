//! The rules: which mechanism holds how many bytes, and what to do about it.

use crate::allocator::{GlibcSetting, INITIAL_TRIM_THRESHOLD, MMAP_THRESHOLDS};
use crate::arena::ArenaFigure;
use crate::completeness::Confidence;
use crate::explain::prose::UNEXPLAINED_SHARE;
use crate::explain::remedies::{self, Remedy};
use crate::heap::Allocator;
use crate::metrics::MetricId;
use crate::report::{
    ArenaReport, Evidence, Finding, FragReport, HeapReport, LedgerClass, Mechanism,
};
use crate::units::{Value, bytes, count, percent};
use crate::worth;

/// From this share of RSS on, huge pages are worth a finding.
const HUGE_SHARE: f64 = 0.5;

/// Applies every rule to a report whose figures are complete; the most bytes first.
pub(crate) fn findings(report: &FragReport) -> Vec<Finding> {
    let rules = [
        pinned_pages,
        untrimmed,
        pinned_top,
        caches,
        arena_sprawl,
        sparse_pools,
        dynamic_mmap_threshold,
        kept_top,
        stuck_pages,
        huge_pages,
        lazily_freed,
        private_heap,
        mostly_live,
        not_the_heap,
    ];
    if report.heaps.is_empty() || report.malloc_not_walked().is_some() {
        // What Python's own pools show holds all the same.
        let pools = sparse_pools(report);
        return [not_sure(report)].into_iter().chain(pools).collect();
    }
    let findings: Vec<_> = rules.iter().filter_map(|rule| rule(report)).collect();
    let mut findings = super::proven::proven(report, findings);
    findings.extend(unexplained(report, &findings));
    // What cannot be predicted may return all that it takes, or nothing.
    findings
        .sort_by_key(|finding| std::cmp::Reverse(finding.bytes.unwrap_or(finding.held_bytes / 2)));
    findings
}

/// Whether a saving of `saved` bytes is worth a word.
pub(crate) fn worth(report: &FragReport, saved: u64) -> bool {
    saved >= worth::OF_RSS.least(report.kernel.rss_bytes)
}

/// The allocator that serves most of malloc's memory; `None` when none was walked.
pub(crate) fn serving(report: &FragReport) -> Option<Allocator> {
    let mallocs = report.heaps.iter();
    let mallocs = mallocs.filter(|heap| heap.serves_malloc());
    let taken = |heap: &&HeapReport| {
        let arenas: u64 = heap.arenas.iter().map(|a| a.resident_bytes).sum();
        arenas.saturating_add(heap.mapped_large_bytes)
    };
    mallocs.max_by_key(taken).map(|heap| heap.allocator)
}

/// A threshold of glibc's that has grown by itself beyond what it was at first.
fn grown(report: &FragReport, threshold: GlibcSetting, initial: u64) -> Option<u64> {
    let in_force = |wanted: GlibcSetting| {
        let heaps = report.heaps.iter();
        let mut of_glibc = heaps.filter(|heap| heap.allocator == Allocator::Glibc);
        of_glibc.find_map(|heap| {
            let settings = heap.settings.iter();
            wanted.in_force(settings.map(|setting| (&*setting.name, &*setting.value)))
        })
    };
    let adapts = in_force(GlibcSetting::NoDynThreshold) == Some(0);
    in_force(threshold).filter(|bytes| adapts && *bytes > initial)
}

pub(super) fn evidence(key: &'static str, value: u64) -> Evidence {
    Evidence {
        key,
        value: Some(Value::Whole(value)),
    }
}

/// A metric as it is, as evidence.
fn of_metric(report: &FragReport, id: MetricId) -> Evidence {
    Evidence {
        key: id.key(),
        value: report.metric(id),
    }
}

pub(super) fn sure(report: &FragReport) -> Confidence {
    report.completeness.layout_confidence
}

fn pinned_pages(report: &FragReport) -> Option<Finding> {
    // What only cached blocks or the top keep on their pages is not pinned for good.
    let rows = report.size_classes.iter();
    let of_malloc = rows.filter(|row| row.allocator != Allocator::Pymalloc);
    let pinned: u64 = of_malloc.map(|row| row.pinned_free_bytes).sum();
    worth(report, pinned).then(|| Finding {
        mechanism: Mechanism::PinnedPages,
        claim: format!(
            "{} are free but lie on pages that live blocks keep resident.",
            bytes(pinned)
        ),
        bytes: Some(pinned),
        held_bytes: pinned,
        evidence: vec![
            evidence(MetricId::PinnedFreeBytes.key(), pinned),
            of_metric(report, MetricId::HeldBy512BytesPages),
        ],
        remedy: Remedy::of(Mechanism::PinnedPages, serving(report)),
        confidence: sure(report),
    })
}

/// The heap of a library that keeps the most free memory. What its own purge returns is known where the
/// walker knows it (mimalloc 3).
fn private_heap(report: &FragReport) -> Option<Finding> {
    let heaps = report.heaps.iter().filter(|heap| heap.library.is_some());
    let sums = heaps.map(|heap| {
        let sum = |of: fn(&ArenaReport) -> u64| heap.arenas.iter().map(of).sum::<u64>();
        let resident = sum(|arena| arena.resident_bytes);
        let free = resident.saturating_sub(heap.live_bytes);
        (free, resident, sum(|arena| arena.trimmable_bytes), heap)
    });
    let (free, resident, purged, heap) = sums.max_by_key(|(free, ..)| *free)?;
    let purge = heap.allocator.row().gives_back;
    let returned = match purged {
        0 => String::new(),
        _ => format!("; {purge} would return {}", bytes(purged)),
    };
    worth(report, free).then(|| Finding {
        mechanism: Mechanism::PrivateHeap,
        claim: format!(
            "{} has {} resident, of which {} are live{returned}. malloc and what is preloaded for it have \
             no part in that.",
            heap.title(),
            bytes(resident),
            bytes(heap.live_bytes.min(resident)),
        ),
        bytes: (purged > 0).then_some(purged),
        held_bytes: free,
        evidence: vec![
            evidence("resident_bytes", resident),
            evidence("live_bytes", heap.live_bytes),
            evidence("trimmable_bytes", purged),
        ],
        remedy: Remedy::of_library(heap.library_name().unwrap_or_default(), heap.allocator),
        confidence: heap.confidence,
    })
}

fn untrimmed(report: &FragReport) -> Option<Finding> {
    let trimmable = report.amount(MetricId::TrimReturnableBytes)?;
    worth(report, trimmable).then(|| Finding {
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
            evidence("top_bytes", report.resident_bytes(LedgerClass::Top)),
        ],
        remedy: Remedy::of(Mechanism::Untrimmed, serving(report)),
        confidence: sure(report),
    })
}

fn pinned_top(report: &FragReport) -> Option<Finding> {
    let pinned = report.amount(MetricId::TopPinnedBytes)?;
    worth(report, pinned).then(|| Finding {
        mechanism: Mechanism::PinnedTop,
        claim: format!(
            "{} of free pages lie below a few blocks at the end of the heap (at most 4 KiB of \
             blocks), so free() never trims them by itself.",
            bytes(pinned)
        ),
        bytes: Some(pinned),
        held_bytes: pinned,
        evidence: vec![
            of_metric(report, MetricId::TopPinnedBytes),
            of_metric(report, MetricId::BelowHighestLiveBytes),
        ],
        remedy: Remedy::of(Mechanism::PinnedTop, Some(Allocator::Glibc)),
        confidence: sure(report),
    })
}

fn caches(report: &FragReport) -> Option<Finding> {
    let cached = report.resident_bytes(LedgerClass::Cached);
    worth(report, cached).then(|| Finding {
        mechanism: Mechanism::Caches,
        claim: format!(
            "{} are freed blocks in {}.",
            bytes(cached),
            remedies::caches(serving(report))
        ),
        bytes: Some(cached),
        held_bytes: cached,
        evidence: vec![of_metric(report, MetricId::CachedBytes)],
        remedy: Remedy::of(Mechanism::Caches, serving(report)),
        confidence: sure(report),
    })
}

fn arena_sprawl(report: &FragReport) -> Option<Finding> {
    let heap = report
        .heaps
        .iter()
        .find(|heap| heap.allocator == Allocator::Glibc)?;
    let threads = || heap.arenas.iter().filter(|a| a.arena.id != 0);
    let idle: u64 = threads()
        .map(|a| a.resident_bytes.saturating_sub(a.arena.live_bytes))
        .sum();
    let count = threads().count();
    (count > 1 && worth(report, idle)).then(|| Finding {
        mechanism: Mechanism::ArenaSprawl,
        claim: format!(
            "{count} thread arenas hold {} that are resident and not live.",
            bytes(idle)
        ),
        bytes: Some(idle),
        held_bytes: idle,
        evidence: vec![
            evidence("thread_arenas", count as u64),
            evidence("idle_bytes", idle),
        ],
        remedy: Remedy::of(Mechanism::ArenaSprawl, Some(Allocator::Glibc)),
        // That they are idle is exact; that sharing would help is not.
        confidence: sure(report).min(Confidence::Medium),
    })
}

fn sparse_pools(report: &FragReport) -> Option<Finding> {
    let free = report.resident_bytes(LedgerClass::PymallocFree);
    worth(report, free).then(|| Finding {
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
            evidence("pymalloc_free_bytes", free),
            of_metric(report, MetricId::PymallocUtilisation),
        ],
        remedy: Remedy::of(Mechanism::SparsePools, serving(report)),
        confidence: sure(report),
    })
}

/// pymalloc's pools: in use, and in all.
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

/// What glibc's mmap threshold has grown to by itself, if it has.
pub(super) fn grown_mmap_threshold(report: &FragReport) -> Option<u64> {
    grown(
        report,
        GlibcSetting::MmapThreshold,
        *MMAP_THRESHOLDS.start(),
    )
}

fn dynamic_mmap_threshold(report: &FragReport) -> Option<Finding> {
    let threshold = grown_mmap_threshold(report)?;
    let free = report.amount(MetricId::LargeFreeBytes)?;
    worth(report, free).then(|| Finding {
        mechanism: Mechanism::DynamicMmapThreshold,
        claim: format!(
            "The mmap threshold has grown to {}, so large blocks now lie in the heap; {} of its \
             resident memory are free chunks above 128 KiB.",
            bytes(threshold),
            bytes(free)
        ),
        bytes: Some(free),
        held_bytes: free,
        evidence: vec![
            evidence("mmap_threshold", threshold),
            of_metric(report, MetricId::LargeFreeBytes),
        ],
        remedy: Remedy::of(Mechanism::DynamicMmapThreshold, Some(Allocator::Glibc)),
        // Free chunks are exact, but a trim may return part of them too.
        confidence: sure(report).min(Confidence::Medium),
    })
}

fn kept_top(report: &FragReport) -> Option<Finding> {
    let threshold = grown(report, GlibcSetting::TrimThreshold, INITIAL_TRIM_THRESHOLD)?;
    let top = report.resident_bytes(LedgerClass::Top);
    worth(report, top).then(|| Finding {
        mechanism: Mechanism::KeptTop,
        claim: format!(
            "The trim threshold has grown to {}, below which free() does not return the end of an arena: \
             {} of these are resident.",
            bytes(threshold),
            bytes(top)
        ),
        bytes: Some(top),
        held_bytes: top,
        evidence: vec![
            evidence("trim_threshold", threshold),
            evidence("top_bytes", top),
        ],
        remedy: Remedy::of(Mechanism::KeptTop, Some(Allocator::Glibc)),
        // An end may be above the threshold and stay for another reason.
        confidence: sure(report).min(Confidence::Medium),
    })
}

fn stuck_pages(report: &FragReport) -> Option<Finding> {
    let stuck = report.amount(MetricId::StuckFreeBytes)?;
    worth(report, stuck).then(|| Finding {
        mechanism: Mechanism::StuckPages,
        claim: format!(
            "{} are whole free pages that {} would not return.",
            bytes(stuck),
            remedies::give_back(serving(report))
        ),
        bytes: None,
        held_bytes: stuck,
        evidence: vec![of_metric(report, MetricId::StuckFreeBytes)],
        remedy: Remedy::of(Mechanism::StuckPages, serving(report)),
        confidence: sure(report),
    })
}

fn huge_pages(report: &FragReport) -> Option<Finding> {
    if let Some(finding) = zeros_in_huge_pages(report) {
        return Some(finding);
    }
    let huge = report.amount(MetricId::HugeBackedBytes)?;
    let blank = report.amount(MetricId::BlankBytes)?;
    let is_much = huge as f64 > report.kernel.rss_bytes as f64 * HUGE_SHARE;
    (is_much && worth(report, huge)).then(|| Finding {
        mechanism: Mechanism::HugePages,
        claim: format!(
            "{} of the heap are in transparent huge pages, each of which is resident whole once a byte of it \
             was written: {} of that are zeros in live blocks; what else of it was never written cannot be seen.",
            bytes(huge),
            bytes(blank)
        ),
        bytes: None,
        held_bytes: huge,
        evidence: vec![
            of_metric(report, MetricId::HugeBackedBytes),
            of_metric(report, MetricId::BlankBytes),
        ],
        remedy: Remedy::of(Mechanism::HugePages, serving(report)),
        confidence: Confidence::Low,
    })
}

fn zeros_in_huge_pages(report: &FragReport) -> Option<Finding> {
    let blank = report.amount(MetricId::BlankBytes)?;
    worth(report, blank).then(|| Finding {
        mechanism: Mechanism::HugePages,
        claim: format!(
            "{} of live blocks are whole pages of zeros that are resident as part of transparent huge pages: \
             the program most likely never wrote them, and without huge pages they would not be resident.",
            bytes(blank)
        ),
        bytes: Some(blank),
        held_bytes: blank,
        evidence: vec![
            of_metric(report, MetricId::BlankBytes),
            of_metric(report, MetricId::HugeBackedBytes),
        ],
        remedy: Remedy::of(Mechanism::HugePages, serving(report)),
        confidence: Confidence::Medium,
    })
}

fn lazily_freed(report: &FragReport) -> Option<Finding> {
    let lazy = report.kernel.lazy_free_bytes?;
    worth(report, lazy).then(|| Finding {
        mechanism: Mechanism::LazilyFreed,
        claim: format!(
            "{} were given back with MADV_FREE, and count as {} until the kernel needs memory.",
            bytes(lazy),
            report.kernel.name()
        ),
        bytes: Some(lazy),
        held_bytes: lazy,
        evidence: vec![evidence("lazy_free_bytes", lazy)],
        remedy: Remedy::of(Mechanism::LazilyFreed, None),
        confidence: Confidence::High,
    })
}

/// Fragmentation that no other finding speaks of.
fn unexplained(report: &FragReport, others: &[Finding]) -> Option<Finding> {
    let free = report.amount(MetricId::FragmentationBytes)?;
    let rss = report.kernel.rss_bytes;
    let is_about_more = |finding: &Finding| {
        matches!(
            finding.mechanism,
            Mechanism::MostlyLive
                | Mechanism::NotTheHeap
                | Mechanism::PrivateHeap
                | Mechanism::HugePages
        )
    };
    let is_unexplained = others.iter().all(is_about_more);
    let is_much = free as f64 > rss as f64 * UNEXPLAINED_SHARE;
    (is_unexplained && is_much).then(|| Finding {
        mechanism: Mechanism::Unexplained,
        claim: format!(
            "{} ({} of {}) are free but resident; the cause is not known.",
            bytes(free),
            percent(free, rss),
            report.kernel.name()
        ),
        bytes: None,
        held_bytes: free,
        evidence: vec![of_metric(report, MetricId::FragmentationBytes)],
        remedy: Remedy::of(Mechanism::Unexplained, serving(report)),
        confidence: Confidence::Low,
    })
}

fn mostly_live(report: &FragReport) -> Option<Finding> {
    let live = [
        LedgerClass::Live,
        LedgerClass::PymallocLive,
        LedgerClass::LargeMapped,
    ]
    .map(|class| report.resident_bytes(class))
    .iter()
    .sum::<u64>();
    // What only huge pages make resident nobody uses.
    let live = live.saturating_sub(report.amount(MetricId::BlankBytes).unwrap_or(0));
    let utilisation = report.ratio(MetricId::Utilisation)?;
    let rss = report.kernel.rss_bytes;
    (utilisation >= 0.8 && live * 2 >= rss).then(|| Finding {
        mechanism: Mechanism::MostlyLive,
        claim: format!(
            "{} ({} of {}) are blocks that the program holds.",
            bytes(live),
            percent(live, rss),
            report.kernel.name()
        ),
        bytes: Some(live),
        held_bytes: live,
        evidence: vec![
            evidence("live_bytes", live),
            of_metric(report, MetricId::Utilisation),
        ],
        remedy: match report.objects {
            Some(_) => &remedies::OBJECTS_WERE_READ,
            None => Remedy::of(Mechanism::MostlyLive, serving(report)),
        },
        confidence: sure(report),
    })
}

fn not_the_heap(report: &FragReport) -> Option<Finding> {
    let rss = report.kernel.rss_bytes;
    let heaps = report.heap_resident_bytes()? + report.resident_bytes(LedgerClass::PrivateHeap);
    let outside = rss.saturating_sub(heaps);
    (outside > rss / 2).then(|| Finding {
        mechanism: Mechanism::NotTheHeap,
        claim: format!(
            "{} ({} of {}) are not in a walked heap: files {}, shared memory {}, other anonymous memory \
             {}.",
            bytes(outside),
            percent(outside, rss),
            report.kernel.name(),
            bytes(report.resident_bytes(LedgerClass::File)),
            bytes(report.resident_bytes(LedgerClass::SharedMemory)),
            bytes(report.resident_bytes(LedgerClass::OtherAnonymous)),
        ),
        bytes: Some(outside),
        held_bytes: outside,
        evidence: vec![of_metric(report, MetricId::HeapShareOfRss)],
        remedy: Remedy::of(Mechanism::NotTheHeap, serving(report)),
        confidence: sure(report),
    })
}

/// What was not walked, in a few words.
pub(crate) fn not_walked(report: &FragReport) -> String {
    match report.malloc_not_walked() {
        Some(serving) => format!("malloc is served by {serving}, whose heap was not walked"),
        None => "no heap could be walked".into(),
    }
}

fn not_sure(report: &FragReport) -> Finding {
    let reasons: Vec<_> = report
        .completeness
        .defects
        .iter()
        .map(|defect| defect.what.as_str())
        .collect();
    Finding {
        mechanism: Mechanism::NotSure,
        claim: format!("{}. {}", not_walked(report), reasons.join(". "))
            .trim()
            .to_owned(),
        bytes: None,
        held_bytes: 0,
        evidence: Vec::new(),
        remedy: Remedy::of(Mechanism::NotSure, None),
        confidence: Confidence::None,
    }
}

//! The rules: which mechanism holds how many bytes, and what to do about it.

use crate::arena::ArenaFigure;
use crate::completeness::Confidence;
use crate::explain::remedies;
use crate::heap::Allocator;
use crate::report::{Finding, FragReport, HeapReport, LedgerClass, Mechanism};
use crate::units::{bytes, count, percent};

/// A mechanism is worth a finding from this share of RSS on…
const WORTH_SHARE: f64 = 0.05;
/// …and from this many bytes on.
const WORTH_BYTES: u64 = 4 << 20;
/// glibc's mmap threshold before it adapts (`malloc/malloc.c`, `DEFAULT_MMAP_THRESHOLD_MIN`).
const INITIAL_MMAP_THRESHOLD: u64 = 128 << 10;

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
        mostly_live,
        not_the_heap,
    ];
    if report.heaps.is_empty() || report.malloc_not_walked().is_some() {
        // What Python's own pools show holds all the same.
        let pools = sparse_pools(report);
        return [not_sure(report)].into_iter().chain(pools).collect();
    }
    let mut findings: Vec<_> = rules.iter().filter_map(|rule| rule(report)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.bytes));
    findings
}

/// Whether a saving of `saved` bytes is worth a word.
pub(crate) fn worth(report: &FragReport, saved: u64) -> bool {
    saved >= WORTH_BYTES && saved as f64 >= report.kernel.rss_bytes as f64 * WORTH_SHARE
}

/// The allocator that serves most of malloc's memory; `None` when none was walked.
pub(crate) fn serving(report: &FragReport) -> Option<Allocator> {
    let mallocs = report.heaps.iter();
    let mallocs = mallocs.filter(|heap| heap.allocator != Allocator::Pymalloc);
    let taken = |heap: &&HeapReport| {
        let arenas: u64 = heap.arenas.iter().map(|a| a.resident_bytes).sum();
        arenas.saturating_add(heap.mapped_large_bytes)
    };
    mallocs.max_by_key(taken).map(|heap| heap.allocator)
}

fn resident(report: &FragReport, class: LedgerClass) -> u64 {
    report.ledger_row(class).map_or(0, |row| row.resident_bytes)
}

fn setting(report: &FragReport, name: &str) -> Option<u64> {
    let all = report.heaps.iter().flat_map(|heap| &heap.settings);
    all.filter(|setting| setting.name == name)
        .find_map(|setting| setting.value.parse().ok())
}

fn sure(report: &FragReport) -> Confidence {
    report.completeness.layout_confidence
}

fn pinned_pages(report: &FragReport) -> Option<Finding> {
    // What only cached blocks or the top keep on their pages is not pinned for good.
    let rows = report.size_classes.iter();
    let of_malloc = rows.filter(|row| row.allocator != Allocator::Pymalloc);
    let pinned: u64 = of_malloc.map(|row| row.pinned_free_bytes).sum();
    let held = report.metric("held_by_512_bytes_pages").unwrap_or(0.0);
    worth(report, pinned).then(|| Finding {
        mechanism: Mechanism::PinnedPages,
        claim: format!(
            "{} are free but lie on pages that live blocks keep resident.",
            bytes(pinned)
        ),
        bytes: pinned,
        evidence: vec![
            ("pinned_free_bytes".into(), pinned as f64),
            ("held_by_512_bytes_pages".into(), held),
        ],
        remedy: remedies::pinned_pages(serving(report)).into(),
        confidence: sure(report),
    })
}

fn untrimmed(report: &FragReport) -> Option<Finding> {
    let trimmable = report.metric("trim_returnable_bytes")? as u64;
    worth(report, trimmable).then(|| Finding {
        mechanism: Mechanism::Untrimmed,
        claim: format!(
            "{} are whole free pages that {} would return at once.",
            bytes(trimmable),
            remedies::give_back(serving(report))
        ),
        bytes: trimmable,
        evidence: vec![
            ("trim_returnable_bytes".into(), trimmable as f64),
            (
                "top_bytes".into(),
                resident(report, LedgerClass::Top) as f64,
            ),
        ],
        remedy: remedies::untrimmed(serving(report)).into(),
        confidence: sure(report),
    })
}

fn pinned_top(report: &FragReport) -> Option<Finding> {
    let pinned = report.metric("top_pinned_bytes")? as u64;
    worth(report, pinned).then(|| Finding {
        mechanism: Mechanism::PinnedTop,
        claim: format!(
            "{} of free pages lie below a few blocks at the end of the heap (4 KiB of them at the \
             most), so free() never trims them by itself.",
            bytes(pinned)
        ),
        bytes: pinned,
        evidence: vec![
            ("top_pinned_bytes".into(), pinned as f64),
            (
                "below_highest_live_bytes".into(),
                report
                    .metric("below_highest_live_bytes")
                    .unwrap_or(f64::NAN),
            ),
        ],
        remedy: "malloc_trim(0) returns them all the same. If the blocks are only cached, \
                 GLIBC_TUNABLES=glibc.malloc.tcache_count=0 lets the top go by itself."
            .into(),
        confidence: sure(report),
    })
}

fn caches(report: &FragReport) -> Option<Finding> {
    let cached = resident(report, LedgerClass::Cached);
    worth(report, cached).then(|| Finding {
        mechanism: Mechanism::Caches,
        claim: format!(
            "{} are freed blocks in {}.",
            bytes(cached),
            remedies::caches(serving(report))
        ),
        bytes: cached,
        evidence: vec![("cached_bytes".into(), cached as f64)],
        remedy: remedies::cached(serving(report)).into(),
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
        bytes: idle,
        evidence: vec![
            ("thread_arenas".into(), count as f64),
            ("idle_bytes".into(), idle as f64),
        ],
        remedy: "MALLOC_ARENA_MAX=2 makes threads share arenas. It can also cost memory where \
                 their lifetimes mix, so compare peaks before and after."
            .into(),
        // That they are idle is exact; that sharing would help is not.
        confidence: sure(report).min(Confidence::Medium),
    })
}

fn sparse_pools(report: &FragReport) -> Option<Finding> {
    let free = resident(report, LedgerClass::PymallocFree);
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
        bytes: free,
        evidence: vec![
            ("pymalloc_free_bytes".into(), free as f64),
            (
                "pymalloc_utilisation".into(),
                report.metric("pymalloc_utilisation").unwrap_or(f64::NAN),
            ),
        ],
        remedy: "Preloading an allocator does not change pymalloc. New objects reuse the room; to \
                 return it, end the process (Celery: max-tasks-per-child, gunicorn: max-requests), or try PYTHONMALLOC=malloc \
                 together with another allocator."
            .into(),
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

fn dynamic_mmap_threshold(report: &FragReport) -> Option<Finding> {
    let threshold = setting(report, "mmap_threshold")?;
    let grown =
        threshold > INITIAL_MMAP_THRESHOLD && setting(report, "no_dyn_threshold") == Some(0);
    let free = report.metric("large_free_bytes")? as u64;
    (grown && worth(report, free)).then(|| Finding {
        mechanism: Mechanism::DynamicMmapThreshold,
        claim: format!(
            "The mmap threshold has grown to {}, so large blocks now lie in the heap; {} of its \
             resident memory are free chunks above 128 KiB.",
            bytes(threshold),
            bytes(free)
        ),
        bytes: free,
        evidence: vec![
            ("mmap_threshold".into(), threshold as f64),
            ("large_free_bytes".into(), free as f64),
        ],
        remedy: "MALLOC_MMAP_THRESHOLD_=131072 keeps it at 128 KiB, so that each large block goes \
                 back to the kernel when it is freed, at the cost of more page faults."
            .into(),
        // Free chunks are exact, but a trim may return part of them too.
        confidence: sure(report).min(Confidence::Medium),
    })
}

fn mostly_live(report: &FragReport) -> Option<Finding> {
    let live = [
        LedgerClass::Live,
        LedgerClass::PymallocLive,
        LedgerClass::LargeMapped,
    ]
    .map(|class| resident(report, class))
    .iter()
    .sum::<u64>();
    let utilisation = report.metric("utilisation")?;
    let rss = report.kernel.rss_bytes;
    (utilisation >= 0.8 && live * 2 >= rss).then(|| Finding {
        mechanism: Mechanism::MostlyLive,
        claim: format!(
            "{} ({} of {}) are blocks that the program holds.",
            bytes(live),
            percent(live, rss),
            report.kernel.name()
        ),
        bytes: live,
        evidence: vec![
            ("live_bytes".into(), live as f64),
            ("utilisation".into(), utilisation),
        ],
        remedy: "No allocator changes that: look for what keeps the objects (tracemalloc, memray, \
                 caches without a bound)."
            .into(),
        confidence: sure(report),
    })
}

fn not_the_heap(report: &FragReport) -> Option<Finding> {
    let share = report.metric("heap_share_of_rss")?;
    let rss = report.kernel.rss_bytes;
    let outside = rss - ((rss as f64 * share) as u64).min(rss);
    (share < 0.5).then(|| Finding {
        mechanism: Mechanism::NotTheHeap,
        claim: format!(
            "{} ({} of {}) are not in a walked heap: files {}, other anonymous memory {}.",
            bytes(outside),
            percent(outside, rss),
            report.kernel.name(),
            bytes(resident(report, LedgerClass::File)),
            bytes(resident(report, LedgerClass::OtherAnonymous)),
        ),
        bytes: outside,
        evidence: vec![("heap_share_of_rss".into(), share)],
        remedy: "An allocator changes little: look at the libraries and files that are mapped, \
                 and at memory that libraries map themselves."
            .into(),
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
        bytes: 0,
        evidence: Vec::new(),
        remedy: "Residency and probes still tell where RSS is and what is allocated; \
                 `fragscope doctor --pid PID` names what is missing."
            .into(),
        confidence: Confidence::None,
    }
}

//! The verdict in a line, and the explanation in words.

use crate::addr::PAGE_SIZE;
use crate::explain::rules::{not_walked, serving, worth};
use crate::heap::Allocator;
use crate::metrics::MetricId;
use crate::report::{FragReport, LedgerClass, Mechanism};
use crate::units::{bytes, percent};

/// What another allocator could save at most by the packing bound, in bytes.
fn bound(report: &FragReport) -> u64 {
    report
        .packing
        .as_ref()
        .map_or(0, |p| p.present_bytes.saturating_sub(p.packed_bytes))
}

/// One line for the top of the screen.
pub(crate) fn verdict(report: &FragReport) -> String {
    let Some(first) = report.findings.first() else {
        return format!(
            "Nothing stands out: {} of {} are fragmentation.",
            percent(fragmentation(report), report.kernel.rss_bytes),
            report.kernel.name()
        );
    };
    let saved = bound(report);
    let cause = match first.mechanism {
        Mechanism::PinnedPages => "free memory is pinned by live blocks",
        Mechanism::Untrimmed => "free pages are not returned",
        Mechanism::PinnedTop => "a block at the end of the heap pins free memory",
        Mechanism::Caches => "freed blocks sit in malloc's caches",
        Mechanism::ArenaSprawl => "thread arenas sit on free memory",
        Mechanism::SparsePools => "Python's own pools are sparse",
        Mechanism::DynamicMmapThreshold => "large blocks stay in the heap",
        Mechanism::MostlyLive => "the memory is in use",
        Mechanism::NotTheHeap => "the memory is not in the heap",
        Mechanism::NotSure => return format!("No verdict: {}.", not_walked(report)),
    };
    let helps = if serving(report) == Some(Allocator::Jemalloc) {
        "malloc is jemalloc already".into()
    } else if worth(report, saved) {
        format!("jemalloc would save at most {}", bytes(saved))
    } else {
        "jemalloc would not help".into()
    };
    let verdict = format!("{}: {cause}; {helps}.", bytes(first.bytes));
    // The larger share goes unsaid otherwise.
    match first.mechanism {
        Mechanism::MostlyLive | Mechanism::NotTheHeap => verdict,
        _ => format!(
            "{verdict} {} is live.",
            percent(live(report), report.kernel.rss_bytes)
        ),
    }
}

fn fragmentation(report: &FragReport) -> u64 {
    report.amount(MetricId::FragmentationBytes).unwrap_or(0)
}

/// Why, in a few paragraphs.
pub(crate) fn explanation(report: &FragReport) -> String {
    let rss = report.kernel.rss_bytes;
    if report.heaps.is_empty() || report.malloc_not_walked().is_some() {
        let mut text = format!(
            "Of {} {}, {} are mapped files and {} anonymous memory that no walked allocator \
             claims. Malloc's structures could not be read, so nothing can be said of \
             fragmentation, nor of what jemalloc would do.",
            bytes(rss),
            place(report),
            percent(resident(report, LedgerClass::File), rss),
            percent(resident(report, LedgerClass::OtherAnonymous), rss),
        );
        findings(&mut text, report);
        return text;
    }
    let mut text = format!(
        "Of {} {}, {} ({}) are live blocks and {} ({}) are heap memory that holds nothing \
         live.",
        bytes(rss),
        place(report),
        bytes(live(report)),
        percent(live(report), rss),
        bytes(fragmentation(report)),
        percent(fragmentation(report), rss),
    );
    findings(&mut text, report);
    for more in [about_swap(report), about_fork(report)]
        .into_iter()
        .flatten()
    {
        text.push_str("\n\n");
        text.push_str(&more);
    }
    text.push_str("\n\n");
    text.push_str(&about_jemalloc(report));
    text
}

fn findings(text: &mut String, report: &FragReport) {
    for finding in &report.findings {
        text.push_str("\n\n");
        text.push_str(&finding.claim);
        text.push(' ');
        text.push_str(finding.remedy.prose);
    }
}

/// Where the bytes are that shares are of.
fn place(report: &FragReport) -> &'static str {
    if report.kernel.is_core {
        "in the core"
    } else {
        "resident"
    }
}

fn about_swap(report: &FragReport) -> Option<String> {
    let swap = report.kernel.swap_bytes;
    let known = report.amount(MetricId::SwapFragmentationBytes)?;
    let unread = report.amount(MetricId::SwapUnknownBytes)?;
    let unread = match unread {
        0 => String::new(),
        unread => format!(
            " Up to {} more may be: what lies there was not read, because reading brings it back \
             (--swap-in does).",
            bytes(unread)
        ),
    };
    (swap > 0).then(|| {
        format!(
            "{} are in swap, {} ({}) of them fragmentation, which does no harm there.{unread}",
            bytes(swap),
            bytes(known),
            percent(known, swap)
        )
    })
}

fn about_fork(report: &FragReport) -> Option<String> {
    let fork = report.fork?;
    (fork.shared_bytes + fork.copied_bytes > 0).then(|| {
        format!(
            "Of its anonymous memory {} are still shared with the parent, process {}; of at most \
             {} a write since the fork has made a copy (reference counts and the garbage collector \
             write to shared pages; gc.freeze() before forking keeps more of them shared).",
            bytes(fork.shared_bytes),
            fork.parent,
            bytes(fork.copied_bytes)
        )
    })
}

fn about_jemalloc(report: &FragReport) -> String {
    let Some(packing) = &report.packing else {
        return match serving(report) {
            Some(Allocator::Jemalloc) => "malloc is jemalloc already.".into(),
            _ => "malloc's heap was not walked, so there is no bound for jemalloc.".into(),
        };
    };
    let saved = bound(report);
    let figures = format!(
        "The {} live blocks of malloc take {} of pages now. Packed into jemalloc's size classes \
         and full slabs they would take {} ({} lost to rounding)",
        packing.blocks,
        bytes(packing.present_bytes),
        bytes(packing.packed_bytes),
        bytes(packing.rounding_bytes),
    );
    if worth(report, saved) {
        format!(
            "{figures}: at most {} less. That is a bound, not a prediction: jemalloc's own \
             metadata, half-full slabs, thread caches and pages not yet purged come on top, and \
             its peak can be higher than {}.",
            bytes(saved),
            serving(report).map_or("now".to_owned(), |kind| format!("{kind}'s"))
        )
    } else {
        format!(
            "{figures}: no gain worth a change ({}). jemalloc would not help this worker{}.",
            if packing.packed_bytes > packing.present_bytes {
                "it would take more".to_owned()
            } else {
                format!("at most {}", bytes(saved.next_multiple_of(PAGE_SIZE)))
            },
            if resident(report, LedgerClass::PymallocFree) > saved {
                ": most of what is free lies in Python's own pools, which it does not change"
            } else {
                ""
            }
        )
    }
}

fn resident(report: &FragReport, class: LedgerClass) -> u64 {
    report.ledger_row(class).map_or(0, |row| row.resident_bytes)
}

fn live(report: &FragReport) -> u64 {
    [
        LedgerClass::Live,
        LedgerClass::PymallocLive,
        LedgerClass::LargeMapped,
    ]
    .map(|class| resident(report, class))
    .iter()
    .sum()
}

//! The one-line verdict and the full explanation as text.

use crate::explain::rules::{is_notable, not_walked, serving};
use crate::mechanism::FindingBytes;
use crate::mechanism::Mechanism;
use crate::metrics::MetricId;
use crate::prediction::{Effect, Needs, Predictions, TRUSTED_ERROR};
use crate::report::{Finding, FragReport};
use crate::tables::{HeapReport, LedgerClass, LedgerPart};
use crate::units::{bytes, percent};
use crate::worth;

/// Used if no prediction differs enough to be mentioned.
const NOT_SURE: &str = "nothing that was replayed is sure to save much";

/// One line for the top of the screen.
pub(crate) fn verdict(report: &FragReport) -> String {
    more(report).fold(of_findings(report), |said, more| format!("{said} {more}"))
}

/// What the line adds about a process for which growth is reported; `None` if that would add
/// nothing: after "growing: a leak", "nothing stands out" and "the memory is in use" only raise the
/// question which of the two is meant.
pub(super) fn besides(report: &FragReport) -> Option<String> {
    let by = report.growing().unwrap_or_default();
    let first = report.findings.first().map(|first| first.mechanism);
    let is_said = match first {
        None => by.live > 0.0 || by.is_unclear,
        Some(Mechanism::MostlyLive | Mechanism::NotTheHeap) => by.live > 0.0,
        Some(
            Mechanism::PinnedPages
            | Mechanism::Untrimmed
            | Mechanism::PinnedTop
            | Mechanism::Caches
            | Mechanism::ArenaSprawl
            | Mechanism::SparsePools
            | Mechanism::DynamicMmapThreshold
            | Mechanism::KeptTop
            | Mechanism::StuckPages
            | Mechanism::HugePages
            | Mechanism::LazilyFreed
            | Mechanism::PrivateHeap
            | Mechanism::Unexplained
            | Mechanism::NotSure,
        ) => false,
    };
    if !is_said || outlook(report).is_some() || report.is_heap_in_swap() {
        return Some(verdict(report));
    }
    let more: Vec<String> = more(report).collect();
    (!more.is_empty()).then(|| more.join(" "))
}

/// What keeps free memory, and what was copied since a fork.
fn more(report: &FragReport) -> impl Iterator<Item = String> {
    let more = [about_keeper(report), about_copies(report)];
    more.into_iter().flatten()
}

/// From this share of fragmentation on, the name whose blocks keep it resident is mentioned.
const KEPT_SHARE: f64 = 0.25;

/// The name whose objects keep most free memory resident: the allocator cannot release it, but the
/// program can.
fn about_keeper(report: &FragReport) -> Option<String> {
    let free = fragmentation(report);
    // Of a core nothing can be freed any more.
    let census = report.objects.as_ref().filter(|_| !report.kernel.is_core)?;
    let names = census.holders.iter().filter(|holder| holder.is_name);
    // What other processes share stays until they free it, too.
    let kept = names.filter(|holder| !holder.is_shared());
    let kept = kept.filter_map(|holder| Some((holder, holder.dropped?)));
    let (holder, dropped) = kept.max_by_key(|(_, dropped)| dropped.unpinned_bytes)?;
    let unpinned = dropped.unpinned_bytes.min(free);
    let others = match holder.shared_with.len() {
        0 => String::new(),
        others => format!(" (and {others} other names that hold the same)"),
    };
    let is_worth_it = is_notable(report, unpinned) && unpinned as f64 >= free as f64 * KEPT_SHARE;
    is_worth_it.then(|| {
        format!(
            "{}{others} keeps {} of free memory resident: freeing it would return about {} more than a trim alone.",
            holder.titled(),
            bytes(unpinned),
            bytes(dropped.live_bytes.saturating_add(unpinned))
        )
    })
}

/// Memory that a forked worker has copied from its parent only because it was written to.
fn about_copies(report: &FragReport) -> Option<String> {
    let fork = report.fork?;
    let census = report.objects.as_ref().and_then(|census| census.copied);
    let by_collector = census.map(|copied| copied.collector_bytes.min(fork.copied_bytes));
    let copied = by_collector.unwrap_or(fork.copied_bytes);
    let most = bytes(copied);
    is_notable(report, copied).then(|| match by_collector {
        Some(_) => format!(
            "Up to {most} are copies of the parent's pages that the garbage collector has made, or reference counts that \
             changed: gc.freeze() before the fork may keep some of these shared."
        ),
        None => format!("Up to {most} are copies of the parent's pages, made by writes since the fork."),
    })
}

fn of_findings(report: &FragReport) -> String {
    let (swap, resident) = (report.kernel.swap_bytes, report.kernel.rss_bytes);
    if swap > resident && report.is_heap_in_swap() {
        return format!(
            "{} are in swap, beside {} resident: most of the heap lies there, unread.",
            bytes(swap),
            bytes(resident)
        );
    }
    let Some(first) = report.findings.first() else {
        let (free, rss) = (fragmentation(report), report.kernel.rss_bytes);
        let name = report.kernel.name();
        let share = percent(free, rss);
        return format!("Nothing stands out: {share} of {name} are fragmentation.");
    };
    let cause = match first.mechanism {
        Mechanism::Unexplained => return first.claim.clone(),
        Mechanism::NotSure => return format!("No verdict: {}.", not_walked(report)),
        // Small blocks that were freed side by side leave large chunks, too.
        Mechanism::DynamicMmapThreshold if !first.is_proven() => {
            "large free chunks lie in the heap, of large blocks or of small ones side by side"
        }
        other => other.cause(),
    };
    let outlook = outlook(report).map_or_else(String::new, |outlook| match first.mechanism {
        // Predictions are about malloc's heap, and are not remedies for these mechanisms.
        Mechanism::SparsePools | Mechanism::PrivateHeap => format!(". As for malloc, {outlook}"),
        Mechanism::PinnedPages
        | Mechanism::Untrimmed
        | Mechanism::PinnedTop
        | Mechanism::Caches
        | Mechanism::ArenaSprawl
        | Mechanism::DynamicMmapThreshold
        | Mechanism::KeptTop
        | Mechanism::StuckPages
        | Mechanism::HugePages
        | Mechanism::LazilyFreed
        | Mechanism::Unexplained
        | Mechanism::MostlyLive
        | Mechanism::NotTheHeap
        | Mechanism::NotSure => format!("; {outlook}"),
    });
    // Memory that nothing returns, or for which there is no prediction, is still there.
    let returned = first.bytes.filter(|bytes| *bytes > 0);
    let verdict = format!(
        "{}: {cause}{outlook}.",
        bytes(returned.unwrap_or(first.held_bytes))
    );
    // The larger share goes unsaid otherwise.
    let used = percent(used(report), report.kernel.rss_bytes);
    // Which parts of huge pages were never written cannot be determined.
    let is_bound = first.mechanism == Mechanism::HugePages && first.bytes.is_none();
    match first.mechanism.subject() {
        FindingBytes::NoWaste => verdict,
        FindingBytes::FreeHeap | FindingBytes::OtherWaste if is_bound => {
            format!("{verdict} At most {used} is live.")
        }
        FindingBytes::FreeHeap | FindingBytes::OtherWaste => format!("{verdict} {used} is live."),
    }
}

pub(super) fn fragmentation(report: &FragReport) -> u64 {
    report.amount(MetricId::FragmentationBytes).unwrap_or(0)
}

/// Why, in a few paragraphs.
pub(crate) fn explanation(report: &FragReport) -> String {
    let rss = report.kernel.rss_bytes;
    if report.heaps.is_empty() || report.malloc_not_walked().is_some() {
        let mut text = format!(
            "Of {} {}, {} are mapped files, {} shared memory, and {} anonymous memory that no walked \
             allocator claims. Malloc's structures could not be read, so nothing can be said of \
             fragmentation, nor of what jemalloc would do.",
            bytes(rss),
            place(report),
            percent(report.resident_bytes(LedgerClass::File), rss),
            percent(report.resident_bytes(LedgerClass::SharedMemory), rss),
            percent(report.resident_bytes(LedgerClass::OtherAnonymous), rss),
        );
        findings(&mut text, report);
        return text;
    }
    let blank = report.amount(MetricId::BlankBytes).unwrap_or(0);
    let blank = match is_notable(report, blank) {
        true => format!(
            ", {} of them in pages of zeros that huge pages brought with them",
            bytes(blank)
        ),
        false => String::new(),
    };
    let mut text = format!(
        "Of {} {}, {} ({}) are live blocks{blank} and {} ({}) are heap memory that holds nothing \
         live.",
        bytes(rss),
        place(report),
        bytes(live(report)),
        percent(live(report), rss),
        bytes(fragmentation(report)),
        percent(fragmentation(report), rss),
    );
    let private = report.resident_bytes(LedgerClass::PrivateHeap);
    if private > 0 {
        text.push_str(&format!(
            " {} ({}) are in heaps that libraries have for themselves, {} of them live.",
            bytes(private),
            percent(private, rss),
            bytes(private_live(report))
        ));
    }
    text.extend(about_untouched(report));
    findings(&mut text, report);
    let group = report.group.as_ref();
    let group =
        group.and_then(|group| group.explanation(report.kernel.rss_bytes, report.trend.as_ref()));
    for more in [about_swap(report), about_fork(report), group]
        .into_iter()
        .flatten()
    {
        text.push_str("\n\n");
        text.push_str(&more);
    }
    text.push_str("\n\n");
    text.push_str(&about_predictions(report));
    text
}

/// Memory that was requested and takes no space, if it is enough to mention.
fn about_untouched(report: &FragReport) -> Option<String> {
    let untouched = report.untouched_bytes()?;
    is_notable(report, untouched).then(|| {
        format!(
            " {} more were asked for and never written to: they take neither memory nor swap, and \
             no share of {} here includes them.",
            bytes(untouched),
            report.kernel.name()
        )
    })
}

fn findings(text: &mut String, report: &FragReport) {
    for finding in &report.findings {
        text.push_str("\n\n");
        text.push_str(&finding.claim);
        text.push(' ');
        text.push_str(&finding.advice());
    }
}

/// Where the bytes are of which shares are given.
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
    if swap > 0 && known == 0 && unread > 0 {
        return Some(format!(
            "{} are in swap. How much of that is fragmentation is not known: up to {} may be, but what lies there \
             was not read, because reading brings it back.",
            bytes(swap),
            bytes(unread)
        ));
    }
    let unread = match unread {
        0 => String::new(),
        unread => format!(
            " Up to {} more may be: what lies there was not read, because reading brings it back.",
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
             write to shared pages; gc.freeze() before forking may keep more of them shared).",
            bytes(fork.shared_bytes),
            fork.parent,
            bytes(fork.copied_bytes)
        )
    })
}

/// The prediction, in half a sentence; `None` if there is none.
fn outlook(report: &FragReport) -> Option<String> {
    let predictions = report.predictions.as_ref()?;
    if let Some(check) = predictions.self_check.filter(|check| !check.holds()) {
        return Some(format!(
            "no prediction (its heap is not reproduced: {:+.0} %)",
            check.error() * 100.0
        ));
    }
    let now = report.baseline()?;
    let best = predictions.best();
    let worth_it = best.filter(|(_, needs)| {
        is_notable(
            report,
            predictions.now().unwrap_or(0).saturating_sub(needs.bytes),
        )
    });
    if let Some((best, needs)) = worth_it {
        return Some(format!(
            "with {} malloc would need {}{}, {now}",
            best.title(),
            needs.band(),
            best.condition()
        ));
    }
    if predictions.pending > 0 {
        return None;
    }
    not_worth_it(report, predictions, &now)
}

/// The sentence for when no candidate is sure to save much. A candidate whose entire band makes no
/// difference for the process is not named.
fn not_worth_it(report: &FragReport, predictions: &Predictions, now: &str) -> Option<String> {
    let at = predictions.now()?;
    let rss = report.kernel.rss_bytes;
    let is_little = |needs: &Needs| needs.is_within(worth::OF_RSS.share(), rss, at);
    let ranked = predictions.ranked();
    let lowest = ranked.iter().map(|(_, needs, _)| needs.low_bytes).min();
    let highest = ranked.iter().map(|(_, needs, _)| needs.high_bytes).max();
    if let (Some(low_bytes), Some(high_bytes)) = (lowest, highest)
        && ranked.iter().all(|(_, needs, _)| is_little(needs))
    {
        let all = Needs {
            low_bytes,
            high_bytes,
            ..Needs::default()
        };
        let little = "other allocators and settings change little";
        return Some(format!("{little}: {}", malloc(all, now)));
    }
    let unclear = predictions.effects().filter(|(prediction, needs, effect)| {
        *effect == Effect::Unclear && !is_little(needs) && prediction.remedies.is_some()
    });
    let unclear = predictions.preferred(unclear);
    let (prediction, needs, effect) = unclear.or_else(|| predictions.jemalloc())?;
    let words = match effect {
        _ if is_little(&needs) => return Some(NOT_SURE.to_owned()),
        Effect::Same | Effect::Saves => return Some(NOT_SURE.to_owned()),
        Effect::Costs => "would need more",
        Effect::NoLess if needs.low_bytes < at => "would need about as much or more",
        Effect::NoLess => "would need as much or more",
        Effect::Unclear => "could go either way",
    };
    let title = prediction.title();
    Some(format!("{title} {words}: {}", malloc(needs, now)))
}

/// The predicted size of malloc's memory. The verdict's first figure is about all memory in use or
/// wasted, so the sentence always says what its figures are about.
fn malloc(needs: Needs, now: &str) -> String {
    format!("{} for malloc's memory, {now}", needs.band())
}

/// The predictions, in one or two paragraphs.
fn about_predictions(report: &FragReport) -> String {
    let Some(predictions) = &report.predictions else {
        return match serving(report) {
            None => "malloc's heap was not walked, so nothing is predicted.".to_owned(),
            Some(_) => {
                "What other allocators and settings would need was not predicted.".to_owned()
            }
        };
    };
    let mut text = String::new();
    let before = predictions.before(report.taken_at_ns);
    let walk = match before {
        None => "the walked heap".to_owned(),
        Some(before) => format!("the heap as walked {before} earlier"),
    };
    if let Some(check) = predictions.self_check {
        text = format!(
            "Check: replayed in its own allocator, {walk} takes {}; measured were {} ({:+.1} %)",
            bytes(check.predicted_bytes),
            bytes(check.measured_bytes),
            check.error() * 100.0
        );
        if !check.holds() {
            text += &format!(
                ". That is more than {:.0} % off, so no other allocator is judged by it: `fragscope record -- \
                 COMMAND` from its launch on, and `fragscope replay`, give an answer.",
                TRUSTED_ERROR * 100.0
            );
            return text;
        }
        text += &format!(".{}", about_returning(report, predictions));
    }
    let mut paragraphs = vec![text];
    paragraphs.extend(predictions.sentences());
    // What is still being replayed may be known soon.
    if predictions.pending == 0 && report.findings.iter().any(Finding::is_assumed) {
        paragraphs.push(
            "A recording shows what could not be predicted: `fragscope record -- COMMAND`, then `fragscope replay`."
                .to_owned(),
        );
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs.join("\n\n")
}

/// When the figures of other allocators hold: once they have returned what was freed, which takes some of them a time.
fn about_returning(report: &FragReport, predictions: &Predictions) -> String {
    let mut text = String::new();
    if let Some(purging) = report.purging().filter(|_| report.counts_as_purged()) {
        let when = match purging.within_ms {
            None => "never purges, by its decay options".to_owned(),
            Some(_) => format!("purges {}", purging.words()),
        };
        text += &format!(" What malloc takes now is without free pages that its jemalloc {when}.");
    }
    let returns = predictions.returns(report.fork.is_some());
    if !returns.is_empty() {
        text += &format!(
            " The figures of other allocators are what they need once they have returned freed memory to the system: {}. \
             What the program uses again before that, they keep.",
            returns.join("; ")
        );
    }
    text
}

/// Live bytes in the heaps that libraries have for themselves.
fn private_live(report: &FragReport) -> u64 {
    let heaps = report.heaps.iter().filter(|heap| heap.library.is_some());
    let live = heaps.map(HeapReport::live_resident_bytes);
    let live = live.fold(0, u64::saturating_add);
    live.min(report.resident_bytes(LedgerClass::PrivateHeap))
}

/// Live bytes that the program uses: memory that is resident only because of huge pages is not
/// used.
pub(super) fn used(report: &FragReport) -> u64 {
    let live = live(report).saturating_add(private_live(report));
    live.saturating_sub(report.amount(MetricId::BlankBytes).unwrap_or(0))
}

fn live(report: &FragReport) -> u64 {
    let rows = report.ledger.iter();
    let live = rows.filter(|row| row.class.part() == LedgerPart::InUse);
    live.map(|row| row.resident_bytes).sum()
}

//! Findings and verdicts: what is said of a sample, and in whose words.

use std::sync::Arc;

use profiler_core::addr::PAGE_SIZE;
use profiler_core::allocator::{Allocator, AllocatorTitle, Home, ROWS};
use profiler_core::fork::ForkSharing;
use profiler_core::heap::ExtentKind;
use profiler_core::metrics::MetricId;
use profiler_core::objects::{Census, Copied};
use profiler_core::prediction::SelfCheck;
use profiler_core::report::{FragReport, LedgerClass, Mechanism};
use profiler_core::sample::Sample;
use profiler_core::span::{SpanList, SpanState};

use crate::samples::*;

#[test]
fn verdicts_read_as_they_should() {
    let live = |len| (len, SpanState::Live);
    let free = |len| (len, SpanState::Free);
    // 25,600 blocks of 56 usable bytes fill 400 slabs of one page: 98.4 MiB less than 100.
    let verdict = |sample: &Sample| FragReport::from_sample(sample).verdict;
    assert_eq!(
        verdict(&worker(25_600, &[live(64), free(4032)], 0)),
        "98.4 MiB: free memory is pinned by live blocks. 1.4 % is live."
    );
    assert_eq!(
        verdict(&worker(25_600, &[live(4096)], 0)),
        "99.8 MiB: the memory is in use."
    );
    assert_eq!(
        verdict(&worker(256, &[live(4096)], 25_600)),
        "100.0 MiB: the memory is not in the heap."
    );
    let mut not_walked = worker(256, &[], 0);
    not_walked.heaps.clear();
    assert_eq!(verdict(&not_walked), "No verdict: no heap could be walked.");
    // glibc is walked, but it does not serve malloc.
    let mut another = worker(25_600, &[live(64), free(4032)], 0);
    another.target.malloc = Some(AllocatorTitle::parse("jemalloc"));
    let report = FragReport::from_sample(&another);
    assert_eq!(
        report.verdict,
        "No verdict: malloc is served by jemalloc, whose heap was not walked."
    );
    assert_eq!(report.packing, None);
    assert_eq!(report.findings.len(), 1);
}

#[test]
fn a_remedy_that_was_not_played_is_not_ranked_by_all_that_it_might_return() {
    let pinned = worker(25_600, &[(64, SpanState::Live), (4032, SpanState::Free)], 0);
    let report = FragReport::from_sample(&pinned);
    assert_eq!(report.findings[0].bytes, Some(25_200 << 12));
    let nothing = report.with_predictions(predicted(&[]));
    assert_eq!(nothing.findings[0].bytes, None);
}

#[test]
fn ends_of_arenas_stay_when_the_trim_threshold_has_grown() {
    let mut kept = worker(
        25_600,
        &[(4096, SpanState::Live), (99 << 20, SpanState::Top)],
        0,
    );
    let mechanisms = |sample: &Sample| -> Vec<Mechanism> {
        let report = FragReport::from_sample(sample);
        report.findings.iter().map(|f| f.mechanism).collect()
    };
    let unknown = mechanisms(&kept);
    assert_eq!(
        unknown,
        [Mechanism::Unexplained],
        "more than a fifth is free"
    );
    let verdict = FragReport::from_sample(&kept).verdict;
    assert!(
        verdict.ends_with("are free but resident; the cause is not known."),
        "{verdict}"
    );
    let settings = |threshold: u64| {
        vec![
            ("trim_threshold".into(), threshold.to_string()),
            ("no_dyn_threshold".into(), "0".into()),
        ]
    };
    kept.heaps[0].settings = settings(128 << 10);
    assert_eq!(mechanisms(&kept), unknown);
    kept.heaps[0].settings = settings(32 << 20);
    assert_eq!(mechanisms(&kept), [Mechanism::KeptTop]);

    // What would return them is only known after a replay.
    let report = FragReport::from_sample(&kept);
    let setting = "MALLOC_TRIM_THRESHOLD_=131072";
    let advice = report.findings[0].advice();
    let assumed = "What that would return was not predicted: ";
    assert!(
        advice.starts_with(assumed) && advice.contains(setting),
        "{advice}"
    );
    assert!(
        report.explanation.contains(assumed),
        "{}",
        report.explanation
    );
    let played = |needs| {
        let candidate = ("trim_threshold=128K", Some(Mechanism::KeptTop), needs);
        report.with_predictions(predicted(&[candidate]))
    };
    let saves = played([5, 6, 7]);
    assert!(!saves.findings[0].advice().contains("not predicted"));
    assert!(
        !saves.explanation.contains("not predicted"),
        "{}",
        saves.explanation
    );
    // No replay says anything about it.
    let other = report.with_predictions(predicted(&[]));
    assert!(other.findings[0].advice().starts_with(assumed));
    let how = "A recording shows what could not be predicted: `fragscope record -- COMMAND`";
    assert!(other.explanation.contains(how), "{}", other.explanation);
    assert!(!saves.explanation.contains(how));
    let costs = played([110, 115, 120]);
    assert!(
        !costs.explanation.contains(setting),
        "{}",
        costs.explanation
    );
}

#[test]
fn what_only_huge_pages_make_resident_is_not_called_live() {
    // All of it are live blocks, and half of the pages were never written.
    let mut sample = worker(25_600, &[(4096, SpanState::Live)], 0);
    let whole = FragReport::from_sample(&sample);
    assert_eq!(whole.verdict, "99.8 MiB: the memory is in use.");
    assert!(!whole.explanation.contains("pages of zeros"));
    sample
        .residency
        .mark_blank(&[range(BASE, 12_800 * PAGE_SIZE)]);
    let half = FragReport::from_sample(&sample);
    assert_eq!(half.findings[0].mechanism, Mechanism::HugePages);
    assert_eq!(half.findings[0].bytes, Some(50 << 20));
    assert!(
        half.verdict.ends_with(". 49.8 % is live."),
        "{}",
        half.verdict
    );
    let of_them = "are live blocks, 50.0 MiB of them in pages of zeros";
    assert!(half.explanation.contains(of_them), "{}", half.explanation);
}

#[test]
fn what_was_freed_lazily_is_a_finding_by_the_kernels_count() {
    let mut sample = worker(25_600, &[(4096, SpanState::Live)], 0);
    sample.kernel.lazy_free_bytes = Some(50 << 20);
    let report = FragReport::from_sample(&sample);
    let finding = report
        .findings
        .iter()
        .find(|f| f.mechanism == Mechanism::LazilyFreed);
    assert_eq!(finding.expect("half of it").bytes, Some(50 << 20));
    sample.kernel.lazy_free_bytes = Some(1 << 20);
    let report = FragReport::from_sample(&sample);
    assert!(
        report
            .findings
            .iter()
            .all(|f| f.mechanism != Mechanism::LazilyFreed)
    );
}

#[test]
fn what_a_trim_returns_is_pinned_by_nothing() {
    // Fastbin chunks between free ones, all of it returned by a trim.
    let mut sample = worker(2560, &[(32, SpanState::Cached), (1008, SpanState::Free)], 0);
    sample.heaps[0].trimmable = vec![range(BASE, 2560 * PAGE_SIZE)];
    let report = FragReport::from_sample(&sample);
    let row = |class| report.ledger_row(class).expect("a row").resident_bytes;
    // What no span reaches at the end of the extent is unknown.
    let known = sample.heaps[0].extents[0].spans.bytes();
    assert_eq!(row(LedgerClass::FreeTrimmable), known);
    assert_eq!(row(LedgerClass::FreePinned) + row(LedgerClass::Cached), 0);
    let mechanisms: Vec<_> = report.findings.iter().map(|f| f.mechanism.name()).collect();
    assert_eq!(mechanisms, ["untrimmed"]);
}

#[test]
fn nothing_is_said_in_glibcs_words_of_another_allocator() {
    // A page with pinned free bytes, a cached one, and two that are free.
    let part = [
        (64, SpanState::Live),
        (PAGE_SIZE - 64, SpanState::Free),
        (PAGE_SIZE, SpanState::Cached),
        (2 * PAGE_SIZE, SpanState::Free),
    ];
    let names = [
        "glibc",
        "malloc_trim",
        "GLIBC_TUNABLES",
        "MALLOC_ARENA",
        "MALLOC_MMAP",
        "fastbin",
    ];
    for row in ROWS.iter().filter(|row| row.home != Home::Python) {
        let mut sample = worker(25_600, &part, 0);
        let heap = &mut sample.heaps[0];
        heap.allocator = row.kind;
        heap.trimmable = vec![range(BASE + 4 * PAGE_SIZE, 12_000 * PAGE_SIZE)];
        if row.kind != Allocator::Glibc {
            heap.extents[0].kind = ExtentKind::Region;
        }
        let report = FragReport::from_sample(&sample);
        let said = format!("{} {:?}", report.explanation, report.findings);
        assert!(report.findings.len() >= 3, "{said}");
        let of_glibc = names.iter().any(|name| said.contains(name));
        assert_eq!(of_glibc, row.kind == Allocator::Glibc, "{said}");
    }
}

#[test]
fn verdicts_with_predictions_promise_what_was_predicted() {
    let pinned = worker(25_600, &[(64, SpanState::Live), (4032, SpanState::Free)], 0);
    let report = FragReport::from_sample(&pinned);
    let with = |candidates: &[_]| report.with_predictions(predicted(candidates));
    let jemalloc = |needs| ("jemalloc", Some(Mechanism::PinnedPages), needs);

    let saves = with(&[jemalloc([20, 30, 40])]);
    assert_eq!(
        saves.verdict,
        "70.0 MiB: free memory is pinned by live blocks; with jemalloc malloc would need 20.0 to 40.0 \
         MiB once it has purged, now 100.0 MiB. 1.4 % is live."
    );
    assert_eq!(saves.findings[0].bytes, Some(70 << 20));

    let costs = with(&[jemalloc([110, 115, 120])]);
    assert_eq!(
        costs.verdict,
        "98.4 MiB: free memory is pinned by live blocks; jemalloc would need more: 110.0 to 120.0 MiB for malloc's memory, \
         now 100.0 MiB. 1.4 % is live."
    );
    assert_eq!(costs.findings[0].bytes, Some(0));
    assert!(!costs.findings[0].remedy.prose().contains("jemalloc"));

    let unclear = with(&[jemalloc([60, 90, 120])]);
    assert_eq!(unclear.findings[0].bytes, None);
    assert!(
        unclear
            .verdict
            .contains("jemalloc could go either way: 60.0 to 120.0 MiB for malloc's memory")
    );

    // Where nothing that was played would make a difference for the process, nobody is named.
    let mut large = report.clone();
    large.kernel.rss_bytes = 4 << 30;
    let little = large.with_predictions(predicted(&[jemalloc([60, 90, 120])]));
    let words = "other allocators and settings change little: 60.0 to 120.0 MiB for malloc's memory, now 100.0 MiB";
    assert!(little.verdict.contains(words), "{}", little.verdict);
    large.kernel.rss_bytes = 400 << 20;
    let one = ("mmap_threshold=128K", None, [99, 99, 150]);
    let little = large.with_predictions(predicted(&[jemalloc([90, 95, 110]), one]));
    let words = "; nothing that was replayed is sure to save much.";
    assert!(little.verdict.contains(words), "{}", little.verdict);

    // A band that begins below now is not all above it.
    let about = with(&[jemalloc([98, 115, 120])]);
    let words = "jemalloc would need about as much or more: 98.0 to 120.0 MiB";
    assert!(about.verdict.contains(words), "{}", about.verdict);

    // What is advised beside a prediction is what was played.
    let sprawl = |name| {
        let found = with(&[(name, Some(Mechanism::ArenaSprawl), [20, 30, 40])]);
        let mut all = found.findings.into_iter();
        let sprawl = all.find(|finding| finding.mechanism == Mechanism::ArenaSprawl);
        sprawl.expect("it saves").advice()
    };
    assert!(sprawl("arena_max=1").starts_with("MALLOC_ARENA_MAX=1 makes"));
    assert!(sprawl("arena_max=2").starts_with("MALLOC_ARENA_MAX=2 makes"));

    // A remedy that the walk's own figures do not speak of comes first when it returns most.
    let threshold = (
        "mmap_threshold=128K",
        Some(Mechanism::DynamicMmapThreshold),
        [5, 6, 7],
    );
    let mut grown = pinned.clone();
    grown.heaps[0].settings = vec![
        ("mmap_threshold".into(), "8388608".into()),
        ("no_dyn_threshold".into(), "0".into()),
    ];
    let report = FragReport::from_sample(&grown);
    let both = report.with_predictions(predicted(&[jemalloc([20, 30, 40]), threshold]));
    assert_eq!(both.findings[0].mechanism, Mechanism::DynamicMmapThreshold);
    assert_eq!(both.findings[0].bytes, Some(94 << 20));

    // What could go either way is ranked by the middle, behind what is sure to return more.
    let threshold = (threshold.0, threshold.1, [80, 85, 90]);
    let unsure = report.with_predictions(predicted(&[jemalloc([60, 90, 120]), threshold]));
    let order = unsure.findings.iter().map(|finding| finding.mechanism);
    let order: Vec<_> = order.take(2).collect();
    assert_eq!(
        order,
        [Mechanism::DynamicMmapThreshold, Mechanism::PinnedPages]
    );

    // What is not reproduced carries no conclusion.
    let mut off = predicted(&[jemalloc([20, 30, 40])]);
    off.self_check = Some(SelfCheck {
        measured_bytes: 100 << 20,
        predicted_bytes: 120 << 20,
    });
    let off = report.with_predictions(off);
    assert!(
        off.verdict
            .contains("no prediction (its heap is not reproduced: +20 %)"),
        "{}",
        off.verdict
    );
    assert_eq!(off.findings[0].bytes, report.findings[0].bytes);
}

/// Small blocks that were freed side by side leave large chunks, too: only a replay tells what a threshold returns.
#[test]
fn large_chunks_are_of_large_blocks_only_where_that_was_played() {
    let mut grown = worker(
        25_600,
        &[(4096, SpanState::Live), (1 << 20, SpanState::Free)],
        0,
    );
    grown.heaps[0].settings = vec![
        ("mmap_threshold".into(), "8388608".into()),
        ("no_dyn_threshold".into(), "0".into()),
    ];
    let report = FragReport::from_sample(&grown);
    let first = &report.findings[0];
    assert_eq!(first.mechanism, Mechanism::DynamicMmapThreshold);
    let possible = "of large blocks or of small ones side by side";
    assert!(first.claim.contains(possible), "{}", first.claim);
    assert!(report.verdict.contains(possible), "{}", report.verdict);
    let with = |needs| {
        let threshold = Some(Mechanism::DynamicMmapThreshold);
        report.with_predictions(predicted(&[("mmap_threshold=128K", threshold, needs)]))
    };
    let unclear = with([5, 50, 105]);
    assert!(unclear.verdict.contains(possible), "{}", unclear.verdict);
    let cause = "large blocks stay in the heap";
    let proven = with([5, 6, 7]);
    assert!(proven.verdict.contains(cause), "{}", proven.verdict);
    assert!(!proven.verdict.contains(possible), "{}", proven.verdict);
}

/// What jemalloc has not purged yet, and when it will, follows from the options that its arenas have.
#[test]
fn what_jemalloc_purges_and_when_is_said_by_its_options_in_force() {
    let mut sample = worker(25_600, &[(64, SpanState::Live), (4032, SpanState::Free)], 0);
    sample.target.malloc = Some(AllocatorTitle::parse("jemalloc 5.3.0"));
    let heap = &mut sample.heaps[0];
    heap.allocator = Allocator::Jemalloc;
    heap.version = "5.3.0".into();
    heap.extents[0].kind = ExtentKind::Region;
    heap.trimmable = vec![range(BASE + 4 * PAGE_SIZE, 12_000 * PAGE_SIZE)];
    let said = |sample: &Sample| {
        let mut predictions = predicted(&[("glibc", None, [5, 6, 7])]);
        let check = SelfCheck {
            measured_bytes: 40 << 20,
            predicted_bytes: 40 << 20,
        };
        predictions.self_check = Some(check);
        let report = FragReport::from_sample(sample).with_predictions(predictions);
        format!("{} {}", report.verdict, report.explanation)
    };
    let default = said(&sample);
    for words in [
        "40.0 MiB after purging",
        "purges within about 10.0 s, and only while it is called",
        "an idle process purges only with MALLOC_CONF=background_thread:true",
    ] {
        assert!(default.contains(words), "{words}: {default}");
    }
    let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    sample.heaps[0].settings = vec![
        option("opt.background_thread", "true"),
        option("opt.dirty_decay_ms", "10000"),
        option("dirty_decay_ms", "60000"),
    ];
    let longer = said(&sample);
    assert!(longer.contains("purges within about 2.0 min."), "{longer}");
    assert!(
        !longer.contains("background_thread"),
        "it has that: {longer}"
    );
    sample.heaps[0].settings = vec![option("dirty_decay_ms", "-1")];
    let never = said(&sample);
    for words in [
        "40.0 MiB if it were purged, which its decay options prevent",
        "never purges, by its decay options",
        "keep them for good",
    ] {
        assert!(never.contains(words), "{words}: {never}");
    }
    assert!(!never.contains("after purging"), "{never}");
}

/// A worker that writes to what it has of its parent has it twice: that is no allocator's doing.
#[test]
fn copies_since_a_fork_are_in_the_verdict() {
    let mut worker = worker(25_600, &[(4096, SpanState::Live)], 0);
    worker.fork = Some(ForkSharing {
        parent: 1,
        shared_bytes: 50 << 20,
        copied_bytes: 40 << 20,
        own_bytes: 0,
    });
    let report = FragReport::from_sample(&worker);
    let said = "99.8 MiB: the memory is in use. Up to 40.0 MiB are copies of the parent's pages, made by writes";
    assert!(report.verdict.starts_with(said), "{}", report.verdict);
    let copied = |collector_bytes| {
        let copied = Some(Copied {
            bytes: 40 << 20,
            collector_bytes,
        });
        let census = Census {
            copied,
            ..Census::default()
        };
        report.clone().with_objects(Arc::new(census), None).verdict
    };
    let said = "Up to 30.0 MiB are copies of the parent's pages that the garbage collector has made, or \
                reference counts that changed: gc.freeze() before the fork may keep some of these shared.";
    assert!(copied(30 << 20).contains(said), "{}", copied(30 << 20));
    assert!(!copied(1 << 20).contains("copies"), "too few to matter");
}

/// malloc's figures, bounds and remedies leave out what a library allocates for itself.
#[test]
fn the_heap_of_a_library_is_a_class_of_its_own() {
    let part = [(64, SpanState::Live), (PAGE_SIZE - 64, SpanState::Free)];
    let alone = worker(2560, &part, 2560);
    let mut sample = alone.clone();
    let mut private = heap(
        Allocator::Mimalloc,
        vec![extent(
            ExtentKind::Region,
            2561 * PAGE_SIZE,
            &[
                (PAGE_SIZE, SpanState::Live),
                (2559 * PAGE_SIZE, SpanState::Retained),
            ],
        )],
        vec![range(BASE + 2562 * PAGE_SIZE, 2559 * PAGE_SIZE)],
    );
    private.library = Some("/usr/lib/libarrow.so.2400".into());
    private.arenas[0].live_bytes = PAGE_SIZE;
    sample.heaps.push(private);
    let (without, with) = (
        FragReport::from_sample(&alone),
        FragReport::from_sample(&sample),
    );
    let row = |report: &FragReport, class| report.ledger_row(class).expect("a row").resident_bytes;
    assert_eq!(row(&with, LedgerClass::PrivateHeap), 2560 * PAGE_SIZE);
    for class in [
        LedgerClass::Live,
        LedgerClass::FreePinned,
        LedgerClass::FreeTrimmable,
    ] {
        assert_eq!(row(&with, class), row(&without, class), "{class:?}");
    }
    for id in [
        MetricId::Utilisation,
        MetricId::TrimReturnableBytes,
        MetricId::PinnedFreeBytes,
    ] {
        assert_eq!(with.metric(id), without.metric(id), "{id:?}");
    }
    assert_eq!(with.packing, without.packing);
    let mut findings = with.findings.iter();
    let finding = findings
        .find(|finding| finding.mechanism == Mechanism::PrivateHeap)
        .expect("a finding");
    assert_eq!(finding.bytes, Some(2559 * PAGE_SIZE));
    assert!(
        finding
            .claim
            .starts_with("mimalloc 1 in libarrow.so.2400 has"),
        "{finding:?}"
    );
    assert!(
        finding.remedy.prose().contains("release_unused()"),
        "{finding:?}"
    );
    // What is live in it is in use.
    let said = "are in heaps that libraries have for themselves, 4.0 KiB of them live";
    assert!(with.explanation.contains(said), "{}", with.explanation);
    let full = sample.heaps.last_mut().expect("the library's");
    for extent in &mut full.extents {
        extent.spans = SpanList::default();
        extent.spans.push(extent.range.len(), SpanState::Live);
    }
    let full = FragReport::from_sample(&sample);
    let share = |report: &FragReport| {
        let (_, said) = report.verdict.split_once(". ")?;
        Some(said.to_owned())
    };
    assert_eq!(share(&without).as_deref(), Some("0.7 % is live."));
    assert_ne!(share(&full), share(&without), "{}", full.verdict);
}

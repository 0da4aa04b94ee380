//! Call sites of a known program: what stays and what it pins, by walks, and in saved sessions.
//! These tests need root and fail without.

mod support;

use std::fs;
use std::time::Duration;

use profiler_core::metrics::MetricId;
use profiler_core::report::FragReport;
use profiler_core::sites::{SiteFigures, Sites, StackEnd};
use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession, clock_ns};
use profiler_sampling::{Sampler, SamplingOptions, WalkedTarget};
use profiler_target::Target;
use profiler_testing::child::Child;
use profiler_testing::wait::eventually;
use support::{command, fragscope, run, stderr, text};

/// Sites whose blocks are released, stay, or stay as every fourth of their kind; all of sizes of their own.
const PROGRAM: &str = r"
import sys
held, kept, pins = [], [], []

def release(n):
    held.clear()

def hold(n):
    for _ in range(n): held.append(bytearray(7000))

def keep(n):
    for _ in range(n): kept.append(bytearray(20000))

def pin(n):
    new = [bytearray(1000) for _ in range(n)]
    pins.append(new[::4])

def large(n):
    bytearray(n)

def turn(n):
    # A thread that keeps n blocks, each of which it replaces in its turn.
    blocks = [bytearray(5000) for _ in range(n)]
    while True:
        for at in range(n): blocks[at] = bytearray(5000)

def turn_over(n):
    import threading
    threading.Thread(target=turn, args=(n,), daemon=True).start()

def ballast(n):
    kept.append([bytearray(600) for _ in range(n)])

def busy(n):
    for _ in range(n): bytearray(3000)

print('ready', flush=True)
for line in iter(sys.stdin.readline, ''):
    what, n = line.split()
    globals()[what](int(n))
    print('done', flush=True)
";

/// What malloc gives for `bytes` is up to 24 more.
const SLOP: f64 = 24.0;

fn start(budget: Budget) -> (Child, ProbeSession, Sampler) {
    let child = Child::python(PROGRAM);
    assert_eq!(child.first_line(), "ready");
    let target = Target::open(child.pid()).expect("it runs");
    let plan = ProbePlan::for_target(&target).expect("a plan");
    let session = ProbeSession::attach(child.pid(), &plan, budget).expect("probes");
    let sampler = Sampler::open(child.pid()).expect("it runs");
    (child, session, sampler)
}

/// Walks, and has the sampled blocks looked up in it.
fn walk(session: &ProbeSession, sampler: &Sampler) -> FragReport {
    session.walk_begins();
    let options = SamplingOptions {
        stop: true,
        swap_in: false,
        max_stop: Duration::from_secs(5),
        slices: false,
        max_walk: None,
    };
    let moment = |walked: &WalkedTarget<'_>| {
        let age = walked.age();
        clock_ns() - age.as_nanos() as u64
    };
    let (sample, at_ns) = sampler.take_at(options, moment).expect("a walk");
    session.walked(&sample, at_ns);
    FragReport::from_sample(&sample)
}

/// The sums of a function.
fn of(sites: &Sites, name: &str) -> SiteFigures {
    let mut sum = SiteFigures::default();
    for row in sites.by_innermost() {
        let function = sites.function(row.step);
        // A comprehension is a function of its own before Python 3.12.
        let is_it = |of: &str| of.trim_end_matches(".<locals>.<listcomp>") == name;
        if function.is_some_and(|function| is_it(&function.function)) {
            sum.add(&row.figures);
        }
    }
    sum
}

#[test]
fn what_stays_and_what_it_pins_is_what_the_program_kept() {
    let (mut child, session, sampler) = start(Budget::Unlimited);
    for line in ["hold 2000", "keep 500", "pin 40000", "release 0"] {
        assert_eq!(child.ask(line), "done");
    }
    let all_seen = || {
        let sites = session.sites();
        (of(&sites, "hold").live_bytes.value < 1.0 && of(&sites, "pin").samples > 0).then_some(())
    };
    eventually("all frees to be seen", all_seen);
    let report = walk(&session, &sampler);
    let sites = session.sites();
    assert!(sites.frees_complete);
    let near = |name: &str, calls: f64, bytes: f64| {
        let found = of(&sites, name).at_walk;
        let slack = 5.0 * found.bytes.error();
        let (low, high) = (calls * bytes, calls * (bytes + SLOP));
        eprintln!("{name}: {} ± {}", found.bytes.value, found.bytes.error());
        let range = low - slack..=high + slack;
        assert!(
            range.contains(&found.bytes.value),
            "{name}: {low}, found {found:?}"
        );
        let ages: f64 = found.by_age.iter().sum();
        assert!((ages - found.bytes.value).abs() < 1.0, "{name}: {found:?}");
    };
    near("keep", 500.0, 20_000.0);
    near("pin", 10_000.0, 1000.0);
    assert_eq!(of(&sites, "hold").at_walk.bytes.value, 0.0);
    // No block is told to live that was seen being freed, and none is lost that was not.
    let whole = sites.total();
    let unfreed = whole.live_bytes.value;
    let off = (unfreed - whole.at_walk.bytes.value).abs();
    assert!(
        off <= unfreed / 100.0,
        "{} of {unfreed}",
        whole.at_walk.bytes.value
    );
    // Nearly all that is pinned is so by every fourth block.
    let metric = report
        .metrics
        .iter()
        .find(|metric| metric.id == MetricId::PinnedFreeBytes);
    let pinned = metric
        .and_then(|metric| metric.value)
        .expect("glibc")
        .as_f64();
    let found = of(&sites, "pin").at_walk.pinned_free_bytes;
    eprintln!("pinned: {} ± {} of {pinned}", found.value, found.error());
    let least = 40_000.0 * 1000.0 * 0.6;
    assert!(found.value + 5.0 * found.error() > least, "{found:?}");
    assert!(
        found.value - 5.0 * found.error() < pinned,
        "{found:?} of {pinned}"
    );
}

#[test]
fn a_walk_knows_what_was_freed_while_the_probes_were_away() {
    let (mut child, session, sampler) = start(Budget::Share(0.02));
    let missed = || {
        for line in ["keep 20", "hold 300", "busy 3000", "release 0"] {
            assert_eq!(child.ask(line), "done");
        }
        let sites = session.sites();
        let (kept, held) = (of(&sites, "keep"), of(&sites, "hold"));
        let is_missed = kept.samples > 20 && held.live_blocks.value > 100.0;
        (is_missed && !sites.frees_complete).then_some(())
    };
    eventually("frees that are missed", missed);
    walk(&session, &sampler);
    let sites = session.sites();
    let (kept, held) = (of(&sites, "keep"), of(&sites, "hold"));
    let found = sites.walk.expect("it was walked");
    eprintln!("{found:?}; hold {held:?}; keep {kept:?}");
    assert!(held.live_bytes.value > 0.0);
    assert!(
        held.at_walk.bytes.value < held.live_bytes.value / 20.0,
        "{held:?}"
    );
    let off = (kept.live_bytes.value - kept.at_walk.bytes.value).abs();
    assert!(off <= kept.live_bytes.value / 100.0, "{kept:?}");
}

/// The blocks of one function live for a few milliseconds, and the walk of the heap takes longer.
#[test]
fn blocks_that_turn_over_while_a_walk_is_read_stay_as_many_as_there_are() {
    const BLOCKS: f64 = 2000.0;
    let (mut child, session, sampler) = start(Budget::Unlimited);
    for line in ["ballast 400000", "turn_over 2000"] {
        assert_eq!(child.ask(line), "done");
    }
    let sampled = || (of(&session.sites(), "turn").samples > 2000).then_some(());
    eventually("the loop's samples", sampled);
    let (mut sum, mut variance) = (0.0, 0.0);
    for _ in 0..8 {
        let report = walk(&session, &sampler);
        let found = of(&session.sites(), "turn").at_walk;
        let stop = Duration::from_nanos(report.completeness.stop_ns);
        eprintln!(
            "{} ± {}, {stop:?}",
            found.blocks.value,
            found.blocks.error()
        );
        sum += found.blocks.value;
        variance += found.blocks.variance;
    }
    let error = variance.sqrt();
    let truth = 8.0 * BLOCKS;
    // Up to two of a walk are between two lines of the loop.
    assert!(error < truth / 5.0, "{error}");
    assert!(
        (sum - truth).abs() <= 5.0 * error + 16.0,
        "{sum} ± {error}, not {truth}"
    );
}

#[test]
fn a_saved_session_has_the_sites_that_were_live() {
    let mut child = Child::python(PROGRAM);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let live = [
        "live.json",
        "live.folded",
        "live.speedscope.json",
        "live.pb.gz",
        "live.html",
        "live.csv",
        "live.hlog",
    ]
    .map(path);
    let session = path("it.fragsnap");
    let pid = child.pid().to_string();
    let mut attach = command(&["attach", "--headless", "--no-objects", "--duration", "6s"]);
    attach
        .args(["--budget", "unlimited", "--pid", &pid, "-o"])
        .arg(&session);
    for file in &live {
        attach.arg("-o").arg(file);
    }
    let attached = std::thread::spawn(move || run(&mut attach));
    while !attached.is_finished() {
        for line in ["keep 5", "hold 50", "release 0"] {
            assert_eq!(child.ask(line), "done");
        }
    }
    let output = attached.join().expect("it ran");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for file in &live {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .expect("UTF-8");
        let again = path(&name.replace("live", "again"));
        let output = fragscope(&["export", text(&session), "-o", text(&again)]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let [before, after] = [file, &again].map(|file| fs::read(file).expect("written"));
        assert!(before == after, "{name} differs");
    }
    let whole: serde_json::Value =
        serde_json::from_slice(&fs::read(&live[0]).expect("written")).expect("JSON");
    let walk = &whole["site_sampling"]["walk"];
    assert!(walk["found"].as_u64() > Some(0), "{walk}");
    let sites = whole["sites"].as_array().expect("a list");
    let keep = sites
        .iter()
        .find(|site| site["stack"][0]["function"] == "keep");
    let keep = keep.expect("it allocates");
    assert!(keep["walk_live_bytes"].as_u64() > Some(0), "{keep}");
    let explained = fragscope(&["explain", text(&session), "--no-predict"]);
    let said = support::stdout(&explained);
    assert!(said.contains("keep ("), "{said}");
}

#[test]
fn who_raised_the_mmap_threshold_is_named_where_it_was_seen() {
    let (mut child, session, sampler) = start(Budget::Unlimited);
    let report = walk(&session, &sampler);
    let threshold = |report: &FragReport| {
        let mut settings = report.heaps.iter().flat_map(|heap| &heap.settings);
        let setting = settings.find(|setting| setting.name == "mmap_threshold");
        setting.expect("glibc").value.clone()
    };
    // Raised while Python began, if at all.
    let before = session.sites().mmap_threshold;
    assert_eq!(
        before.and_then(|of| of.raised_by),
        None,
        "{}",
        threshold(&report)
    );
    // Of which every one is sampled.
    assert_eq!(child.ask("large 30000000"), "done");
    let seen = || (of(&session.sites(), "large").samples > 0).then_some(());
    eventually("the block", seen);
    let report = walk(&session, &sampler);
    let sites = session.sites();
    let raised = sites.mmap_threshold.clone().expect("it has grown");
    assert_eq!(raised.bytes.to_string(), threshold(&report));
    let (stack, end) = raised.raised_by.expect("it was seen");
    let innermost = sites.frames_of(&stack).next().expect("a function");
    assert_eq!((&*innermost.function, end), ("large", StackEnd::Whole));
}

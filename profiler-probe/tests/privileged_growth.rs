//! Growth of programs whose growth is known. These tests need root and fail without.

use std::time::Instant;

use profiler_core::machine::HugePageMode;
use profiler_core::sites::{SiteGrowth, Sites};
use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;
use profiler_testing::child::Child;
use profiler_testing::wait::eventually;

/// Gets, touches and gives back memory in functions that do nothing else, some of them in another thread.
const PROGRAM: &str = r"
import ctypes, mmap, sys, threading
kept, mapped = [], []
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
# PR_SET_THP_DISABLE: a fault brings one page, also where huge pages are made without being asked for.
libc.prctl(41, int(len(sys.argv) < 2), 0, 0, 0)
MIB = 1 << 20

def map_some(n):
    mapped.append(mmap.mmap(-1, n * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

def touch(n):
    one = mapped[-1]
    for at in range(0, n * MIB, 4096): one[at] = 1

def unmap(n):
    mapped.pop().close()

def many_small(n):
    # Above the 512 bytes that Python serves itself, and below the mmap threshold.
    size, malloc = 1000, libc.malloc
    for _ in range(n * MIB // 1008): malloc(size)

def in_thread(n):
    thread = threading.Thread(target=map_some, args=(n,))
    thread.start()
    thread.join()

def turn(n):
    # Mappings that come and go as fast as they can.
    for _ in range(n): mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()

print('ready', flush=True)
for line in iter(sys.stdin.readline, ''):
    what, n = line.split()
    globals()[what](int(n))
    print('done', flush=True)
";

const MIB: f64 = 1_048_576.0;

/// The plan for a target whose growth is watched as well.
fn watching(target: &Target) -> ProbePlan {
    let mut plan = ProbePlan::for_target(target).expect("a plan");
    plan.watches_growth = true;
    plan
}

fn start(budget: Budget) -> (Child, ProbeSession) {
    let child = Child::python(PROGRAM);
    assert_eq!(child.first_line(), "ready");
    let target = Target::open(child.pid()).expect("it runs");
    let plan = watching(&target);
    let session = ProbeSession::attach(child.pid(), &plan, budget).expect("probes");
    let growth = session.sites().growth.expect("it is watched");
    assert!(growth.missing.is_empty(), "{growth:?}");
    (child, session)
}

#[test]
fn pages_that_may_be_huge_are_said_not_to_be_counted_whole() {
    let huge = profiler_target::host::transparent_huge_pages();
    let mut python = std::process::Command::new("python3");
    python.args(["-c", PROGRAM, "huge"]);
    let child = Child::run(python);
    assert_eq!(child.first_line(), "ready");
    let target = Target::open(child.pid()).expect("it runs");
    let session = ProbeSession::attach(child.pid(), &watching(&target), Budget::Unlimited);
    let growth = session.expect("probes").sites().growth;
    let missing = growth.expect("it is watched").missing;
    let expected = huge == Some(HugePageMode::Always);
    let said = missing.iter().any(|what| what.starts_with("huge pages"));
    assert_eq!(said, expected, "{huge:?}: {missing:?}");
}

/// The growth of a function.
fn of(sites: &Sites, name: &str) -> SiteGrowth {
    let rows = sites.by_innermost().into_iter();
    let mut found = rows.filter(|row| {
        let function = sites.function(row.step);
        function.is_some_and(|function| &*function.function == name)
    });
    let sum = found.next().map(|row| row.figures);
    let sum = found.fold(sum, |sum, row| {
        let mut sum = sum?;
        sum.add(&row.figures);
        Some(sum)
    });
    sum.unwrap_or_default().growth
}

#[test]
fn growth_is_found_where_it_happens_and_is_as_much() {
    // A budget that is used up at once: growth is watched all the same.
    for budget in [Budget::Unlimited, Budget::Share(0.001)] {
        let (mut child, session) = start(budget);
        for line in [
            "map_some 64",
            "touch 64",
            "many_small 48",
            "unmap 0",
            "in_thread 32",
        ] {
            assert_eq!(child.ask(line), "done");
        }
        let (_, sites) = session.detach_with_sites();
        let near = |what: &str, found: profiler_core::sites::Estimate, low: f64, high: f64| {
            let (value, error) = (found.value / MIB, found.error() / MIB);
            eprintln!("{what}: {value:.1} ± {error:.1} MiB");
            assert!(
                (low - 5.0 * error..=high + 5.0 * error).contains(&value),
                "{what}: {value} ± {error}, not {low} to {high}"
            );
        };
        near("map_some grew", of(&sites, "map_some").grown, 96.0, 96.1);
        near("touch touched", of(&sites, "touch").touched, 64.0, 64.5);
        near("touch grew", of(&sites, "touch").grown, 0.0, 0.5);
        near("unmap returned", of(&sites, "unmap").returned, 64.0, 64.1);
        // By a page more or less, and what was free before.
        let small = of(&sites, "many_small");
        near("many_small grew", small.grown, 46.0, 49.0);
        near("many_small touched", small.touched, 46.0, 49.0);
        let whole = sites.total().growth;
        let counted = sites.growth.expect("it is watched");
        eprintln!("{counted:?}");
        let mean_bytes = counted.mean_bytes as f64;
        for (found, counted) in [
            (whole.grown, counted.grown_bytes),
            (whole.returned, counted.returned_bytes),
            (whole.touched, counted.touched_bytes),
        ] {
            let off = (found.value - counted as f64).abs();
            // What is missed adds nothing to the error that is shown.
            let missed = 4.0 * mean_bytes;
            assert!(
                off <= 5.0 * found.error() + missed,
                "{found:?} of {counted}"
            );
        }
    }
}

#[test]
fn what_grows_often_is_sampled_seldom() {
    let (mut child, session) = start(Budget::Unlimited);
    let began = Instant::now();
    assert_eq!(child.ask("turn 300000"), "done");
    let took = began.elapsed();
    let (_, sites) = session.detach_with_sites();
    let found = of(&sites, "turn");
    let counted = sites.growth.expect("it is watched");
    eprintln!("{took:?}: {found:?}; {counted:?}; {} ns", sites.sampling_ns);
    let seconds = took.as_secs_f64();
    // The first tenths of a second are more.
    assert!(
        (found.samples as f64) < 30_000.0 + 1000.0 * seconds,
        "{found:?}"
    );
    let truth = 300_000.0 * 8192.0;
    let off = (found.grown.value - truth).abs();
    assert!(off <= 5.0 * found.grown.error(), "{found:?}, not {truth}");
}

const TARGET_VARIABLE: &str = "FRAGSCOPE_TEST_GROWING";

/// Not a test of its own: the profiler that the test below kills.
#[test]
#[ignore = "started by the test below"]
fn profiler_to_be_killed() {
    let pid = std::env::var(TARGET_VARIABLE).expect("set by the test that starts this");
    let pid: i32 = pid.parse().expect("a pid");
    let target = Target::open(pid).expect("it runs");
    let plan = watching(&target);
    let session = ProbeSession::attach(pid, &plan, Budget::Unlimited).expect("probes");
    println!("attached");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a word");
    drop(session);
}

/// The kernel's numbers of the links that a process holds by descriptors.
fn links_of(pid: i32) -> Vec<u32> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it runs");
    let texts = files
        .flatten()
        .filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let number = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("link_id:"));
        line.and_then(|number| number.trim().parse().ok())
    };
    texts.filter_map(number).collect()
}

#[test]
fn a_killed_profiler_leaves_no_program_at_a_tracepoint() {
    let child = Child::python(PROGRAM);
    assert_eq!(child.first_line(), "ready");
    let target = child.pid().to_string();
    let mut profiler = Child::ignored_test(
        "profiler_to_be_killed",
        (TARGET_VARIABLE, &target),
        "attached",
    );
    let links = links_of(profiler.pid());
    assert_eq!(links.len(), 3, "one of system calls and two of page faults");
    let remaining = || {
        let all: Vec<u32> = aya::programs::loaded_links()
            .flatten()
            .map(|link| link.id())
            .collect();
        links.iter().filter(|link| all.contains(link)).count()
    };
    assert_eq!(remaining(), 3);
    profiler.kill();
    eventually("the end of its links", || (remaining() == 0).then_some(()));
}

/// What watching takes of a program that gets and gives back as fast as it can: a look, not a test.
#[test]
#[ignore = "measures"]
fn growth_costs() {
    let mut child = Child::python(PROGRAM);
    assert_eq!(child.first_line(), "ready");
    let target = Target::open(child.pid()).expect("it runs");
    let plan = watching(&target);
    let mut round = |line: &str| {
        let began = Instant::now();
        assert_eq!(child.ask(line), "done");
        began.elapsed()
    };
    round("map_some 256");
    for _ in 0..7 {
        for line in ["turn 100000", "touch 256"] {
            let fresh = |round: &mut dyn FnMut(&str) -> std::time::Duration| {
                round("unmap 0");
                round("map_some 256");
            };
            fresh(&mut round);
            let without = round(line);
            let attach = Instant::now();
            let session = ProbeSession::attach(target_pid(&target), &plan, Budget::Share(1e-6))
                .expect("probes");
            let attach = attach.elapsed();
            fresh(&mut round);
            std::thread::sleep(std::time::Duration::from_secs(1));
            let with = round(line);
            let sites = session.sites();
            drop(session);
            let ratio = with.as_secs_f64() / without.as_secs_f64();
            eprintln!(
                "{line}: {without:?}, {with:?}, {ratio:.3}; attached in {attach:?}; {} ns in samples",
                sites.sampling_ns
            );
        }
    }
}

fn target_pid(target: &Target) -> i32 {
    target.pid()
}

//! Call sites of allocations, for every installed CPython. These tests need root and fail without.

use profiler_common::sampling::MAX_FRAMES;
use profiler_core::sites::{Frame, Site, Sites, StackEnd};
use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;
use profiler_testing::child::Child;
use profiler_testing::pythons::{Python, pythons};

/// A program whose sites, bytes and lifetimes are known. Each allocates in a line of its own that also notes
/// `traceback`'s view of the stack.
const PROGRAM: &str = r#"
import ctypes, sys, threading, traceback

noted = {}
kept = []

def note(name):
    if name not in noted:
        stack = traceback.extract_stack()[:-1]
        noted[name] = ' '.join('%s:%s:%d' % (f[2], f[0], f[1]) for f in reversed(stack))

def small():
    return bytearray(3000), note('small')

class Box(object):
    def large(self):
        return bytearray(60000), note('large')

def stays():
    kept.append((bytearray(10000), note('stays')))

def deep(n, call):
    if n:
        return deep(n - 1, call)
    return call()

def generated():
    for _ in range(20):
        yield deep(5, small)

def rounds(n):
    for _ in range(n):
        for _ in generated(): pass
        deep(2, Box().large)
        stays()

def in_thread(n):
    thread = threading.Thread(target=rounds, args=(n,))
    thread.start()
    thread.join()

def word_at(at):
    return ctypes.c_ulong.from_address(at)

def previous_of(frame):
    if sys.version_info < (3, 11):
        return word_at(id(frame) + 24)
    inner = word_at(id(frame) + 24).value
    return word_at(inner + (48 if sys.version_info < (3, 12) else 8))

def cycle(n):
    frame = sys._getframe()
    previous = previous_of(frame)
    before = previous.value
    own = id(frame) if sys.version_info < (3, 11) else word_at(id(frame) + 24).value
    previous.value = own
    for _ in range(n): bytearray(50000)
    previous.value = before

def absurd(n):
    previous = previous_of(sys._getframe())
    before = previous.value
    previous.value = 0x123456789000
    for _ in range(n): bytearray(50000)
    previous.value = before

rounds(1)
print('ready')
sys.stdout.flush()
for line in iter(sys.stdin.readline, ''):
    what, n = line.split()
    {'rounds': rounds, 'in_thread': in_thread, 'cycle': cycle, 'absurd': absurd, 'noted': lambda _: None}[what](int(n))
    print('|'.join(noted[name] for name in ('small', 'large', 'stays')) if what == 'noted' else 'done')
    sys.stdout.flush()
"#;

/// The CPythons whose stacks can be read.
fn readable() -> impl Iterator<Item = Python> {
    let all = pythons().into_iter();
    let found = all.filter(|python| {
        ((3, 6)..=(3, 15)).contains(&python.version) && !python.free_threaded && !python.debug
    });
    found.inspect(|python| eprintln!("{:?} {}", python.version, python.path.display()))
}

fn start(python: &Python) -> (Child, ProbeSession) {
    let child = python.run(PROGRAM, None, None);
    assert_eq!(child.first_line(), "ready");
    let target = Target::open(child.pid()).expect("it runs");
    let plan = ProbePlan::for_target(&target).expect("a plan");
    let session = ProbeSession::attach(child.pid(), &plan, Budget::Unlimited).expect("probes");
    (child, session)
}

fn shown(frame: &Frame) -> String {
    let name = frame.function.rsplit('.').next().expect("a name");
    let line = frame.line.map_or(0, |line| line);
    format!("{name}:{}:{line}", frame.file)
}

/// The sites whose innermost function is this.
fn within<'s>(sites: &'s Sites, name: &str) -> Vec<&'s Site> {
    let is_it = |site: &&Site| {
        let innermost = sites.stack(site).next();
        innermost.is_some_and(|frame| frame.function.rsplit('.').next() == Some(name))
    };
    sites.sites.iter().filter(is_it).collect()
}

/// What malloc gives for `bytes` is up to 24 more.
fn assert_near(what: &str, found: f64, error: f64, calls: f64, bytes: f64) {
    let (low, high) = (calls * bytes, calls * (bytes + 24.0));
    let slack = 5.0 * error;
    assert!(
        (low - slack..=high + slack).contains(&found),
        "{what}: {found} ± {error}, not {low}"
    );
}

#[test]
fn sites_and_their_bytes_are_those_of_the_program_on_every_python() {
    const ROUNDS: u32 = 2000;
    for python in readable() {
        let (mut child, session) = start(&python);
        assert_eq!(child.ask(&format!("rounds {ROUNDS}")), "done");
        let noted = child.ask("noted 0");
        let (activity, sites) = session.detach_with_sites();
        assert_eq!(sites.no_stacks, None);
        assert_eq!((activity.events_lost, sites.samples_lost), (0, 0));
        assert!(sites.frees_complete);
        let whole = sites.bytes();
        eprintln!(
            "  {} samples, {} sites, one in {} bytes, {} ns a sample",
            sites.samples,
            sites.sites.len(),
            sites.mean_bytes,
            sites.sampling_ns / sites.samples.max(1)
        );
        let off = (whole.value - sites.counted_bytes as f64).abs();
        assert!(
            off <= 5.0 * whole.error(),
            "{whole:?}, counted {}",
            sites.counted_bytes
        );
        let noted: Vec<&str> = noted.split('|').collect();
        let known = [
            ("small", 20, 3000, 0.0),
            ("large", 1, 60000, 0.0),
            ("stays", 1, 10000, 1.0),
        ];
        for ((name, calls, bytes, live), noted) in known.into_iter().zip(noted) {
            let found = within(&sites, name);
            assert!(!found.is_empty(), "{name} of {:?}", python.version);
            let sum = |of: fn(&Site) -> f64| found.iter().map(|site| of(site)).sum::<f64>();
            let error = sum(|site| site.figures.bytes.variance).sqrt();
            let (calls, bytes) = (f64::from(calls * ROUNDS), f64::from(bytes));
            assert_near(
                name,
                sum(|site| site.figures.bytes.value),
                error,
                calls,
                bytes,
            );
            let error = sum(|site| site.figures.allocations.variance).sqrt();
            let many = sum(|site| site.figures.allocations.value);
            assert!(
                (many - calls).abs() <= 5.0 * error,
                "{name}: {many} ± {error}, not {calls}"
            );
            let error = sum(|site| site.figures.live_bytes.variance).sqrt();
            let alive = sum(|site| site.figures.live_bytes.value);
            // The last one may still be there.
            let last = 2.0 * sites.mean_bytes as f64;
            assert_near(
                name,
                (alive - last * (1.0 - live)).max(0.0),
                error,
                calls * live,
                bytes,
            );
            // The stacks are traceback's, but for where the whole program was then.
            for site in found {
                assert_eq!(site.end, StackEnd::Whole, "{name}");
                let stack: Vec<String> = sites.stack(site).map(shown).collect();
                let seen: Vec<&str> = noted.split(' ').collect();
                let common = seen.len() - 1;
                assert_eq!(
                    stack[..common],
                    seen[..common],
                    "{name} of {:?}",
                    python.version
                );
            }
        }
    }
}

#[test]
fn threads_that_begin_in_a_window_have_stacks() {
    for python in readable() {
        let (mut child, session) = start(&python);
        for _ in 0..20 {
            assert_eq!(child.ask("in_thread 30"), "done");
        }
        let (_, sites) = session.detach_with_sites();
        let samples = |end| -> u64 {
            let of_end = sites.sites.iter().filter(|site| site.end == end);
            of_end.map(|site| site.figures.samples).sum()
        };
        let found = within(&sites, "small");
        assert!(!found.is_empty());
        for site in found {
            let outermost = sites.stack(site).next_back().expect("a frame");
            let outermost = shown(outermost);
            assert_eq!(outermost.split(':').next(), Some("_bootstrap"));
        }
        // A thread allocates before it has a state, and after.
        let lost = samples(StackEnd::NoThreadState);
        assert!(lost * 20 <= sites.samples, "{lost} of {}", sites.samples);
    }
}

#[test]
fn frames_that_lie_end_in_bounds_and_are_reported() {
    for python in readable() {
        let (mut child, session) = start(&python);
        assert_eq!(child.ask("cycle 2000"), "done");
        assert_eq!(child.ask("absurd 2000"), "done");
        let (_, sites) = session.detach_with_sites();
        let ends = |name| -> Vec<(StackEnd, usize)> {
            let found = within(&sites, name).into_iter();
            found.map(|site| (site.end, site.stack.len())).collect()
        };
        assert_eq!(
            ends("cycle"),
            [(StackEnd::Cut, MAX_FRAMES)],
            "{:?}",
            python.version
        );
        assert_eq!(
            ends("absurd"),
            [(StackEnd::Unreadable, 1)],
            "{:?}",
            python.version
        );
    }
}

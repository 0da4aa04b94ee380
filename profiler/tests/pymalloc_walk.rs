//! The pymalloc walker against CPython's own account (`sys._debugmallocstats`): equal, not near.

mod child;
mod pythons;

use std::collections::BTreeMap;

use child::wait_for_state;
use profiler_core::completeness::Confidence;
use profiler_core::heap::HeapSnapshot;
use profiler_core::pymalloc::NotWalked;
use profiler_core::span::SpanState;
use pythons::{pythons, walk};

/// A heap of many sizes, of which four in five objects go again.
const HEAP: &str = "
import random
rng = random.Random(7)
kept = [[str(i), i * 1.5, {i: [i]}, 'x' * rng.randrange(480)] for i in range(60000)]
kept = [o for o in kept if rng.randrange(100) < 20]
";

/// Private pages that all look like pools of 4 or of 16 KiB, with the indexes of real arenas.
const FORGED: &str = "
import mmap, struct
for pool in (4096, 16384):
    pages = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for n in range((16 << 20) // pool):
        pages[n * pool:n * pool + 48] = struct.pack('<QQQQIIII', 1, 0, 64, 64, n % 40, 1, 80, pool - 32)
    globals()['pages%d' % pool] = pages
";

/// Tells its account on stderr, says so, and waits for ever; nothing after the account makes or
/// frees an object.
const ACCOUNT: &str = "
import gc, os, sys, threading
gc.collect()
lock = threading.Lock()
lock.acquire()
wait, account, write = lock.acquire, sys._debugmallocstats, os.write
write(1, b'account\\n')
account()
write(1, b'ready\\n')
wait()
";

/// The same for a debug build of Python 2, whose account is to be had from C alone: as a handler of
/// a signal it makes no object.
const ACCOUNT_2: &str = "
import ctypes, gc, os, signal, threading
libc = ctypes.CDLL(None)
libc.signal(int(signal.SIGUSR1), ctypes.cast(ctypes.pythonapi._PyObject_DebugMallocStats, ctypes.c_void_p))
lock = threading.Lock()
lock.acquire()
wait, kill, write, pid, usr1 = lock.acquire, os.kill, os.write, os.getpid(), int(signal.SIGUSR1)
gc.collect()
write(1, b'account\\n')
kill(pid, usr1)
write(1, b'ready\\n')
wait()
";

/// What CPython says of itself: by block size the pools, blocks in use and blocks available; and
/// the sums by name.
#[derive(Debug, Default)]
struct Account {
    classes: BTreeMap<u64, [u64; 3]>,
    sums: BTreeMap<String, u64>,
}

fn account(text: &str) -> Account {
    let mut told = Account::default();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let numbers: Vec<u64> = words.iter().filter_map(|w| w.parse().ok()).collect();
        if let ([_, size, pools, used, free], 5) = (numbers.as_slice(), words.len()) {
            told.classes.insert(*size, [*pools, *used, *free]);
        } else if let Some((name, value)) = line.split_once('=') {
            let value = value.trim().replace(',', "");
            let name = name.trim().trim_start_matches("# ");
            // `17 unused pools * 4096 bytes`: the product is what is told.
            let name = name.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            let name = name.split_once(" * ").map_or(name, |(name, _)| name);
            // Another line with `=` is the threshold's, a sentence.
            if let Ok(value) = value.parse() {
                told.sums.insert(name.to_owned(), value);
            }
        }
    }
    assert!(told.classes.len() > 10 && told.sums.len() > 8, "{text}");
    told
}

/// Blocks in use and free by size, from the spans.
fn blocks(heap: &HeapSnapshot) -> BTreeMap<u64, [u64; 2]> {
    let mut classes: BTreeMap<u64, [u64; 2]> = BTreeMap::new();
    for extent in &heap.extents {
        for span in extent.spans.iter(extent.range.start()) {
            let size = span.range.len();
            match span.state {
                SpanState::Live => classes.entry(size).or_default()[0] += 1,
                SpanState::Free if size <= 512 => classes.entry(size).or_default()[1] += 1,
                _ => {}
            }
        }
    }
    classes
}

fn figure(heap: &HeapSnapshot, name: &str) -> u64 {
    let figures = &heap.arenas[0].figures;
    let found = figures.iter().find(|(n, _)| *n == name);
    found.expect("a figure").1
}

/// Builds a heap in every Python and compares each line of the account.
fn compare(heap: &str) {
    let errors = tempfile::NamedTempFile::new().expect("a file");
    for python in pythons() {
        // Of Python 2 only debug builds keep an account.
        if python.version < (3, 0) && !python.debug || python.free_threaded {
            continue;
        }
        let account_of = match python.version {
            (2, _) => ACCOUNT_2,
            _ => ACCOUNT,
        };
        let program = format!("{heap}{account_of}");
        let mut child = python.run(&program, Some(errors.path()), None);
        assert_eq!(child.said(), "account");
        assert_eq!(child.listen(), "ready");
        wait_for_state(child.pid(), 'S');
        let told = account(&std::fs::read_to_string(errors.path()).expect("text"));
        let heap = walk(child.pid()).expect("a heap");
        let what = format!("{python:?} {:#?} {told:#?} {:?}", heap.arenas, heap.defects);

        assert_eq!(heap.check(), Vec::<String>::new(), "{what}");
        assert_eq!(heap.confidence, Confidence::High, "{what}");
        let classes = told.classes.iter();
        let expected: BTreeMap<_, _> = classes
            .map(|(&size, &[_, used, free])| (size, [used, free]))
            .collect();
        assert_eq!(blocks(&heap), expected, "{what}");
        let pools: u64 = told.classes.values().map(|[pools, ..]| pools).sum();
        assert_eq!(figure(&heap, "pools_used"), pools, "{what}");
        for (ours, theirs) in [
            ("arenas_allocated", "arenas allocated current"),
            ("free_block_bytes", "bytes in available blocks"),
            ("free_pool_bytes", "unused pools"),
            ("pool_header_bytes", "bytes lost to pool headers"),
            ("quantization_bytes", "bytes lost to quantization"),
            ("arena_alignment_bytes", "bytes lost to arena alignment"),
            ("arenas_allocated_total", "arenas allocated total"),
            ("arenas_reclaimed", "arenas reclaimed"),
            ("arenas_highwater", "arenas highwater mark"),
        ] {
            let theirs = told.sums.get(theirs);
            assert_eq!(Some(&figure(&heap, ours)), theirs, "{ours} {what}");
        }
        let total = &heap.arenas[0];
        let live = told.sums.get("bytes in allocated blocks");
        assert_eq!(Some(&total.live_bytes), live, "{what}");
        let all = told.sums.get("arenas"); // times their size
        assert_eq!(Some(&total.system_bytes), all, "{what}");
        assert_eq!(heap.checks.len(), 3, "{what}");
        println!("{python:?}: {} arenas equal", heap.extents.len());
    }
}

#[test]
fn a_fragmented_heap_equals_the_account_of_every_python() {
    compare(HEAP);
}

#[test]
fn a_heap_just_started_equals_the_account_of_every_python() {
    compare("");
}

#[test]
fn pages_forged_to_look_like_pools_change_nothing() {
    compare(&format!("{FORGED}{HEAP}"));
    compare(FORGED);
}

/// Python 2 gives no account; blocks of a size that nothing else uses are counted instead.
#[test]
fn python_2_is_walked_to_the_block() {
    const PROGRAM: &str = "
import sys
rows = []
sys.stdout.write('ready\\n'); sys.stdout.flush()
sys.stdin.readline()
rows = [str(i) * 88 for i in range(10000, 15003)]
sys.stdout.write('made\\n'); sys.stdout.flush()
sys.stdin.readline()
";
    for python in pythons() {
        if python.version > (3, 0) {
            continue;
        }
        let mut child = python.run(PROGRAM, None, None);
        let before = walk(child.pid()).expect("a heap");
        child.tell("go");
        assert_eq!(child.listen(), "made");
        let after = walk(child.pid()).expect("a heap");
        assert_eq!(after.check(), Vec::<String>::new());
        assert_eq!(after.confidence, Confidence::High, "{:?}", after.checks);
        // 440 characters, the object's 37 bytes around them, in classes of 8 bytes: 480.
        let live = |heap| blocks(heap).get(&480).map_or(0, |[live, _]| *live);
        assert_eq!(live(&after) - live(&before), 5003);
    }
}

#[test]
fn a_python_without_pymalloc_says_why() {
    let program = format!("{HEAP}{ACCOUNT}");
    let errors = tempfile::NamedTempFile::new().expect("a file");
    let found = pythons();
    let python = found
        .iter()
        .find(|python| python.version >= (3, 6) && !python.free_threaded);
    let python = python.expect("python3");
    let mut child = python.run(&program, Some(errors.path()), Some("malloc"));
    assert_eq!(child.listen(), "ready");
    assert_eq!(walk(child.pid()), Err(NotWalked::NoPools));
}

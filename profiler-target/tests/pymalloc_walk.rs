//! Compares the pymalloc walker with CPython's own account (`sys._debugmallocstats`): equal, not
//! near.

mod pythons;

use profiler_core::completeness::Confidence;
use profiler_core::pymalloc::NotWalked;
use profiler_testing::child::wait_for_state;
use profiler_testing::pythons::pythons;
use pythons::account::{ACCOUNT, ACCOUNT_2, HEAP, assert_equal, blocks, parse};
use pythons::walk;

/// Private pages that all look like pools of 4 or of 16 KiB, with the indexes of real arenas.
const FORGED: &str = "
import mmap, struct
for pool in (4096, 16384):
    pages = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for n in range((16 << 20) // pool):
        pages[n * pool:n * pool + 48] = struct.pack('<QQQQIIII', 1, 0, 64, 64, n % 40, 1, 80, pool - 32)
    globals()['pages%d' % pool] = pages
";

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
        assert_eq!(child.first_line(), "account");
        assert_eq!(child.next_line(), "ready");
        wait_for_state(child.pid(), 'S');
        let account = parse(&std::fs::read_to_string(errors.path()).expect("text"));
        let heap = walk(child.pid()).expect("a heap");
        let what = format!(
            "{python:?} {:#?} {account:#?} {:?}",
            heap.arenas, heap.defects
        );

        assert_eq!(heap.check(), Vec::<String>::new(), "{what}");
        assert_eq!(heap.confidence, Confidence::High, "{what}");
        assert_eq!(heap.arenas.len(), 1, "{what}");
        assert_equal(&account, &heap, 0, &what);
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

/// A release build of Python 2 gives no account; blocks of a size that nothing else uses are counted instead.
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
        if python.version > (3, 0) || python.debug {
            continue;
        }
        let mut child = python.run(PROGRAM, None, None);
        let before = walk(child.pid()).expect("a heap");
        child.send("go");
        assert_eq!(child.next_line(), "made");
        let after = walk(child.pid()).expect("a heap");
        assert_eq!(after.check(), Vec::<String>::new());
        assert_eq!(after.confidence, Confidence::High, "{:?}", after.checks);
        // 440 characters, the object's 37 bytes around them, in classes of 8 bytes: 480.
        let live = |heap| blocks(heap, 0).get(&480).map_or(0, |[live, _]| *live);
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
    assert_eq!(child.next_line(), "ready");
    assert_eq!(walk(child.pid()), Err(NotWalked::NoPools));
}

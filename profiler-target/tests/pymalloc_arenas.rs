//! Unusual arenas: of several interpreters in one process, and from malloc.

mod pythons;

use profiler_core::claims::claims;
use profiler_core::completeness::Confidence;
use profiler_core::glibc;
use profiler_core::heap::{ExtentKind, HeapSnapshot};
use profiler_core::memory::ResidentMemory;
use profiler_core::pymalloc::{self, Context};
use profiler_core::report::{FragReport, LedgerClass};
use profiler_core::sample::{PythonMalloc, Sample};
use profiler_target::{Libc, Process, Target};
use profiler_testing::child::{self, wait_for_state};
use profiler_testing::pythons::pythons;
use pythons::account::{ACCOUNT, Account, HEAP, assert_equal, parse};
use pythons::walk;

/// Three interpreters with arenas of their own, each of which builds a heap, prints its account and
/// waits in a thread of its own; then the main interpreter does the same.
fn interpreters() -> String {
    let inner = ACCOUNT
        .replace("gc, os, sys, threading", "gc, os, sys, _thread")
        .replace("threading.Lock()", "_thread.allocate_lock()");
    format!(
        "
import os, threading
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
inner = '''{HEAP}{}'''
for n in (20000, 30000, 40000):
    read, ready = os.pipe()
    program = inner.replace('60000', str(n)).replace('READY', str(ready))
    interpreter = interpreters.create()
    threading.Thread(target=interpreters.run_string, args=(interpreter, program), daemon=True).start()
    os.read(read, 8)
    os.read(read, 6)
{HEAP}{ACCOUNT}",
        inner.replace("write(1,", "write(READY,").replace("\\n", "\\\\n")
    )
}

#[test]
fn arenas_of_every_interpreter_equal_its_account() {
    let program = interpreters();
    let errors = tempfile::NamedTempFile::new().expect("a file");
    for python in pythons() {
        // Before 3.12 interpreters share one heap; free-threaded builds have no arenas.
        if python.version < (3, 12) || python.free_threaded {
            continue;
        }
        let mut child = python.run(&program, Some(errors.path()), None);
        assert_eq!(child.first_line(), "account");
        assert_eq!(child.next_line(), "ready");
        wait_for_state(child.pid(), 'S');
        let text = std::fs::read_to_string(errors.path()).expect("text");
        let mut accounts: Vec<Account> = text
            .split("Small block threshold")
            .skip(1)
            .map(parse)
            .collect();
        let heap = walk(child.pid()).expect("a heap");
        let what = format!("{python:?} {:#?} {:?}", heap.arenas, heap.defects);
        assert_eq!(heap.check(), Vec::<String>::new(), "{what}");
        assert_eq!(
            heap.confidence,
            Confidence::High,
            "{:?} {what}",
            heap.checks
        );
        assert_eq!(heap.defects, [], "{what}");
        assert_eq!(heap.arenas.len(), accounts.len(), "{what}");
        // The main interpreter prints last and is shown first, the others in any order.
        let main = accounts.pop().expect("the main interpreter's");
        assert_equal(&main, &heap, 0, &what);
        for theirs in &accounts {
            let ours = same_live(theirs, &heap).expect(&what);
            assert_equal(theirs, &heap, ours, &what);
        }
        println!("{python:?}: {} interpreters equal", heap.arenas.len());
    }
}

fn same_live(account: &Account, heap: &HeapSnapshot) -> Option<usize> {
    let live = account.sums["bytes in allocated blocks"];
    heap.arenas
        .iter()
        .position(|arena| arena.live_bytes == live)
}

/// Arenas come from calloc, in the memory of brk, and are never given back.
const FROM_MALLOC: &str = "
import ctypes
libc = ctypes.CDLL(None)
M_MMAP_THRESHOLD = -3
libc.mallopt(M_MMAP_THRESHOLD, 16 << 20)
class ArenaAllocator(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ('ctx', 'alloc', 'free')]
of = lambda function: ctypes.cast(function, ctypes.c_void_p)
ctypes.pythonapi.PyObject_SetArenaAllocator(
    ctypes.byref(ArenaAllocator(1, of(libc.calloc), of(libc.labs))))
";

/// Stops the child and walks its malloc and its pymalloc.
fn sample(pid: i32) -> Sample {
    let target = Target::open(pid).expect("the target opens");
    let stopped = child::stop(&target);
    let mappings = target.mappings().expect("maps");
    let residency = target.residency(&mappings).expect("pagemap");
    let memory = ResidentMemory::new(target.memory(), &residency);
    let context = glibc::Context {
        version: target
            .libc()
            .expect("it runs")
            .and_then(Libc::glibc_release),
        threads: stopped.threads(),
        libc_data: target.libc_data_ranges().expect("it runs"),
        environment: Ok(&[]),
    };
    let outer = glibc::walk(&memory, &residency, &context).expect("a heap");
    let context = Context {
        python: target.python_version().expect("it runs"),
        serves: PythonMalloc::Unknown,
    };
    let inner = pymalloc::walk(&memory, &residency, &context).expect("a heap");
    Sample {
        kernel: target.kernel_count().expect("smaps"),
        heaps: vec![outer, inner],
        residency,
        ..Sample::default()
    }
}

#[test]
fn arenas_from_malloc_equal_the_account_and_are_counted_once() {
    let program = format!("{FROM_MALLOC}{HEAP}{ACCOUNT}");
    let errors = tempfile::NamedTempFile::new().expect("a file");
    for python in pythons() {
        if python.version < (3, 6) || python.free_threaded {
            continue;
        }
        let mut child = python.run(&program, Some(errors.path()), None);
        assert_eq!(child.first_line(), "account");
        assert_eq!(child.next_line(), "ready");
        wait_for_state(child.pid(), 'S');
        let account = parse(&std::fs::read_to_string(errors.path()).expect("text"));
        let sample = sample(child.pid());
        let [outer, inner] = sample.heaps.as_slice() else {
            panic!("two heaps");
        };
        let what = format!("{python:?} {:?} {:?}", outer.defects, inner.defects);
        assert_equal(&account, inner, 0, &what);
        assert_eq!(inner.check(), Vec::<String>::new(), "{what}");
        assert_eq!(
            inner.confidence,
            Confidence::High,
            "{:?} {what}",
            inner.checks
        );

        let brk: Vec<_> = (outer.extents.iter())
            .filter(|extent| extent.kind == ExtentKind::Brk)
            .collect();
        let in_malloc: u64 = (inner.extents.iter())
            .filter(|arena| brk.iter().any(|extent| extent.range.encloses(&arena.range)))
            .map(|arena| arena.range.len())
            .sum();
        assert!(in_malloc >= 8 << 20, "{in_malloc} {what}");

        // Every byte of malloc's heap belongs to one allocator, that of an arena to pymalloc.
        let claims = claims(&sample.heaps);
        let claimed = |heap| {
            let in_brk = claims.iter().filter(move |claim| claim.heap == heap);
            let inside = in_brk.filter(|claim| brk.iter().any(|e| e.range.encloses(&claim.range)));
            inside.map(|claim| claim.range.len()).sum::<u64>()
        };
        let all: u64 = brk.iter().map(|extent| extent.range.len()).sum();
        assert_eq!(
            (claimed(0), claimed(1)),
            (all - in_malloc, in_malloc),
            "{what}"
        );
        assert!(outer.total(|arena| arena.live_bytes) > in_malloc, "{what}");

        // What the ledger has as malloc's live bytes is without the arenas in it.
        let report = FragReport::from_sample(&sample);
        let of = |class| {
            let mut rows = report.ledger.iter();
            rows.find(|row| row.class == class)
                .expect("a row")
                .resident_bytes
        };
        let live = of(LedgerClass::Live) + of(LedgerClass::InternalSlop);
        let outside = outer.total(|arena| arena.live_bytes) - in_malloc;
        assert!(live <= outside, "{live} {outside} {what}");
        assert_eq!(
            report
                .ledger
                .iter()
                .map(|row| row.resident_bytes)
                .sum::<u64>(),
            sample.kernel.rss_bytes,
            "{what}"
        );
        println!("{python:?}: {in_malloc} bytes of arenas in malloc");
    }
}

//! Compares the detected allocator of Python objects with what each Python was set to use.

mod pythons;

use profiler_core::sample::PythonMalloc::{self, *};
use profiler_target::{Process, Target};
use profiler_testing::pythons::{Python, pythons};
use pythons::serves;

const READY: &str = "
import sys
kept = [[str(i)] for i in range(10000)]
sys.stdout.write('ready\\n'); sys.stdout.flush()
sys.stdin.readline()
";

/// `PYTHONMALLOC` and what it comes to in this Python.
fn settings(python: &Python) -> Vec<(Option<&'static str>, PythonMalloc)> {
    let (default, debug) = match python.free_threaded {
        true => (Mimalloc, MimallocDebug),
        false => (Pymalloc, PymallocDebug),
    };
    let mut settings = vec![
        (None, if python.debug { debug } else { default }),
        // 3.6 takes this for malloc_debug: its own account shows no arena then.
        (
            Some("debug"),
            if python.version == (3, 6) {
                MallocDebug
            } else {
                debug
            },
        ),
    ];
    // A free-threaded build refuses to do without mimalloc.
    if !python.free_threaded {
        settings.extend([
            (Some("pymalloc"), Pymalloc),
            (Some("pymalloc_debug"), PymallocDebug),
            (Some("malloc"), Malloc),
            (Some("malloc_debug"), MallocDebug),
        ]);
    }
    if python.version >= (3, 13) {
        settings.extend([
            (Some("mimalloc"), Mimalloc),
            (Some("mimalloc_debug"), MimallocDebug),
        ]);
    }
    settings
}

#[test]
fn every_setting_is_recognised_in_every_python() {
    for python in pythons() {
        if python.version < (3, 6) {
            continue;
        }
        for (malloc, expected) in settings(&python) {
            let child = python.run(READY, None, malloc);
            assert_eq!(serves(child.pid()), expected, "{python:?} {malloc:?}");
        }
        println!("{python:?}: recognised");
    }
}

#[test]
fn tracing_by_tracemalloc_hides_nothing() {
    for python in pythons() {
        if python.version < (3, 6) {
            continue;
        }
        for (malloc, expected) in settings(&python) {
            let traced = format!("import tracemalloc\ntracemalloc.start()\n{READY}");
            let child = python.run(&traced, None, malloc);
            assert_eq!(serves(child.pid()), expected, "{python:?} {malloc:?}");
        }
    }
}

/// Before 3.6 there is nothing to choose, and no table that says so.
#[test]
fn what_serves_python_2_is_unknown() {
    for python in pythons() {
        if python.version < (3, 6) {
            let child = python.run(READY, None, None);
            assert_eq!(serves(child.pid()), Unknown, "{python:?}");
        }
    }
}

#[test]
fn what_the_environment_asks_for_is_known_as_a_hint() {
    let found = pythons();
    for malloc in [None, Some("malloc")] {
        let child = found[0].run(READY, None, malloc);
        let target = Target::open(child.pid()).expect("the target opens");
        let hint = malloc.map(|malloc| format!("PYTHONMALLOC={malloc}"));
        assert_eq!(target.python_malloc_setting(), Ok(hint));
    }
}

//! Looking at a process of one's own user: no privilege needed.

mod child;

use child::Child;
use fragscope::process::{OpenError, PageSource, Target, TargetState};
use profiler_core::addr::{PAGE_SIZE, RemoteAddr};
use profiler_core::memory::{ReadError, TargetMemory};
use profiler_core::residency::MappingKind;

/// Writes a pattern into every second page of an area, and leaves the rest untouched.
const AREA: &str = "
import ctypes, mmap, sys
area = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
for page in range(0, 64, 2):
    area[page * 4096:page * 4096 + 8] = (base + page).to_bytes(8, 'little')
print(base, flush=True)
sys.stdin.readline()
";

#[test]
fn memory_is_read_whole_in_part_and_scattered() {
    let child = Child::python(AREA);
    let base: u64 = child.said().parse().expect("an address");
    let target = Target::open(child.pid()).expect("our own child");
    let memory = target.memory();
    let word: u64 = memory.read_value(RemoteAddr::new(base)).expect("mapped");
    assert_eq!(word, base);

    let first = RemoteAddr::new(8);
    let unmapped = memory.read(first, &mut [0; 8]);
    assert_eq!(unmapped, Err(ReadError::Unmapped(first)));

    // More places than one call takes, with bad ones in between.
    let addrs: Vec<_> = (0..3000)
        .map(|i| match i % 7 {
            3 => RemoteAddr::new(8),
            _ => RemoteAddr::new(base + i % 32 * 2 * PAGE_SIZE),
        })
        .collect();
    let mut words = Vec::new();
    memory.read_scattered::<8>(&addrs, &mut words);
    assert_eq!(words.len(), addrs.len());
    for (i, word) in (0..).zip(&words) {
        let expected = (i % 7 != 3).then_some(base + i % 32 * 2);
        assert_eq!(word.map(u64::from_le_bytes), expected, "place {i}");
    }
}

#[test]
fn pages_add_up_to_the_kernels_rss() {
    let child = Child::python(AREA);
    let base: u64 = child.said().parse().expect("an address");
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = target.stop().expect("it stops");
    let before = target.kernel_count().expect("alive");
    let mappings = target.mappings().expect("alive");
    let map = target.residency(&mappings).expect("alive");
    let after = target.kernel_count().expect("alive");
    drop(stopped);
    assert_eq!(map.resident_bytes(), before.rss_bytes);
    assert_eq!(map.swapped_bytes(), before.swap_bytes);
    assert_eq!(before, after, "looking changes nothing");
    for page in 0..64 {
        let run = map.run_at(RemoteAddr::new(base + page * PAGE_SIZE));
        let present = run.is_some_and(|run| run.state.is_resident());
        assert_eq!(present, page % 2 == 0, "page {page}");
    }
    assert!(mappings.iter().any(|m| m.kind == MappingKind::Brk));
}

#[test]
fn both_sources_of_pages_agree() {
    let child = Child::python(AREA);
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = target.stop().expect("it stops");
    let mappings = target.mappings().expect("alive");
    let by_pagemap = target.residency_from(&mappings, PageSource::Pagemap);
    let by_best = target.residency(&mappings).expect("alive");
    drop(stopped);
    let by_pagemap = by_pagemap.expect("alive");
    assert_eq!(by_pagemap.resident_bytes(), by_best.resident_bytes());
    assert_eq!(by_pagemap.swapped_bytes(), by_best.swapped_bytes());
}

#[test]
fn a_target_stops_with_all_its_threads_and_runs_on() {
    let mut child = Child::python(
        "
import threading, sys, time
ticks = [0] * 8
def tick(i):
    while True:
        ticks[i] += 1
for i in range(8):
    threading.Thread(target=tick, args=(i,), daemon=True).start()
print('ready', flush=True)
for line in sys.stdin:
    before = sum(ticks)
    while sum(ticks) == before:
        pass
    print('ran on', flush=True)
",
    );
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = target.stop().expect("it stops");
    assert_eq!(stopped.threads().len(), 9);
    for thread in stopped.threads() {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", thread.tid)).expect("there");
        assert!(state.contains(") t "), "{state}");
        assert_ne!(thread.stack_pointer.get(), 0);
        assert_ne!(thread.thread_pointer.get(), 0);
    }
    drop(stopped);
    child.tell("go on");
    assert_eq!(child.listen(), "ran on");
}

#[test]
fn an_exit_and_an_exec_are_told() {
    let child = Child::python("import sys; print(1, flush=True); sys.stdin.readline()");
    let target = Target::open(child.pid()).expect("our own child");
    assert_eq!(target.state(), TargetState::Same);
    drop(child);
    assert!(matches!(target.state(), TargetState::Exited(_)));
    assert_eq!(
        target.memory().read(RemoteAddr::new(0x1000), &mut [0]),
        Err(ReadError::Gone)
    );
    assert!(target.quick_count().is_err());

    // The same program again, under the same pid.
    let again = "import sys; print(2, flush=True); sys.stdin.readline()";
    let first = format!(
        "import os, sys; print(1, flush=True); sys.stdin.readline(); \
         os.execv('/proc/self/exe', ['python3', '-S', '-c', {again:?}])"
    );
    let mut child = Child::python(&first);
    let target = Target::open(child.pid()).expect("our own child");
    child.tell("exec");
    assert_eq!(child.listen(), "2");
    assert_eq!(target.state(), TargetState::Execed);
}

#[test]
fn a_python_is_described() {
    let child = Child::python(
        "import sys, platform; print(platform.python_version(), flush=True); sys.stdin.readline()",
    );
    let target = Target::open(child.pid()).expect("our own child");
    let described = target.describe();
    assert_eq!(described.python, Some(format!("CPython {}", child.said())));
    assert_eq!(described.threads, 1);
    assert_eq!(described.cmdline[1], "-S");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let gone = {
        let child = Child::python("print(1)");
        child.pid()
    };
    let error = Target::open(gone).expect_err("it was waited for");
    assert!(matches!(error, OpenError::NoSuchProcess { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    for pid in [0, -1] {
        let error = Target::open(pid).expect_err("no process has it");
        assert!(matches!(error, OpenError::NoSuchProcess { .. }), "{error}");
    }
}

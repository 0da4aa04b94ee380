//! Traces of several processes.

use std::time::{Duration, Instant};

use profiler_lab::play::{PlayError, PlayedCheckpoint, Setup, play};
use profiler_testing::trace::TraceBuilder;
use profiler_trace::trace::EventKind;

use super::allocators::compile;
use super::program::program;
use super::{MIB, played};

/// Blocks that make 1 MiB, small enough to be touched whole.
fn mebibytes(trace: &mut TraceBuilder, thread: u64, count: u64) {
    for _ in 0..count * 16 {
        trace.alloc(thread, (64 << 10) - 64);
    }
}

fn at(checkpoints: &[PlayedCheckpoint]) -> Vec<(u32, u64)> {
    let rounded = |at: &PlayedCheckpoint| (at.process, (at.resident_bytes + MIB / 2) / MIB);
    let recorded = checkpoints.iter().filter(|at| at.recorded);
    recorded.map(rounded).collect()
}

#[test]
fn a_forked_child_has_what_its_parent_had_and_frees_its_own_copy() {
    let mut trace = TraceBuilder::default();
    mebibytes(&mut trace, 0, 20);
    let shared = trace.alloc(0, 100);
    trace.fork(0, 1, 1);
    mebibytes(&mut trace, 1, 10);
    trace.free(1, shared);
    trace.free(0, shared);
    mebibytes(&mut trace, 0, 5);
    trace.checkpoint(0);
    trace.checkpoint(1);
    trace.event(1, EventKind::Exit);
    trace.checkpoint(0);
    let played = played(&trace, &Setup::default());
    assert_eq!(at(&played.checkpoints), [(0, 25), (1, 30), (0, 25)]);
    let last = played.peak_and_final().expect("checkpoints").at_end;
    assert_eq!((last + MIB / 2) / MIB, 25);
}

#[test]
fn a_child_that_another_thread_than_the_main_one_forked_runs_beside_it() {
    let mut trace = TraceBuilder::default();
    trace.alloc(0, 100);
    trace.alloc(1, 100);
    // As a pool of workers does, which are forked again by a thread.
    for child in 0..8 {
        let thread = 2 + child;
        trace.fork(1, 1 + child, thread);
        mebibytes(&mut trace, 1, 2);
        mebibytes(&mut trace, thread, 3);
        mebibytes(&mut trace, 1, 1);
        trace.checkpoint(1 + child);
        trace.checkpoint(0);
    }
    let played = played(&trace, &Setup::default());
    let seen = at(&played.checkpoints);
    let expected: Vec<_> = (0..8u32)
        .flat_map(|child| {
            let before = 3 * u64::from(child);
            [(1 + child, before + 3), (0, before + 3)]
        })
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_spawned_program_and_one_after_exec_begin_with_nothing() {
    let mut trace = TraceBuilder::default();
    mebibytes(&mut trace, 0, 20);
    trace.begin(1, 3);
    mebibytes(&mut trace, 3, 4);
    trace.checkpoint(1);
    trace.checkpoint(0);
    trace.start(0);
    mebibytes(&mut trace, 0, 2);
    trace.checkpoint(0);
    trace.start(3);
    mebibytes(&mut trace, 3, 6);
    trace.checkpoint(1);
    let played = played(&trace, &Setup::default());
    assert_eq!(at(&played.checkpoints), [(1, 4), (0, 20), (0, 2), (1, 6)]);
}

#[test]
fn threads_of_a_child_are_its_own() {
    let mut trace = TraceBuilder::default();
    trace.alloc(0, 100);
    trace.fork(0, 1, 1);
    trace.begin(1, 2);
    mebibytes(&mut trace, 2, 8);
    trace.thread_end(2);
    trace.checkpoint(1);
    trace.checkpoint(0);
    let played = played(&trace, &Setup::default());
    assert_eq!(at(&played.checkpoints), [(1, 8), (0, 0)]);
}

/// What each process has at a checkpoint of its own, taken when all is over.
fn all_at_their_end(trace: &mut TraceBuilder, processes: &[u64]) -> Vec<(u32, u64)> {
    for process in processes {
        trace.checkpoint(*process);
    }
    at(&played(trace, &Setup::default()).checkpoints)
}

#[test]
fn forks_after_threads_have_ended_leave_the_parent_sound() {
    // The C library keeps its list of threads in their stacks, and each child makes a list of its own.
    let mut trace = TraceBuilder::default();
    trace.alloc(0, 100);
    for (child, thread) in [(1, 10), (2, 20), (3, 30)] {
        trace.begin(0, thread);
        mebibytes(&mut trace, thread, 2);
        trace.fork(0, child, child);
        trace.thread_end(thread);
        mebibytes(&mut trace, child, 3);
    }
    trace.fork(0, 4, 4);
    mebibytes(&mut trace, 4, 1);
    let seen = all_at_their_end(&mut trace, &[0, 1, 2, 3, 4]);
    assert_eq!(seen, [(0, 6), (1, 5), (2, 7), (3, 9), (4, 7)]);
}

#[test]
fn threads_that_fork_and_end_and_threads_that_stay_leave_all_processes_sound() {
    let mut trace = TraceBuilder::default();
    trace.alloc(0, 100);
    // One stays, one forks and ends, and a child does the same again.
    trace.begin(0, 10);
    mebibytes(&mut trace, 10, 1);
    trace.begin(0, 11);
    mebibytes(&mut trace, 11, 1);
    trace.fork(11, 1, 1);
    trace.thread_end(11);
    trace.begin(1, 12);
    mebibytes(&mut trace, 12, 2);
    trace.fork(12, 2, 2);
    trace.thread_end(12);
    trace.fork(1, 3, 3);
    trace.fork(0, 4, 4);
    trace.fork(10, 5, 5);
    for thread in [1, 2, 3, 4, 5, 10] {
        mebibytes(&mut trace, thread, 1);
    }
    trace.begin(5, 50);
    mebibytes(&mut trace, 50, 1);
    trace.thread_end(50);
    let seen = all_at_their_end(&mut trace, &[0, 1, 2, 3, 4, 5]);
    assert_eq!(seen, [(0, 3), (1, 5), (2, 5), (3, 5), (4, 3), (5, 4)]);
}

#[test]
fn a_child_goes_on_in_the_arena_of_the_thread_that_forked() {
    let mut trace = TraceBuilder::default();
    trace.alloc(0, 100);
    trace.begin(0, 10);
    trace.alloc(10, 100);
    trace.fork(10, 1, 1);
    // Free memory of the thread's arena, which its child uses again: the main one has none.
    let blocks: Vec<_> = (0..64).map(|_| trace.alloc(10, 60 << 10)).collect();
    trace.alloc(10, 100);
    for block in blocks {
        trace.free(10, block);
    }
    trace.fork(10, 2, 2);
    for _ in 0..64 {
        trace.alloc(2, 60 << 10);
    }
    let seen = all_at_their_end(&mut trace, &[2]);
    assert_eq!(seen, [(2, 4)], "not 8");
}

#[test]
fn stacks_are_no_memory_of_the_allocators() {
    let mut trace = TraceBuilder::default();
    for thread in 0..200 {
        trace.alloc(thread, 100);
    }
    trace.fork(0, 1, 1000);
    trace.checkpoint(0);
    trace.checkpoint(1);
    let setup = Setup {
        env: vec![(
            "GLIBC_TUNABLES".into(),
            "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0".into(),
        )],
        ..Setup::default()
    };
    let played = played(&trace, &setup);
    let most = played.checkpoints.iter().map(|at| at.resident_bytes).max();
    // Two pages and more of each stack are in use.
    assert!(most < Some(MIB), "{most:?}");
}

/// A process that forks `children` children, each of which then allocates `own` MiB more, with enough
/// checkpoints of all of them that exceeding the limit is noticed.
fn with_children(children: u64, shared: u64, own: u64) -> Result<(), PlayError> {
    let mut trace = TraceBuilder::default();
    mebibytes(&mut trace, 0, shared);
    for child in 1..=children {
        trace.fork(0, child, child);
        mebibytes(&mut trace, child, own);
    }
    for _ in 0..500 {
        (0..=children).for_each(|process| trace.checkpoint(process));
    }
    let setup = Setup {
        memory_limit: Some(64 << 20),
        ..Setup::default()
    };
    play(&program(&trace), &setup, &|_| true).map(drop)
}

#[test]
fn the_memory_of_all_processes_is_limited_and_what_they_share_counts_once() {
    let outcome = with_children(3, 5, 30);
    assert!(
        matches!(outcome, Err(PlayError::TooLarge { .. })),
        "{outcome:?}"
    );
    let outcome = with_children(3, 40, 1);
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// What comes of a program that forks, with an allocator whose forked processes crash, and how long it
/// takes.
fn with_crashing_children(source: &str) -> (Result<(), PlayError>, Duration) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut trace = TraceBuilder::default();
    trace.alloc(0, 100);
    trace.fork(0, 1, 1);
    trace.alloc(1, 100);
    trace.alloc(0, 100);
    let setup = Setup {
        preload: Some(compile(folder.path(), source)),
        ..Setup::default()
    };
    let program = program(&trace);
    let began = Instant::now();
    let outcome = play(&program, &setup, &|_| true).map(drop);
    (outcome, began.elapsed())
}

/// As much as a busy host needs, and less than a player that hangs is waited for.
const AT_ONCE: Duration = Duration::from_secs(8);

#[test]
fn a_forked_process_that_crashes_is_noticed_at_once() {
    let source = "#include <stdlib.h>\n#include <unistd.h>\n#include <stdio.h>\n\
        static char memory[1 << 24]; static size_t used; static int first;\n\
        void *malloc(size_t n) {\n\
            if (!first) first = getpid();\n\
            if (getpid() != first) { static char said[] = \"not here\\n\"; write(2, said, 9); __builtin_trap(); }\n\
            size_t at = used; used += (n + 15) & ~15ul; return memory + at; }\n\
        void free(void *p) { (void)p; }\n";
    let (outcome, took) = with_crashing_children(source);
    let said = outcome.expect_err("it crashes").to_string();
    assert_eq!(said, "crashed (process 1 of the recording: not here)");
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn a_forked_process_that_crashes_before_it_plays_is_noticed_at_once() {
    let source = "#include <pthread.h>\n\
        static void crash(void) { __builtin_trap(); }\n\
        __attribute__((constructor)) static void begin(void) { pthread_atfork(0, 0, crash); }\n";
    let (outcome, took) = with_crashing_children(source);
    let said = outcome.expect_err("it crashes").to_string();
    assert_eq!(said, "crashed (process 1 of the recording, as it began)");
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn trimming_at_times_reaches_processes_that_do_nothing_meanwhile() {
    let mut trace = TraceBuilder::default();
    trace.alloc(0, 100);
    for child in 1..=2 {
        trace.fork(0, child, child);
        let blocks: Vec<_> = (0..4000).map(|_| trace.alloc(child, 10_000)).collect();
        trace.alloc(child, 64);
        for block in blocks {
            trace.free(child, block);
        }
    }
    // The first one's main thread is over, and another goes on.
    trace.begin(1, 10);
    trace.alloc(10, 64);
    trace.thread_end(1);
    trace.pass(Duration::from_secs(20));
    trace.alloc(0, 64);
    for process in [0, 1, 2] {
        trace.checkpoint(process);
    }
    // The top does not shrink by itself.
    let fixed = vec![("MALLOC_TRIM_THRESHOLD_".into(), "1000000000".into())];
    let setup = Setup {
        env: fixed,
        ..Setup::default()
    };
    let without = at(&played(&trace, &setup).checkpoints);
    assert_eq!(without, [(0, 0), (1, 38), (2, 38)]);
    let with = Setup {
        trim_every: Some(Duration::from_secs(10)),
        ..setup
    };
    let with = at(&played(&trace, &with).checkpoints);
    assert_eq!(with, [(0, 0), (1, 0), (2, 0)]);
}

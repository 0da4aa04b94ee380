//! Replays traces in real allocators: the player's heap, as our walkers see it, is what the trace
//! says.

mod allocators;
mod confined;
mod processes;
mod program;

use std::time::Duration;

use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_lab::play::{Played, Setup, play};
use profiler_testing::trace::TraceBuilder;

use self::program::program;

const MIB: u64 = 1 << 20;

fn played(trace: &TraceBuilder, setup: &Setup) -> Played {
    let program = program(trace);
    play(&program, setup, &|_| true).expect("it plays")
}

/// malloc's memory at the last checkpoint.
fn last_bytes(played: &Played) -> u64 {
    played.peak_and_final().expect("checkpoints").at_end
}

fn walked() -> Setup {
    Setup {
        walk: true,
        ..Setup::default()
    }
}

fn glibc(played: &Played) -> &HeapSnapshot {
    let sample = played.end_sample.as_ref().expect("it was walked");
    let mut heaps = sample.heaps.iter();
    let found = heaps.find(|heap| heap.allocator == Allocator::Glibc);
    found.expect("the player has glibc's heap")
}

fn live_blocks(heap: &HeapSnapshot) -> u64 {
    heap.total(|arena| arena.live_blocks) + heap.large_mapped().0
}

#[test]
fn what_the_trace_has_live_is_live_in_the_player() {
    let mut trace = TraceBuilder::default();
    let mut kept = 0;
    for n in 0..20_000u64 {
        let block = trace.alloc(0, 16 + n * 37 % 3000);
        if n % 3 == 0 {
            kept += 1;
        } else {
            trace.free(0, block);
        }
    }
    // In place, moved, and with an alignment.
    let grown = trace.alloc(0, 100);
    trace.realloc(0, grown, 300 << 10);
    trace.aligned(0, 5000, 12);
    kept += 2;
    let played = played(&trace, &walked());
    let heap = glibc(&played);
    assert_eq!(heap.check(), Vec::<String>::new());
    // A checkpoint has the trace's own account: bytes requested.
    assert_eq!(live_blocks(heap), kept, "{:?}", heap.arenas);
}

#[test]
fn each_thread_of_the_trace_has_its_arena() {
    let mut trace = TraceBuilder::default();
    for thread in 0..5 {
        trace.alloc(thread, 1000);
    }
    // A thread that ended gives its arena to the next.
    trace.thread_end(4);
    trace.alloc(5, 1000);
    let setup = Setup {
        cpus: Some(8),
        env: vec![("GLIBC_TUNABLES".into(), "glibc.malloc.arena_max=64".into())],
        ..walked()
    };
    let played = played(&trace, &setup);
    let heap = glibc(&played);
    assert_eq!(heap.arenas.len(), 5, "{:?}", heap.arenas);
}

#[test]
fn large_blocks_are_touched_as_far_as_is_known() {
    let mut trace = TraceBuilder::default();
    let known = trace.alloc(0, 64 * MIB);
    trace.touched(known, 8 * MIB);
    trace.alloc(0, 32 * MIB);
    let most = played(&trace, &Setup::default());
    let least = Setup {
        touch: profiler_lab::play::Touch::Least,
        ..Setup::default()
    };
    let least = played(&trace, &least);
    let near = |played: &Played, wanted: u64| last_bytes(played).abs_diff(wanted) < MIB;
    assert!(near(&most, 40 * MIB), "{}", last_bytes(&most));
    assert!(near(&least, 8 * MIB), "{}", last_bytes(&least));
}

#[test]
fn checkpoints_are_reached_in_order_and_carry_what_was_live() {
    let mut trace = TraceBuilder::default();
    let mut wanted = Vec::new();
    let mut blocks = Vec::new();
    for n in 1..=4 {
        blocks.extend((0..64).map(|_| trace.alloc(0, 100 << 10)));
        trace.pass(Duration::from_secs(1));
        trace.checkpoint(0);
        wanted.push(n * 64 * (100 << 10));
    }
    let played = played(&trace, &Setup::default());
    let recorded: Vec<_> = played.checkpoints.iter().filter(|at| at.recorded).collect();
    let live: Vec<u64> = recorded.iter().map(|at| at.live_bytes).collect();
    assert_eq!(live, wanted);
    for at in &recorded {
        let over = at.resident_bytes as f64 / at.live_bytes as f64;
        assert!((1.0..1.1).contains(&over), "{at:?}");
    }
    let peak = played.peak_and_final().expect("checkpoints").peak;
    assert!(peak >= recorded[3].resident_bytes);
    assert!(played.faults > 6000, "{}", played.faults);
}

#[test]
fn time_in_the_trace_lets_jemalloc_purge() {
    let jemalloc = allocators::named("jemalloc");
    let last_of = |idle: Duration, conf: &str| {
        let mut trace = TraceBuilder::default();
        let blocks: Vec<_> = (0..2000).map(|_| trace.alloc(0, 40_000)).collect();
        for block in blocks {
            trace.free(0, block);
        }
        // It looks at the time once in a thousand calls that its caches do not serve.
        for _ in 0..200 {
            trace.pass(idle / 200);
            for _ in 0..100 {
                let block = trace.alloc(0, 60_000);
                trace.free(0, block);
            }
        }
        let setup = Setup {
            preload: Some(jemalloc.clone()),
            env: vec![("MALLOC_CONF".into(), conf.into())],
            ..Setup::default()
        };
        last_bytes(&played(&trace, &setup))
    };
    let at_once = last_of(Duration::from_millis(200), "");
    let later = last_of(Duration::from_secs(60), "");
    assert!(at_once > 60 * MIB, "{at_once}");
    assert!(later < 10 * MIB, "{later}");
    let kept = last_of(Duration::from_secs(60), "dirty_decay_ms:-1");
    assert!(kept > 60 * MIB, "{kept}");
}

#[test]
fn jemallocs_background_threads_live_in_the_time_of_the_trace() {
    let jemalloc = allocators::named("jemalloc");
    let last_of = |conf: &str| {
        let mut trace = TraceBuilder::default();
        let blocks: Vec<_> = (0..2000).map(|_| trace.alloc(0, 40_000)).collect();
        for block in blocks {
            trace.free(0, block);
        }
        // Idle: nothing but the threads of its own can purge.
        trace.pass(Duration::from_secs(60));
        trace.alloc(0, 64);
        let setup = Setup {
            preload: Some(jemalloc.clone()),
            env: vec![("MALLOC_CONF".into(), conf.into())],
            ..Setup::default()
        };
        last_bytes(&played(&trace, &setup))
    };
    let without = last_of("background_thread:false");
    let with = last_of("background_thread:true");
    assert!(without > 60 * MIB, "{without}");
    assert!(with < 10 * MIB, "{with}");
}

#[test]
fn a_periodic_trim_returns_what_is_free() {
    let mut trace = TraceBuilder::default();
    let blocks: Vec<_> = (0..4000).map(|_| trace.alloc(0, 10_000)).collect();
    let last = trace.alloc(0, 64);
    for block in blocks {
        trace.free(0, block);
    }
    trace.pass(Duration::from_secs(20));
    trace.free(0, last);
    trace.alloc(0, 64);
    // Without it, the last block keeps the heap from shrinking until it is freed at the end.
    let fixed = vec![("MALLOC_TRIM_THRESHOLD_".into(), "1000000000".into())];
    let setup = Setup {
        env: fixed,
        ..Setup::default()
    };
    let without = last_bytes(&played(&trace, &setup));
    let with = Setup {
        trim_every: Some(Duration::from_secs(10)),
        ..setup
    };
    let with = last_bytes(&played(&trace, &with));
    assert!(without > 35 * MIB, "{without}");
    assert!(with < 2 * MIB, "{with}");
}

//! Replay speed in events per second: small blocks of one thread, and of threads that take turns.
//! Only glibc's malloc is involved, and page faults are few because each block is freed soon.
//! Includes the start of the player.

use std::hint::black_box;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use profiler_lab::open::compile;
use profiler_lab::play::{ReplayProgram, Setup, play};
use profiler_testing::trace::TraceBuilder;
use profiler_trace::limits::Meter;
use profiler_trace::trace::Reader;

/// Blocks that live at a time.
const LIVE: u64 = 4096;

/// Blocks allocated in order and freed in another, `turn` events of a thread before the next thread's.
fn program(events: u64, threads: u64, turn: u64) -> Arc<ReplayProgram> {
    let mut trace = TraceBuilder::default();
    let mut held = [None; LIVE as usize];
    for number in 0..events / 2 {
        let thread = (number * 2 / turn) % threads;
        // A pseudo-random place, whose block is freed first.
        let place = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize;
        if let Some(block) = held[place] {
            trace.free(thread, block);
        }
        held[place] = Some(trace.alloc(thread, 16 + number % 50 * 8));
        trace.pass(Duration::from_nanos(100));
    }
    let reader = Reader::new(Cursor::new(trace.finish())).expect("a trace");
    let compiled = compile(reader, Meter::default());
    compiled.expect("it compiles").program
}

fn playing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    group.measurement_time(Duration::from_secs(8));
    let cases = [
        ("one_thread", 4_000_000, 1, u64::MAX),
        ("four_threads_64_events_a_turn", 400_000, 4, 64),
        ("four_threads_2_events_a_turn", 100_000, 4, 2),
    ];
    for (name, events, threads, turn) in cases {
        let program = program(events, threads, turn);
        let setup = Setup {
            core: Some(0),
            ..Setup::default()
        };
        group.throughput(Throughput::Elements(events));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(play(&program, &setup, &|_| true)).expect("it plays"));
        });
    }
    group.finish();
}

criterion_group!(benches, playing);
criterion_main!(benches);

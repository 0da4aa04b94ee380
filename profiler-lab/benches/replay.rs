//! How fast a trace is played, in events a second: small blocks of one thread, and of threads that
//! take turns. Nothing but glibc's own malloc is between; page faults are few, for each block is
//! freed soon. The start of the player is part of it.

use std::hint::black_box;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use profiler_lab::open::compile;
use profiler_lab::play::{ReplayProgram, Setup, play};
use profiler_trace::limits::Meter;
use profiler_trace::record::{Clock, Normaliser, Recorder, SourceEvent};
use profiler_trace::trace::{By, EventKind, Reader, TraceDescription, Writer};

/// Blocks that live at a time.
const LIVE: u64 = 4096;

/// Blocks allocated in order and freed in another, `turn` events of a thread before the next thread's.
fn program(events: u64, threads: u64, turn: u64) -> Arc<ReplayProgram> {
    let writer = Writer::new(Vec::new(), &TraceDescription::default()).expect("a Vec has room");
    let mut recorder = Recorder::new(writer, Normaliser::new(Clock::new(0, 1)));
    let mut held = [0; LIVE as usize];
    let addr_of = |number: u64| 0x10_0000 + number * 1024;
    for number in 0..events / 2 {
        let thread = (number * 2 / turn) % threads;
        // A pseudo-random place, whose block is freed first.
        let place = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize;
        let mut put = |kind: EventKind| {
            let event = SourceEvent {
                time_ns: number * 100,
                process: 0,
                thread,
                kind: kind.into(),
            };
            recorder.record(&event).expect("a Vec has room");
        };
        if held[place] != 0 {
            put(EventKind::Free { addr: held[place] });
        }
        held[place] = addr_of(number);
        put(EventKind::Alloc {
            addr: held[place],
            bytes: 16 + number % 50 * 8,
            align: 0,
            by: By::Malloc,
        });
    }
    let trace = recorder
        .finish()
        .expect("memory")
        .finish()
        .expect("a Vec has room");
    let reader = Reader::new(Cursor::new(trace)).expect("a trace");
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

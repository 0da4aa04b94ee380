//! How fast the events of a source become the bytes of a trace.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use profiler_trace::record::{Clock, Normaliser, Recorder, SourceEvent};
use profiler_trace::trace::{By, EventKind, SeedBlock, TraceDescription, Writer};

/// Events of one round.
const EVENTS: u64 = 400_000;
/// Blocks that live at a time.
const LIVE: u64 = 4096;

/// Blocks allocated in order and freed in another, by threads that take turns; every 64th is large.
fn events(threads: u64) -> Vec<SourceEvent> {
    let mut held = vec![0; LIVE as usize];
    let mut events = Vec::new();
    for number in 1..=EVENTS / 2 {
        let place = (number * 2_654_435_761 % LIVE) as usize;
        let mut put = |kind: EventKind| {
            events.push(SourceEvent {
                time_ns: number * 500,
                process: 1,
                thread: 1 + number / 64 % threads,
                kind: kind.into(),
            });
        };
        if held[place] != 0 {
            put(EventKind::Free { addr: held[place] });
        }
        held[place] = number << 12;
        put(EventKind::Alloc {
            addr: held[place],
            bytes: if number % 64 == 0 {
                256 << 10
            } else {
                16 + number % 50 * 8
            },
            align: 0,
            by: By::Malloc,
        });
    }
    events
}

/// Records them; gives the bytes of the trace.
fn record(normaliser: Normaliser, events: &[SourceEvent]) -> usize {
    let writer = Writer::new(Vec::new(), &TraceDescription::default()).expect("a Vec has room");
    let mut recorder = Recorder::new(writer, normaliser);
    for event in events {
        recorder.record(event).expect("a Vec has room");
    }
    let writer = recorder.finish().expect("a Vec has room");
    writer.finish().expect("a Vec has room").len()
}

fn recording(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    group.sample_size(10);
    for (name, threads) in [("one_thread", 1), ("sixteen_threads", 16)] {
        let events = events(threads);
        group.throughput(Throughput::Elements(events.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(record(Normaliser::new(Clock::new(0, 1)), &events)));
        });
        // As probes are recorded, which lose events.
        let seed: [SeedBlock; 0] = [];
        group.bench_function(format!("{name}_lossy"), |bencher| {
            let clock = || Clock::new(0, 1000);
            bencher.iter(|| {
                let normaliser = Normaliser::for_lossy_source(clock(), &seed);
                black_box(record(normaliser, &events))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, recording);
criterion_main!(benches);

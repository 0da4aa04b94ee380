//! What one event costs the tracker: with a million live blocks, and with a thousand.
//!
//! Criterion's time of one iteration is the time of one event.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use profiler_core::addr::RemoteAddr;
use profiler_core::event::{AllocEvent, AllocEventKind};
use profiler_core::live::Tracker;

/// A deterministic stream: each step frees a random live block and allocates another.
struct Churn {
    live: Vec<u64>,
    free: Vec<u64>,
    state: u64,
    time_ns: u64,
}

impl Churn {
    fn new(live: u64) -> Self {
        Self {
            live: (1..=live).map(|i| 0x7f00_0000_0000 + i * 80).collect(),
            free: (1..=live / 4 + 1)
                .map(|i| 0x5500_0000_0000 + i * 80)
                .collect(),
            state: 0x9e37_79b9_7f4a_7c15,
            time_ns: 1,
        }
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn alloc(&mut self, addr: u64) -> AllocEvent {
        let bytes = 24 + self.random() % 64 * 16;
        self.event(
            addr,
            AllocEventKind::Alloc {
                bytes,
                usable: true,
            },
        )
    }

    fn event(&mut self, addr: u64, kind: AllocEventKind) -> AllocEvent {
        self.time_ns += 1000;
        AllocEvent {
            time_ns: self.time_ns,
            tid: 1,
            addr: RemoteAddr::new(addr),
            kind,
        }
    }

    fn step(&mut self) -> [AllocEvent; 2] {
        let victim = self.random() as usize % self.live.len();
        let reused = self.random() as usize % self.free.len();
        std::mem::swap(&mut self.live[victim], &mut self.free[reused]);
        let (freed, addr) = (self.free[reused], self.live[victim]);
        [self.event(freed, AllocEventKind::Free), self.alloc(addr)]
    }
}

fn per_event(c: &mut Criterion) {
    let mut group = c.benchmark_group("tracker_event");
    for live in [1_000u64, 1_000_000] {
        group.bench_function(format!("{live}_live"), |b| {
            let mut churn = Churn::new(live);
            let mut tracker = Tracker::new(0, u64::MAX);
            tracker.window_opened(0);
            for addr in churn.live.clone() {
                let event = churn.alloc(addr);
                tracker.push(&event);
            }
            b.iter_custom(|events| {
                let mut stream: Vec<AllocEvent> = Vec::with_capacity(events as usize + 1);
                while stream.len() < events as usize {
                    stream.extend(churn.step());
                }
                // An odd count splits a pair: its second half goes in untimed.
                let (timed, rest) = stream.split_at(events as usize);
                let start = Instant::now();
                for event in timed {
                    tracker.push(black_box(event));
                }
                let elapsed = start.elapsed();
                rest.iter().for_each(|event| tracker.push(event));
                elapsed
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(4));
    targets = per_event
}
criterion_main!(benches);

//! Walks a process alternately in one stop and in slices, and prints the cost and the result of
//! each.
//!
//! ```text
//! cargo run --release -p profiler-sampling --example slices -- PID [ROUNDS]
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use profiler_core::completeness::StandStill;
use profiler_core::heap::{CrossCheck, HeapSnapshot};
use profiler_core::sample::Sample;
use profiler_core::units::bytes;
use profiler_sampling::{LONGEST_SLICE, LONGEST_WHOLE_STOP, Sampler, SamplingOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let pid = arguments.next().ok_or("which process? give its number")?;
    let rounds: u32 = arguments.next().map_or(Ok(3), |rounds| rounds.parse())?;
    let sampler = Sampler::open(pid.parse()?)?;
    for _ in 0..rounds {
        for slices in [false, true] {
            let began = Instant::now();
            let sample = sampler.take(SamplingOptions {
                stop: true,
                swap_in: false,
                max_stop: match slices {
                    true => LONGEST_SLICE,
                    false => LONGEST_WHOLE_STOP,
                },
                slices,
                max_walk: None,
            })?;
            print(&sample, began.elapsed());
        }
    }
    Ok(())
}

fn print(sample: &Sample, took: Duration) {
    let of = &sample.completeness;
    let stop_ms = of.stop_ns as f64 / 1e6;
    let gib = sample.kernel.rss_bytes as f64 / f64::from(1 << 30);
    let how = match of.stand_still {
        StandStill::InSlices(slices) => slices.described(),
        other => format!("{other:?}"),
    };
    println!(
        "{how}\n  stopped {stop_ms:.1} ms in all, {:.0} ms a GiB; walk {:.1} ms, took {took:.1?}",
        stop_ms / gib,
        of.walk_ns as f64 / 1e6
    );
    for heap in &sample.heaps {
        let sum = |figure: fn(&profiler_core::heap::Arena) -> u64| heap.total(figure);
        println!(
            "  {}: {} live in {}, {} free, {} cached, {:?}; {}",
            heap.allocator,
            bytes(sum(|arena| arena.live_bytes)),
            sum(|arena| arena.live_blocks),
            bytes(sum(|arena| arena.free_bytes + arena.top_bytes)),
            bytes(sum(|arena| arena.cached_bytes)),
            heap.confidence,
            mismatches(heap)
        );
        let broken = heap.check();
        assert!(broken.is_empty(), "{broken:?}");
    }
    for defect in &of.defects {
        println!("  defect: {}, {} bytes", defect.what, defect.bytes);
    }
}

fn mismatches(heap: &HeapSnapshot) -> String {
    let off = heap.checks.iter().filter(|check| !check.holds());
    let words = off.map(
        |CrossCheck {
             name,
             expected,
             found,
         }| { format!("{name} {found} of {expected}") },
    );
    words.collect::<Vec<_>>().join(", ")
}

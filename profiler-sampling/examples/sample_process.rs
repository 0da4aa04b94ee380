//! Samples a process once and prints its heaps. The process stops for a few milliseconds; nothing
//! is executed in it.
//!
//! ```text
//! cargo run -p profiler-sampling --example sample_process -- PID
//! ```

use std::error::Error;
use std::time::Duration;

use profiler_core::report::FragReport;
use profiler_core::units::bytes;
use profiler_sampling::{Sampler, SamplingOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let pid = std::env::args()
        .nth(1)
        .ok_or("which process? give its number")?;
    let sample = Sampler::open(pid.parse()?)?.take(SamplingOptions {
        stop: true,
        swap_in: false,
        max_stop: Duration::from_secs(2),
        slices: false,
        max_walk: None,
    })?;
    let stop = Duration::from_nanos(sample.completeness.stop_ns);
    println!(
        "RSS {}, stopped for {stop:.1?}",
        bytes(sample.kernel.rss_bytes)
    );
    for heap in &sample.heaps {
        println!(
            "{} {}: {} live in {} blocks, {} free",
            heap.allocator,
            heap.version,
            bytes(heap.total(|arena| arena.live_bytes)),
            heap.total(|arena| arena.live_blocks),
            bytes(heap.total(|arena| arena.free_bytes + arena.top_bytes)),
        );
    }
    for finding in FragReport::from_sample(&sample).findings {
        println!("{}", finding.claim);
    }
    Ok(())
}

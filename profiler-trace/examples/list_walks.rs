//! Lists the walks of a saved session.
//!
//! ```text
//! cargo run -p profiler-trace --example list_walks -- FILE.fragsnap
//! ```

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use profiler_core::units::bytes;
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::snapshot::{Reader, Record};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("which session? give its path")?;
    let meter = Meter::new(Limits::default(), Arc::default());
    let mut reader = Reader::new(BufReader::new(File::open(path)?), meter.clone())?;
    while let Some(record) = reader.next_record()? {
        let Record::Walk { sample, .. } = record else {
            continue;
        };
        let sample = sample.sample(&meter)?;
        let live = |heap: &profiler_core::heap::HeapSnapshot| heap.total(|arena| arena.live_bytes);
        println!(
            "{:.3} s: RSS {}, live {} in {} heaps",
            sample.taken_at_ns as f64 / 1e9,
            bytes(sample.kernel.rss_bytes),
            bytes(sample.heaps.iter().map(live).sum()),
            sample.heaps.len(),
        );
    }
    if let Some(trouble) = reader.trouble() {
        println!("{trouble}");
    }
    Ok(())
}

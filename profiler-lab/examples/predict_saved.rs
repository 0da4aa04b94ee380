//! Predicts what the last walk of a saved session would need under other allocators and settings.
//!
//! ```text
//! cargo run -p profiler-lab --example predict_saved -- FILE.fragsnap
//! ```

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use profiler_core::units::bytes;
use profiler_lab::predict::predict;
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::snapshot::{Reader, Record};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("which session? give its path")?;
    let meter = Meter::new(Limits::default(), Arc::default());
    let mut reader = Reader::new(BufReader::new(File::open(path)?), meter.clone())?;
    let mut last = None;
    while let Some(record) = reader.next_record()? {
        if let Record::Walk { sample, .. } = record {
            last = Some(sample.sample(&meter)?);
        }
    }
    let sample = last.ok_or("the session has no walk")?;
    let predictions = predict(&sample, None, &Arc::default(), &|_| {});
    if let Some(check) = predictions.self_check {
        println!(
            "malloc's heap: {}, replayed: {}",
            bytes(check.measured_bytes),
            bytes(check.predicted_bytes)
        );
    }
    for prediction in &predictions.candidates {
        match prediction.needs {
            Some(needs) => println!(
                "{}: {} ({} to {})",
                prediction.candidate,
                bytes(needs.bytes),
                bytes(needs.low_bytes),
                bytes(needs.high_bytes)
            ),
            None => println!("{}: unknown", prediction.candidate),
        }
    }
    if let Some(why) = predictions.trouble {
        println!("{why}");
    }
    Ok(())
}

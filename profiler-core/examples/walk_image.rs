//! Walks a made-up glibc heap and prints where its bytes are: the core needs no process, only memory and
//! the state of its pages.
//!
//! ```text
//! cargo run -p profiler-core --example walk_image
//! ```

use profiler_core::glibc;
use profiler_core::report::{FragReport, LedgerRow};
use profiler_core::sample::{KernelCount, Sample};
use profiler_testing::images::glibc::{Chunk, context, with_chunks};

fn main() {
    // Every other chunk is free: what a burst leaves behind that freed in no particular order.
    let chunks: Vec<_> = (0..10_000)
        .flat_map(|_| [(0x90, Chunk::Live), (0x110, Chunk::Free)])
        .collect();
    let image = with_chunks(&chunks);
    let residency = image.residency();
    let heap = image.walk(|memory, residency| glibc::walk(memory, residency, &context()));
    let heap = heap.expect("the image is sound");
    println!(
        "glibc {}: {} checks, confidence {:?}",
        heap.version,
        heap.checks.len(),
        heap.confidence
    );

    let sample = Sample {
        kernel: KernelCount {
            rss_bytes: residency.resident_bytes(),
            ..KernelCount::default()
        },
        residency,
        heaps: vec![heap],
        ..Sample::default()
    };
    let report = FragReport::from_sample(&sample);
    for row in report.ledger.iter().filter(|row| row.resident_bytes > 0) {
        let [resident, ..] = LedgerRow::COLUMNS;
        println!("{}  {}", resident.cell(row), row.class.name());
    }
    for finding in &report.findings {
        println!("{}", finding.claim);
    }
}

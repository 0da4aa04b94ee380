//! Counts the Python objects of a process by type and prints which names hold most of them. Reads
//! from outside; nothing is executed in the process.
//!
//! ```text
//! cargo run --release -p profiler-sampling --example census_process -- PID
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use profiler_core::columns::cells;
use profiler_core::objects::{Holder, TypeRow};
use profiler_core::units::{bytes, count};
use profiler_sampling::{Sampler, SamplingOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let pid = std::env::args()
        .nth(1)
        .ok_or("which process? give its number")?;
    let sampler = Sampler::open(pid.parse()?)?;
    let options = SamplingOptions {
        stop: true,
        swap_in: false,
        max_stop: Duration::from_secs(2),
        slices: false,
        max_walk: None,
    };
    let sample = sampler.take(options)?;
    let began = Instant::now();
    let census = sampler.census(&sample, None, options)?;
    println!(
        "{} in {} blocks, {} references, {:.1?}; {} named",
        bytes(census.live.bytes),
        count(census.live.blocks),
        count(census.references),
        began.elapsed(),
        bytes(census.typed_bytes())
    );
    for share in &census.shares {
        println!(
            "{}: {} of {} named",
            share.allocator,
            bytes(share.named.bytes),
            bytes(share.live.bytes)
        );
    }
    println!(
        "spare {}, unreadable {}, unreached {} in {}, changed {}",
        bytes(census.spare.bytes),
        bytes(census.unreadable.bytes),
        bytes(census.unreached.bytes),
        count(census.unreached.blocks),
        count(census.changed)
    );
    for row in census.types.iter().take(25) {
        println!("{} {}", cells(&TypeRow::SHOWN, row, " "), row.name);
    }
    for holder in census.holders.iter().take(25) {
        println!(
            "{} {} {}",
            Holder::HELD.cell(holder),
            holder.name,
            holder.type_name.as_deref().unwrap_or("-")
        );
    }
    Ok(())
}

//! Counts the events of a recording: ours, or one of another tool that can be read.
//!
//! ```text
//! cargo run -p profiler-trace --example count_events -- FILE
//! ```

use std::error::Error;
use std::fs::File;
use std::sync::Arc;

use profiler_trace::interchange;
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::trace::{EventKind, Item, pass_on};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("which recording? give its path")?;
    let meter = Meter::new(Limits::default(), Arc::default());
    let mut source = interchange::read(File::open(path)?, &meter)?;
    let (mut allocations, mut frees, mut others, mut requested) = (0u64, 0u64, 0u64, 0u64);
    let cut_off = pass_on(&mut *source, |item| {
        match item {
            Item::Event(event) => match event.kind {
                EventKind::Alloc { bytes, .. } => {
                    allocations += 1;
                    requested = requested.saturating_add(bytes);
                }
                EventKind::Free { .. } => frees += 1,
                _ => others += 1,
            },
            Item::Seed(_) | Item::Checkpoint(_) => {}
        }
        Ok(())
    })?;
    println!(
        "{allocations} allocations of {requested} bytes, {frees} frees, {others} other events"
    );
    if let Some(cut_off) = cut_off {
        println!("{cut_off}");
    }
    Ok(())
}

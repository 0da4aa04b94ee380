//! The live heap as reconstructed from events, and totals of the events.

mod heap;
mod tracker;

pub use heap::{LiveBlock, LiveHeap};
pub use tracker::Tracker;

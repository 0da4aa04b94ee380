//! The live heap as the events describe it, and what the events add up to.

mod heap;
mod tracker;

pub use heap::{LiveBlock, LiveHeap};
pub use tracker::Tracker;

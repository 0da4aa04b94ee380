//! A walked heap as a program: what a player allocates and frees to get such a heap.
//!
//! Any allocator would pack the surviving blocks alone densely. Allocators differ in what the real
//! history leaves between them. So each gap is filled with blocks that may once have been there,
//! and these are freed again after everything is allocated. `docs/prediction.md` says what was
//! tried.

mod blocks;
mod history;
mod write;

pub use self::blocks::{WalkedHeap, measured_bytes};
pub use self::history::{Fill, FillThreads, FreeOrder, LargeGaps, Overlap};
pub use self::write::{MOST_OF_IDLE, SeedOptions, Written, write};

#[cfg(test)]
mod tests;

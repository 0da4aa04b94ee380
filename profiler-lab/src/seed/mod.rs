//! A heap that was walked, as a program: what a player allocates and frees to have such a heap.
//!
//! Survivors alone would be packed densely by any allocator. What the real history left between them
//! is what allocators differ in; so each gap is filled with blocks that may once have been there, and
//! these are freed again once everything is allocated. `docs/prediction.md` says what was tried.

mod blocks;
mod history;
mod write;

pub use self::blocks::{WalkedHeap, measured_bytes};
pub use self::history::{Fill, FillThreads, FreeOrder, LargeGaps, Overlap};
pub use self::write::{MOST_OF_IDLE, SeedOptions, Written, write};

#[cfg(test)]
mod tests;

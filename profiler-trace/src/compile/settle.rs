//! How a heap settles by itself: thresholds that have grown, and time that passes in a program with
//! little to do.

use std::io;

use profiler_common::program::{Only, Op, OpCode};

use super::{Sink, free, op, touch};

/// How long the program continues, in steps of a second: jemalloc and mimalloc have purged by then
/// (`dirty_decay_ms` is 10 s, `muzzy_decay_ms` 0).
const STEPS: u64 = 25;
const STEP_NS: u64 = 1_000_000_000;
/// How far [`settle`] moves the player's clock, in ns.
pub(super) const SETTLING_NS: u64 = STEPS * STEP_NS;
/// How many blocks, too large for jemalloc's thread caches, are allocated and freed in a step:
/// jemalloc reads its clock once in a thousand operations (`ARENA_DECAY_NTICKS_PER_UPDATE`).
const BLOCKS: u32 = 1_100;
/// jemalloc caches blocks of up to 32 KiB (`tcache_max`).
const BLOCK_BYTES: u64 = 40 << 10;
/// The most threads that continue.
const MAX_THREADS: usize = 64;

/// Sets glibc's `mmap_threshold` to this value with a block that passes through `slot`: the
/// threshold follows the largest block with its own mapping that was freed (`free` in
/// `malloc/malloc.c`).
///
/// # Errors
/// Those of the sink.
pub fn set_mmap_threshold<S: Sink + ?Sized>(bytes: u64, slot: u32, sink: &mut S) -> io::Result<()> {
    // With its header and rounded to pages, the chunk has `bytes`.
    let alloc = op(OpCode::ALLOC, bytes.saturating_sub(32), slot);
    for op in [touch(0), alloc, free(slot)] {
        sink.push(Op {
            only: Only::C_LIBRARY,
            ..op
        })?;
    }
    Ok(())
}

/// Has `threads` allocate and free in `slot` for 25 s after `since_ns`, like a program that
/// continues: allocators that purge over time check their clocks when they are called. Afterwards
/// it is the turn of thread `next`.
///
/// # Errors
/// Those of the sink.
pub fn settle(
    threads: &[u32],
    slot: u32,
    since_ns: u64,
    next: u32,
    sink: &mut impl Sink,
) -> io::Result<()> {
    let threads = &threads[..threads.len().min(MAX_THREADS)];
    for step in 1..=STEPS {
        let clock_ns = since_ns.saturating_add(step * STEP_NS);
        sink.push(op(OpCode::CLOCK, clock_ns, 0))?;
        for thread in threads {
            sink.push(op(OpCode::SWITCH, 0, *thread))?;
            for _ in 0..BLOCKS {
                let block = [
                    touch(0),
                    op(OpCode::ALLOC, BLOCK_BYTES, slot),
                    op(OpCode::FREE, 0, slot),
                ];
                for op in block {
                    sink.push(Op {
                        only: Only::OTHERS,
                        ..op
                    })?;
                }
            }
        }
    }
    sink.push(op(OpCode::SWITCH, 0, next)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_a_file_claims_cannot_overflow() {
        let mut ops: Vec<Op> = Vec::new();
        settle(&[0], 0, u64::MAX - STEP_NS, 0, &mut ops).expect("a Vec has room");
        let times = ops.iter().filter(|op| op.code == OpCode::CLOCK);
        let times: Vec<u64> = times.map(|op| op.value).collect();
        assert_eq!(times.len() as u64, STEPS);
        assert_eq!(times.last(), Some(&u64::MAX));
    }
}

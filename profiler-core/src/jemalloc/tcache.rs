//! Thread caches: free blocks that threads keep for reuse. jemalloc links all caches of an arena
//! for its statistics, including those that a program created itself (`tcache.create`), so no list
//! of threads is needed.

use std::collections::HashSet;

use super::bytes::{Bytes, word_at};
use super::layout::TcacheLayout;
use crate::allocator::jemalloc_classes::BINS;
use crate::memory::TargetMemory;

/// The most caches followed per arena: no process has more threads (`PID_MAX_LIMIT` is 4 Mi).
const MAX_CACHES: usize = 1 << 20;
/// The most blocks of all caches together.
const MAX_BLOCKS: usize = 1 << 26;
/// The largest number of entries in a bin's stack (`CACHE_BIN_NCACHED_MAX` of 5.3).
const MAX_STACK: u64 = 1 << 13;
/// Bytes of a cache bin, in all releases.
const BIN: u64 = 24;
/// Bins for large blocks that are read before 5.3: up to 8 MiB (`lg_tcache_max`), as in 5.3.
const LARGE_BINS: u64 = 37;

/// The cached blocks.
#[derive(Default)]
pub(super) struct Cached {
    /// Their addresses, ascending, each once.
    pub(super) blocks: Vec<u64>,
    /// How many caches there are.
    pub(super) caches: usize,
    /// Caches, bins or lists that are unreadable or implausible: their blocks count as live.
    pub(super) broken: u64,
}

/// Collects the caches of all arenas, given the first cache of each.
pub(super) fn gather<M: TargetMemory>(
    memory: &M,
    layout: &TcacheLayout,
    firsts: impl Iterator<Item = u64>,
) -> Cached {
    let mut cached = Cached::default();
    let mut seen = HashSet::new();
    for first in firsts {
        let mut at = first;
        while at != 0 && seen.insert(at) {
            if seen.len() > MAX_CACHES {
                cached.broken += 1;
                break;
            }
            let Some(next) = cache(memory, layout, at, &mut cached) else {
                cached.broken += 1;
                break;
            };
            at = next;
        }
        // A ring (`ql.h`) ends where it began.
        if at != first {
            cached.broken += 1;
        }
    }
    cached.caches = seen.len();
    cached.blocks.sort_unstable();
    let all = cached.blocks.len();
    cached.blocks.dedup();
    cached.broken += (all - cached.blocks.len()) as u64;
    cached
}

/// Takes the blocks of one cache; gives the next in the ring.
fn cache<M: TargetMemory>(
    memory: &M,
    layout: &TcacheLayout,
    at: u64,
    cached: &mut Cached,
) -> Option<u64> {
    let field = |offset: u64| word_at(memory, at.checked_add(offset)?);
    match *layout {
        TcacheLayout::Inside { link, small, large } => {
            bins(memory, at.checked_add(small)?, BINS as u64, upwards, cached);
            bins(memory, at.checked_add(large)?, LARGE_BINS, upwards, cached);
            field(link)
        }
        TcacheLayout::Described => {
            bins(memory, field(16)?, BINS as u64, upwards, cached);
            bins(memory, field(24)?, LARGE_BINS, upwards, cached);
            field(0)
        }
        TcacheLayout::Stacks { bins: count } => {
            bins(memory, field(16)?, count, downwards, cached);
            field(0)
        }
    }
}

/// The list of a bin's blocks: the address of the first entry and the number of entries.
type Stack = fn(&Bytes, u64) -> (u64, u64);

/// To 5.2: `ncached` of them below `avail`. A bin that was emptied may say -1.
fn upwards(bins: &Bytes, at: u64) -> (u64, u64) {
    let count = bins.half(at + 4);
    let count = if count as i32 > 0 {
        u64::from(count)
    } else {
        0
    };
    (bins.word(at + 16).wrapping_sub(8 * count), count)
}

/// 5.3: from `stack_head` up to where the low 16 bits are `low_bits_empty`.
fn downwards(bins: &Bytes, at: u64) -> (u64, u64) {
    let head = bins.word(at);
    let empty = (bins.half(at + 20) & 0xffff) as u16;
    (head, u64::from(empty.wrapping_sub(head as u16)) / 8)
}

fn bins<M: TargetMemory>(memory: &M, at: u64, count: u64, stack: Stack, cached: &mut Cached) {
    let bins = Bytes::read(memory, at, count * BIN);
    cached.broken += u64::from(bins.unreadable > 0 || bins.bytes.is_empty());
    for i in 0..count {
        let (first, count) = stack(&bins, i * BIN);
        if first == 0 || count == 0 {
            continue;
        }
        if count > MAX_STACK || cached.blocks.len() > MAX_BLOCKS {
            cached.broken += 1;
            continue;
        }
        let blocks = Bytes::read(memory, first, 8 * count);
        cached.broken += u64::from(blocks.unreadable > 0 || blocks.bytes.is_empty());
        let blocks = (0..count).map(|i| blocks.word(8 * i));
        cached.blocks.extend(blocks.filter(|&block| block != 0));
    }
}

//! Blocks known to be live, by address.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry as Slot;
use hashbrown::{DefaultHashBuilder, HashTable};

use profiler_common::PID_BITS;

use crate::addr::RemoteAddr;

/// Shards grow one at a time, so that growing never needs two copies of all blocks.
const SHARDS: usize = 64;
const TID_LOW_BITS: u32 = 17;
const TID_HIGH_BITS: u32 = PID_BITS - TID_LOW_BITS;
const MAX_BYTES: u64 = u64::MAX >> TID_LOW_BITS;
const MAX_TIME: u64 = u64::MAX >> TID_HIGH_BITS;

/// What is known of one live block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct LiveBlock {
    /// Its size in bytes, as in its event; at most 2^47 - 1.
    pub bytes: u64,
    /// When it was allocated, in ns on the monotonic clock; at most 2^59 - 1 (18 years).
    pub time_ns: u64,
    /// The thread that allocated it, by the kernel's thread id.
    pub tid: u32,
}

/// 24 bytes: with one control byte and a load between 7/16 and 7/8, at most 58 bytes a block.
struct Entry {
    addr: u64,
    time_and_tid: u64,
    bytes_and_tid: u64,
}

impl Entry {
    fn new(addr: u64, block: LiveBlock) -> Self {
        let tid = u64::from(block.tid) & ((1 << PID_BITS) - 1);
        Self {
            addr,
            time_and_tid: block.time_ns.min(MAX_TIME) << TID_HIGH_BITS | tid >> TID_LOW_BITS,
            bytes_and_tid: block.bytes.min(MAX_BYTES) << TID_LOW_BITS
                | tid & ((1 << TID_LOW_BITS) - 1),
        }
    }

    fn block(&self) -> LiveBlock {
        let high = self.time_and_tid & ((1 << TID_HIGH_BITS) - 1);
        let low = self.bytes_and_tid & ((1 << TID_LOW_BITS) - 1);
        LiveBlock {
            bytes: self.bytes_and_tid >> TID_LOW_BITS,
            time_ns: self.time_and_tid >> TID_HIGH_BITS,
            tid: (high << TID_LOW_BITS | low) as u32,
        }
    }
}

/// Blocks allocated and not yet freed, as far as the events show. It uses at most 64 bytes of
/// memory per block and never keeps more blocks than the cap; rejected blocks are counted.
pub struct LiveHeap {
    shards: Vec<HashTable<Entry>>,
    /// Seeded randomly for each heap, because the target chooses the addresses.
    hasher: DefaultHashBuilder,
    blocks: u64,
    bytes: u64,
    max_blocks: u64,
    untracked: u64,
}

impl LiveHeap {
    /// An empty heap that holds at most `max_blocks`.
    pub fn new(max_blocks: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            hasher: DefaultHashBuilder::default(),
            blocks: 0,
            bytes: 0,
            max_blocks,
            untracked: 0,
        }
    }

    /// Records that `block` lives at `addr`. Returns the block that was believed to live there: its
    /// free was not seen.
    pub fn insert(&mut self, addr: RemoteAddr, block: LiveBlock) -> Option<LiveBlock> {
        let full = self.blocks >= self.max_blocks;
        let (hash, shard) = self.place(addr.get());
        let hasher = &self.hasher;
        let entry = Entry::new(addr.get(), block);
        let bytes = entry.block().bytes;
        match self.shards[shard].entry(hash, |e| e.addr == entry.addr, |e| hasher.hash_one(e.addr))
        {
            Slot::Occupied(mut slot) => {
                let old = std::mem::replace(slot.get_mut(), entry).block();
                self.bytes = self.bytes - old.bytes + bytes;
                Some(old)
            }
            Slot::Vacant(_) if full => {
                self.untracked += 1;
                None
            }
            Slot::Vacant(slot) => {
                slot.insert(entry);
                self.blocks += 1;
                self.bytes += bytes;
                None
            }
        }
    }

    /// Takes out the block at `addr`; `None` when none is known there.
    pub fn remove(&mut self, addr: RemoteAddr) -> Option<LiveBlock> {
        let (hash, shard) = self.place(addr.get());
        let slot = self.shards[shard]
            .find_entry(hash, |e| e.addr == addr.get())
            .ok()?;
        let (entry, _) = slot.remove();
        let block = entry.block();
        self.blocks -= 1;
        self.bytes -= block.bytes;
        Some(block)
    }

    /// Forgets all blocks; keeps the memory for the next ones, and the count of those turned away.
    pub fn clear(&mut self) {
        self.shards.iter_mut().for_each(HashTable::clear);
        self.blocks = 0;
        self.bytes = 0;
    }

    /// Blocks known to be live.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Blocks rejected because of the cap, since the heap was made.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Bytes of memory that this heap itself takes.
    pub fn own_bytes(&self) -> usize {
        size_of::<Self>()
            + self
                .shards
                .iter()
                .map(|s| size_of::<HashTable<Entry>>() + s.allocation_size())
                .sum::<usize>()
    }

    /// Hash and shard of an address. The table uses the hash's lowest and topmost bits itself.
    fn place(&self, addr: u64) -> (u64, usize) {
        let hash = self.hasher.hash_one(addr);
        (hash, (hash >> 40) as usize % SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(bytes: u64) -> LiveBlock {
        LiveBlock {
            bytes,
            time_ns: bytes * 3,
            tid: 7,
        }
    }

    proptest! {
        #[test]
        fn packing_keeps_every_field(addr: u64, bytes in 0..=MAX_BYTES, time_ns in 0..=MAX_TIME, tid in 0u32..1 << PID_BITS) {
            let block = LiveBlock { bytes, time_ns, tid };
            prop_assert_eq!(Entry::new(addr, block).block(), block);
        }

        #[test]
        fn agrees_with_a_plain_map(steps in proptest::collection::vec((0u64..40, 0u64..5000, any::<bool>()), 0..400)) {
            let mut heap = LiveHeap::new(u64::MAX);
            let mut plain = std::collections::BTreeMap::new();
            for (slot, bytes, alloc) in steps {
                let addr = RemoteAddr::new(slot * 16);
                if alloc {
                    prop_assert_eq!(heap.insert(addr, block(bytes)), plain.insert(addr, block(bytes)));
                } else {
                    prop_assert_eq!(heap.remove(addr), plain.remove(&addr));
                }
                prop_assert_eq!(heap.blocks(), plain.len() as u64);
                prop_assert_eq!(heap.bytes(), plain.values().map(|b| b.bytes).sum::<u64>());
            }
        }
    }

    #[test]
    fn sizes_and_times_beyond_the_packing_saturate() {
        let huge = LiveBlock {
            bytes: u64::MAX,
            time_ns: u64::MAX,
            tid: (1 << PID_BITS) - 1,
        };
        let kept = Entry::new(16, huge).block();
        assert_eq!((kept.bytes, kept.time_ns), (MAX_BYTES, MAX_TIME));
        assert_eq!(kept.tid, huge.tid);
    }

    #[test]
    fn the_cap_turns_blocks_away_and_counts_them() {
        let mut heap = LiveHeap::new(2);
        for i in 0..5 {
            heap.insert(RemoteAddr::new(i * 16), block(8));
        }
        assert_eq!((heap.blocks(), heap.bytes(), heap.untracked()), (2, 16, 3));
        assert!(heap.insert(RemoteAddr::new(0), block(9)).is_some());
        assert_eq!((heap.bytes(), heap.untracked()), (17, 3));
        assert!(heap.remove(RemoteAddr::new(64)).is_none());
        heap.clear();
        assert_eq!((heap.blocks(), heap.bytes(), heap.untracked()), (0, 0, 3));
    }

    #[test]
    fn a_block_costs_at_most_64_bytes_once_there_are_many() {
        let mut heap = LiveHeap::new(u64::MAX);
        for i in 1..=600_000u64 {
            heap.insert(RemoteAddr::new(i * 48), block(40));
            if i % 1000 == 0 && i >= 50_000 {
                assert!(
                    heap.own_bytes() as u64 <= 64 * i,
                    "{} at {i}",
                    heap.own_bytes()
                );
            }
        }
    }
}

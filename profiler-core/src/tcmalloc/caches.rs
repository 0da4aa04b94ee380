//! Blocks in threads' caches and in the slots of transfer caches.
//!
//! Sources: `src/thread_cache.h`, `src/central_freelist.h`, `src/linked_list.h` of gperftools 2.10.

use std::collections::BTreeSet;

use crate::addr::RemoteAddr;
use crate::memory::{PageCache, TargetMemory};

use super::layout::{CLASSES, Class, Statics};

/// `sizeof(ThreadCache)`, and the offsets of its parts after the free lists.
const THREAD_CACHE: usize = 4160;
const FREE_LIST: usize = 32;
const SIZE: usize = FREE_LIST * CLASSES;
const NEXT: usize = 4144;
const PREV: usize = 4152;
/// The most attempts to read thread caches.
const MAX_CACHE_READS: usize = 1 << 14;
/// The most blocks of one list, and of all lists.
const MAX_LIST: u64 = 1 << 20;
const MAX_BLOCKS: usize = 1 << 24;

/// A block in a cache.
#[derive(Copy, Clone, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct CachedBlock {
    pub(super) addr: u64,
    pub(super) class: u8,
    /// In a slot of a transfer cache, and not in a thread's cache.
    pub(super) transfer: bool,
}

/// The contents of all caches.
#[derive(Default)]
pub(super) struct Caches {
    /// Ascending by address, none twice.
    pub(super) blocks: Vec<CachedBlock>,
    pub(super) threads: u64,
    /// Sum of `size_` of threads' caches: their bytes by their own account.
    pub(super) thread_bytes: u64,
    /// Lists that ended early or late, and blocks that were in two lists.
    pub(super) damaged: u64,
}

struct ThreadCache {
    bytes: [u8; THREAD_CACHE],
}

impl ThreadCache {
    /// A thread's cache has the size of each class in its lists.
    fn read<M: TargetMemory>(memory: &M, at: u64, classes: &[Class]) -> Option<Self> {
        let bytes = memory.read_value(RemoteAddr::new(at)).ok()?;
        let cache = Self { bytes };
        let mut sizes = classes.iter().zip((0..).step_by(FREE_LIST));
        let sound = sizes.all(|(class, list)| u64::from(cache.half(list + 24)) == class.size);
        sound.then_some(cache)
    }

    fn word(&self, at: usize) -> u64 {
        let word = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        word.map_or(0, |word| u64::from_le_bytes(*word))
    }

    fn half(&self, at: usize) -> u32 {
        self.word(at) as u32
    }
}

/// `thread_heaps_`: the longest complete list of thread caches that begins at one of the pointers.
/// (A pointer to a cache that was freed, in its allocator's free list, leads nowhere.)
fn thread_caches<M: TargetMemory>(memory: &M, statics: &Statics) -> Vec<ThreadCache> {
    let pointers: BTreeSet<u64> = statics.pointers.iter().copied().collect();
    let mut longest = Vec::new();
    let mut left = MAX_CACHE_READS;
    for first in pointers {
        let mut list: Vec<ThreadCache> = Vec::new();
        let (mut at, mut before) = (first, 0);
        while at != 0 && left > 0 {
            left -= 1;
            let cache = ThreadCache::read(memory, at, &statics.classes);
            let Some(cache) = cache.filter(|cache| cache.word(PREV) == before) else {
                list.clear();
                break;
            };
            before = at;
            at = cache.word(NEXT);
            list.push(cache);
        }
        if list.len() > longest.len() {
            longest = list;
        }
    }
    longest
}

impl Caches {
    pub(super) fn read<M: TargetMemory>(memory: &M, statics: &Statics) -> Self {
        let memory = &PageCache::new(memory);
        let mut caches = Self::default();
        for (number, class) in (0u8..).zip(&statics.classes).skip(1) {
            for head in &class.slots {
                caches.follow(memory, *head, class.batch, (number, true));
            }
        }
        for cache in thread_caches(memory, statics) {
            caches.threads += 1;
            caches.thread_bytes += u64::from(cache.half(SIZE));
            for class in 1..statics.classes.len() {
                let list = FREE_LIST * class;
                let length = u64::from(cache.half(list + 8));
                caches.follow(memory, cache.word(list), length, (class as u8, false));
            }
        }
        caches.blocks.sort_unstable();
        let all = caches.blocks.len();
        caches.blocks.dedup_by_key(|block| block.addr);
        caches.damaged += (all - caches.blocks.len()) as u64;
        caches
    }

    /// Adds a list of `length` blocks of a class.
    fn follow<M: TargetMemory>(
        &mut self,
        memory: &M,
        head: u64,
        length: u64,
        (class, transfer): (u8, bool),
    ) {
        let mut at = head;
        let mut count = 0;
        while at != 0 && count < length.min(MAX_LIST) && self.blocks.len() < MAX_BLOCKS {
            let Ok(next) = memory.read_value::<u64>(RemoteAddr::new(at)) else {
                break;
            };
            self.blocks.push(CachedBlock {
                addr: at,
                class,
                transfer,
            });
            count += 1;
            at = next;
        }
        self.damaged += u64::from(count != length || at != 0);
    }
}

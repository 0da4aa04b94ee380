//! The arena each thread allocates from: glibc's thread-local variable `thread_arena`
//! (`malloc/arena.c`), at the same distance from the thread pointer in all threads. A majority vote
//! determines the distance.

use std::collections::{BTreeMap, HashMap};

use super::state::word_at;
use super::tcache::tls_block;
use crate::addr::{PAGE_SIZE, RemoteAddr};
use crate::heap::Arena;
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;
use crate::threads::Thread;

/// The arenas that threads use, as thread and [`Arena::id`]. A thread that never allocated has none.
pub fn thread_arenas<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    arenas: &[Arena],
    threads: &[Thread],
) -> Vec<(u32, u32)> {
    let ids: HashMap<u64, u32> = arenas.iter().map(|a| (a.addr.get(), a.id)).collect();
    let mut by_distance: BTreeMap<u64, Vec<(u32, u32)>> = BTreeMap::new();
    for thread in threads {
        let Some(block) = tls_block(residency, thread.thread_pointer) else {
            continue;
        };
        let mut bytes = vec![0; block.range.len() as usize];
        for (i, page) in bytes.chunks_mut(PAGE_SIZE as usize).enumerate() {
            // Unreadable words stay zero, and zero is not an arena.
            let at = block.range.start().get() + i as u64 * PAGE_SIZE;
            if memory.read(RemoteAddr::new(at), page).is_err() {
                page.fill(0);
            }
        }
        for at in (0..block.range.len()).step_by(8) {
            if let Some(&id) = ids.get(&word_at(&bytes, at)) {
                let found = by_distance.entry(block.distance(at)).or_default();
                found.push((thread.tid, id));
            }
        }
    }
    let most = by_distance.into_values().max_by_key(Vec::len);
    most.unwrap_or_default()
}

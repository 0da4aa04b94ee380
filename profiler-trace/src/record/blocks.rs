//! Which blocks of a process are live, so that its events are consistent even if some were lost.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::trace::{By, EventKind, SeedBlock};

/// Tracks which blocks are live: a free is of a live block, an allocation is at an address without
/// one.
///
/// glibc frees the blocks of a thread's cache once more when the thread ends; these frees, and
/// those of blocks whose allocation was lost, belong to no known block and are left out.
#[derive(Clone, Debug)]
pub(super) struct LiveBlocks {
    live: HashSet<u64>,
    /// Bytes of the blocks of the seed that still live, by address.
    seed: BTreeMap<u64, u64>,
    /// The block that each thread reallocates, by the trace's number of the thread.
    resized: HashMap<u32, Gone>,
    unknown_frees: u64,
}

/// A block that is no longer live, or will not be once its realloc succeeds.
#[derive(Copy, Clone, Debug)]
struct Gone {
    /// Its address in the trace.
    addr: u64,
    /// Its bytes, if it is from the seed.
    seeded: Option<u64>,
}

impl LiveBlocks {
    /// The live blocks of the seed.
    pub(super) fn new(seed: &[SeedBlock]) -> Self {
        let live = seed.iter().filter(|block| block.live);
        let seed: BTreeMap<u64, u64> = live.map(|block| (block.addr, block.bytes)).collect();
        Self {
            live: seed.keys().copied().collect(),
            seed,
            resized: HashMap::new(),
            unknown_frees: 0,
        }
    }

    /// Frees of no block that was known.
    pub(super) fn unknown_frees(&self) -> u64 {
        self.unknown_frees
    }

    /// Emits what one event of a thread becomes.
    pub(super) fn apply(&mut self, thread: u32, kind: EventKind, mut emit: impl FnMut(EventKind)) {
        if let EventKind::Lost { .. } = kind {
            // The end of a realloc may not be among them.
            return emit(kind);
        }
        let resized = self.end_of_realloc(thread, kind, &mut emit);
        match kind {
            EventKind::Alloc {
                addr,
                bytes,
                align,
                by,
            } => {
                if !self.live.insert(addr) {
                    self.seed.remove(&addr);
                    // Its free was lost, or the walk already saw the block that a thread was being
                    // given.
                    emit(EventKind::Free { addr });
                }
                let is_new = by == By::Realloc && resized.is_none();
                emit(EventKind::Alloc {
                    addr,
                    bytes,
                    align,
                    by: if is_new { By::Malloc } else { by },
                });
            }
            EventKind::Free { addr } => match self.free(addr) {
                Some(gone) => emit(EventKind::Free { addr: gone.addr }),
                None => self.unknown_frees += 1,
            },
            EventKind::Realloc { addr } => match self.free(addr) {
                Some(gone) => {
                    self.resized.insert(thread, gone);
                    emit(EventKind::Realloc { addr: gone.addr });
                }
                None => self.unknown_frees += 1,
            },
            EventKind::Kept { .. } => {
                if let Some(Gone { addr, seeded }) = resized {
                    self.live.insert(addr);
                    self.seed.extend(seeded.map(|bytes| (addr, bytes)));
                    emit(EventKind::Kept { addr });
                }
            }
            EventKind::Exec => {
                let unknown_frees = self.unknown_frees;
                *self = Self::new(&[]);
                self.unknown_frees = unknown_frees;
                emit(kind);
            }
            other => emit(other),
        }
    }

    /// The block that the thread was reallocating, if this event ends that.
    fn end_of_realloc(
        &mut self,
        thread: u32,
        kind: EventKind,
        mut emit: impl FnMut(EventKind),
    ) -> Option<Gone> {
        // A thread that allocates is hardly ever inside a realloc.
        if self.resized.is_empty() {
            return None;
        }
        let resized = self.resized.remove(&thread)?;
        let ends_it = matches!(
            kind,
            EventKind::Kept { .. }
                | EventKind::Alloc {
                    by: By::Realloc,
                    ..
                }
        );
        if !ends_it {
            // Its end was lost: the block is gone.
            emit(EventKind::Kept { addr: resized.addr });
            emit(EventKind::Free { addr: resized.addr });
        }
        Some(resized)
    }

    /// A block lives no more, if one is known there.
    fn free(&mut self, addr: u64) -> Option<Gone> {
        if self.live.remove(&addr) {
            let seeded = self.seed.remove(&addr);
            return Some(Gone { addr, seeded });
        }
        // A walk knows where a block is, but not the address within it that an aligned allocation
        // returned.
        let (&at, &bytes) = self.seed.range(..addr).next_back()?;
        if addr - at >= bytes {
            return None;
        }
        self.live.remove(&at);
        let seeded = self.seed.remove(&at);
        Some(Gone { addr: at, seeded })
    }
}

#[cfg(test)]
mod tests {
    use EventKind as K;

    use super::*;

    /// What events of one thread become, with an earlier block of 64 bytes at 0x100 and a free one
    /// at 0x200.
    fn play(all: &[K]) -> Vec<K> {
        let seed = [0x100, 0x200].map(|addr| SeedBlock {
            addr,
            bytes: 0x40,
            arena: 0,
            live: addr == 0x100,
        });
        let mut blocks = LiveBlocks::new(&seed);
        let mut events = Vec::new();
        for kind in all {
            blocks.apply(0, *kind, |kind| events.push(kind));
        }
        events
    }

    fn alloc(addr: u64, by: By) -> K {
        K::Alloc {
            addr,
            bytes: 8,
            align: 0,
            by,
        }
    }

    #[test]
    fn a_realloc_is_two_halves_and_one_that_fails_keeps_its_block() {
        let events = play(&[
            K::Realloc { addr: 0x110 },
            K::Kept { addr: 0x110 },
            K::Realloc { addr: 0x110 },
            alloc(0x300, By::Realloc),
            K::Free { addr: 0x300 },
        ]);
        assert_eq!(
            events,
            [
                K::Realloc { addr: 0x100 },
                K::Kept { addr: 0x100 },
                K::Realloc { addr: 0x100 },
                alloc(0x300, By::Realloc),
                K::Free { addr: 0x300 },
            ]
        );
    }

    #[test]
    fn frees_of_unknown_blocks_are_left_out_and_taken_addresses_freed_first() {
        let events = play(&[
            K::Free { addr: 0x200 },
            K::Free { addr: 0x110 },
            alloc(0x100, By::Malloc),
            K::Free { addr: 0x110 },
            alloc(0x300, By::Calloc),
            alloc(0x300, By::Malloc),
        ]);
        assert_eq!(
            events,
            [
                K::Free { addr: 0x100 },
                alloc(0x100, By::Malloc),
                alloc(0x300, By::Calloc),
                K::Free { addr: 0x300 },
                alloc(0x300, By::Malloc),
            ]
        );
    }

    #[test]
    fn a_realloc_whose_end_was_lost_is_a_free() {
        let events = play(&[
            K::Realloc { addr: 0x100 },
            K::Lost { events: 8 },
            alloc(0x300, By::Malloc),
            alloc(0x400, By::Realloc),
        ]);
        assert_eq!(
            events,
            [
                K::Realloc { addr: 0x100 },
                K::Lost { events: 8 },
                K::Kept { addr: 0x100 },
                K::Free { addr: 0x100 },
                alloc(0x300, By::Malloc),
                alloc(0x400, By::Malloc),
            ]
        );
    }
}

//! Chunks held by caches: fastbins and, through [`super::tcache`], per-thread caches. They look
//! live to a plain walk, so they are collected first.

use super::Notes;
use super::state::ArenaState;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;

/// The role of a chunk that is in a cache or contains one.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) enum HeldIn {
    /// Freed, in a thread's tcache.
    Tcache,
    /// Freed, in a fastbin.
    Fastbin,
    /// Holds a `tcache_perthread_struct`.
    TcacheItself,
}

/// A chunk that looks live and is not.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(super) struct HeldChunk {
    pub(super) chunk: u64,
    pub(super) holder: HeldIn,
}

/// Follows the singly linked lists of tcache and fastbins: `fd` is the first word of the chunk's
/// user bytes. It terminates on any memory, because cycles are detected.
pub(super) struct Links<'m, M> {
    memory: &'m M,
    mangled: bool,
    to_chunk: u64,
}

/// A chunk of a list: the word before its `fd`, which is its size with flags, and the word after.
pub(super) struct Link {
    pub(super) chunk: u64,
    pub(super) size: u64,
    pub(super) key: u64,
}

impl<'m, M: TargetMemory> Links<'m, M> {
    /// Fastbins' links, which lead from chunk to chunk; stored as `next ^ (address >> 12)` when
    /// `mangled`.
    pub(super) fn of_fastbins(memory: &'m M, mangled: bool) -> Self {
        Self {
            memory,
            mangled,
            to_chunk: 0,
        }
    }

    /// The tcache's links, which point to the user's block, 16 bytes into the chunk.
    pub(super) fn of_tcache(memory: &'m M, mangled: bool) -> Self {
        Self {
            to_chunk: 16,
            ..Self::of_fastbins(memory, mangled)
        }
    }

    /// Calls `visit` for each chunk from the link `first` (0 is the end) until it rejects one.
    /// `Err` is the link at which the list is broken: unreadable, unaligned, rejected, or visited
    /// before.
    pub(super) fn follow(
        &self,
        first: u64,
        mut visit: impl FnMut(Link) -> bool,
    ) -> Result<(), u64> {
        // Brent's cycle detection: compare with a chunk remembered at each power of two.
        let (mut remembered, mut steps, mut power) = (0, 0u64, 1u64);
        let mut link = first;
        while link != 0 {
            if !link.is_multiple_of(16) || link == remembered {
                return Err(link);
            }
            if steps == power {
                (remembered, power) = (link, power.saturating_mul(2));
            }
            steps += 1;
            let chunk = link.checked_sub(self.to_chunk).ok_or(link)?;
            let header = chunk.checked_add(8).ok_or(link)?;
            let words: [u64; 3] = self
                .memory
                .read_value(RemoteAddr::new(header))
                .map_err(|_| link)?;
            let [size, next, key] = words;
            if !visit(Link { chunk, size, key }) {
                return Err(link);
            }
            link = if self.mangled {
                next ^ (header.wrapping_add(8) >> 12)
            } else {
                next
            };
        }
        Ok(())
    }
}

/// Adds the chunks of an arena's fastbins to `held`, which grows to `most` chunks at most:
/// forged arenas can all lead to one list.
pub(super) fn fastbins<M: TargetMemory>(
    links: &Links<'_, M>,
    arena: &ArenaState,
    held: &mut Vec<HeldChunk>,
    most: usize,
    notes: &mut Notes,
) {
    for (bin, &head) in arena.fastbins.iter().enumerate() {
        let bytes = 32 + 16 * bin as u64;
        let list = links.follow(head, |link| {
            let fits = link.size & !7 == bytes && held.len() < most;
            if fits {
                held.push(HeldChunk {
                    chunk: link.chunk,
                    holder: HeldIn::Fastbin,
                });
            }
            fits
        });
        if let Err(at) = list {
            notes.defect(
                at,
                0,
                format!("the fastbin of {bytes} bytes of the arena at {:#x} is broken here: its further chunks count as live", arena.addr),
            );
        }
    }
}

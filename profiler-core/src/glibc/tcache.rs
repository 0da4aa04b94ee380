//! Per-thread caches. glibc keeps a pointer to each in a thread-local variable at the same distance
//! from the thread pointer in all threads; a majority vote determines the distance.

use std::collections::{BTreeMap, HashSet};

use super::Notes;
use super::layout::{Layout, TcacheKey, TcacheLayout};
use super::lists::{HeldChunk, HeldIn, Links};
use super::state::{MallocPar, word_at};
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::machine::ThreadVariables;
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};
use crate::threads::Thread;

/// The distance from the thread pointer within which libc's variables are looked for: those of the
/// libraries loaded at start are there.
const TLS_BYTES: u64 = 16 << 10;
/// The variable `thread_arena` is at most this far from the tcache's pointer.
const NEAR: u64 = 64;
/// A chunk that contains a tcache may be longer by a remainder that was too small to split off.
const SLACK: u64 = 16;

/// One thread's candidate for the variable.
struct Candidate {
    /// Distance from the thread pointer.
    distance: u64,
    /// The address it points to; `None` for the dummy of a thread that has not freed anything yet.
    tcache: Option<u64>,
    /// Whether `thread_arena` is near.
    near_arena: bool,
}

/// Finds the tcaches of `threads`: the chunks in them, and those that they are. `None` when no distance is convincing.
pub(super) fn find<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    layout: &Layout,
    par: &MallocPar,
    arenas: &HashSet<u64>,
    threads: &[Thread],
    notes: &mut Notes,
) -> Option<Vec<HeldChunk>> {
    let tcache = layout.tcache.as_ref()?;
    let links = Links::of_tcache(memory, layout.mangled_links);
    let candidates = candidates(memory, residency, tcache, arenas, threads);

    let mut slots: BTreeMap<u64, Slot> = BTreeMap::new();
    let mut parsed: BTreeMap<u64, Option<Cache>> = BTreeMap::new();
    for candidate in &candidates {
        let slot = slots.entry(candidate.distance).or_default();
        let Some(at) = candidate.tcache else {
            slot.score += 2;
            continue;
        };
        let cache = parsed
            .entry(at)
            .or_insert_with(|| parse(memory, &links, tcache, par, at));
        match cache {
            Some(cache) => {
                slot.score += 1 + cache.chunks.len() as i64;
                slot.score += if candidate.near_arena { 4 } else { 0 };
                slot.tcaches.push(at);
            }
            None => slot.score -= 5,
        }
    }
    // A single empty cache without confirmation nearby proves nothing.
    let (_, slot) = slots
        .into_iter()
        .filter(|(_, slot)| slot.score > 1)
        .max_by_key(|(_, slot)| slot.score)?;

    let mut found = Vec::new();
    for at in &slot.tcaches {
        let Some(cache) = parsed.get(at).and_then(Option::as_ref) else {
            continue;
        };
        found.push(HeldChunk {
            chunk: at - 16,
            holder: HeldIn::TcacheItself,
        });
        found.extend(cache.chunks.iter().map(|&chunk| HeldChunk {
            chunk,
            holder: HeldIn::Tcache,
        }));
        if cache.miscounted {
            let what = "a tcache's counts do not match its lists: its thread was stopped in malloc";
            notes.defect(*at, 0, what);
        }
    }
    Some(found)
}

#[derive(Default)]
struct Slot {
    score: i64,
    tcaches: Vec<u64>,
}

/// Every word beside the thread pointers that could be the variable: it points to a chunk of the
/// right size or, from 2.42 on and next to `thread_arena`, to the dummy (`__tcache_dummy`, constant
/// zeros) that takes the place of a tcache until the thread first frees a chunk.
fn candidates<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    tcache: &TcacheLayout,
    arenas: &HashSet<u64>,
    threads: &[Thread],
) -> Vec<Candidate> {
    let mut all = Vec::new();
    let mut dummies = Vec::new();
    for tp in threads.iter().map(|t| t.thread_pointer) {
        let Some(block) = tls_block(residency, tp) else {
            continue;
        };
        let bytes = readable(memory, block.range);
        let words = |at: u64| word_at(&bytes, at);
        let arena_near = |at: u64| {
            let from = at.saturating_sub(NEAR);
            (from..at + NEAR + 8)
                .step_by(8)
                .any(|near| arenas.contains(&words(near)))
        };
        for at in (0..block.range.len()).step_by(8) {
            let value = words(at);
            let distance = block.distance(at);
            if value >= PAGE_SIZE && value % 16 == 0 && may_be_heap(residency, value) {
                let near_arena = arena_near(at);
                all.push((value, distance, near_arena));
            } else if tcache.counts_free_slots
                && value % 8 == 0
                && may_be_constant(residency, value)
                && arena_near(at)
                && is_zero(memory, value, tcache.chunk_bytes - 16)
            {
                dummies.push(Candidate {
                    distance,
                    tcache: None,
                    near_arena: true,
                });
            }
        }
    }
    let sizes: Vec<_> = all.iter().map(|(at, ..)| RemoteAddr::new(at - 8)).collect();
    let mut heads = Vec::new();
    memory.read_scattered::<8>(&sizes, &mut heads);
    let right = |head: &Option<[u8; 8]>| {
        head.is_some_and(|bytes| {
            let size = u64::from_le_bytes(bytes) & !7;
            (tcache.chunk_bytes..=tcache.chunk_bytes + SLACK).contains(&size) && size % 16 == 0
        })
    };
    let caches = all.into_iter().zip(&heads).filter(|(_, head)| right(head));
    let caches = caches.map(|((at, distance, near_arena), _)| Candidate {
        distance,
        tcache: Some(at),
        near_arena,
    });
    caches.chain(dummies).collect()
}

/// The bytes of a range. Unreadable bytes are zero, and zero is not a pointer.
fn readable<M: TargetMemory>(memory: &M, range: AddrRange) -> Vec<u8> {
    let mut bytes = vec![0; range.len() as usize];
    for (i, page) in bytes.chunks_mut(PAGE_SIZE as usize).enumerate() {
        let at = range.start().get() + i as u64 * PAGE_SIZE;
        if memory.read(RemoteAddr::new(at), page).is_err() {
            page.fill(0);
        }
    }
    bytes
}

/// Whether a library's constants may be there.
fn may_be_constant(residency: &ResidencyMap, addr: u64) -> bool {
    residency
        .mapping_at(RemoteAddr::new(addr))
        .is_some_and(|m| !m.write && matches!(m.kind, MappingKind::File(_)))
}

fn is_zero<M: TargetMemory>(memory: &M, at: u64, len: u64) -> bool {
    let mut bytes = vec![1; len as usize];
    memory.read(RemoteAddr::new(at), &mut bytes).is_ok() && bytes.iter().all(|&byte| byte == 0)
}

/// The memory next to a thread pointer that contains its variables.
#[derive(Copy, Clone, Debug)]
pub(super) struct TlsBlock {
    pub(super) range: AddrRange,
    side: ThreadVariables,
}

impl TlsBlock {
    /// The distance from the thread pointer of the word at offset `at` of the block.
    pub(super) fn distance(&self, at: u64) -> u64 {
        match self.side {
            ThreadVariables::Below => self.range.len() - at,
            ThreadVariables::Above => at,
        }
    }
}

/// The memory of a thread's variables, by its thread pointer.
pub(super) fn tls_block(residency: &ResidencyMap, tp: RemoteAddr) -> Option<TlsBlock> {
    let tp = Some(tp).filter(|tp| tp.is_aligned(8))?;
    let side = residency.machine().thread_variables();
    let range = match side {
        ThreadVariables::Below => {
            let mapping = residency.mapping_at(tp.checked_sub(8)?)?;
            let start = tp.checked_sub(TLS_BYTES)?.max(mapping.range.start());
            AddrRange::new(start, tp)?
        }
        ThreadVariables::Above => {
            let mapping = residency.mapping_at(tp)?;
            let end = tp.checked_add(TLS_BYTES)?.min(mapping.range.end());
            AddrRange::new(tp, end.align_down(8))?
        }
    };
    Some(TlsBlock { range, side })
}

fn may_be_heap(residency: &ResidencyMap, addr: u64) -> bool {
    residency
        .mapping_at(RemoteAddr::new(addr))
        .is_some_and(|m| {
            m.write && (m.kind == MappingKind::Brk || super::find::is_anonymous(&m.kind))
        })
}

/// A `tcache_perthread_struct` that proved sound.
struct Cache {
    chunks: Vec<u64>,
    miscounted: bool,
}

/// Reads a `tcache_perthread_struct`; `None` if one of its lists is invalid.
fn parse<M: TargetMemory>(
    memory: &M,
    links: &Links<'_, M>,
    layout: &TcacheLayout,
    par: &MallocPar,
    at: u64,
) -> Option<Cache> {
    let mut bytes = vec![0; layout.chunk_bytes as usize - 16];
    memory.read(RemoteAddr::new(at), &mut bytes).ok()?;
    let most = par
        .tcache
        .map_or(u64::from(u16::MAX), |[_, _, count, _]| count);
    let mut cache = Cache {
        chunks: Vec::new(),
        miscounted: false,
    };
    let mut common_key = None;
    for bin in 0..layout.bins {
        let stored = match layout.count_bytes {
            1 => word_at(&bytes, bin as u64) & 0xff,
            _ => word_at(&bytes, 2 * bin as u64) & 0xffff,
        };
        let counted = if layout.counts_free_slots {
            most.checked_sub(stored)?
        } else {
            stored
        };
        // A thread may be between linking a chunk and counting it, so one more chunk is allowed.
        let allowed = counted.min(most) + 1;
        let head = word_at(&bytes, layout.entries + 8 * bin as u64);
        let mut met = 0;
        let mut visit = |chunk: u64, size: u64, key: u64| {
            met += 1;
            let fits = if bin < layout.small_bins {
                size & !7 == 32 + 16 * bin as u64
            } else {
                size & !7 > 32 + 16 * layout.small_bins as u64 - 16
            };
            let marked = match layout.key {
                TcacheKey::None => true,
                TcacheKey::Owner => key == at,
                TcacheKey::Random => *common_key.get_or_insert(key) == key,
            };
            cache.chunks.push(chunk);
            fits && marked && met <= allowed
        };
        if head != 0 {
            links.follow(head, |l| visit(l.chunk, l.size, l.key)).ok()?;
        }
        cache.miscounted |= met != counted;
        if counted.abs_diff(met) > 1 {
            return None;
        }
    }
    Some(cache)
}

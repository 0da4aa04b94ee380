//! glibc's malloc, walked from outside with no symbols: all arenas, chunk by chunk; chunks in
//! tcaches and fastbins distinguished from live ones; mmapped chunks; what a trim would give back.
//!
//! The walk finds `main_arena` and `mp_` in libc's writable data, collects the chunks held by
//! caches, then goes through each arena's memory once, in address order. The totals are compared
//! with glibc's own; the outcome is [`HeapSnapshot::checks`].

mod arena;
mod chunks;
mod find;
mod layout;
mod lists;
mod mapped;
mod ranges;
mod roots;
mod settings;
mod state;
mod tcache;
mod thread_arena;
mod trim;

use std::collections::HashSet;

use crate::addr::{AddrRange, RemoteAddr};
use crate::allocator::UnknownEnvironment;
use crate::arena::{ArenaFigure, ArenaKind};
use crate::completeness::{Confidence, Defect};
use crate::heap::{Allocator, Arena, CrossCheck, Extent, ExtentKind, HeapSnapshot};
use crate::memory::{PageCache, ReadError, TargetMemory};
use crate::residency::ResidencyMap;
use crate::span::{SpanList, SpanState};
use crate::threads::Thread;

pub use chunks::{CHUNK_HEADER, MIN_CHUNK, WHOLE_HEADER};
pub use roots::{Roots, find_roots};
pub use thread_arena::thread_arenas;

use arena::Arenas;
use chunks::{ChunkWalker, Totals};
use find::{Data, Main};
use lists::Links;
use ranges::Claims;
use state::{ArenaState, MallocPar};

/// What a walk needs to know about the target besides its memory.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The release of glibc, from the string `release version X.Y` in its file.
    pub version: Option<(u32, u32)>,
    /// The threads, for their tcaches; without them cached chunks count as live.
    pub threads: &'a [Thread],
    /// The writable mappings of libc, its `.bss` included.
    pub libc_data: Vec<AddrRange>,
    /// The entries of the target's environment that allocators read, as it started with them, or why they are unknown.
    pub environment: Result<&'a [String], UnknownEnvironment>,
}

/// Why a heap was not walked. Residency and probes are not affected.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotWalked {
    /// No version was found in the target's libc.
    #[error("the release of the target's glibc could not be determined, so its heap is not walked")]
    NoVersion,
    /// The layout of this release is not known.
    #[error(
        "glibc {0}.{1} is not known to this fragscope, so its heap is not walked; {known} are",
        known = layout::known()
    )]
    UnknownVersion(u32, u32),
    /// No `main_arena` in libc's data.
    #[error(
        "main_arena was not found in the data of glibc {0}.{1}: it is built unlike the release, or its data is swapped out"
    )]
    NoMainArena(u32, u32),
    /// No `mp_` in libc's data.
    #[error(
        "mp_ was not found in the data of glibc {0}.{1}: it is built unlike the release, or its data is swapped out"
    )]
    NoMallocPar(u32, u32),
}

/// How often the contents of caches are read again until they are from one moment.
const HELD_TRIES: u32 = 3;

/// Whether the heap layout of this release, major and minor, is known.
pub fn is_known(version: (u32, u32)) -> bool {
    layout::candidates(version).next().is_some()
}

/// The number of arenas whose lock is held: a thread is inside malloc, and its operation there is
/// half done. 0 if no heap is found.
pub fn locked_arenas<M: TargetMemory>(memory: &M, context: &Context<'_>, roots: &mut Roots) -> u32 {
    let Some(version) = context.version else {
        return 0;
    };
    let data = Data::new(memory, &context.libc_data);
    let ring = roots.main(memory, &data, version).map(|main| main.ring);
    let locked = ring.iter().flatten().filter(|arena| arena.mutex != 0);
    locked.count() as u32
}

/// Walks the heap of the target's glibc. `memory` reads only resident memory
/// ([`crate::memory::ResidentMemory`]), as of the moment of `residency`.
///
/// # Errors
/// When the release is unknown or its data does not show a heap. Damage inside the heap is not an
/// error: it is reported in [`HeapSnapshot::defects`].
pub fn walk<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context<'_>,
) -> Result<HeapSnapshot, NotWalked> {
    walk_from(memory, residency, context, &mut Roots::default())
}

/// As [`walk`], but starts from known addresses and records those found.
///
/// # Errors
/// As [`walk`].
pub fn walk_from<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context<'_>,
    roots: &mut Roots,
) -> Result<HeapSnapshot, NotWalked> {
    let (major, minor) = context.version.ok_or(NotWalked::NoVersion)?;
    if layout::candidates((major, minor)).next().is_none() {
        return Err(NotWalked::UnknownVersion(major, minor));
    }
    let data = Data::new(memory, &context.libc_data);
    let main = roots.main(memory, &data, (major, minor));
    let main = main.ok_or(NotWalked::NoMainArena(major, minor))?;
    let par = roots.par(memory, residency, &data, &main);
    let par = par.ok_or(NotWalked::NoMallocPar(major, minor))?;

    let mut heap = HeapSnapshot::new(Allocator::Glibc, format!("{major}.{minor}"));
    heap.settings = par.settings();
    heap.defaults = settings::defaults((major, minor));
    match context.environment {
        Ok(environment) => {
            heap.requested = settings::requested(environment, &par, &heap.settings);
        }
        Err(reason) => heap.environment_unknown = Some(reason),
    }
    let mut tries = HELD_TRIES;
    let (held, tcaches_known, notes) = loop {
        let epoch = memory.epoch();
        let mut notes = Notes::default();
        let (held, known) = held(memory, residency, &main, &par, context, &mut notes);
        tries -= 1;
        // Lists of cached chunks are followed link by link, and the links are stale if the target
        // has run meanwhile.
        if memory.epoch() == epoch || known && notes.defects.is_empty() || tries == 0 {
            break (held, known, notes);
        }
    };
    let mut arenas = Arenas {
        memory,
        residency,
        layout: main.layout,
        par: &par,
        walker: ChunkWalker::new(memory, residency, &held),
        claims: Claims::default(),
        extents: Vec::new(),
        notes,
    };
    for (id, state) in (0..).zip(&main.ring) {
        walk_arena(&mut arenas, id, state, &mut heap);
    }
    let claims = &mut arenas.claims;
    let mapped = mapped::find(memory, residency, &par, claims, &roots.mapped);
    roots.mapped = mapped.iter().map(|chunk| chunk.start).collect();
    heap.checks.extend(mapped_checks(&par, &mapped));
    heap.extents = arenas.extents;
    heap.extents.extend(mapped.iter().filter_map(large));
    heap.extents.sort_unstable_by_key(|e| e.range);
    heap.trimmable = arenas.walker.trim.finish();
    heap.defects = arenas.notes.defects;
    heap.unreadable_bytes = arenas.notes.unreadable_bytes;
    heap.confidence = confidence(&heap, tcaches_known);
    Ok(heap)
}

/// Walks the chunks of an arena and compares them with its own counter.
fn walk_arena<M: TargetMemory>(
    arenas: &mut Arenas<'_, M>,
    id: u32,
    state: &ArenaState,
    heap: &mut HeapSnapshot,
) {
    arenas.walker.totals = Totals::default();
    let memory = arenas.memory;
    let now = |then: &ArenaState| match memory.epoch() {
        0 => Some(then.clone()),
        // Its top has changed since.
        _ => ArenaState::read(memory, arenas.layout, then.addr).ok(),
    };
    let renewed = now(state).filter(ArenaState::is_plausible);
    let state = renewed.as_ref().unwrap_or(state);
    let (heaps, foreign) = if id == 0 {
        (0, arenas.main(state))
    } else {
        (arenas.thread(state, id), 0)
    };
    let totals = arenas.walker.totals;
    let renewed = now(state).filter(ArenaState::is_plausible);
    let state = renewed.as_ref().unwrap_or(state);
    if state.mutex != 0 {
        let what = format!("a thread was stopped inside arena {id}, which may be half written");
        arenas.notes.defect(state.addr, 0, what);
    }
    heap.checks.push(CrossCheck::new(
        format!("arena {id} system_mem"),
        state.system_mem,
        totals.walked() + foreign,
    ));
    heap.threads_inside += u32::from(state.mutex != 0);
    heap.arenas.push(arena(id, state, totals, heaps, foreign));
}

/// The chunks with a mapping of their own, compared with glibc's counters.
fn mapped_checks(par: &MallocPar, mapped: &[mapped::Mapped]) -> [CrossCheck; 2] {
    let bytes = mapped.iter().map(|m| m.bytes).sum();
    // Subtract the bytes that it is known to count twice.
    let expected = match par.counts_mapped(bytes) {
        true => bytes,
        false => par.mmapped_mem,
    };
    [
        CrossCheck::new("n_mmaps", par.n_mmaps.into(), mapped.len() as u64),
        CrossCheck::new("mmapped_mem", expected, bytes),
    ]
}

/// The chunks that caches hold, ascending, and whether the tcaches are among them.
fn held<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    main: &Main,
    par: &MallocPar,
    context: &Context<'_>,
    notes: &mut Notes,
) -> (Vec<lists::HeldChunk>, bool) {
    let cache = PageCache::new(memory);
    let mut held = Vec::new();
    let links = Links::of_fastbins(&cache, main.layout.mangled_links);
    // No more chunks than the resident memory has room for.
    let most = (residency.resident_bytes() / MIN_CHUNK) as usize;
    for arena in &main.ring {
        lists::fastbins(&links, arena, &mut held, most, notes);
    }
    let addrs: HashSet<u64> = main.ring.iter().map(|arena| arena.addr).collect();
    let in_use = par.tcache.is_some_and(|[_, _, count, _]| count != 0);
    let threads = context.threads;
    let found = tcache::find(&cache, residency, main.layout, par, &addrs, threads, notes);
    let known = !in_use || found.is_some();
    if !known {
        notes.defects.push(Defect::of_all(
            "the threads' tcaches were not found: the chunks in them count as live",
        ));
    }
    held.extend(found.unwrap_or_default());
    held.sort_unstable();
    held.dedup_by_key(|h| h.chunk);
    (held, known)
}

fn arena(id: u32, state: &ArenaState, totals: Totals, heaps: u64, foreign: u64) -> Arena {
    let mut figures = vec![
        (ArenaFigure::TcacheBytes, totals.tcache.1),
        (ArenaFigure::TcacheBlocks, totals.tcache.0),
        (ArenaFigure::FastbinBytes, totals.fastbin.1),
        (ArenaFigure::FastbinBlocks, totals.fastbin.0),
        (ArenaFigure::MaxSystemBytes, state.max_system_mem),
        // Everything that is neither live, cached, free nor top, including the tcaches' own chunks,
        // so that the five sum to `system_bytes`.
        (ArenaFigure::MetadataBytes, totals.metadata),
        (ArenaFigure::TcacheStructBytes, totals.tcache_structs.1),
        (ArenaFigure::TcacheStructs, totals.tcache_structs.0),
        (ArenaFigure::UnknownBytes, totals.unknown),
        (ArenaFigure::Locked, u64::from(state.mutex != 0)),
    ];
    figures.extend(
        state
            .attached_threads
            .map(|n| (ArenaFigure::AttachedThreads, n)),
    );
    if id == 0 {
        figures.push((ArenaFigure::ForeignSbrkBytes, foreign));
    } else {
        figures.push((ArenaFigure::Heaps, heaps));
    }
    Arena {
        id,
        kind: if id == 0 {
            ArenaKind::Main
        } else {
            ArenaKind::Thread
        },
        addr: RemoteAddr::new(state.addr),
        system_bytes: state.system_mem,
        live_blocks: totals.live.0,
        live_bytes: totals.live.1,
        free_blocks: totals.free.0,
        free_bytes: totals.free.1,
        cached_blocks: totals.tcache.0 + totals.fastbin.0,
        cached_bytes: totals.tcache.1 + totals.fastbin.1,
        top_bytes: totals.top,
        figures,
    }
}

/// The extent of one mmapped chunk: its header, then the user's block.
fn large(chunk: &mapped::Mapped) -> Option<Extent> {
    let mut spans = SpanList::default();
    spans.push(chunk.lead + 16, SpanState::Metadata);
    spans.push(chunk.bytes - chunk.lead - 16, SpanState::Live);
    Some(Extent {
        range: AddrRange::with_len(RemoteAddr::new(chunk.start), chunk.bytes)?,
        kind: ExtentKind::LargeMapped,
        arena: 0,
        block_header_bytes: 0,
        spans,
    })
}

fn confidence(heap: &HeapSnapshot, tcaches_known: bool) -> Confidence {
    let off: u64 = heap
        .checks
        .iter()
        .map(|check| check.expected.abs_diff(check.found))
        .fold(0, u64::saturating_add);
    if off == 0 && tcaches_known {
        Confidence::High
    } else if off <= heap.unreadable_bytes {
        Confidence::Medium
    } else {
        Confidence::Low
    }
}

/// Defects found during the walk, bounded in number.
#[derive(Debug, Default)]
struct Notes {
    defects: Vec<Defect>,
    unreadable_bytes: u64,
}

/// The number of defects kept; a badly damaged heap has as many as chunks.
const MAX_DEFECTS: usize = 64;

impl Notes {
    /// Something wrong at `addr` that makes `bytes` unknown.
    fn defect(&mut self, addr: u64, bytes: u64, what: impl Into<String>) {
        self.push(addr, bytes, what.into(), false);
    }

    fn push(&mut self, addr: u64, bytes: u64, what: String, unreadable: bool) {
        if self.defects.len() < MAX_DEFECTS {
            self.defects.push(Defect {
                addr: Some(RemoteAddr::new(addr)),
                what,
                bytes,
                unreadable,
            });
        }
    }

    /// Chunks could not be followed over `bytes` from `addr`: unreadable, or with no error damaged.
    fn lost(&mut self, addr: u64, bytes: u64, error: Option<ReadError>) {
        match error {
            Some(error) => {
                self.unreadable_bytes = self.unreadable_bytes.saturating_add(bytes);
                let what = format!("chunks could not be followed: {error}");
                self.push(addr, bytes, what, true);
            }
            None => self.defect(addr, bytes, "a chunk's header does not fit its neighbours"),
        }
    }
}

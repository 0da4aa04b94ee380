//! musl's mallocng, walked from outside without symbols: groups, their slots, groups inside slots,
//! allocations with mappings of their own, and requested sizes to the byte.
//!
//! `ctx.secret` is the 8 bytes at `AT_RANDOM` + 8 (`src/malloc/mallocng/glue.h`). It identifies the
//! context in musl's data and is the first word of each page of metas. Every group has a meta, so
//! nothing else has to be searched. Sources: `src/malloc/mallocng` of musl 1.2.1 to 1.2.6.

mod context;
mod group;
mod layout;

use crate::addr::{AddrRange, RemoteAddr};
use crate::arena::{ArenaFigure, ArenaKind};
use crate::completeness::{Confidence, Defect};
use crate::heap::{Allocator, Arena, CrossCheck, Extent, ExtentKind, HeapSnapshot};
use crate::memory::{PageCache, ReadAhead, TargetMemory};
use crate::residency::ResidencyMap;
use crate::span::{SpanList, SpanState};

use context::MallocContext;
use group::{Group, Layer, Slot};
use layout::{AREA, AREA_HEADER, META, METAS_PER_AREA, MMAP_THRESHOLD, SIZE_CLASSES};

/// What a walk needs to know about the target besides its memory.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The address of the 16 random bytes that the kernel placed at start: `AT_RANDOM` of the
    /// auxiliary vector.
    pub at_random: Option<RemoteAddr>,
    /// musl's version as `1.2.3`; empty if unknown (a static program).
    pub version: String,
}

/// The address of mallocng's context, once found: it is tried first. If the context is not verified
/// there, it is searched for again.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    context: Option<RemoteAddr>,
}

impl Roots {
    /// Whether it was found.
    pub fn are_known(&self) -> bool {
        self.context.is_some()
    }
}

/// Why a heap was not walked. Residency and probes are not affected.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotWalked {
    /// The kernel's random bytes are not known.
    #[error(
        "the random bytes that the kernel gave the target (AT_RANDOM) could not be read, so musl's \
         heap cannot be found"
    )]
    NoSecret,
    /// A release with the old allocator.
    #[error(
        "musl {0} has the allocator from before mallocng, which this fragscope cannot walk; {first} to {last} are \
         known",
        first = dotted(FIRST),
        last = dotted(LAST)
    )]
    OldMalloc(String),
    /// No context.
    #[error(
        "mallocng's context was not found: the target has not called musl's malloc, or its musl is \
         built with another allocator, or its data is swapped out"
    )]
    NoContext,
}

/// Defects kept at most.
const MAX_DEFECTS: usize = 32;

/// Sums of what slots say besides being live or not.
#[derive(Copy, Clone, Debug, Default)]
struct Totals {
    /// Groups inside slots of others.
    nested: u64,
    /// Bytes requested, as far as they could be read.
    requested: u64,
    /// The same for allocations with mappings of their own.
    large_requested: u64,
    /// Live blocks whose asked-for size could not be read.
    unknown_requests: u64,
}

impl Totals {
    fn add(&mut self, asked: u64, large: bool) {
        let sum = if large {
            &mut self.large_requested
        } else {
            &mut self.requested
        };
        *sum = sum.saturating_add(asked);
    }
}

/// Walks the heap of the target's musl. `memory` reads only resident memory
/// ([`crate::memory::ResidentMemory`]), as of the moment of `residency`.
///
/// # Errors
/// When no mallocng is found, and why. Damage inside the heap is not an error: it is reported in
/// [`HeapSnapshot::defects`].
pub fn walk<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context,
) -> Result<HeapSnapshot, NotWalked> {
    walk_from(memory, residency, context, &mut Roots::default())
}

/// Finds the context for a later walk.
pub fn find_roots<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context,
    roots: &mut Roots,
) {
    // The walk looks for whatever is not found here.
    let _ = find(memory, residency, context, roots);
}

/// The context at its previous address, or else wherever it is.
fn find<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context,
    roots: &mut Roots,
) -> Result<MallocContext, NotWalked> {
    let old = is_old(&context.version).then(|| NotWalked::OldMalloc(context.version.clone()));
    if let Some(old) = old {
        return Err(old);
    }
    let secret_at = context.at_random.and_then(|random| random.checked_add(8));
    let secret = secret_at.and_then(|at| memory.read_value::<u64>(at).ok());
    let secret = secret.ok_or(NotWalked::NoSecret)?;
    let known = roots.context.take();
    let known = known.and_then(|at| MallocContext::parse(memory, at, secret));
    let found = known.or_else(|| context::find(memory, residency, secret));
    let found = found.ok_or(NotWalked::NoContext)?;
    roots.context = Some(found.addr);
    Ok(found)
}

/// As [`walk`], but starts from a known address and records the one found.
///
/// # Errors
/// As [`walk`].
pub fn walk_from<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context,
    roots: &mut Roots,
) -> Result<HeapSnapshot, NotWalked> {
    let found = find(memory, residency, context, roots)?;
    let mut heap = HeapSnapshot::new(Allocator::Musl, context.version.clone());
    let (areas, whole) = context::areas(memory, residency, &found);
    if !whole {
        note(
            &mut heap,
            None,
            "the list of meta areas is broken; the rest was found by their check",
        );
    }
    let metas = Metas::read(memory, areas.iter().copied(), &mut heap);
    let layer = lay(memory, residency, &metas.groups, &mut heap);
    for area in areas {
        heap.extents.extend(area_extent(area));
    }
    heap.extents.sort_unstable_by_key(|e| e.range);
    // If groups and areas claim the same bytes, one of them is damaged.
    let mut end = RemoteAddr::default();
    let mut overlap = 0u64;
    heap.extents.retain(|extent| {
        let keep = extent.range.start() >= end;
        if keep {
            end = extent.range.end();
        }
        overlap += u64::from(!keep);
        keep
    });
    if overlap > 0 {
        note(&mut heap, None, "groups overlap; the first of them is kept");
    }
    heap.checks = checks(&found, &metas, &layer, memory);
    heap.settings = vec![("MMAP_THRESHOLD".into(), MMAP_THRESHOLD.to_string())];
    heap.confidence = match heap.checks.iter().all(CrossCheck::holds) {
        true if whole && overlap == 0 && metas.damaged == 0 => Confidence::High,
        false if whole => Confidence::Low,
        _ => Confidence::Medium,
    };
    let arena = arena(&heap, &found, &metas, &layer);
    heap.arenas.push(arena);
    Ok(heap)
}

/// The first release with mallocng.
const FIRST: (u32, u32, u32) = (1, 2, 1);
/// The last one whose sources were read.
const LAST: (u32, u32, u32) = (1, 2, 6);

fn dotted((major, minor, patch): (u32, u32, u32)) -> String {
    format!("{major}.{minor}.{patch}")
}

/// Before the first release with mallocng.
fn is_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => (major, minor, patch) < FIRST,
        _ => false,
    }
}

fn note(heap: &mut HeapSnapshot, addr: Option<u64>, what: &str) {
    if heap.defects.len() < MAX_DEFECTS {
        heap.defects.push(Defect {
            addr: addr.map(RemoteAddr::new),
            what: what.into(),
            bytes: 0,
            unreadable: false,
        });
    }
}

/// The contents of the meta areas.
#[derive(Default)]
struct Metas {
    /// Ascending by address.
    groups: Vec<Group>,
    areas: u64,
    damaged: u64,
}

impl Metas {
    fn read<M: TargetMemory>(
        memory: &M,
        areas: impl Iterator<Item = u64>,
        heap: &mut HeapSnapshot,
    ) -> Self {
        let mut metas = Self::default();
        for area in areas {
            metas.areas += 1;
            let Ok(bytes) = memory.read_value::<[u8; AREA as usize]>(RemoteAddr::new(area)) else {
                note(heap, Some(area), "a meta area could not be read");
                metas.damaged += 1;
                continue;
            };
            let (slots, _) = bytes[AREA_HEADER..].as_chunks::<META>();
            for (slot, at) in slots
                .iter()
                .zip((area + AREA_HEADER as u64..).step_by(META))
            {
                match Slot::parse(at, slot) {
                    Slot::Group(group) => metas.groups.push(group),
                    Slot::Unused => {}
                    Slot::Damaged => {
                        metas.damaged += 1;
                        note(heap, Some(at), "a meta describes no possible group");
                    }
                }
            }
        }
        // Of two groups that begin at one address the outer one comes first.
        metas
            .groups
            .sort_by_key(|g| (g.mem, std::cmp::Reverse(g.bytes())));
        metas
    }

    /// Metas in the ring of free ones.
    fn free<M: TargetMemory>(&self, memory: &M, head: u64) -> u64 {
        let memory = PageCache::new(memory);
        let most = self.areas * METAS_PER_AREA;
        let mut count = 0;
        let mut at = head;
        while at != 0 && count < most {
            let Ok(meta) = memory.read_value::<[u8; META]>(RemoteAddr::new(at)) else {
                break;
            };
            count += 1;
            at = Slot::next_free(&meta);
            if at == head {
                break;
            }
        }
        count
    }
}

/// Lays all groups out as extents of `heap`.
fn lay<'a, M: TargetMemory>(
    memory: &'a M,
    residency: &'a ResidencyMap,
    groups: &[Group],
    heap: &mut HeapSnapshot,
) -> Layer<'a, M> {
    let mut layer = Layer {
        memory: ReadAhead::new(memory, RemoteAddr::new(u64::MAX)),
        residency,
        totals: Totals::default(),
        confirmed: 0,
        unread: 0,
    };
    let mut next = 0;
    let mut end = RemoteAddr::default();
    while let Some(group) = groups.get(next) {
        let mapped = |addr: RemoteAddr| residency.mapping_at(addr).is_some_and(|m| m.write);
        let range = group.range().filter(|range| {
            let last = range.end().checked_sub(1);
            range.start() >= end && mapped(range.start()) && last.is_some_and(mapped)
        });
        let Some(range) = range else {
            note(
                heap,
                Some(group.mem),
                "a group overlaps another or lies in no writable memory",
            );
            next += 1;
            continue;
        };
        end = range.end();
        let kind = if group.is_large() {
            ExtentKind::LargeMapped
        } else {
            ExtentKind::Region
        };
        let mut spans = SpanList::default();
        layer.spans(groups, &mut next, &mut spans);
        heap.extents.push(Extent {
            range,
            kind,
            arena: 0,
            block_header_bytes: 0,
            spans,
        });
    }
    layer
}

fn area_extent(area: u64) -> Option<Extent> {
    let mut spans = SpanList::default();
    spans.push(AREA, SpanState::Metadata);
    Some(Extent {
        range: AddrRange::with_len(RemoteAddr::new(area), AREA)?,
        kind: ExtentKind::Region,
        arena: 0,
        block_header_bytes: 0,
        spans,
    })
}

fn checks<M: TargetMemory>(
    context: &MallocContext,
    metas: &Metas,
    layer: &Layer<'_, M>,
    memory: &M,
) -> Vec<CrossCheck> {
    let mut slots = [0u64; SIZE_CLASSES.len()];
    // Groups that musl made from unused bytes of its data are not in its usage count.
    for group in metas.groups.iter().filter(|group| group.freeable) {
        if let Some(slots) = slots.get_mut(usize::from(group.class)) {
            *slots += group.slots();
        }
    }
    let of_classes = slots.iter().zip(&context.usage_by_class);
    let agree = of_classes
        .filter(|(found, counted)| found == counted)
        .count();
    let groups = metas.groups.len() as u64;
    let unused = metas.free(memory, context.free_meta_head) + context.avail_metas;
    vec![
        CrossCheck::new(
            "size classes whose slots equal usage_by_class",
            SIZE_CLASSES.len() as u64,
            agree as u64,
        ),
        CrossCheck::new(
            "metas in use, free and never used",
            metas.areas * METAS_PER_AREA,
            groups + unused,
        ),
        CrossCheck::new(
            "groups whose header points back to their meta",
            groups - layer.unread,
            layer.confirmed,
        ),
    ]
}

fn arena<M>(
    heap: &HeapSnapshot,
    context: &MallocContext,
    metas: &Metas,
    layer: &Layer<'_, M>,
) -> Arena {
    let slots = || {
        let regions = heap.extents.iter();
        regions
            .filter(|extent| extent.kind == ExtentKind::Region)
            .flat_map(|extent| extent.spans.iter(extent.range.start()))
    };
    let sum = |state: SpanState| {
        let of_state = slots().filter(|span| span.state == state);
        of_state.fold((0, 0), |(n, bytes), span| (n + 1, bytes + span.range.len()))
    };
    let (live, free, top) = (
        sum(SpanState::Live),
        sum(SpanState::Free),
        sum(SpanState::Top),
    );
    let totals = &layer.totals;
    let donated = metas.groups.iter().filter(|group| !group.freeable);
    Arena {
        id: 0,
        kind: ArenaKind::Musl,
        addr: context.addr,
        system_bytes: heap.extents.iter().map(|extent| extent.range.len()).sum(),
        live_blocks: live.0,
        live_bytes: live.1,
        free_blocks: free.0,
        free_bytes: free.1,
        cached_blocks: 0,
        cached_bytes: 0,
        top_bytes: top.1,
        figures: vec![
            (ArenaFigure::RequestedBytes, totals.requested),
            (
                ArenaFigure::MappedLargeRequestedBytes,
                totals.large_requested,
            ),
            (ArenaFigure::BlocksOfUnknownRequest, totals.unknown_requests),
            (ArenaFigure::Groups, metas.groups.len() as u64),
            (ArenaFigure::NestedGroups, totals.nested),
            (ArenaFigure::DonatedGroups, donated.count() as u64),
            (ArenaFigure::MetaAreas, metas.areas),
            (ArenaFigure::MetadataBytes, sum(SpanState::Metadata).1),
        ],
    }
}

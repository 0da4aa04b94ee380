//! mimalloc 3.x: arenas of 64 KiB slices, and a page map with every page.

mod arena;
mod map;
mod page;

use std::collections::BTreeMap;

use crate::addr::{AddrRange, RemoteAddr};
use crate::allocator::known_of;
use crate::arena::ArenaKind;
use crate::heap::{CrossCheck, Extent, ExtentKind, HeapSnapshot};
use crate::memory::TargetMemory;
use crate::object::AllocatorObject;
use crate::residency::ResidencyMap;
use crate::span::{SpanList, SpanState};

use super::blocks::Walker;
use super::{HeapNamer, arena_of, judge, note};
use arena::Arena;
use map::Map;
use page::{LAYOUTS, Memory, Page, SLICE};

/// The releases that are known, in words.
pub(super) fn known() -> String {
    known_of(LAYOUTS.iter().flat_map(|layout| layout.name.split(' ')))
}

/// Walks the mimalloc in `object`, if it is 3.x.
pub(super) fn walk<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    found: &HeapNamer<'_>,
    object: &AllocatorObject,
) -> Option<HeapSnapshot> {
    let map = Map::find(memory, residency, object)?;
    let (pages, layout, in_map) = map.pages(memory, residency);
    let mut heap = found.heap(memory, Some(object), layout.name);
    let mut walker = Walker::new(memory, Vec::new());
    let mut end = RemoteAddr::default();
    let mut owners = Vec::new();
    let mut empty = Vec::new();
    // The arenas' own counts, as long as all of them have one.
    let mut expected = Some(0);
    for (start, pages) in by_memory(&pages) {
        let group = Group::of(memory, start, pages);
        expected = expected.zip(group.in_use).map(|(sum, own)| sum + own);
        let range = group.range.filter(|range| {
            let last = range.end().checked_sub(1);
            range.start() >= end
                && residency.mapping_at(range.start()).is_some()
                && last.is_some_and(|last| residency.mapping_at(last).is_some())
        });
        let Some(range) = range else {
            note(
                &mut heap,
                Some(start),
                0,
                "pages that overlap others or lie where nothing is mapped",
            );
            continue;
        };
        end = range.end();
        let mut layer = Layer {
            memory,
            residency,
            walker: &mut walker,
            spans: SpanList::default(),
            empty: &mut empty,
            at: range.start().get(),
        };
        layer.lay_out(&group, end.get(), &mut heap);
        heap.extents.push(Extent {
            range,
            kind: group.kind(),
            arena: match group.is_arena {
                true => arena_of(&mut owners, ArenaKind::Arena, start),
                false => arena_of(&mut owners, ArenaKind::OutsideArenas, 0),
            },
            block_header_bytes: 0,
            spans: layer.spans,
        });
    }
    heap.arenas = owners;
    heap.trimmable = purged(&heap, residency, &empty);
    heap.checks.push(CrossCheck::new(
        "pages in use",
        expected.unwrap_or(in_map),
        walker.totals.pages,
    ));
    judge(&mut heap, &walker, true);
    Some(heap)
}

/// Pages grouped by the memory that contains them, the pages of an arena together, ascending.
fn by_memory(pages: &[Page]) -> Vec<(u64, Vec<&Page>)> {
    let mut arenas: BTreeMap<u64, Vec<&Page>> = BTreeMap::new();
    let mut all = Vec::new();
    for page in pages {
        match page.memory {
            Memory::Arena { arena, .. } => arenas.entry(arena).or_default().push(page),
            Memory::Os { base, .. } => all.push((base, vec![page])),
        }
    }
    all.extend(arenas);
    all.sort_by_key(|(start, _)| *start);
    all
}

/// Pages of one arena, or one page with memory of its own.
struct Group<'p> {
    start: u64,
    /// Ascending, those in use.
    pages: Vec<&'p Page>,
    is_arena: bool,
    /// The arena's own account.
    arena: Option<Arena>,
    range: Option<AddrRange>,
    /// The number of pages in use; `None` if the arena does not say.
    in_use: Option<u64>,
}

impl<'p> Group<'p> {
    fn of<M: TargetMemory>(memory: &M, start: u64, mut pages: Vec<&'p Page>) -> Self {
        pages.sort_by_key(|page| page.blocks.area.start);
        let is_arena = matches!(pages.first(), Some(page) if is_in_arena(page));
        let (range, arena, in_use) = match is_arena {
            true => in_use(memory, start, &mut pages),
            false => {
                let range = pages.first().and_then(|page| range_of(&page.memory));
                (range, None, Some(pages.len() as u64))
            }
        };
        Self {
            start,
            pages,
            is_arena,
            arena,
            range,
            in_use,
        }
    }

    fn kind(&self) -> ExtentKind {
        match !self.is_arena && self.pages.iter().all(|page| page.blocks.reserved == 1) {
            true => ExtentKind::LargeMapped,
            false => ExtentKind::Region,
        }
    }
}

/// What `mi_collect(true)` would return from the arenas: their free slices (`mi_arenas_try_purge`
/// in `src/arena.c`), unless purging is switched off, and pages without a live block that belong to
/// the calling thread. Pages of other threads stay: the caller is assumed to be the thread that
/// owns most of them.
fn purged(
    heap: &HeapSnapshot,
    residency: &ResidencyMap,
    empty: &[(u64, AddrRange)],
) -> Vec<AddrRange> {
    let mut settings = heap.settings.iter();
    let delay = settings.find(|(name, _)| name == "purge_delay");
    if delay.is_some_and(|(_, value)| value.starts_with('-')) {
        return Vec::new();
    }
    let arenas = heap.extents.iter();
    let arenas = arenas.filter(|extent| {
        let owner = heap.arenas.get(extent.arena as usize);
        owner.is_some_and(|owner| owner.kind == ArenaKind::Arena)
    });
    let spans = arenas.flat_map(|extent| extent.spans.iter(extent.range.start()));
    let free = spans.filter(|span| span.state == SpanState::Retained);
    let whole_slices = free.filter_map(|span| {
        let start = span.range.start().align_up(SLICE)?;
        AddrRange::new(start, span.range.end().align_down(SLICE))
    });
    let whole_slices = whole_slices.filter(|slices| !slices.is_empty());
    let mut resident: BTreeMap<u64, u64> = BTreeMap::new();
    for (owner, page) in empty {
        *resident.entry(*owner).or_default() += residency.data_bytes(*page);
    }
    let most = resident.into_iter().max_by_key(|(_, bytes)| *bytes);
    let collected = empty
        .iter()
        .filter(|(owner, _)| most.is_some_and(|(of, _)| of == *owner));
    let mut all: Vec<AddrRange> = whole_slices
        .chain(collected.map(|(_, page)| *page))
        .collect();
    all.sort_by_key(|range| range.start());
    all
}

fn is_in_arena(page: &Page) -> bool {
    matches!(page.memory, Memory::Arena { .. })
}

fn range_of(memory: &Memory) -> Option<AddrRange> {
    let range = memory.range()?;
    AddrRange::new(RemoteAddr::new(range.start), RemoteAddr::new(range.end))
}

/// Keeps the pages of an arena that are in use: the page map of some releases (3.0.1) also contains
/// freed pages, which the arena knows. Returns its address range (by its own account, or else up to
/// its last page), its account, and how many pages it says are in use.
fn in_use<M: TargetMemory>(
    memory: &M,
    start: u64,
    pages: &mut Vec<&Page>,
) -> (Option<AddrRange>, Option<Arena>, Option<u64>) {
    let arena = Arena::read(memory, start);
    let slice = |page: &Page| match page.memory {
        Memory::Arena { slice, .. } => slice,
        Memory::Os { .. } => 0,
    };
    let known = pages.iter().map(|page| slice(page)).collect();
    let in_use = arena.as_ref().and_then(|arena| arena.pages(memory, &known));
    if let Some(in_use) = &in_use {
        pages.retain(|page| in_use.contains(&slice(page)));
    }
    let last = pages.last().map(|page| page.blocks.area.end);
    let own = arena.as_ref().and_then(Arena::end);
    let end = own
        .filter(|end| last.is_some_and(|last| last <= *end))
        .or(last);
    let range = end.and_then(|end| AddrRange::new(RemoteAddr::new(start), RemoteAddr::new(end)));
    (range, arena, in_use.map(|in_use| in_use.len() as u64))
}

/// Lays an arena out.
struct Layer<'l, 'm, M> {
    memory: &'m M,
    residency: &'l ResidencyMap,
    walker: &'l mut Walker<'m, M>,
    spans: SpanList,
    /// Pages of an arena without a live block, and whose they are.
    empty: &'l mut Vec<(u64, AddrRange)>,
    /// The start of the next span.
    at: u64,
}

impl<M: TargetMemory> Layer<'_, '_, M> {
    /// Appends the pages of a group and the memory between them, up to `end`.
    fn lay_out(&mut self, group: &Group<'_>, end: u64, heap: &mut HeapSnapshot) {
        if let Some(arena) = &group.arena {
            let info = arena.info * SLICE;
            self.spans.push(info, SpanState::Metadata);
            self.at += info;
        }
        for page in &group.pages {
            let area = &page.blocks.area;
            if area.start < self.at || area.end > end {
                let what = "a page overlaps the one before";
                note(heap, Some(area.start), 0, what);
                continue;
            }
            self.unused(group.start, area.start);
            let is_empty = self.walker.page(&page.blocks, &mut self.spans, |_| None);
            self.at = area.end;
            if let (true, true, Some(owner)) = (is_empty, group.is_arena, page.owner) {
                let range = AddrRange::new(RemoteAddr::new(area.start), RemoteAddr::new(area.end));
                self.empty.extend(range.map(|range| (owner, range)));
            }
        }
        self.unused(group.start, end);
    }

    /// Appends memory without a page, up to `end`: mimalloc's own data, and free slices.
    fn unused(&mut self, arena: u64, end: u64) {
        let gap = AddrRange::new(RemoteAddr::new(self.at), RemoteAddr::new(end));
        let residency = self.residency;
        for run in gap.into_iter().flat_map(|gap| residency.runs_in(gap)) {
            let slices = run
                .range
                .start()
                .align_up(SLICE)
                .into_iter()
                .flat_map(|first| {
                    std::iter::successors(Some(first), |at| at.checked_add(SLICE))
                        .take_while(|&at| run.range.contains(at))
                });
            for slice in slices.filter(|_| run.state.is_resident()) {
                let own = arena::own_bytes(self.memory, arena, slice.get()).filter(|own| {
                    let own_end = slice.get().saturating_add(*own);
                    slice.get() >= self.at && own_end <= end
                });
                if let Some(own) = own {
                    self.spans.push(slice.get() - self.at, SpanState::Retained);
                    self.spans.push(own, SpanState::Metadata);
                    self.at = slice.get() + own;
                }
            }
        }
        self.spans.push(end - self.at, SpanState::Retained);
        self.at = end;
    }
}

//! mimalloc 2.0.9 to 2.4: segments of 32 MiB.

mod layout;
mod segment;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::allocator::known_of;
use crate::arena::ArenaKind;
use crate::heap::{CrossCheck, Extent, ExtentKind, HeapSnapshot};
use crate::memory::TargetMemory;
use crate::object::AllocatorObject;
use crate::residency::ResidencyMap;
use crate::span::{SpanList, SpanState};

use super::blocks::{self, Keys, Walker};
use super::instance;
use super::{HeapNamer, anonymous, arena_of, judge, note};
use layout::{LAYOUTS, Layout};
use segment::{HEADER, Part, Segment, places};

/// The releases that are known, in words.
pub(super) fn known() -> String {
    known_of(LAYOUTS.iter().flat_map(|layout| layout.name.split(' ')))
}

/// Different mimallocs in one process looked for at most.
const MAX_HEAPS: usize = 8;
/// The most blocks in all heaps' delayed lists.
const MAX_DELAYED: usize = 1 << 24;

/// The header of a possible segment.
struct Header {
    addr: u64,
    bytes: Vec<u8>,
}

/// Walks every mimalloc of this kind.
pub(super) fn walk<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    found: &HeapNamer<'_>,
) -> Vec<HeapSnapshot> {
    let mut headers = headers(memory, residency);
    let mut heaps = Vec::new();
    while heaps.len() < MAX_HEAPS
        && let Some((key, layout)) = best(&headers, found.context.objects)
    {
        let of_heap = |header: &Header| {
            let segment = Segment::parse(header.addr, &header.bytes, layout);
            segment.is_some_and(|segment| segment.key == key)
        };
        let (ours, others) = headers.into_iter().partition(of_heap);
        headers = others;
        heaps.push(heap(memory, residency, found, (key, layout), &ours));
    }
    heaps
}

/// Reads possible headers wherever a segment can begin.
fn headers<M: TargetMemory>(memory: &M, residency: &ResidencyMap) -> Vec<Header> {
    let mut headers = Vec::new();
    for mapping in residency.mappings().iter().filter(|m| anonymous(m)) {
        for run in residency.runs_in(mapping.range) {
            if !run.state.is_resident() {
                continue;
            }
            for at in places(run.range) {
                let mut bytes = vec![0; PAGE_SIZE as usize];
                let first = memory.read(at, &mut bytes);
                let may_be = |layout| Segment::parse(at.get(), &bytes, layout).is_some();
                if first.is_err() || !LAYOUTS.iter().any(may_be) {
                    continue;
                }
                let mut whole = vec![0; HEADER];
                if memory.read(at, &mut whole).is_ok() {
                    bytes = whole;
                }
                headers.push(Header {
                    addr: at.get(),
                    bytes,
                });
            }
        }
    }
    headers
}

/// The key and the layout that explain most pages. If several layouts explain as many, that of a
/// release which an object claims to be.
fn best(headers: &[Header], objects: &[AllocatorObject]) -> Option<(u64, &'static Layout)> {
    let fits = |layout: &Layout| {
        let mut versions = objects
            .iter()
            .filter_map(|object| object.identity.version.as_ref());
        versions.any(|version| layout.is_of(version))
    };
    // By key and layout: pages that fit less those that do not, and segments.
    let mut scores: BTreeMap<(u64, usize), (i64, u64)> = BTreeMap::new();
    for header in headers {
        for (i, layout) in LAYOUTS.iter().enumerate() {
            let Some(segment) = Segment::parse(header.addr, &header.bytes, layout) else {
                continue;
            };
            if let Some((fit, unfit)) = segment.score() {
                let score = scores.entry((segment.key, i)).or_default();
                score.0 += fit as i64 - unfit as i64;
                score.1 += 1;
            }
        }
    }
    let candidates = scores.into_iter().filter_map(|((key, i), score)| {
        let layout = LAYOUTS.get(i).filter(|_| score.0 >= 0)?;
        // Of equals the first layout of the table.
        Some(((score, fits(layout), Reverse(i)), (key, layout)))
    });
    candidates
        .max_by_key(|(score, _)| *score)
        .map(|(_, best)| best)
}

fn heap<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    found: &HeapNamer<'_>,
    (key, layout): (u64, &'static Layout),
    headers: &[Header],
) -> HeapSnapshot {
    let object = instance::of_secret(memory, residency, found.context.objects, key);
    let mut heap = found.heap(memory, object, layout.name);
    let segments: Vec<Segment<'_>> = headers
        .iter()
        .filter_map(|header| Segment::parse(header.addr, &header.bytes, layout))
        .collect();
    let (delayed, whole) = delayed(memory, layout, &segments);
    if !whole {
        note(
            &mut heap,
            None,
            0,
            "a heap's list of blocks freed by other threads is damaged",
        );
    }
    let mut walker = Walker::new(memory, delayed);
    let mut arenas = Vec::new();
    let mut pages = (0, 0);
    for (segment, range) in placed(&segments, residency, &mut heap) {
        let mut spans = SpanList::default();
        let used = lay(segment, range, &mut walker, &mut heap, &mut spans);
        pages = (pages.0 + segment.used, pages.1 + used);
        let kind = match segment.thread {
            _ if segment.is_freed() => ArenaKind::GivenBack,
            0 => ArenaKind::Abandoned,
            _ => ArenaKind::Thread,
        };
        heap.extents.push(Extent {
            range,
            kind: if segment.huge && !segment.is_freed() {
                ExtentKind::LargeMapped
            } else {
                ExtentKind::Region
            },
            arena: arena_of(&mut arenas, kind, segment.thread),
            block_header_bytes: 0,
            spans,
        });
    }
    heap.arenas = arenas;
    heap.checks.push(CrossCheck::new(
        "pages in use in segments",
        pages.0,
        pages.1,
    ));
    judge(&mut heap, &walker, object.is_some());
    heap
}

/// The segments with their ranges, ascending. A segment that was returned may have been reused, and
/// what looks like a segment inside another is data of that one.
fn placed<'s, 'h>(
    segments: &'s [Segment<'h>],
    residency: &ResidencyMap,
    heap: &mut HeapSnapshot,
) -> Vec<(&'s Segment<'h>, AddrRange)> {
    let mut live: Vec<(&Segment<'_>, AddrRange)> = Vec::new();
    let mut end = RemoteAddr::default();
    for segment in segments.iter().filter(|segment| !segment.is_freed()) {
        let Some(range) = segment.range().filter(|range| {
            let last = range.end().checked_sub(1);
            last.is_some_and(|last| residency.mapping_at(last).is_some())
        }) else {
            note(
                heap,
                Some(segment.addr),
                0,
                "a segment extends into memory that is not mapped",
            );
            continue;
        };
        if range.start() < end {
            note(
                heap,
                Some(segment.addr),
                0,
                "a segment overlaps the one before",
            );
            continue;
        }
        end = range.end();
        live.push((segment, range));
    }
    let mut all = live.clone();
    let mut end = RemoteAddr::default();
    for segment in segments.iter().filter(|segment| segment.is_freed()) {
        let start = RemoteAddr::new(segment.addr);
        let next = live.partition_point(|(_, range)| range.end() <= start);
        let limit = live.get(next).map(|(_, range)| range.start());
        let range = segment.range().and_then(|range| {
            let mapping = residency.mapping_at(start)?;
            let end = range.end().min(mapping.range.end());
            AddrRange::new(start, limit.map_or(end, |limit| limit.min(end)))
        });
        if let Some(range) = range.filter(|range| range.start() >= end && !range.is_empty()) {
            end = range.end();
            all.push((segment, range));
        }
    }
    all.sort_by_key(|(_, range)| *range);
    all
}

/// Appends the spans of a segment. Returns the number of its pages in use.
fn lay<M: TargetMemory>(
    segment: &Segment<'_>,
    range: AddrRange,
    walker: &mut Walker<'_, M>,
    heap: &mut HeapSnapshot,
    spans: &mut SpanList,
) -> u64 {
    let all = range.len();
    if segment.is_freed() {
        spans.push(all, SpanState::Retained);
        return 0;
    }
    spans.push(segment.header_bytes(), SpanState::Metadata);
    let Some(parts) = segment.parts() else {
        let rest = all - segment.header_bytes();
        note(
            heap,
            Some(segment.addr),
            rest,
            "a segment's slices do not add up, or are swapped out",
        );
        spans.push(rest, SpanState::Unknown);
        return 0;
    };
    let mut used = 0;
    for part in parts {
        match part {
            Part::Unused(bytes) => spans.push(bytes, SpanState::Retained),
            Part::Page(blocks, _) => {
                used += 1;
                walker.page(&blocks, spans, |memory| segment.renewed(memory, &blocks));
            }
            Part::Damaged(bytes) => {
                used += 1;
                note(
                    heap,
                    Some(segment.addr),
                    bytes,
                    "a page that no mimalloc could write",
                );
                spans.push(bytes, SpanState::Unknown);
            }
        }
    }
    used
}

/// Blocks freed by other threads that are in a heap's list, and whether all lists ended.
fn delayed<M: TargetMemory>(
    memory: &M,
    layout: &Layout,
    segments: &[Segment<'_>],
) -> (Vec<u64>, bool) {
    let mut heaps = BTreeSet::new();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for segment in segments {
        ranges.extend(segment.range().map(|r| r.start().get()..r.end().get()));
        for part in segment.parts().unwrap_or_default() {
            if let Part::Page(_, heap) = part {
                heaps.insert(heap);
            }
        }
    }
    heaps.remove(&0);
    let mut all = Vec::new();
    let mut whole = true;
    for heap in heaps {
        let word = |at: usize| {
            let addr = RemoteAddr::new(heap).checked_add(at as u64)?;
            memory.read_value::<u64>(addr).ok()
        };
        let keys = layout.keys.and_then(|_| {
            Some(Keys {
                keys: [word(layout.heap_keys)?, word(layout.heap_keys + 8)?],
                null: heap,
            })
        });
        let head = word(layout.heap_delayed).unwrap_or(0);
        let (blocks, ended) = blocks::list(memory, head, keys, MAX_DELAYED - all.len());
        let inside = |at: &u64| {
            let after = ranges.partition_point(|range| range.start <= *at);
            let range = after.checked_sub(1).and_then(|i| ranges.get(i));
            range.is_some_and(|range| range.contains(at))
        };
        whole &= ended && blocks.iter().all(inside);
        all.extend(blocks.into_iter().filter(inside));
    }
    (all, whole)
}

//! Heaps.

use profiler_core::addr::{PAGE_SIZE, RemoteAddr};
use profiler_core::allocator::UnknownEnvironment;
use profiler_core::arena::{ArenaFigure, ArenaKind};
use profiler_core::heap::{
    Allocator, Arena, CrossCheck, Extent, ExtentKind, HeapSnapshot, RequestedSetting,
};
use profiler_core::span::{SpanList, SpanState};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{BASE, COUNT, confidence, defects, range, text};

fn arena() -> impl Strategy<Value = Arena> {
    let figures = vec((select(ArenaFigure::ALL), COUNT), 0..5);
    (
        0..9u32,
        select(ArenaKind::ALL),
        any::<u64>(),
        vec(COUNT, 8),
        figures,
    )
        .prop_map(|(id, kind, addr, counts, figures)| Arena {
            id,
            kind,
            addr: RemoteAddr::new(addr),
            system_bytes: counts[0],
            live_blocks: counts[1],
            live_bytes: counts[2],
            free_blocks: counts[3],
            free_bytes: counts[4],
            cached_blocks: counts[5],
            cached_bytes: counts[6],
            top_bytes: counts[7],
            figures,
        })
}

fn extents() -> impl Strategy<Value = Vec<Extent>> {
    let len = prop_oneof![9 => 1..600u64, 1 => 1..1u64 << 36];
    let spans = vec((len, select(SpanState::ALL.as_slice())), 0..40);
    let kinds = vec![
        ExtentKind::Brk,
        ExtentKind::ThreadHeap,
        ExtentKind::LargeMapped,
        ExtentKind::PoolArena,
        ExtentKind::Region,
    ];
    vec((0..900u64, 0..3u32, select(kinds), spans, 0..50u64), 0..4).prop_map(|extents| {
        let mut at = BASE;
        let made = extents.into_iter().map(|(gap, arena, kind, parts, rest)| {
            let mut spans = SpanList::default();
            for (granules, state) in parts {
                spans.push(granules * 8, state);
            }
            let start = at + gap * 8;
            let range = range(start, spans.bytes() + rest * 8);
            at = range.end().get();
            Extent {
                range,
                kind,
                arena,
                block_header_bytes: 8,
                spans,
            }
        });
        made.collect()
    })
}

pub(super) fn environment_unknown() -> impl Strategy<Value = Option<UnknownEnvironment>> {
    option::of(select(UnknownEnvironment::ALL.as_slice()))
}

pub(super) fn heap() -> impl Strategy<Value = HeapSnapshot> {
    let trimmable = vec((0..90u64, 1..9u64), 0..6);
    let pairs = || vec((text(), text()), 0..3);
    let requested = vec((text(), option::of(any::<bool>()), text()), 0..2);
    let checks = vec((text(), COUNT, COUNT), 0..2);
    let lists = (vec(arena(), 0..4), extents(), trimmable, defects());
    let words = (text(), pairs(), pairs(), requested, checks);
    let rest = (confidence(), any::<u32>(), COUNT, environment_unknown());
    (select(Allocator::ALL.as_slice()), lists, words, rest).prop_map(
        |(allocator, (arenas, extents, trimmable, defects), words, rest)| {
            let (version, settings, defaults, requested, checks) = words;
            let (confidence, threads_inside, unreadable_bytes, environment_unknown) = rest;
            let requested_nothing = requested.is_empty();
            let mut at = BASE;
            let trimmable = trimmable.into_iter().map(|(gap, pages)| {
                let start = at + gap * PAGE_SIZE;
                at = start + pages * PAGE_SIZE;
                range(start, pages * PAGE_SIZE)
            });
            HeapSnapshot {
                arenas,
                extents,
                trimmable: trimmable.collect(),
                settings,
                defaults,
                requested: requested
                    .into_iter()
                    .map(|(request, in_force, note)| RequestedSetting {
                        request,
                        in_force,
                        note,
                    })
                    .collect(),
                checks: checks
                    .into_iter()
                    .map(|(name, expected, found)| CrossCheck {
                        name,
                        expected,
                        found,
                    })
                    .collect(),
                confidence,
                threads_inside,
                defects,
                unreadable_bytes,
                // What it requested is known, or why it is not.
                environment_unknown: environment_unknown.filter(|_| requested_nothing),
                ..HeapSnapshot::new(allocator, version)
            }
        },
    )
}

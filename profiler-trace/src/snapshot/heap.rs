//! The bytes of a heap: its arenas, and its extents with a span for each block.

use std::io;

use profiler_core::addr::{AddrRange, PAGE_SIZE, USER_END};
use profiler_core::allocator::UnknownEnvironment;
use profiler_core::arena::{ArenaFigure, ArenaKind};
use profiler_core::completeness::{Confidence, Defect};
use profiler_core::heap::{
    Allocator, Arena, CrossCheck, Extent, ExtentKind, HeapSnapshot, RequestedSetting,
};
use profiler_core::span::{GRANULE, STATE_BITS, SpanList, SpanState};

use super::wire::{Input, Wire, by_name, count, fields, malformed, numbered};
use crate::varint;

by_name!(Allocator, "an allocator");
by_name!(ArenaKind, "a kind of arena");
by_name!(UnknownEnvironment, "why an environment is unknown");

numbered!(Confidence, "a confidence" { 0 => None, 1 => Low, 2 => Medium, 3 => High });
numbered!(ExtentKind, "a kind of extent" { 0 => Brk, 1 => ThreadHeap, 2 => LargeMapped, 3 => PoolArena, 4 => Region });

fields!(CrossCheck {
    name,
    expected,
    found
});
fields!(RequestedSetting {
    request,
    in_force,
    note
});
fields!(Defect { addr, what, bytes } later { unreadable });

fields!(Arena {
    id,
    kind,
    addr,
    system_bytes,
    live_blocks,
    live_bytes,
    free_blocks,
    free_bytes,
    cached_blocks,
    cached_bytes,
    top_bytes,
    figures,
});

fields!(Extent {
    range,
    kind,
    arena,
    spans
} later {
    block_header_bytes
});

fields!(HeapSnapshot {
    allocator,
    version,
    arenas,
    extents,
    trimmable,
    settings,
    defaults,
    requested,
    checks,
    confidence,
    threads_inside,
    defects,
    unreadable_bytes,
} later {
    library,
    environment_unknown or OLDER_ENVIRONMENT
} finish what_was_requested_is_known);

/// What the environment requested, in a session of before that was kept: unknown, unless it stands there.
pub(super) const OLDER_ENVIRONMENT: Option<UnknownEnvironment> =
    Some(UnknownEnvironment::NotRecorded);

fn what_was_requested_is_known(heap: HeapSnapshot) -> HeapSnapshot {
    let is_known = !heap.requested.is_empty();
    HeapSnapshot {
        environment_unknown: heap.environment_unknown.filter(|_| !is_known),
        ..heap
    }
}

/// A figure by its name. In a list, figures with unknown names are left out.
impl Wire for (ArenaFigure, u64) {
    const MOST: u64 = 4096;

    fn put(&self, out: &mut Vec<u8>) {
        varint::put_text(out, self.0.name());
        varint::put(out, self.1);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let (known, value) = figure(input)?;
        known
            .map(|figure| (figure, value))
            .ok_or_else(|| malformed("a figure of no known name"))
    }

    fn take_list(input: &mut Input<'_, '_>) -> io::Result<Vec<Self>> {
        let mut list = Vec::new();
        for _ in 0..count::<Self>(input)? {
            input.memory.add(size_of::<Self>() as u64)?;
            let (known, value) = figure(input)?;
            list.extend(known.map(|figure| (figure, value)));
        }
        Ok(list)
    }
}

fn figure(input: &mut Input<'_, '_>) -> io::Result<(Option<ArenaFigure>, u64)> {
    let name = input.text()?;
    let mut all = ArenaFigure::ALL.iter().copied();
    let known = all.find(|figure| figure.name() == name);
    Ok((known, input.number()?))
}

/// A report has a cell for each page, and for up to this many pages of a stretch that is not in
/// memory.
const MAPPED_PAGES: u64 = 64;
/// Bytes of such a cell.
pub(super) const CELL: u64 = 8;

/// For each span its granules, and below them its state: most blocks take a byte or two.
impl Wire for SpanList {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.count());
        for span in self.iter(Default::default()) {
            let granules = span.range.len() / GRANULE;
            varint::put(out, granules << STATE_BITS | span.state as u64);
        }
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mut spans = Self::default();
        let mut bytes = 0u64;
        for _ in 0..input.number()? {
            let number = input.number()?;
            let state = SpanState::ALL
                .get((number & ((1 << STATE_BITS) - 1)) as usize)
                .ok_or_else(|| malformed("a span of no known state"))?;
            let len = (number >> STATE_BITS) * GRANULE;
            bytes = bytes
                .checked_add(len)
                .ok_or_else(|| malformed("spans are longer than all addresses"))?;
            let cells = (len / PAGE_SIZE).min(MAPPED_PAGES) * CELL;
            input.memory.add(size_of::<u32>() as u64 + cells)?;
            spans.push(len, *state);
        }
        Ok(spans)
    }
}

/// Whether the ranges of a heap are as [`HeapSnapshot`] promises.
pub(super) fn check(heap: &HeapSnapshot) -> io::Result<()> {
    check_order(heap.extents.iter().map(|extent| &extent.range))?;
    check_order(heap.trimmable.iter())?;
    let overfull = |extent: &Extent| extent.spans.bytes() > extent.range.len();
    if heap.extents.iter().any(overfull) {
        return Err(malformed("spans are longer than their extent"));
    }
    Ok(())
}

fn check_order<'a>(ranges: impl Iterator<Item = &'a AddrRange>) -> io::Result<()> {
    let mut end = AddrRange::default().end();
    for range in ranges {
        if range.start() < end || range.end() > USER_END {
            return Err(malformed("ranges of a heap overlap, or are of no program"));
        }
        end = range.end();
    }
    Ok(())
}

/// Counts that reports sum up.
#[derive(Debug)]
pub(super) struct Sums {
    /// Total of what every arena has and what else is summed.
    common: u64,
    /// Of each figure.
    figures: Vec<u64>,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            common: 0,
            figures: vec![0; ArenaFigure::ALL.len()],
        }
    }
}

impl Sums {
    /// The most that all counts of a sample may sum to: more than any host's memory.
    const MOST: u64 = 1 << 60;

    /// Adds some.
    pub(super) fn add(&mut self, counts: impl IntoIterator<Item = u64>) -> io::Result<()> {
        let all = counts.into_iter().fold(self.common, u64::saturating_add);
        self.common = all;
        sane(all <= Self::MOST)
    }

    /// Adds an arena's.
    pub(super) fn add_arena(&mut self, arena: &Arena) -> io::Result<()> {
        self.add([
            arena.system_bytes,
            arena.live_blocks,
            arena.live_bytes,
            arena.free_blocks,
            arena.free_bytes,
            arena.cached_blocks,
            arena.cached_bytes,
            arena.top_bytes,
        ])?;
        for (figure, value) in &arena.figures {
            // They are numbered by their position in ALL. Some are not counts, and may be as large
            // as possible.
            let sum = &mut self.figures[*figure as usize];
            let more = sum.checked_add(*value);
            sane(more.is_some())?;
            *sum = more.unwrap_or_default();
        }
        Ok(())
    }
}

fn sane(holds: bool) -> io::Result<()> {
    match holds {
        true => Ok(()),
        false => Err(malformed("it counts more than any memory holds")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Memory, put_framed};
    use super::*;
    use crate::limits::{Limits, Meter};

    /// A heap as a version wrote it that did not keep why the environment is unknown, read by this one.
    fn from_older(heap: &HeapSnapshot) -> HeapSnapshot {
        let mut bytes = Vec::new();
        heap.put(&mut bytes);
        let meter = Meter::new(Limits::new(None, None, 1 << 30), Default::default());
        let memory = Memory::new(&meter, 0);
        let mut own = Input::new(&bytes, &memory).framed().expect("a struct");
        // What may be missing is one byte where it is.
        own.rest = &own.rest[..own.rest.len() - 1];
        let mut older = Vec::new();
        put_framed(&mut older, |out| out.extend_from_slice(own.rest));
        HeapSnapshot::take(&mut Input::new(&older, &memory)).expect("a heap")
    }

    #[test]
    fn what_an_older_session_does_not_hold_of_the_environment_is_unknown() {
        let mut heap = HeapSnapshot::new(Allocator::Jemalloc, "5.3.0");
        let unknown = from_older(&heap).requested().map(<[_]>::to_vec);
        assert_eq!(unknown, Err(UnknownEnvironment::NotRecorded));
        heap.allocator = Allocator::Glibc;
        heap.requested = vec![RequestedSetting {
            request: "MALLOC_ARENA_MAX=2".into(),
            in_force: Some(true),
            note: String::new(),
        }];
        assert_eq!(from_older(&heap), heap);
    }
}

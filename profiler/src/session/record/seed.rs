//! The heap at the beginning of the recording of a running process.

use std::collections::HashMap;

use profiler_common::{RawEvent, RecordKind};
use profiler_core::addr::AddrRange;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::residency::ResidencyMap;
use profiler_core::span::SpanState;
use profiler_trace::compile::{parts_with_pages, room};
use profiler_trace::trace::SeedBlock;

/// Free chunks are recorded in pieces of this many bytes, which merge when they are freed: a larger
/// chunk requested at once would get a mapping of its own (`DEFAULT_MMAP_THRESHOLD_MIN`).
const PIECE: u64 = 64 << 10;

/// The blocks of the heap that serves malloc, in address order, including free ones that have
/// pages, because they influence later allocations.
pub(crate) fn blocks(heap: &HeapSnapshot, residency: &ResidencyMap) -> Vec<SeedBlock> {
    let is_glibc = heap.allocator == Allocator::Glibc;
    let mut blocks = Vec::new();
    for extent in &heap.extents {
        let arena = heap.arenas.get(extent.arena as usize);
        let arena = arena.map_or(0, |arena| arena.id);
        let header = extent.block_header_bytes;
        let block = |range: AddrRange, live| SeedBlock {
            addr: range.start().get() + header,
            bytes: range.len() - header,
            arena,
            live,
        };
        for span in extent.spans.iter(extent.range.start()) {
            match span.state {
                SpanState::Live => blocks.push(block(span.range, true)),
                SpanState::Free | SpanState::Cached | SpanState::Top if is_glibc => {
                    let present = parts_with_pages(span.range, residency);
                    let pieces = present.flat_map(|range| pieces(block(range, false), header));
                    blocks.extend(pieces);
                }
                SpanState::Free | SpanState::Cached => blocks.push(block(span.range, false)),
                _ => {}
            }
        }
    }
    blocks
}

/// A free glibc chunk, as chunks that fill it.
fn pieces(whole: SeedBlock, header: u64) -> impl Iterator<Item = SeedBlock> {
    let mut at = whole.addr;
    let end = whole.addr + whole.bytes + header;
    std::iter::from_fn(move || {
        let left = end.checked_sub(at).filter(|left| *left > 0)?;
        let (addr, chunk) = (at, room(left, PIECE));
        at += chunk;
        Some(SeedBlock {
            addr,
            bytes: chunk - header,
            ..whole
        })
    })
}

/// What the probes recorded between being armed and the moment of the walk.
///
/// A thread may have been inside a free at the walk: its free was recorded before, so the block
/// counts as freed although the walk still found it.
#[derive(Debug, Default)]
pub(crate) struct FreesBeforeWalk {
    freed: HashMap<u64, bool>,
}

impl FreesBeforeWalk {
    /// Processes the next event.
    pub(crate) fn note(&mut self, event: &RawEvent) {
        let is_freed = match event.kind() {
            Some(RecordKind::Free | RecordKind::Realloc) => true,
            Some(
                RecordKind::Alloc | RecordKind::Calloc | RecordKind::Reallocated | RecordKind::Kept,
            ) => false,
            _ => return,
        };
        self.freed.insert(event.addr, is_freed);
    }

    /// Marks what was being freed as free.
    pub(crate) fn apply(&self, blocks: &mut [SeedBlock]) {
        for block in blocks.iter_mut().filter(|block| block.live) {
            block.live = self.freed.get(&block.addr) != Some(&true);
        }
    }
}

/// The order in which threads are numbered, so that thread number N allocates from arena N, as far
/// as `users` (threads and the arenas that they use) says. The first of `tids` is the main thread
/// and always comes first. `None` represents an arena that no thread uses, because its thread
/// ended.
pub(crate) fn thread_order(users: &[(u32, u32)], arenas: u32, tids: &[u32]) -> Vec<Option<u64>> {
    let mut order = vec![None; arenas as usize];
    let mut others = Vec::new();
    for (i, &tid) in tids.iter().enumerate() {
        if i == 0 && !order.is_empty() {
            order[0] = Some(tid.into());
            continue;
        }
        let arena = users.iter().find(|(user, _)| *user == tid);
        let place = arena.and_then(|(_, arena)| order.get_mut(*arena as usize));
        match place.filter(|place| place.is_none()) {
            Some(place) => *place = Some(tid.into()),
            None => others.push(Some(tid.into())),
        }
    }
    order.extend(others);
    order
}

#[cfg(test)]
mod tests {
    use profiler_core::addr::{AddrRange, RemoteAddr};
    use profiler_core::heap::{Arena, Extent, ExtentKind};
    use profiler_core::residency::{PageRun, PageState};

    use super::*;

    use profiler_core::glibc::{CHUNK_HEADER, MIN_CHUNK};

    fn extent(kind: ExtentKind, at: u64, spans: &[(u64, SpanState)]) -> Extent {
        Extent {
            arena: 1,
            ..profiler_testing::heap::extent(kind, at, spans)
        }
    }

    fn heap(allocator: Allocator) -> HeapSnapshot {
        let mut heap = HeapSnapshot::new(allocator, "");
        heap.arenas = [0, 7]
            .map(|id| Arena {
                id,
                ..Arena::default()
            })
            .into();
        heap.extents = vec![
            extent(
                ExtentKind::Brk,
                0x1000,
                &[
                    (0x18, SpanState::Metadata),
                    (0x20, SpanState::Live),
                    (0x30, SpanState::Cached),
                    (0x40, SpanState::Top),
                ],
            ),
            extent(
                ExtentKind::LargeMapped,
                0x8000,
                &[(0x10, SpanState::Metadata), (0xff0, SpanState::Live)],
            ),
        ];
        if allocator == Allocator::Glibc {
            heap.extents[0].block_header_bytes = CHUNK_HEADER;
        }
        heap
    }

    fn seed(addr: u64, bytes: u64, live: bool) -> SeedBlock {
        SeedBlock {
            addr,
            bytes,
            arena: 7,
            live,
        }
    }

    #[test]
    fn glibcs_blocks_begin_after_their_header_and_free_ones_are_recorded() {
        assert_eq!(
            blocks(&heap(Allocator::Glibc), &residency()),
            [
                seed(0x1020, 0x18, true),
                seed(0x1040, 0x28, false),
                seed(0x1070, 0x38, false),
                seed(0x8010, 0xff0, true),
            ]
        );
        assert_eq!(
            blocks(&heap(Allocator::Jemalloc), &residency()),
            [
                seed(0x1018, 0x20, true),
                seed(0x1038, 0x30, false),
                seed(0x8010, 0xff0, true),
            ]
        );
    }

    #[test]
    fn what_has_no_pages_of_a_free_chunk_is_left_out() {
        let mut heap = heap(Allocator::Glibc);
        heap.extents = vec![Extent {
            block_header_bytes: CHUNK_HEADER,
            ..extent(
                ExtentKind::Brk,
                0x1008,
                &[(0x5ff0, SpanState::Free), (0x20, SpanState::Live)],
            )
        }];
        assert_eq!(
            blocks(&heap, &residency()),
            [
                seed(0x1010, 0xfe8, false),
                seed(0x4010, 0x2fe8, false),
                seed(0x7000, 0x18, true),
            ]
        );
    }

    /// Pages at 0x1000 and from 0x4000 on.
    fn residency() -> ResidencyMap {
        let run = |start, bytes| PageRun {
            range: AddrRange::with_len(RemoteAddr::new(start), bytes).expect("short"),
            state: PageState::PRESENT,
        };
        let mut mapping = ResidencyMap::new(Vec::new());
        [run(0x1000, 0x1000), run(0x4000, 0x8000)]
            .into_iter()
            .for_each(|run| mapping.push_run(run));
        mapping
    }

    #[test]
    fn pieces_of_a_free_chunk_fill_it_and_can_be_chunks() {
        for chunk in [32, 48, PIECE, PIECE + 16, PIECE + 32, 5 * PIECE + 112] {
            let all: Vec<_> =
                pieces(seed(0x1020, chunk - CHUNK_HEADER, false), CHUNK_HEADER).collect();
            let mut at = 0x1020;
            for piece in &all {
                assert_eq!(piece.addr, at);
                let bytes = piece.bytes + CHUNK_HEADER;
                assert!(
                    (MIN_CHUNK..PIECE + MIN_CHUNK).contains(&bytes),
                    "{bytes} of {chunk}"
                );
                at += bytes;
            }
            assert_eq!(at, 0x1020 + chunk);
        }
    }

    #[test]
    fn threads_are_numbered_by_their_arenas() {
        let users = [(50, 0), (51, 2), (52, 2), (53, 7)];
        assert_eq!(
            thread_order(&users, 3, &[50, 51, 52, 53, 54]),
            [Some(50), None, Some(51), Some(52), Some(53), Some(54)]
        );
        assert_eq!(thread_order(&[], 1, &[50]), [Some(50)]);
        assert_eq!(thread_order(&[], 0, &[50, 40]), [Some(50), Some(40)]);
    }

    #[test]
    fn what_was_being_freed_is_free() {
        let event = |kind: RecordKind, addr| RawEvent {
            time_ns: 0,
            addr,
            size: 0,
            tid: 1,
            kind: kind as u16,
            flags: 0,
        };
        let mut before = FreesBeforeWalk::default();
        before.note(&event(RecordKind::Free, 0x1020));
        before.note(&event(RecordKind::Free, 0x8010));
        before.note(&event(RecordKind::Alloc, 0x8010));
        let mut all = blocks(&heap(Allocator::Glibc), &residency());
        before.apply(&mut all);
        let live: Vec<u64> = all.iter().filter(|b| b.live).map(|b| b.addr).collect();
        assert_eq!(live, [0x8010]);
    }
}

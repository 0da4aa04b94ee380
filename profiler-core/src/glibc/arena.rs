//! The memory of each arena, run by run: brk and its mmapped substitutes, and thread arenas' heaps.

use std::collections::HashSet;

use zerocopy::IntoBytes;

use super::Notes;
use super::chunks::{CHUNK_HEADER, ChunkWalker, End, IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, Run};
use super::layout::Layout;
use super::ranges::{Claims, areas, page_heads};
use super::state::{ArenaState, MallocPar};
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::heap::{Extent, ExtentKind};
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};

/// Places tried behind fenceposts before a foreign `sbrk`'s memory counts as endless: 64 MiB.
const MAX_GAP_TRIES: usize = 1 << 22;

/// What the walks of all arenas share.
pub(super) struct Arenas<'m, M> {
    pub(super) memory: &'m M,
    pub(super) residency: &'m ResidencyMap,
    pub(super) layout: &'static Layout,
    pub(super) par: &'m MallocPar,
    pub(super) walker: ChunkWalker<'m, M>,
    pub(super) claims: Claims,
    pub(super) extents: Vec<Extent>,
    pub(super) notes: Notes,
}

impl<M: TargetMemory> Arenas<'_, M> {
    /// Walks a run and keeps it as an extent of arena number `id`; `None` if its memory is already
    /// claimed.
    fn take(&mut self, run: Run, id: u32) -> Option<(u64, End)> {
        if run.limit < run.first.saturating_add(16) || !self.claims.is_free(run.start, run.limit) {
            let what = "memory claimed twice, or too small for a chunk";
            self.notes.defect(run.start, 0, what);
            return None;
        }
        let walked = self.walker.walk(run, &mut self.notes);
        self.claims.claim(run.start, walked.end);
        let range = AddrRange::new(RemoteAddr::new(run.start), RemoteAddr::new(walked.end))?;
        self.extents.push(Extent {
            range,
            kind: if run.thread_heap {
                ExtentKind::ThreadHeap
            } else {
                ExtentKind::Brk
            },
            arena: id,
            block_header_bytes: CHUNK_HEADER,
            spans: walked.spans,
        });
        Some((walked.end, walked.how))
    }

    /// Walks the heaps of a thread arena, from the newest to the one that contains the arena
    /// itself. Returns their number.
    pub(super) fn thread(&mut self, arena: &ArenaState, id: u32) -> u64 {
        let heap_max = self.par.heap_max();
        let info_bytes = self.layout.heap_info_bytes;
        let mut seen = HashSet::new();
        let mut heap = arena.top & !(heap_max - 1);
        loop {
            let mut info = [0_u64; 3];
            let at = RemoteAddr::new(heap);
            let read = self.memory.read_meanwhile(at, info.as_mut_bytes());
            let [owner, prev, size] = info;
            if read.is_err() {
                self.notes.lost(heap, 0, read.err());
                break;
            };
            let sound = owner == arena.addr
                && heap.is_multiple_of(heap_max)
                && size.is_multiple_of(PAGE_SIZE)
                && size <= heap_max;
            if !sound || !seen.insert(heap) {
                let what = format!(
                    "no heap of the arena at {:#x}, though its chain of heaps leads here",
                    arena.addr
                );
                self.notes.defect(heap, 0, what);
                break;
            }
            let first = if prev == 0 {
                if heap.checked_add(info_bytes) != Some(arena.addr) {
                    let what = "the last heap of an arena does not hold the arena";
                    self.notes.defect(heap, size, what);
                    break;
                }
                (arena.addr + self.layout.state_bytes).next_multiple_of(16)
            } else {
                heap.saturating_add(info_bytes)
            };
            let run = Run {
                start: heap,
                first,
                limit: heap.saturating_add(size),
                top: arena.top,
                thread_heap: true,
                top_unit: None,
                top_at: self.top_at(arena),
            };
            self.take(run, id);
            if prev == 0 {
                break;
            }
            heap = prev;
        }
        seen.len() as u64
    }

    /// Walks the main arena, arena number 0. Returns the bytes between its runs that a foreign
    /// `sbrk` took, which glibc also counts in `system_mem`.
    pub(super) fn main(&mut self, arena: &ArenaState) -> u64 {
        if arena.is_unused() {
            return 0;
        }
        let areas = areas(self.residency);
        // A foreign sbrk before the first malloc may leave it unaligned.
        let base = self.par.sbrk_base.saturating_add(7) & !7;
        let Some(area) = areas.iter().find(|a| a.contains(RemoteAddr::new(base))) else {
            let what = "sbrk_base lies in no mapping that could hold the main arena";
            self.notes.defect(base, arena.system_mem, what);
            return 0;
        };
        let limit = match self.brk_end() {
            Some(end) if (base..=area.end().get()).contains(&end) => end,
            _ => area.end().get(),
        };
        let foreign = self.brk(arena, base, limit);
        if arena.is_noncontiguous() {
            self.stand_ins(arena, &areas);
        }
        foreign
    }

    fn top_at(&self, arena: &ArenaState) -> u64 {
        arena.addr.saturating_add(self.layout.top)
    }

    /// The program break, to the page.
    fn brk_end(&self) -> Option<u64> {
        let brk = self.residency.mappings().iter();
        brk.filter(|m| m.kind == MappingKind::Brk)
            .map(|m| m.range.end().get())
            .next_back()
    }

    fn main_run(&self, arena: &ArenaState, start: u64, limit: u64) -> Run {
        let at_break = Some(limit) == self.brk_end();
        let unit = self.par.thp_pagesize;
        let unit = unit.max(self.residency.page_size().bytes());
        Run {
            start,
            first: start.saturating_add(15) & !15,
            limit,
            top: arena.top,
            thread_heap: false,
            top_unit: at_break.then_some(unit),
            top_at: self.top_at(arena),
        }
    }

    /// Walks from `start` to the top, over the gaps that a foreign `sbrk` left.
    fn brk(&mut self, arena: &ArenaState, start: u64, limit: u64) -> u64 {
        let mut foreign = 0;
        let mut run = self.main_run(arena, start, limit);
        while let Some((end, End::Fencepost)) = self.take(run, 0) {
            let Some(next) = self.next_run(arena, end, limit) else {
                break;
            };
            foreign += next.start - end;
            run = next;
        }
        if arena.is_noncontiguous() { 0 } else { foreign }
    }

    /// The run of chunks that continues after fenceposts that end at `end`.
    fn next_run(&mut self, arena: &ArenaState, end: u64, limit: u64) -> Option<Run> {
        let first = self.main_run(arena, end, limit);
        (end..limit.saturating_sub(16))
            .step_by(16)
            .take(MAX_GAP_TRIES)
            .map(|start| Run {
                start,
                first: start,
                ..first
            })
            .find(|&run| self.walker.leads_to_an_end(run))
    }

    /// Finds and walks the runs mapped in place of brk: they begin at a page, with a chunk that has
    /// no predecessor, and their chunks lead to fenceposts or the top.
    fn stand_ins(&mut self, arena: &ArenaState, areas: &[AddrRange]) {
        for area in areas {
            let limit = area.end().get();
            for [page, prev_size, head] in page_heads(self.memory, self.residency, *area) {
                if self.walker.totals.walked() >= arena.system_mem {
                    return;
                }
                let flags = PREV_INUSE | IS_MMAPPED | NON_MAIN_ARENA;
                if prev_size != 0 || head & flags != PREV_INUSE || self.claims.holds(page) {
                    continue;
                }
                let run = self.main_run(arena, page, limit);
                let room = self.claims.is_free(page, limit);
                let run = match self.claims.next_after(page) {
                    Some(next) if !room => Run { limit: next, ..run },
                    _ => run,
                };
                if self.walker.leads_to_an_end(run) {
                    self.take(run, 0);
                }
            }
        }
    }
}

//! The walk of one run of chunks: from header to header, distinguishing live, cached and free.
//!
//! A chunk at `p` is in use when the chunk after it has `PREV_INUSE` set. Its bytes are
//! `[p + 8, p + 8 + size)`: its size word and what the program may write, which is what the spans
//! show; totals count chunks as `[p, p + size)`, as glibc does.

use super::Notes;
use super::lists::{HeldChunk, HeldIn};
use super::trim::Trim;
use crate::addr::RemoteAddr;
use crate::memory::{ReadAhead, ReadError, TargetMemory};
use crate::residency::ResidencyMap;
use crate::span::{SpanList, SpanState};

/// The smallest chunk (`MINSIZE`), in bytes.
pub const MIN_CHUNK: u64 = 32;
/// Bytes before the block that belong to its chunk: the size word (`SIZE_SZ`). The word before that
/// belongs to the previous chunk while that is in use.
pub const CHUNK_HEADER: u64 = 8;
/// `CHUNK_HDR_SZ`: a chunk header with the word before it, as at the start of an mmapped chunk's
/// mapping (`sysmalloc_mmap`), and the size of a fencepost. All other chunks are larger.
pub const WHOLE_HEADER: u64 = 16;
pub(super) const PREV_INUSE: u64 = 1;
pub(super) const IS_MMAPPED: u64 = 2;
pub(super) const NON_MAIN_ARENA: u64 = 4;
const FLAGS: u64 = 7;
/// After damage, a place counts as a chunk again if this many valid chunks follow in a row.
const SOUND_LINKS: u32 = 4;
/// Places tried after damage, in one snapshot: bounds the time that a ruined heap takes.
const MAX_TRIES: u32 = 1 << 22;

/// Sums over chunks, in bytes as glibc counts them.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Totals {
    pub(super) live: (u64, u64),
    pub(super) free: (u64, u64),
    pub(super) tcache: (u64, u64),
    pub(super) fastbin: (u64, u64),
    pub(super) tcache_structs: (u64, u64),
    pub(super) top: u64,
    pub(super) metadata: u64,
    pub(super) unknown: u64,
}

impl Totals {
    /// All that was understood.
    pub(super) fn walked(&self) -> u64 {
        let blocks = self.live.1 + self.free.1 + self.tcache.1 + self.fastbin.1;
        blocks + self.top + self.metadata
    }
}

fn count(sum: &mut (u64, u64), bytes: u64) {
    *sum = (sum.0 + 1, sum.1 + bytes);
}

/// The bounds and rules of one run of chunks.
#[derive(Copy, Clone, Debug)]
pub(super) struct Run {
    /// The start of the run's memory (which may begin with an arena's own state).
    pub(super) start: u64,
    /// The first chunk.
    pub(super) first: u64,
    /// The latest possible end; a thread arena's heap ends exactly there.
    pub(super) limit: u64,
    /// The arena's top chunk, in this run or elsewhere.
    pub(super) top: u64,
    /// Whether this is a heap of a thread arena.
    pub(super) thread_heap: bool,
    /// The unit in which trimming returns the top, if `limit` is the program break.
    pub(super) top_unit: Option<u64>,
    /// The address of the arena's pointer to its top.
    pub(super) top_at: u64,
}

impl Run {
    fn holds_top(&self, from: u64) -> bool {
        from <= self.top && self.top < self.limit
    }

    /// The size of the chunk at `p`, if its header is plausible.
    fn size(&self, p: u64, head: u64) -> Option<u64> {
        let size = head & !FLAGS;
        let foreign = if self.thread_heap { 0 } else { NON_MAIN_ARENA };
        let sound =
            size.is_multiple_of(16) && size >= WHOLE_HEADER && head & (IS_MMAPPED | foreign) == 0;
        let fits = p.checked_add(size).is_some_and(|end| end <= self.limit);
        (sound && fits).then_some(size)
    }
}

/// How a walk ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// At the top.
    Top,
    /// Fenceposts, which glibc leaves where its memory does not continue.
    Fencepost,
    /// Chunks could not be followed to the end.
    Lost,
}

/// A walked run.
pub(super) struct Walked {
    pub(super) spans: SpanList,
    pub(super) end: u64,
    pub(super) how: End,
}

/// Walks runs of chunks in one pass each.
pub(super) struct ChunkWalker<'m, M> {
    memory: &'m M,
    ahead: ReadAhead<&'m M>,
    residency: &'m ResidencyMap,
    held: &'m [HeldChunk],
    tries_left: u32,
    /// Sums over the runs walked since the last reset.
    pub(super) totals: Totals,
    /// Collects what a trim would return.
    pub(super) trim: Trim,
}

impl<'m, M: TargetMemory> ChunkWalker<'m, M> {
    /// A walker that knows the chunks in caches, ascending.
    pub(super) fn new(memory: &'m M, residency: &'m ResidencyMap, held: &'m [HeldChunk]) -> Self {
        Self {
            memory,
            ahead: ReadAhead::new(memory, RemoteAddr::default()),
            residency,
            held,
            tries_left: MAX_TRIES,
            totals: Totals::default(),
            trim: Trim::new(residency.page_size()),
        }
    }

    fn page_bytes(&self) -> u64 {
        self.residency.page_size().bytes()
    }

    /// `prev_size` and `size` of the chunk at `p`.
    fn header(&mut self, p: u64) -> Result<(u64, u64), ReadError> {
        let bytes = self.ahead.bytes::<16>(RemoteAddr::new(p))?;
        let value = u128::from_le_bytes(bytes);
        Ok((value as u64, (value >> 64) as u64))
    }

    /// Walks `run` to its end.
    pub(super) fn walk(&mut self, mut run: Run, notes: &mut Notes) -> Walked {
        self.ahead.set_limit(RemoteAddr::new(run.limit));
        let mut windows = self.ahead.windows();
        let mut spans = SpanList::default();
        spans.push(run.first + 8 - run.start, SpanState::Metadata);
        self.totals.metadata += run.first - run.start;
        let list = self.held;
        let mut held = list.partition_point(|h| h.chunk < run.first);
        let mut p = run.first;
        let mut head = self.header(p).map(|(_, size)| size);
        let (end, how) = loop {
            if self.ahead.windows() != windows {
                windows = self.ahead.windows();
                if self.memory.epoch() > 0 {
                    self.renew(&mut run, p);
                }
                if run.first <= run.top && run.top < p {
                    // Its end was freed meanwhile and is part of the top.
                    notes.defect(run.top, p - run.top, "chunks became part of the top");
                    self.totals.top += run.limit - p;
                    spans.push(run.limit - p - 8, SpanState::Top);
                    break (run.limit, End::Top);
                }
            }
            let step = head.and_then(|head| self.step(&run, p, head));
            let (next, next_head) = match step {
                Ok(Step::Chunk {
                    size,
                    next_head,
                    free,
                }) => {
                    while list.get(held).is_some_and(|h| h.chunk < p) {
                        let stray = list[held].chunk;
                        notes.defect(stray, 0, "a cached chunk begins inside another chunk");
                        held += 1;
                    }
                    let holder = list.get(held).filter(|h| h.chunk == p);
                    spans.push(size, self.account(p, size, free, holder.map(|h| h.holder)));
                    held += usize::from(holder.is_some());
                    (p + size, Ok(next_head))
                }
                Ok(Step::Fencepost { size, next_head }) => {
                    self.trim.kept();
                    self.totals.metadata += size;
                    spans.push(size, SpanState::Metadata);
                    (p + size, Ok(next_head))
                }
                Ok(Step::LastFencepost) => {
                    self.trim.kept();
                    self.totals.metadata += WHOLE_HEADER;
                    spans.push(8, SpanState::Metadata);
                    break (p + WHOLE_HEADER, End::Fencepost);
                }
                Ok(Step::Top { size }) => {
                    // systrim leaves the top alone unless it ends at the program break.
                    let at_break = p + size == run.limit;
                    let unit = run.top_unit.filter(|_| at_break);
                    self.trim.top(p, p + size, unit);
                    self.totals.top += size;
                    spans.push(size - 8, SpanState::Top);
                    break (p + size, End::Top);
                }
                Ok(Step::Damaged) | Err(_) => {
                    self.trim.kept();
                    let q = self.next_sound(&run, p, held);
                    self.totals.unknown += q - p;
                    notes.lost(p, q - p, step.err());
                    if q == run.limit {
                        spans.push(q - p - 8, SpanState::Unknown);
                        break (q, End::Lost);
                    }
                    spans.push(q - p, SpanState::Unknown);
                    held += list[held..].partition_point(|h| h.chunk < q);
                    (q, self.header(q).map(|(_, size)| size))
                }
            };
            (p, head) = (next, next_head);
        };
        self.trim.kept();
        Walked { spans, end, how }
    }

    /// Reads the current top of an arena, which a running program has moved, and the current end of
    /// the run's memory. Memory that was added is not walked.
    #[cold]
    fn renew(&self, run: &mut Run, p: u64) {
        let word = |at: u64| {
            let mut word = [0; 8];
            let read = self.memory.read_meanwhile(RemoteAddr::new(at), &mut word);
            read.map(|()| u64::from_le_bytes(word))
        };
        let Ok(top) = word(run.top_at) else {
            return;
        };
        if run.thread_heap {
            run.top = top;
            return;
        }
        let had_top = run.holds_top(run.first);
        run.top = top;
        if !had_top || !run.holds_top(run.first) {
            return;
        }
        let size = word(top.saturating_add(8)).map_or(0, |head| head & !FLAGS);
        let end = top.saturating_add(size);
        if (p.saturating_add(WHOLE_HEADER)..run.limit).contains(&end) {
            run.limit = end;
        }
    }

    /// Classifies the chunk at `p` by its size word.
    #[inline]
    fn step(&mut self, run: &Run, p: u64, head: u64) -> Result<Step, ReadError> {
        if p == run.top {
            let size = head & !FLAGS;
            let fits = p.checked_add(size).is_some_and(|end| end <= run.limit);
            let sound = fits && size >= WHOLE_HEADER && size.is_multiple_of(16);
            return Ok(if sound {
                Step::Top { size }
            } else {
                Step::Damaged
            });
        }
        if run.thread_heap && p + WHOLE_HEADER == run.limit && head & !FLAGS == 0 {
            return Ok(Step::LastFencepost);
        }
        let Some(size) = run.size(p, head) else {
            return Ok(Step::Damaged);
        };
        let next = p + size;
        if size == WHOLE_HEADER && !run.thread_heap && next.is_multiple_of(self.page_bytes()) {
            return Ok(Step::LastFencepost);
        }
        if run.limit - next < WHOLE_HEADER || (p < run.top && run.top < next) {
            return Ok(Step::Damaged);
        }
        let (prev_size, next_head) = self.header(next)?;
        let before_last =
            run.thread_heap && next + WHOLE_HEADER == run.limit && next_head & !FLAGS == 0;
        if size == WHOLE_HEADER || before_last {
            return Ok(Step::Fencepost { size, next_head });
        }
        let free = next_head & PREV_INUSE == 0;
        if free && prev_size != size {
            return Ok(Step::Damaged);
        }
        Ok(Step::Chunk {
            size,
            next_head,
            free,
        })
    }

    #[inline]
    fn account(&mut self, p: u64, size: u64, free: bool, holder: Option<HeldIn>) -> SpanState {
        match (free, holder) {
            (true, _) => {
                self.trim.free(p, size);
                count(&mut self.totals.free, size);
                SpanState::Free
            }
            (false, Some(HeldIn::Fastbin)) => {
                self.trim.free(p, size);
                count(&mut self.totals.fastbin, size);
                SpanState::Cached
            }
            (false, other) => {
                self.trim.kept();
                match other {
                    Some(HeldIn::Tcache) => {
                        count(&mut self.totals.tcache, size);
                        SpanState::Cached
                    }
                    Some(_) => {
                        count(&mut self.totals.tcache_structs, size);
                        self.totals.metadata += size;
                        SpanState::Metadata
                    }
                    None => {
                        count(&mut self.totals.live, size);
                        SpanState::Live
                    }
                }
            }
        }
    }

    /// Whether chunks from `run.first` lead to a fencepost or the top. Accounts nothing.
    pub(super) fn leads_to_an_end(&mut self, run: Run) -> bool {
        self.ahead.set_limit(RemoteAddr::new(run.limit));
        let mut p = run.first;
        let Ok((_, mut head)) = self.header(p) else {
            return false;
        };
        loop {
            match self.step(&run, p, head) {
                Ok(Step::Top { .. } | Step::LastFencepost) => return true,
                Ok(Step::Chunk {
                    size, next_head, ..
                })
                | Ok(Step::Fencepost { size, next_head }) => (p, head) = (p + size, next_head),
                Ok(Step::Damaged) | Err(_) => return false,
            }
        }
    }

    /// Whether a few chunks in a row from `p` are sound, or lead to an end.
    pub(super) fn is_sound(&mut self, run: &Run, mut p: u64) -> bool {
        let Ok((_, mut head)) = self.header(p) else {
            return false;
        };
        for _ in 0..SOUND_LINKS {
            match self.step(run, p, head) {
                Ok(Step::Top { .. } | Step::LastFencepost) => return true,
                Ok(Step::Chunk {
                    size, next_head, ..
                }) => (p, head) = (p + size, next_head),
                _ => return false,
            }
        }
        true
    }

    /// The next place after the damage at `p` that begins sound chunks: a chunk that a cache knows,
    /// the top, or one found by trying; `run.limit` when there is none.
    fn next_sound(&mut self, run: &Run, p: u64, held: usize) -> u64 {
        let after = p.saturating_add(WHOLE_HEADER);
        let known = self.held[held..]
            .iter()
            .map(|h| h.chunk)
            .find(|&chunk| chunk > p && chunk % 16 == 0);
        let top = run.holds_top(after).then_some(run.top);
        let sure = [known, top].into_iter().flatten().min();
        let stop = sure.unwrap_or(run.limit).min(run.limit);
        let mut q = after;
        while q < stop && self.tries_left > 0 && !self.memory.is_out_of_time() {
            q = match self.empty_until(q) {
                Some(end) => end.max(q + WHOLE_HEADER),
                None if self.is_sound(run, q) => return q,
                None => q + WHOLE_HEADER,
            };
            self.tries_left -= 1;
        }
        stop
    }

    /// The end of the pages around `addr` that have no readable header because they are swapped,
    /// zero or absent.
    fn empty_until(&self, addr: u64) -> Option<u64> {
        let run = self.residency.run_at(RemoteAddr::new(addr))?;
        (!run.state.is_resident()).then(|| run.range.end().get())
    }
}

enum Step {
    Chunk {
        size: u64,
        next_head: u64,
        free: bool,
    },
    Fencepost {
        size: u64,
        next_head: u64,
    },
    LastFencepost,
    Top {
        size: u64,
    },
    Damaged,
}

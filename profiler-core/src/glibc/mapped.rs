//! Mmapped chunks: blocks with a mapping of their own, which are in no list.
//!
//! Such a chunk begins its mapping with `prev_size` 0 and its whole size with the flag
//! `IS_MMAPPED`; after `memalign` it lies further in, `prev_size` being its distance from the
//! mapping's start, and the header at the start is stale. From 2.43 on the size leaves out the
//! chunk's own header, and `prev_size` has a flag for huge pages. The kernel merges neighbouring
//! mappings, so a chunk may begin at any page.

use super::chunks::{IS_MMAPPED, MIN_CHUNK, NON_MAIN_ARENA, PREV_INUSE};
use super::ranges::{Claims, areas, page_heads};
use super::state::MallocPar;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;

/// The largest alignment looked for: glibc supports larger ones, but no program requests them.
const MAX_ALIGNMENT: u64 = 1 << 30;

/// With more chunks than this no pair is looked for: the time grows with the square of the number.
const MAX_PAIRED: usize = 4096;

/// The two words of a header.
fn words(header: [u8; 16]) -> [u64; 2] {
    let header = u128::from_le_bytes(header);
    [header as u64, (header >> 64) as u64]
}

/// An mmapped chunk: its mapping, and the position of the chunk's header in it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Mapped {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) lead: u64,
}

/// Finds the mmapped chunks in unclaimed memory. It looks first where mappings begin, where one
/// chunk ends, and where one was known before. If `mp_` counts more chunks than those, it looks at
/// every resident page; if chunks are still missing, once more at every resident page for aligned
/// chunks that `realloc` may have moved.
pub(super) fn find<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    par: &MallocPar,
    claims: &mut Claims,
    known: &[u64],
) -> Vec<Mapped> {
    let mut search = Search {
        memory,
        residency,
        claims,
        header: par.mmapped_header,
        moved: false,
        found: Vec::new(),
    };
    let areas = areas(residency);
    let begins = residency.mappings().iter().map(|m| m.range.start().get());
    search.at(&begins.collect::<Vec<_>>(), &areas);
    let by_mappings = search.found.len();
    search.at(known, &areas);
    if !search.complete(par) {
        // Some of those are none any more, and others new.
        for chunk in search.found.split_off(by_mappings) {
            search.claims.release(chunk.start);
        }
    }
    search.every_page(&areas, par);
    search.reject_excess(par);
    if !search.complete(par) {
        search.moved = true;
        for chunk in std::mem::take(&mut search.found) {
            search.claims.release(chunk.start);
        }
        search.every_page(&areas, par);
        search.reject_excess(par);
    }
    search.found.sort_unstable_by_key(|m| m.start);
    search.found
}

struct Search<'s, M> {
    memory: &'s M,
    residency: &'s ResidencyMap,
    claims: &'s mut Claims,
    /// The bytes by which a chunk's size is smaller than its mapping.
    header: u64,
    /// Whether `mremap` may have moved aligned chunks.
    moved: bool,
    found: Vec<Mapped>,
}

impl<M: TargetMemory> Search<'_, M> {
    fn bytes(&self) -> u64 {
        self.found.iter().map(|m| m.bytes).sum()
    }

    fn complete(&self, par: &MallocPar) -> bool {
        // Where the counter drifts, a surplus of a page or more may be a stale header mistaken for
        // a chunk's.
        self.found.len() as u64 == u64::from(par.n_mmaps)
            && par.counts_mapped(self.bytes())
            && par.mmapped_mem - self.bytes() < self.residency.page_size().bytes()
    }

    fn every_page(&mut self, areas: &[AddrRange], par: &MallocPar) {
        if self.complete(par) {
            return;
        }
        for area in areas {
            // Only memory outside the arenas is read, which excludes most of a large heap.
            for gap in self.claims.gaps(*area) {
                for [page, prev_size, head] in page_heads(self.memory, self.residency, gap) {
                    if self.is_mapped_chunk(prev_size, head) && !self.claims.holds(page) {
                        self.chain(page, area);
                        if self.complete(par) {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Takes the chunks that begin at these places of `areas`, and those that follow them.
    fn at(&mut self, places: &[u64], areas: &[AddrRange]) {
        let in_areas = places.iter().filter_map(|&place| {
            let place = RemoteAddr::new(place);
            let after = areas.partition_point(|area| area.end() <= place);
            let area = areas.get(after).filter(|area| area.contains(place))?;
            Some((place, *area))
        });
        let (places, areas): (Vec<_>, Vec<_>) = in_areas.unzip();
        let mut heads = Vec::new();
        self.memory.read_scattered::<16>(&places, &mut heads);
        for ((place, area), head) in places.iter().zip(areas).zip(heads) {
            let [prev_size, head] = head.map_or([0; 2], words);
            if self.is_mapped_chunk(prev_size, head) {
                self.chain(place.get(), &area);
            }
        }
    }

    /// Takes the chunk at `at`, and those that follow it without a gap.
    fn chain(&mut self, mut at: u64, area: &AddrRange) {
        while let Some(chunk) = self.chunk_at(at, area) {
            let end = chunk.start + chunk.bytes;
            if !self.claims.is_free(chunk.start, end) {
                return;
            }
            self.claims.claim(chunk.start, end);
            self.found.push(chunk);
            at = end;
        }
    }

    /// The mmapped chunk whose mapping begins at `start`.
    fn chunk_at(&self, start: u64, area: &AddrRange) -> Option<Mapped> {
        let [prev_size, head] = self.header_at(start)?;
        let room = area.end().get().checked_sub(start)?;
        if !self.is_mapped_chunk(prev_size, head) {
            return None;
        }
        let bytes = (head & !7) + self.header;
        // `_int_memalign` moves the header up to the next aligned place, before 2.43 to one that
        // leaves space for a chunk before it. `mremap_chunk` keeps that distance, but no alignment
        // beyond a page.
        let room_before = if self.header > 0 { 0 } else { MIN_CHUNK };
        let aligned = (5..=MAX_ALIGNMENT.ilog2())
            .map(|bits| 1u64 << bits)
            .take_while(|&alignment| alignment <= room)
            .filter_map(|alignment| {
                let chunk = start.checked_add(16)?.checked_next_multiple_of(alignment)? - 16;
                let lead = chunk - start;
                let near = if lead < room_before { alignment } else { 0 };
                Some(lead + near).filter(|&lead| lead > 0)
            });
        let pages = if self.moved { bytes.min(room) } else { 0 };
        let moved = (PAGE_SIZE..pages)
            .step_by(PAGE_SIZE as usize)
            .map(|end| end - 16);
        aligned
            .chain(moved)
            .find_map(|lead| self.aligned_chunk(start, lead, room))
            .or((bytes <= room).then_some(Mapped {
                start,
                bytes,
                lead: 0,
            }))
    }

    /// The chunk `lead` bytes into the mapping at `start`, if its header says so.
    fn aligned_chunk(&self, start: u64, lead: u64, room: u64) -> Option<Mapped> {
        let [prev_size, head] = self.header_at(start.checked_add(lead)?)?;
        let bytes = lead.checked_add(head & !7)?.checked_add(self.header)?;
        let sound = self.without_flag(prev_size) == lead
            && head & 7 == IS_MMAPPED
            && bytes.is_multiple_of(PAGE_SIZE);
        (sound && (lead + 16..=room).contains(&bytes)).then_some(Mapped { start, bytes, lead })
    }

    fn is_mapped_chunk(&self, prev_size: u64, head: u64) -> bool {
        let flags = PREV_INUSE | IS_MMAPPED | NON_MAIN_ARENA;
        let size = (head & !7).wrapping_add(self.header);
        self.without_flag(prev_size) == 0
            && head & flags == IS_MMAPPED
            && head & !7 != 0
            && size.is_multiple_of(PAGE_SIZE)
    }

    /// `prev_size` without the flag for huge pages, if it has one (`MMAP_HP`, from 2.43).
    fn without_flag(&self, prev_size: u64) -> u64 {
        prev_size & !u64::from(self.header > 0)
    }

    fn header_at(&self, chunk: u64) -> Option<[u64; 2]> {
        self.memory.read_value(RemoteAddr::new(chunk)).ok()
    }

    /// When there are more than `mp_` counts, drops those that make the difference, if that is
    /// plain: one chunk, or two, of exactly the bytes too many.
    fn reject_excess(&mut self, par: &MallocPar) {
        let found = &mut self.found;
        let bytes: u64 = found.iter().map(|m| m.bytes).sum();
        let (Some(excess), Some(too_many)) = (
            bytes.checked_sub(par.mmapped_mem),
            found.len().checked_sub(par.n_mmaps as usize),
        ) else {
            return;
        };
        let one = |from: usize, bytes: u64| {
            let place = found[from..].iter().position(|m| m.bytes == bytes);
            place.map(|i| from + i)
        };
        let drop: Vec<usize> = match too_many {
            1 => one(0, excess).into_iter().collect(),
            2 if found.len() <= MAX_PAIRED => (0..found.len())
                .find_map(|i| {
                    let rest = excess.checked_sub(found[i].bytes)?;
                    Some(vec![i, one(i + 1, rest)?])
                })
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        for &i in drop.iter().rev() {
            self.claims.release(found.remove(i).start);
        }
    }
}

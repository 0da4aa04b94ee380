//! Pinning: free bytes that blocks keep from being returned, and what would be returned if a name's
//! objects were freed.
//!
//! The allocators' own rules decide ([`PageReturn`]). `malloc_trim(0)` of glibc returns the whole
//! pages of a run of free chunks behind its first header (see `glibc/trim.rs`); pymalloc returns an
//! arena once nothing in it is live; a block with a mapping of its own returns the mapping. So each
//! page or arena is returned with the innermost holder that holds everything live on it, and with
//! every holder around that one.

use super::blocks::BlockIndex;
use super::mapped::MappedBytes;
use super::nesting::{NOBODY, Nesting};
use super::page_owners::{PageOwner, PageTally};
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::allocator::{Margins, PageReturn};
use crate::heap::{Extent, ExtentKind, HeapSnapshot};
use crate::residency::{NeverWritten, PageRun, PageState, ResidencyMap};
use crate::span::SpanState;

/// What freeing a holder's objects would return.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Dropped {
    /// Bytes of its blocks on pages that would be returned.
    pub live_bytes: u64,
    /// Other bytes on those pages: free bytes that its blocks pin, and headers.
    pub unpinned_bytes: u64,
    /// Bytes of its blocks on pages that take neither memory nor swap: freeing them returns
    /// nothing.
    pub untouched: NeverWritten,
}

impl Dropped {
    /// The same, limited to a holder of `retained` bytes: live bytes beyond those count as
    /// unpinned.
    pub(super) fn within(self, retained: u64) -> Self {
        let live_bytes = self.live_bytes.min(retained);
        Self {
            live_bytes,
            unpinned_bytes: self.unpinned_bytes + (self.live_bytes - live_bytes),
            untouched: self.untouched.within(retained - live_bytes),
        }
    }
}

/// Pages of a forked process that were copied by writes since.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Copied {
    /// Bytes of those pages that hold a live block.
    pub bytes: u64,
    /// The part of these on pages with an object that the garbage collector writes to during a
    /// collection: `gc.freeze()` before the fork would have kept at most this much shared.
    pub collector_bytes: u64,
}

/// The same by type.
pub(super) struct CopiedTypes {
    pub(super) sums: Copied,
    /// The bytes of a page are divided evenly among the live blocks on it.
    pub(super) by_type: Vec<u64>,
}

/// Nothing lives there.
const EMPTY: u16 = u16::MAX - 1;

/// What pins, by type and by holder.
pub(super) struct Pinned {
    /// Free bytes on resident pages that blocks of each type keep.
    pub(super) by_type: Vec<u64>,
    /// The same for each holder.
    pub(super) by_holder: Vec<u64>,
    /// What freeing each holder's objects would return; `None` if the serving allocator's rules are
    /// unknown.
    pub(super) dropped: Option<Vec<Dropped>>,
    /// Bytes of each holder's blocks on pages that another process maps as well.
    pub(super) shared: Vec<u64>,
    /// Resident bytes that `mmap` objects of each holder map.
    pub(super) mapped: Vec<MappedBytes>,
    pub(super) copied: CopiedTypes,
    /// The holder with the most live bytes on each page.
    pub(super) page_owners: Vec<PageOwner>,
}

/// The owners of the blocks.
pub(super) struct Owners<'a> {
    pub(super) index: &'a BlockIndex,
    /// The innermost holder of each block, or [`NOBODY`].
    pub(super) holders: &'a [u16],
    /// The type that each block is counted with.
    pub(super) of_type: &'a dyn Fn(u32) -> Option<u32>,
    /// Whether objects of a type have a head of the garbage collector's.
    pub(super) has_gc_head: &'a dyn Fn(u32) -> bool,
    pub(super) nesting: &'a Nesting,
    pub(super) types: usize,
}

/// One page of an extent.
#[derive(Copy, Clone)]
struct Page {
    /// The owner of everything live on it.
    owner: u16,
    live: u16,
    free: u16,
    blocks: u16,
}

impl Owners<'_> {
    /// Goes through all pages.
    pub(super) fn pinned(
        &self,
        heaps: &[HeapSnapshot],
        residency: &ResidencyMap,
        copied: &[AddrRange],
    ) -> Pinned {
        let holders = self.nesting.around.len();
        let mut pinned = Pinned {
            by_type: vec![0; self.types],
            by_holder: vec![0; holders],
            dropped: None,
            shared: self.shared(residency),
            mapped: vec![MappedBytes::default(); holders],
            copied: self.copied(copied),
            page_owners: Vec::new(),
        };
        let mut dropped = vec![Dropped::default(); holders];
        let extents = heaps.iter().flat_map(|heap| &heap.extents);
        let mut tally = PageTally::new(extents.map(|extent| extent.range.len() / PAGE_SIZE).sum());
        for heap in heaps {
            for extent in &heap.extents {
                let pages = self.pages(heap, extent, &mut tally);
                self.give_back(extent, &pages, residency, &mut dropped);
                self.share(extent, &pages, residency, &mut pinned);
            }
        }
        let add = |above: &mut Dropped, own: Dropped| {
            above.live_bytes += own.live_bytes;
            above.unpinned_bytes += own.unpinned_bytes;
            above.untouched.merge(own.untouched);
        };
        self.nesting.add_up(&mut dropped, add);
        self.nesting
            .add_up(&mut pinned.by_holder, |above, own| *above += own);
        let known = |heap: &HeapSnapshot| heap.allocator.row().page_return != PageReturn::Other;
        let all_known = heaps
            .iter()
            .all(|heap| known(heap) || heap.library.is_some());
        pinned.dropped = all_known.then_some(dropped);
        pinned.page_owners = tally.finish();
        pinned
    }

    /// Bytes of each holder's blocks, including holders inside it, on pages that another process
    /// also maps.
    fn shared(&self, residency: &ResidencyMap) -> Vec<u64> {
        let mut shared = vec![0; self.nesting.around.len()];
        let of_several = |run: &&PageRun| run.state.is_resident() && run.state.is_shared();
        for run in residency.runs().iter().filter(of_several) {
            // A block that begins before the first page may extend onto it.
            let first = self.index.first_from(run.range.start().get());
            let from = first.saturating_sub(1);
            let blocks = self.index.ranges(from..self.index.len() as u32);
            for (block, range) in blocks.take_while(|(_, range)| range.start() < run.range.end()) {
                let holder = usize::from(self.holders[block as usize]);
                if let (Some(sum), Some(part)) =
                    (shared.get_mut(holder), range.intersect(&run.range))
                {
                    *sum += part.len();
                }
            }
        }
        self.nesting.add_up(&mut shared, |above, own| *above += own);
        shared
    }

    /// What is on these pages.
    fn copied(&self, ranges: &[AddrRange]) -> CopiedTypes {
        let mut copied = CopiedTypes {
            sums: Copied::default(),
            by_type: vec![0; self.types],
        };
        let mut here: Vec<Option<u32>> = Vec::new();
        for range in ranges {
            for page in range.start().page()..range.end().page() {
                here.clear();
                let blocks = self.index.on_page(page * PAGE_SIZE);
                here.extend(blocks.map(|block| (self.of_type)(block)));
                let Some(each) = PAGE_SIZE.checked_div(here.len() as u64) else {
                    continue;
                };
                copied.sums.bytes += PAGE_SIZE;
                let mut types = here.iter().copied().flatten();
                if types.clone().any(|of| (self.has_gc_head)(of)) {
                    copied.sums.collector_bytes += PAGE_SIZE;
                }
                types
                    .by_ref()
                    .for_each(|of| copied.by_type[of as usize] += each);
            }
        }
        copied
    }

    /// The live blocks of an extent that are in the index, with their spans.
    fn live<'e>(
        &'e self,
        extent: &'e Extent,
    ) -> impl Iterator<Item = (AddrRange, Option<u32>)> + 'e {
        let first = self.index.first_from(extent.range.start().get());
        let mut blocks = self.index.ranges(first..self.index.len() as u32).peekable();
        let spans = extent.spans.iter(extent.range.start());
        let live = spans.filter(|span| span.state == SpanState::Live);
        live.map(move |span| {
            let start = span.range.start().checked_add(extent.block_header_bytes);
            let start = start.unwrap_or(span.range.end());
            while blocks.next_if(|(_, range)| range.start() < start).is_some() {}
            let block = blocks.next_if(|(_, range)| range.start() == start);
            (span.range, block.map(|(block, _)| block))
        })
    }

    fn pages(&self, heap: &HeapSnapshot, extent: &Extent, tally: &mut PageTally) -> Vec<Page> {
        let page_return = heap.allocator.row().page_return;
        let goes_whole = page_return == PageReturn::WholeExtents;
        let mut pages = Pages::of(extent, page_return);
        let keep = |pages: &mut Pages, range: AddrRange, owner: u16| {
            pages.keep(range, |page| match page.owner {
                EMPTY => owner,
                other => self.nesting.common(other, owner),
            });
        };
        for (span, block) in self.live(extent) {
            let owner = block.and_then(|block| self.holders.get(block as usize));
            let owner = owner.copied().unwrap_or(NOBODY);
            tally.add(span, owner);
            keep(&mut pages, span, owner);
            pages.each(span, |page, bytes| {
                page.live = page.live.saturating_add(bytes);
                page.blocks = page.blocks.saturating_add(1);
            });
        }
        for span in extent.spans.iter(extent.range.start()) {
            let is_top = span.state == SpanState::Top;
            let is_free = matches!(span.state, SpanState::Free | SpanState::Retained);
            let goes = match span.state {
                SpanState::Live => continue,
                SpanState::Top => goes_whole || extent.kind == ExtentKind::Brk,
                // Headers of pools go with their arena.
                SpanState::Metadata => goes_whole,
                _ => is_free,
            };
            if !goes {
                keep(&mut pages, span.range, NOBODY);
            }
            if is_free || goes_whole && is_top {
                pages.each(span.range, |page, bytes| {
                    page.free = page.free.saturating_add(bytes);
                });
            }
        }
        let mut pages = pages.all;
        if goes_whole {
            // An arena goes as a whole.
            let lived_on = pages.iter().filter(|page| page.owner != EMPTY);
            let owner = lived_on
                .map(|page| page.owner)
                .reduce(|a, b| self.nesting.common(a, b));
            for page in &mut pages {
                page.owner = owner.unwrap_or(EMPTY);
            }
        }
        pages
    }

    fn give_back(
        &self,
        extent: &Extent,
        pages: &[Page],
        residency: &ResidencyMap,
        dropped: &mut [Dropped],
    ) {
        for (at, page) in numbered(extent, pages) {
            if let Some(of) = dropped.get_mut(usize::from(page.owner)) {
                let run = residency.run_at(at);
                let state = run.map_or(PageState::ABSENT, |run| run.state);
                if state.is_resident() {
                    of.live_bytes += u64::from(page.live);
                    of.unpinned_bytes += PAGE_SIZE.saturating_sub(page.live.into());
                }
                let written = residency.account().written(state);
                of.untouched.add(written, page.live.into());
            }
        }
    }

    /// Divides the free bytes of each page evenly among the live blocks on it.
    fn share(
        &self,
        extent: &Extent,
        pages: &[Page],
        residency: &ResidencyMap,
        pinned: &mut Pinned,
    ) {
        let has_pins = |page: &Page| page.blocks > 0 && page.free > 0;
        if !pages.iter().any(has_pins) {
            return;
        }
        let resident: Vec<bool> = numbered(extent, pages)
            .map(|(at, page)| has_pins(page) && is_resident(residency, at))
            .collect();
        let first = extent.range.start().page();
        for (span, block) in self.live(extent) {
            let Some(block) = block else { continue };
            for (page, _) in parts(span) {
                let at = (page - first) as usize;
                if resident.get(at) != Some(&true) {
                    continue;
                }
                let bytes = u64::from(pages[at].free) / u64::from(pages[at].blocks);
                if let Some(of) = (self.of_type)(block)
                    && let Some(sum) = pinned.by_type.get_mut(of as usize)
                {
                    *sum += bytes;
                }
                let holder = usize::from(self.holders[block as usize]);
                if let Some(sum) = pinned.by_holder.get_mut(holder) {
                    *sum += bytes;
                }
            }
        }
    }
}

/// The pages of an extent with their addresses.
fn numbered<'p>(
    extent: &Extent,
    pages: &'p [Page],
) -> impl Iterator<Item = (RemoteAddr, &'p Page)> + use<'p> {
    let first = extent.range.start().page();
    let addresses = (first..).map(|page| RemoteAddr::new(page * PAGE_SIZE));
    addresses.zip(pages)
}

fn is_resident(residency: &ResidencyMap, at: RemoteAddr) -> bool {
    let run = residency.run_at(at);
    run.is_some_and(|run| run.state.is_resident())
}

/// The pages of an extent during the pass over it.
struct Pages {
    /// The number of the first.
    first: u64,
    all: Vec<Page>,
    /// Bytes before and after a block that belong to it.
    margins: Margins,
}

impl Pages {
    fn of(extent: &Extent, page_return: PageReturn) -> Self {
        let empty = Page {
            owner: EMPTY,
            live: 0,
            free: 0,
            blocks: 0,
        };
        let first = extent.range.start().page();
        let count = extent.range.end().get().div_ceil(PAGE_SIZE) - first;
        Self {
            first,
            all: vec![empty; count as usize],
            margins: match (page_return, extent.kind) {
                (PageReturn::PagesBetween(_), ExtentKind::LargeMapped) => Margins::default(),
                (PageReturn::PagesBetween(margins), _) => margins,
                (PageReturn::WholeExtents | PageReturn::Other, _) => Margins::default(),
            },
        }
    }

    /// A range that is not free keeps its pages, for this owner.
    fn keep(&mut self, range: AddrRange, owner: impl Fn(&Page) -> u16) {
        let from = range.start().get().saturating_sub(self.margins.before) / PAGE_SIZE;
        let to = (range.end().get() + self.margins.behind).div_ceil(PAGE_SIZE);
        for page in from.max(self.first)..to.min(self.first + self.all.len() as u64) {
            let page = &mut self.all[(page - self.first) as usize];
            page.owner = owner(page);
        }
    }

    /// Calls `give` for each page of a range, with the number of the range's bytes on it.
    fn each(&mut self, range: AddrRange, give: impl Fn(&mut Page, u16)) {
        for (page, bytes) in parts(range) {
            if let Some(page) = self.all.get_mut((page - self.first) as usize) {
                give(page, bytes);
            }
        }
    }
}

/// The bytes of a range on each of its pages.
pub(super) fn parts(range: AddrRange) -> impl Iterator<Item = (u64, u16)> {
    let (start, end) = (range.start().get(), range.end().get());
    (start / PAGE_SIZE..end.div_ceil(PAGE_SIZE)).map(move |page| {
        let from = start.max(page * PAGE_SIZE);
        let to = end.min((page + 1) * PAGE_SIZE);
        (page, (to - from) as u16)
    })
}

#[cfg(test)]
mod tests;

//! What stays: sampled blocks that a walk finds live, their age, and what they pin.

use super::table::{Sampled, SiteTable};
use super::{AGES, AtWalk, Estimate, SitesWalk};
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::allocator::{Allocator, GlibcSetting};
use crate::heap::{Extent, ExtentKind, HeapSnapshot};
use crate::residency::ResidencyMap;
use crate::sample::Sample;
use crate::span::SpanState;

const SECOND_NS: u64 = 1_000_000_000;
/// By how much a usable size given by the allocator may differ from what a walk finds: the headers
/// of blocks with a mapping of their own.
const HEADER: u64 = 16;
/// At least this many bytes beyond the requested size are accepted.
const LEAST_SPARE: u64 = 64;

/// Sampled blocks, to be looked up in a walk.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// Ascending by address.
    blocks: Vec<Sampled>,
    at_ns: u64,
    /// How often each site had been sampled when the walk began.
    before: Vec<u64>,
}

/// The results of a walk for them.
#[derive(Clone, Debug, Default)]
pub struct Found {
    walk: SitesWalk,
    /// What was found, with the number of the site.
    blocks: Vec<(usize, AtWalk)>,
    /// How often each site had been sampled when the walk began.
    before: Vec<u64>,
    /// glibc's mmap threshold, if it has adapted.
    mmap_threshold: Option<u64>,
    /// A block whose free was not seen and that raised it to that value.
    raiser: Option<Sampled>,
}

impl SiteTable {
    /// A walk begins: from now on freed blocks are kept for [`Self::lookup`].
    pub fn walk_begins(&mut self) {
        self.departed = Some(Vec::new());
        self.before_walk = Some(self.samples_by_site());
    }

    /// The sampled blocks that were live at this moment of a walk, on the events' clock, as far as
    /// their frees were seen, including blocks freed since. Nothing is looked up while the table is
    /// locked.
    pub fn lookup(&mut self, at_ns: u64) -> Lookup {
        let departed = self.departed.take().unwrap_or_default().into_iter();
        let departed = departed.filter(|(_, freed_ns)| *freed_ns >= at_ns);
        let blocks = self.blocks.values().copied();
        let mut blocks: Vec<Sampled> = blocks
            .chain(departed.map(|(block, _)| block))
            .filter(|block| block.allocation.at_ns < at_ns)
            .collect();
        blocks.sort_unstable_by_key(|block| block.allocation.block);
        let before = self.before_walk.take();
        Lookup {
            blocks,
            at_ns,
            before: before.unwrap_or_else(|| self.samples_by_site()),
        }
    }

    fn samples_by_site(&self) -> Vec<u64> {
        let sites = self.sites.iter();
        sites.map(|site| site.figures.samples).collect()
    }

    /// Replaces the results of the previous walk with these.
    pub fn walked(&mut self, found: Found) {
        for site in &mut self.sites {
            site.figures.at_walk = AtWalk::default();
            site.figures.samples_before_walk = 0;
        }
        for (site, before) in self.sites.iter_mut().zip(&found.before) {
            site.figures.samples_before_walk = *before;
        }
        for (site, block) in &found.blocks {
            if let Some(site) = self.sites.get_mut(*site) {
                site.figures.at_walk.add(block);
            }
        }
        self.walk = Some(found.walk);
        self.mmap_threshold = found.mmap_threshold;
        if let Some(raiser) = &found.raiser {
            self.freed_mapping(raiser);
        }
    }
}

impl AtWalk {
    pub(super) fn add(&mut self, other: &Self) {
        self.bytes.add(other.bytes);
        self.blocks.add(other.blocks);
        self.pinned_free_bytes.add(other.pinned_free_bytes);
        for (sum, bytes) in self.by_age.iter_mut().zip(other.by_age) {
            *sum += bytes;
        }
    }
}

impl Sampled {
    /// Whether a live block with `usable` bytes can be this allocation.
    fn fits(&self, usable: u64) -> bool {
        let bytes = self.allocation.bytes;
        match self.allocation.is_usable_size {
            true => bytes.abs_diff(usable) <= HEADER,
            false => usable >= bytes && usable - bytes <= LEAST_SPARE.max(bytes / 2),
        }
    }

    /// What it represents, with `pinned` free bytes as its share.
    fn at_walk(&self, at_ns: u64, pinned: u64) -> AtWalk {
        let of = |amount: u64| Estimate::of_one(amount as f64, self.p);
        let bytes = of(self.allocation.bytes);
        let age = at_ns.saturating_sub(self.allocation.at_ns);
        let kind = AGES.partition_point(|limit| limit * SECOND_NS < age);
        let mut found = AtWalk {
            bytes,
            blocks: of(1),
            pinned_free_bytes: of(pinned),
            ..AtWalk::default()
        };
        found.by_age[kind] = bytes.value;
        found
    }
}

/// A page with a sampled block.
struct Page {
    number: u64,
    free: u64,
    blocks: u64,
}

impl Lookup {
    /// Looks them up in the heaps that serve malloc.
    pub fn in_walk(&self, sample: &Sample) -> Found {
        let mut found = Found {
            walk: SitesWalk {
                taken_at_ns: sample.taken_at_ns,
                looked_up: self.blocks.len() as u64,
                ..SitesWalk::default()
            },
            before: self.before.clone(),
            ..Found::default()
        };
        let mut heaps = sample.heaps.iter();
        found.mmap_threshold = heaps.find_map(grown_threshold);
        let raiser = found
            .mmap_threshold
            .and_then(|bytes| self.raiser(bytes, sample));
        found.raiser = raiser.copied();
        for heap in sample.heaps.iter().filter(|heap| heap.serves_malloc()) {
            for extent in &heap.extents {
                let here = self.within(extent.range);
                if !here.is_empty() {
                    self.in_extent(here, extent, &sample.residency, &mut found);
                }
            }
        }
        found
    }

    /// The oldest block that raises the mmap threshold to just this and was freed unseen.
    fn raiser(&self, bytes: u64, sample: &Sample) -> Option<&Sampled> {
        let extents = || sample.heaps.iter().flat_map(|heap| &heap.extents);
        let is_there = |block: &Sampled| {
            let mapped = |extent: &Extent| extent.kind == ExtentKind::LargeMapped;
            extents().any(|of| mapped(of) && of.range.contains(block.allocation.block))
        };
        let raisers = self.blocks.iter();
        let raisers = raisers.filter(|block| block.raises_threshold_to() == Some(bytes));
        raisers
            .filter(|block| !is_there(block))
            .min_by_key(|block| block.allocation.at_ns)
    }

    fn within(&self, range: AddrRange) -> &[Sampled] {
        let at = |end: RemoteAddr| {
            self.blocks
                .partition_point(|block| block.allocation.block < end)
        };
        &self.blocks[at(range.start())..at(range.end())]
    }

    fn in_extent(
        &self,
        here: &[Sampled],
        extent: &Extent,
        residency: &ResidencyMap,
        found: &mut Found,
    ) {
        let mut live: Vec<(&Sampled, AddrRange)> = Vec::new();
        let mut rest = here.iter().peekable();
        for span in extent.spans.iter(extent.range.start()) {
            let start = span.range.start().checked_add(extent.block_header_bytes);
            while let Some(block) = rest.next_if(|of| of.allocation.block < span.range.end()) {
                match span.state {
                    SpanState::Unknown => found.walk.unreadable += 1,
                    SpanState::Live if start == Some(block.allocation.block) => {
                        let usable = span.range.len() - extent.block_header_bytes;
                        if block.fits(usable) {
                            live.push((block, span.range));
                        }
                    }
                    _ => {}
                }
            }
            if rest.peek().is_none() {
                break;
            }
        }
        found.walk.found += live.len() as u64;
        let pages = pages(&live, extent, residency);
        for (block, span) in live {
            let shares = edges(span).map(|number| {
                let page = pages.binary_search_by_key(&number, |page| page.number);
                page.map_or(0, |at| pages[at].free / pages[at].blocks.max(1))
            });
            let block = (block.site, block.at_walk(self.at_ns, shares.sum()));
            found.blocks.push(block);
        }
    }
}

/// glibc's mmap threshold, if it has adapted.
fn grown_threshold(heap: &HeapSnapshot) -> Option<u64> {
    let settings = heap.settings.iter();
    let settings = settings.map(|(name, value)| (name.as_str(), value.as_str()));
    let in_force = |wanted: GlibcSetting| wanted.in_force(settings.clone());
    let is_glibc = heap.allocator == Allocator::Glibc && heap.serves_malloc();
    GlibcSetting::MmapThreshold
        .grown(in_force)
        .filter(|_| is_glibc)
}

/// The first page of a span and, if different, the last: the pages in between belong to it alone.
fn edges(span: AddrRange) -> impl Iterator<Item = u64> {
    let first = span.start().page();
    let last = span.end().get().saturating_sub(1) / PAGE_SIZE;
    [Some(first), (last != first).then_some(last)]
        .into_iter()
        .flatten()
}

/// The resident pages that those blocks share with others, and the other contents of these pages.
fn pages(live: &[(&Sampled, AddrRange)], extent: &Extent, residency: &ResidencyMap) -> Vec<Page> {
    let mut numbers: Vec<u64> = live.iter().flat_map(|(_, span)| edges(*span)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let is_resident = |number: &u64| {
        let run = residency.run_at(RemoteAddr::new(number * PAGE_SIZE));
        run.is_some_and(|run| run.state.is_resident())
    };
    let of = |number| Page {
        number,
        free: 0,
        blocks: 0,
    };
    let mut pages: Vec<Page> = numbers.into_iter().filter(is_resident).map(of).collect();
    let mut first = 0;
    for span in extent.spans.iter(extent.range.start()) {
        let (start, end) = (span.range.start().get(), span.range.end().get());
        while (pages.get(first)).is_some_and(|page| (page.number + 1) * PAGE_SIZE <= start) {
            first += 1;
        }
        let touched = pages[first..].iter_mut();
        for page in touched.take_while(|page| page.number * PAGE_SIZE < end) {
            let from = start.max(page.number * PAGE_SIZE);
            let to = end.min((page.number + 1) * PAGE_SIZE);
            match span.state {
                SpanState::Live => page.blocks += 1,
                SpanState::Free | SpanState::Retained => page.free += to - from,
                _ => {}
            }
        }
        if first == pages.len() {
            break;
        }
    }
    pages
}

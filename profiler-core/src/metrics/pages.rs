//! One sweep over all claimed pages: the use of each byte of a page, and the kernel's state of the
//! page.

use crate::addr::{AddrRange, PageSize, RemoteAddr};
use crate::claims::{Claim, claims};
use crate::heap::{Allocator, ExtentKind};
use crate::residency::{PageState, ResidencyMap};
use crate::sample::Sample;
use crate::size_class::SizeClass;
use crate::span::{Span, SpanState, Spans};

/// The use of a byte of a page.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(usize)]
pub(crate) enum Use {
    /// Handed out by malloc.
    Live,
    /// The header of a block handed out.
    Header,
    /// In a cache.
    Cached,
    /// Free.
    Free,
    /// Top.
    Top,
    /// Other bookkeeping.
    Metadata,
    /// Kept from the kernel.
    Retained,
    /// Could not be determined.
    Unknown,
    /// Handed out by pymalloc.
    PymallocLive,
    /// Free in pymalloc.
    PymallocFree,
    /// A large block with a mapping of its own.
    Large,
}

const USES: usize = Use::Large as usize + 1;

/// How many bytes of one page have which use. They sum to at most a page.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    bytes: [u32; USES],
    /// Live blocks that have at least a byte here.
    pub(crate) live_blocks: u16,
}

impl Tally {
    /// Bytes with one use.
    pub(crate) fn of(&self, what: Use) -> u64 {
        u64::from(self.bytes[what as usize])
    }

    /// Bytes with any use.
    pub(crate) fn claimed(&self) -> u64 {
        self.bytes.iter().map(|&b| u64::from(b)).sum()
    }

    /// Bytes of live blocks, headers included.
    pub(crate) fn live(&self) -> u64 {
        self.of(Use::Live) + self.of(Use::Header) + self.of(Use::PymallocLive) + self.of(Use::Large)
    }

    fn add(&mut self, what: Use, bytes: u64) {
        // Claims do not overlap, so a page never gets more than its own bytes.
        self.bytes[what as usize] += bytes as u32;
        self.live_blocks = self.live_blocks.saturating_add(u16::from(matches!(
            what,
            Use::Live | Use::PymallocLive | Use::Large
        )));
    }
}

/// The owner of a page: indices into the sample's heaps and that heap's arenas.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    pub(crate) heap: usize,
    pub(crate) arena: u32,
    pub(crate) kind: ExtentKind,
    pub(crate) allocator: Allocator,
    /// Whether a library has the heap for itself.
    pub(crate) is_private: bool,
    /// The extent's addresses.
    pub(crate) extent: AddrRange,
}

/// Consecutive pages with the same tally and state. There is more than one page only if a single
/// span covers them all.
#[derive(Copy, Clone, Debug)]
pub(crate) struct PageSlice<'a> {
    /// Whole pages.
    pub(crate) range: AddrRange,
    /// The size of each.
    pub(crate) page_size: PageSize,
    /// Bytes by use, on each of them.
    pub(crate) tally: Tally,
    /// The kernel's state of each page.
    pub(crate) state: PageState,
    /// Their owner; that of the first claim if two claims share a page.
    pub(crate) owner: Owner,
    /// The size class of each live block that has a byte on the page, in address order.
    pub(crate) live_classes: &'a [SizeClass],
}

impl PageSlice<'_> {
    /// How many pages.
    pub(crate) fn pages(&self) -> u64 {
        self.range.len() / self.page_size.bytes()
    }
}

/// Calls `emit` for every page that a heap claims a byte of, ascending, each page once.
pub(crate) fn visit(sample: &Sample, emit: impl FnMut(&PageSlice)) {
    let mut sweep = Sweep {
        runs: Runs::new(&sample.residency),
        page_size: sample.residency.page_size(),
        open: None,
        live_classes: Vec::new(),
        emit,
    };
    let mut cursors: Vec<Option<Cursor>> = sample.heaps.iter().map(|_| None).collect();
    for claim in claims(&sample.heaps) {
        let heap = &sample.heaps[claim.heap];
        let extent = &heap.extents[claim.extent];
        let allocator = heap.allocator;
        let owner = Owner {
            heap: claim.heap,
            arena: extent.arena,
            kind: extent.kind,
            allocator,
            is_private: heap.library.is_some(),
            extent: extent.range,
        };
        let cursor = match &mut cursors[claim.heap] {
            Some(cursor) if cursor.extent == claim.extent => cursor,
            other => other.insert(Cursor {
                extent: claim.extent,
                spans: extent.spans.iter(extent.range.start()).peekable(),
            }),
        };
        for span in cursor.within(&claim) {
            let Some(range) = span.range.intersect(&claim.range) else {
                continue;
            };
            let what = use_of(allocator, extent.kind, span.state);
            let class = (span.state == SpanState::Live).then(|| SizeClass::of(span.range.len()));
            // Only a complete span begins with its header.
            let whole = span.range.start() == range.start();
            if what == Use::Live && extent.block_header_bytes > 0 && whole {
                sweep.block_with_header(range, extent.block_header_bytes, class, owner);
            } else {
                sweep.add(range, what, class, owner);
            }
        }
        // The part of the extent that its spans do not reach is unknown.
        let end = extent.range.start().checked_add(extent.spans.bytes());
        let rest = end.and_then(|end| AddrRange::new(end, extent.range.end()));
        if let Some(rest) = rest.and_then(|rest| rest.intersect(&claim.range)) {
            sweep.add(rest, Use::Unknown, None, owner);
        }
    }
    sweep.flush();
}

/// How far the spans of an extent have been followed: inner heaps can cut the extent into many
/// claims, and its spans are visited once for all of them.
struct Cursor<'a> {
    extent: usize,
    spans: std::iter::Peekable<Spans<'a>>,
}

impl<'a> Cursor<'a> {
    /// The spans that begin before the end of the claim and were not passed yet. A span that
    /// continues beyond it is returned again for the next claim.
    fn within<'c>(&'c mut self, claim: &Claim) -> impl Iterator<Item = Span> + use<'a, 'c> {
        let end = claim.range.end();
        let mut beyond = false;
        std::iter::from_fn(move || {
            let span = *self
                .spans
                .peek()
                .filter(|span| !beyond && span.range.start() < end)?;
            beyond = span.range.end() > end;
            if !beyond {
                self.spans.next();
            }
            Some(span)
        })
    }
}

fn use_of(allocator: Allocator, kind: ExtentKind, state: SpanState) -> Use {
    match (state, allocator, kind) {
        (SpanState::Live, _, ExtentKind::LargeMapped) => Use::Large,
        (SpanState::Live, Allocator::Pymalloc, _) => Use::PymallocLive,
        (SpanState::Free | SpanState::Top, Allocator::Pymalloc, _) => Use::PymallocFree,
        (SpanState::Live, ..) => Use::Live,
        (SpanState::Cached, ..) => Use::Cached,
        (SpanState::Free, ..) => Use::Free,
        (SpanState::Top, ..) => Use::Top,
        (SpanState::Metadata, ..) => Use::Metadata,
        (SpanState::Retained, ..) => Use::Retained,
        (SpanState::Unknown, ..) => Use::Unknown,
    }
}

struct Sweep<'a, F> {
    runs: Runs<'a>,
    page_size: PageSize,
    open: Option<(RemoteAddr, Tally, Owner)>,
    live_classes: Vec<SizeClass>,
    emit: F,
}

impl<F: FnMut(&PageSlice)> Sweep<'_, F> {
    /// Adds a live block, header first. The page that holds the header counts the block once.
    fn block_with_header(
        &mut self,
        range: AddrRange,
        header_bytes: u64,
        class: Option<SizeClass>,
        owner: Owner,
    ) {
        let page_bytes = self.page_size.bytes();
        let page_end = range.start().align_down(page_bytes);
        let page_end = page_end.checked_add(page_bytes);
        let here = page_end.map_or(range.end(), |end| end.min(range.end()));
        let header = range.start().checked_add(header_bytes);
        let header = header.map_or(range.end(), |end| end.min(range.end()));
        let parts = [
            (range.start(), header, Use::Header, class),
            (header, here, Use::Live, None),
            (here.max(header), range.end(), Use::Live, class),
        ];
        for (start, end, what, class) in parts {
            if let Some(range) = AddrRange::new(start, end) {
                self.add(range, what, class, owner);
            }
        }
    }

    /// Adds bytes at or above all that was added before. `class` is the size class if the bytes
    /// belong to a live block that was not yet counted on its first page.
    fn add(&mut self, range: AddrRange, what: Use, class: Option<SizeClass>, owner: Owner) {
        let page_bytes = self.page_size.bytes();
        let (mut at, mut len) = (range.start(), range.len());
        while len > 0 {
            let page = at.align_down(page_bytes);
            let in_page = page_bytes - (at.get() - page.get());
            if in_page == page_bytes && len >= page_bytes {
                self.flush();
                let whole = len - len % page_bytes;
                self.whole(at, whole, what, class, owner);
                (at, len) = (RemoteAddr::new(at.get() + whole), len - whole);
                continue;
            }
            let part = len.min(in_page);
            match &mut self.open {
                Some((open, tally, _)) if *open == page => tally.add(what, part),
                _ => {
                    self.flush();
                    let mut tally = Tally::default();
                    tally.add(what, part);
                    self.open = Some((page, tally, owner));
                }
            }
            self.live_classes.extend(class);
            (at, len) = (RemoteAddr::new(at.get() + part), len - part);
        }
    }

    fn flush(&mut self) {
        if let Some((page, tally, owner)) = self.open.take()
            && let Some(range) = AddrRange::with_len(page, self.page_size.bytes())
        {
            let state = self
                .runs
                .stretch(range)
                .map_or(PageState::ABSENT, |(state, _)| state);
            (self.emit)(&PageSlice {
                range,
                page_size: self.page_size,
                tally,
                state,
                owner,
                live_classes: &self.live_classes,
            });
            self.live_classes.clear();
        }
    }

    fn whole(
        &mut self,
        at: RemoteAddr,
        len: u64,
        what: Use,
        class: Option<SizeClass>,
        owner: Owner,
    ) {
        let mut tally = Tally::default();
        tally.add(what, self.page_size.bytes());
        let mut rest = AddrRange::with_len(at, len);
        while let Some(range) = rest.filter(|r| !r.is_empty()) {
            let Some((state, end)) = self.runs.stretch(range) else {
                break;
            };
            let Some(range) = AddrRange::new(range.start(), end) else {
                break;
            };
            (self.emit)(&PageSlice {
                range,
                page_size: self.page_size,
                tally,
                state,
                owner,
                live_classes: class.as_slice(),
            });
            rest = AddrRange::new(end, RemoteAddr::new(at.get() + len));
        }
    }
}

/// A cursor over page runs, for ascending questions.
struct Runs<'a> {
    map: &'a ResidencyMap,
    next: usize,
    next_mapping: usize,
}

impl<'a> Runs<'a> {
    fn new(map: &'a ResidencyMap) -> Self {
        Self {
            map,
            next: 0,
            next_mapping: 0,
        }
    }

    /// The state at the start of `range` (page-aligned, not empty), and where in `range` that state
    /// or its mapping ends. Outside all mappings nothing is resident.
    fn stretch(&mut self, range: AddrRange) -> Option<(PageState, RemoteAddr)> {
        let runs = self.map.runs();
        while runs
            .get(self.next)
            .is_some_and(|run| run.range.end() <= range.start())
        {
            self.next += 1;
        }
        let mappings = self.map.mappings();
        while mappings
            .get(self.next_mapping)
            .is_some_and(|mapping| mapping.range.end() <= range.start())
        {
            self.next_mapping += 1;
        }
        let (mapped, bound) = match mappings.get(self.next_mapping) {
            Some(mapping) if mapping.range.contains(range.start()) => (true, mapping.range.end()),
            Some(mapping) => (false, mapping.range.start()),
            None => (false, range.end()),
        };
        // A mapping of less than a page is never seen, but a step must go on.
        let page_bytes = self.map.page_size().bytes();
        let bound = bound.align_up(page_bytes).unwrap_or(range.end());
        let (state, end) = match runs.get(self.next) {
            Some(run) if run.range.contains(range.start()) => (run.state, run.range.end()),
            Some(run) => (PageState::ABSENT, run.range.start()),
            None => (PageState::ABSENT, range.end()),
        };
        let state = if mapped { state } else { PageState::ABSENT };
        let end = end.align_up(page_bytes).unwrap_or(range.end());
        (!range.is_empty()).then_some((state, end.min(bound).min(range.end())))
    }
}

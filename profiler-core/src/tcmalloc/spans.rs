//! The page map's leaves and the spans that they point to.
//!
//! Sources: `src/pagemap.h` (`TCMalloc_PageMap2`), `src/span.h` of gperftools 2.10.

use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::{PageCache, TargetMemory};
use crate::residency::ResidencyMap;

use super::layout::{LEAF_LENGTH, PAGE, Statics};

/// Bytes read at once.
const WINDOW: u64 = 64 << 10;

/// The use of a span: `location` and `sizeclass`.
#[derive(Copy, Clone, Eq, PartialEq)]
pub(super) enum Use {
    /// One block of the program.
    Large,
    /// Blocks of this class.
    Small(u8),
    /// `ON_NORMAL_FREELIST`.
    Normal,
    /// `ON_RETURNED_FREELIST`.
    Returned,
    /// No location that there is.
    Unknown,
}

/// A run of pages.
#[derive(Copy, Clone)]
pub(super) struct PageSpan {
    pub(super) range: AddrRange,
    pub(super) used: Use,
    /// The first block of its free list.
    pub(super) objects: u64,
    /// Blocks that are not in that list.
    pub(super) refcount: u64,
}

/// All spans.
#[derive(Default)]
pub(super) struct Spans {
    /// Ascending, not overlapping.
    pub(super) spans: Vec<PageSpan>,
    /// Entries of the page map that make no sense or could not be read.
    pub(super) damaged: u64,
    /// Bytes of the page map that could not be read.
    pub(super) unreadable: u64,
}

impl Spans {
    pub(super) fn read<M: TargetMemory>(
        memory: &M,
        residency: &ResidencyMap,
        statics: &Statics,
    ) -> Self {
        let cached = PageCache::new(memory);
        let mut found = Self::default();
        let mut bytes = Vec::new();
        // If leaves overlap, one is not a leaf: each byte is read only once.
        let mut by_addr = statics.leaves.clone();
        by_addr.sort_unstable_by_key(|(_, leaf)| *leaf);
        let all = by_addr.len();
        let mut end = 0;
        by_addr.retain(|(_, leaf)| {
            let keep = *leaf >= end && leaf.checked_add(8 * LEAF_LENGTH).is_some();
            if keep {
                end = leaf + 8 * LEAF_LENGTH;
            }
            keep
        });
        found.damaged += (all - by_addr.len()) as u64;
        by_addr.sort_unstable();
        // The last span's address and its end.
        let mut last = (0, 0);
        for (first_page, leaf) in by_addr {
            let Some(range) = AddrRange::with_len(RemoteAddr::new(leaf), 8 * LEAF_LENGTH) else {
                continue;
            };
            for run in residency.runs_in(range).filter(|run| !run.state.is_zero()) {
                let mut start = run.range.start().get();
                while start < run.range.end().get() {
                    let len = WINDOW.min(run.range.end().get() - start);
                    bytes.resize(len as usize, 0);
                    if memory.read(RemoteAddr::new(start), &mut bytes).is_err() {
                        found.unreadable += len;
                        found.damaged += 1;
                    } else {
                        let page = first_page + (start - leaf) / 8;
                        let (words, _) = bytes.as_chunks::<8>();
                        for (page, word) in (page..).zip(words) {
                            let at = u64::from_le_bytes(*word);
                            if at != 0 {
                                found.entry(&cached, residency, (page, at), &mut last);
                            }
                        }
                    }
                    start += len;
                }
            }
        }
        found
    }

    /// Processes the page map's entry for a page. Inside a span an entry may be stale, but at the
    /// span's first and last page it is valid.
    fn entry<M: TargetMemory>(
        &mut self,
        memory: &M,
        residency: &ResidencyMap,
        (page, at): (u64, u64),
        last: &mut (u64, u64),
    ) {
        if page < last.1 {
            self.damaged += u64::from(page + 1 == last.1 && at != last.0);
            return;
        }
        let span = memory.read_value::<[u64; 6]>(RemoteAddr::new(at)).ok();
        let span = span.and_then(|words| parse(words, page, residency));
        let Some(span) = span else {
            self.damaged += 1;
            return;
        };
        *last = (at, span.range.end().get() / PAGE);
        self.spans.push(span);
    }
}

fn parse(words: [u64; 6], page: u64, residency: &ResidencyMap) -> Option<PageSpan> {
    let [start, length, _, _, objects, bits] = words;
    let addr = RemoteAddr::new(start.checked_mul(PAGE)?);
    let range = AddrRange::with_len(addr, length.checked_mul(PAGE)?)?;
    let mapped = |addr| residency.mapping_at(addr).is_some_and(|m| m.write);
    let sound = start == page
        && length > 0
        && mapped(range.start())
        && range.end().checked_sub(1).is_some_and(mapped);
    sound.then_some(PageSpan {
        range,
        used: match (bits >> 24 & 3, (bits >> 16) as u8) {
            (0, 0) => Use::Large,
            (0, class) => Use::Small(class),
            (1, _) => Use::Normal,
            (2, _) => Use::Returned,
            _ => Use::Unknown,
        },
        objects,
        refcount: bits & 0xffff,
    })
}

//! What `malloc_trim(0)` would return, to the page: `mtrim` on every arena and `systrim` on the
//! main arena's top (`malloc/malloc.c`, the same rules from 2.17 to 2.43).

use super::chunks::MIN_CHUNK;
use crate::addr::{AddrRange, PageSize, RemoteAddr};

/// `sizeof (struct malloc_chunk)`: what `mtrim` leaves alone at a free chunk's start.
const CHUNK_STRUCT: u64 = 48;
/// Follows a chunk walk and gathers the pages. Neighbouring free and fastbin chunks count as one,
/// because `mtrim` consolidates first.
pub(super) struct Trim {
    page_bytes: u64,
    run: Option<(u64, u64)>,
    ranges: Vec<AddrRange>,
}

impl Trim {
    /// For a kernel with pages of this size (`GLRO (dl_pagesize)`).
    pub(super) fn new(page_size: PageSize) -> Self {
        Self {
            page_bytes: page_size.bytes(),
            run: None,
            ranges: Vec::new(),
        }
    }

    /// A chunk in a bin or a fastbin.
    pub(super) fn free(&mut self, chunk: u64, size: u64) {
        let start = self.run.map_or(chunk, |(start, _)| start);
        self.run = Some((start, chunk + size));
    }

    /// Anything else: ends a run of free chunks.
    pub(super) fn kept(&mut self) {
        let Some((start, end)) = self.run.take() else {
            return;
        };
        let page = self.page_bytes;
        if end - start < page + CHUNK_STRUCT {
            return;
        }
        let first = (start + CHUNK_STRUCT).next_multiple_of(page);
        self.push(first, first + (end.saturating_sub(first) & !(page - 1)));
    }

    /// Adds the top chunk, which absorbs free chunks before it. Only a top that ends at the program
    /// break can be returned: in units of `unit` (the page, or `thp_pagesize`).
    pub(super) fn top(&mut self, chunk: u64, end: u64, given_back_by: Option<u64>) {
        let start = self.run.take().map_or(chunk, |(start, _)| start);
        let Some(unit) = given_back_by else {
            return;
        };
        let spare = (end - start).saturating_sub(MIN_CHUNK + 1);
        self.push(end - spare / unit * unit, end);
    }

    fn push(&mut self, start: u64, end: u64) {
        let range = AddrRange::new(RemoteAddr::new(start), RemoteAddr::new(end));
        self.ranges.extend(range.filter(|r| !r.is_empty()));
    }

    /// The pages, ascending.
    pub(super) fn finish(mut self) -> Vec<AddrRange> {
        self.ranges.sort_unstable();
        self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunks::{CHUNK_HEADER, WHOLE_HEADER};
    use super::*;
    use crate::allocator::{Allocator, Margins, PageReturn};

    #[test]
    fn the_margins_of_the_row_are_those_of_the_walk() {
        let before = WHOLE_HEADER - CHUNK_HEADER;
        let behind = CHUNK_STRUCT - before;
        let margins = PageReturn::PagesBetween(Margins { before, behind });
        assert_eq!(Allocator::Glibc.row().page_return, margins);
    }

    const PAGE: u64 = 4096;

    fn pages(trim: Trim) -> Vec<(u64, u64)> {
        let ranges = trim.finish();
        ranges
            .iter()
            .map(|r| (r.start().get(), r.end().get()))
            .collect()
    }

    #[test]
    fn a_free_chunk_gives_its_whole_pages_after_its_header() {
        let mut trim = Trim::new(PageSize::default());
        trim.free(0x1fd0, 0x1040); // 48 bytes before a page: that page counts
        trim.kept();
        trim.free(0x4fe0, 0x2020); // 32 bytes before: the header reaches into it
        trim.kept();
        trim.free(0x9000, 0x1000); // a page, but no whole one after the header
        trim.kept();
        assert_eq!(pages(trim), [(0x2000, 0x3000), (0x6000, 0x7000)]);
    }

    #[test]
    fn neighbours_count_as_one_and_before_the_top_as_top() {
        let mut trim = Trim::new(PageSize::default());
        trim.free(0x1000, 0x800);
        trim.free(0x1800, 0x1900);
        trim.kept();
        trim.free(0x8000, 0x100);
        trim.top(0x8100, 0xb000, Some(PAGE));
        assert_eq!(pages(trim), [(0x2000, 0x3000), (0x9000, 0xb000)]);
    }

    #[test]
    fn a_top_keeps_its_minimum_and_a_thread_arena_all_of_it() {
        let mut trim = Trim::new(PageSize::default());
        trim.top(0x8fe0, 0xb000, Some(PAGE)); // 32 bytes are not enough to stay
        trim.top(0x8fe0, 0xb000, None);
        assert_eq!(pages(trim), [(0xa000, 0xb000)]);
    }

    #[test]
    fn larger_pages_are_given_back_as_a_whole_or_not_at_all() {
        for page_size in PageSize::ALL {
            let page = page_size.bytes();
            let mut trim = Trim::new(page_size);
            // Two pages less 16 bytes: one of them is whole after the header.
            trim.free(page, 2 * page - 16);
            trim.kept();
            // A page that is not whole, because its first bytes stay.
            trim.free(4 * page, page);
            trim.kept();
            trim.top(6 * page + 16, 9 * page, Some(page));
            let whole = [(2 * page, 2 * page), (7 * page, 9 * page)];
            let found: Vec<_> = pages(trim).into_iter().filter(|(a, b)| a < b).collect();
            let expected: Vec<_> = whole.into_iter().filter(|(a, b)| a < b).collect();
            assert_eq!(found, expected, "{page}");
        }
    }
}

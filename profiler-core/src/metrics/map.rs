//! The map of the heap: how full each page is, by address.

use crate::addr::{AddrRange, PAGE_SIZE};
use crate::metrics::pages::{PageSlice, Use};
use crate::tables::{MapExtent, MapPage};

/// A longer stretch of absent pages is left out and splits the map.
const LONGEST_GAP_PAGES: u64 = 64;

/// Collects pages into stretches.
#[derive(Default)]
pub(crate) struct HeapMap {
    extents: Vec<MapExtent>,
}

impl HeapMap {
    /// Appends the pages of a slice.
    pub(crate) fn page(&mut self, slice: &PageSlice) {
        // The zero page takes no memory, however often it is mapped.
        let absent = !slice.state.is_resident() && !slice.state.is_swapped();
        if absent && slice.range.len() / PAGE_SIZE > LONGEST_GAP_PAGES {
            return;
        }
        let tally = &slice.tally;
        // A larger page is as many cells, and each of them as full.
        let of_cell = |bytes: u64| bytes.div_ceil(slice.page_size.units()) as u16;
        let other = tally.of(Use::Cached)
            + tally.of(Use::Top)
            + tally.of(Use::Metadata)
            + tally.of(Use::Retained);
        let page = MapPage {
            live_bytes: of_cell(tally.live()),
            other_bytes: of_cell(other).min(PAGE_SIZE as u16 - of_cell(tally.live())),
            state: slice.state,
        };
        let cells = slice.range.len() / PAGE_SIZE;
        let (allocator, arena) = (slice.owner.allocator, slice.owner.arena);
        let extent = match self.extents.last_mut() {
            Some(last)
                if last.range.end() == slice.range.start()
                    && (last.allocator, last.arena) == (allocator, arena) =>
            {
                last
            }
            _ => {
                let range = AddrRange::with_len(slice.range.start(), 0).unwrap_or_default();
                self.extents.push(MapExtent {
                    allocator,
                    arena,
                    range,
                    pages: Vec::new(),
                });
                let last = self.extents.len() - 1;
                &mut self.extents[last]
            }
        };
        extent
            .pages
            .extend(std::iter::repeat_n(page, cells as usize));
        extent.range =
            AddrRange::new(extent.range.start(), slice.range.end()).unwrap_or(extent.range);
    }

    /// The map's extents by address, without those that have nothing resident or swapped.
    pub(crate) fn finish(self) -> Vec<MapExtent> {
        let holds = |e: &MapExtent| e.pages.iter().any(|page| page.state.has_data());
        self.extents.into_iter().filter(holds).collect()
    }
}

//! The map of the heap: how full each page is, by address.

use crate::addr::AddrRange;
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
        if absent && slice.pages() > LONGEST_GAP_PAGES {
            return;
        }
        let tally = &slice.tally;
        let page = MapPage {
            live_bytes: tally.live() as u16,
            other_bytes: (tally.of(Use::Cached)
                + tally.of(Use::Top)
                + tally.of(Use::Metadata)
                + tally.of(Use::Retained)) as u16,
            state: slice.state,
        };
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
            .extend(std::iter::repeat_n(page, slice.pages() as usize));
        extent.range =
            AddrRange::new(extent.range.start(), slice.range.end()).unwrap_or(extent.range);
    }

    /// The stretches, by address; those with nothing resident or swapped are left out.
    pub(crate) fn finish(self) -> Vec<MapExtent> {
        let holds = |e: &MapExtent| e.pages.iter().any(|page| page.state.has_data());
        self.extents.into_iter().filter(holds).collect()
    }
}

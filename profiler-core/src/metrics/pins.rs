//! What keeps free bytes from being returned: live blocks on the same page, and the last blocks
//! below an arena's top.

use std::collections::{BTreeMap, VecDeque};

use crate::heap::{Allocator, ExtentKind};
use crate::metrics::pages::{Owner, PageSlice, Use};
use crate::size_class::SizeClass;

/// Finds what pins free bytes. Slices ascend.
#[derive(Default)]
pub(crate) struct Pins {
    /// Free bytes by allocator and, in a row, size class.
    by_class: BTreeMap<Allocator, Vec<u64>>,
    /// By heap and arena: free bytes on pages with something not free, and free bytes up to the
    /// page of the highest live block.
    by_arena: BTreeMap<(usize, u32), ArenaPins>,
    tail: Tail,
}

/// Pinned memory in one arena, in bytes of resident pages.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct ArenaPins {
    /// Free bytes on pages that something not free keeps.
    pub(crate) pinned_free_bytes: u64,
    /// Free bytes on pages up to and including the page of the highest live block, in each heap
    /// that grows upwards.
    pub(crate) below_highest_live_bytes: u64,
    /// Whole free pages that would join the top if the last blocks below it were freed.
    pub(crate) top_free_bytes: u64,
}

impl Pins {
    /// Counts the pages of a slice. A trim would return `trimmable` bytes of it: nothing pins
    /// those.
    pub(crate) fn page(&mut self, slice: &PageSlice, trimmable: u64) {
        if !self.tail.covers(slice) {
            self.close_tail();
            self.tail = Tail::of(slice.owner);
        }
        if !slice.state.is_resident() {
            return;
        }
        let tally = &slice.tally;
        let free = tally.of(Use::Free) + tally.of(Use::Retained) + tally.of(Use::PymallocFree);
        if free > 0 && free < slice.page_size.bytes() {
            let arena = (slice.owner.heap, slice.owner.arena);
            let pinned = slice.pages() - trimmable / slice.page_size.bytes();
            self.by_arena.entry(arena).or_default().pinned_free_bytes += pinned * free;
            self.share(slice, free);
        }
        self.tail.page(slice, free);
    }

    /// Divides the free bytes of a page evenly among its live blocks. Bytes held by something that
    /// is not live (a cached block, the top, a header) belong to no class.
    fn share(&mut self, slice: &PageSlice, free: u64) {
        let blocks = slice.live_classes.len() as u64;
        if blocks == 0 {
            return;
        }
        let (part, rest) = (free / blocks, free % blocks);
        let row = self.by_class.entry(slice.owner.allocator);
        let row = row.or_insert_with(|| vec![0; SizeClass::COUNT]);
        for (i, class) in (0..).zip(slice.live_classes) {
            row[class.0 as usize] += part + u64::from(i < rest);
        }
    }

    fn close_tail(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        if let Some(owner) = tail.owner {
            let arena = self.by_arena.entry((owner.heap, owner.arena)).or_default();
            arena.below_highest_live_bytes += tail.below_live;
            arena.top_free_bytes += tail.pinned_below_top();
        }
    }

    /// Ends the sweep.
    pub(crate) fn finish(mut self) -> Self {
        self.close_tail();
        self
    }

    /// Free bytes that the live blocks of a class keep resident.
    pub(crate) fn of_class(&self, allocator: Allocator, class: SizeClass) -> u64 {
        let row = self.by_class.get(&allocator);
        row.map_or(0, |row| row[class.0 as usize])
    }

    /// Pinned memory in an arena.
    pub(crate) fn of_arena(&self, heap: usize, arena: u32) -> ArenaPins {
        let pins = self.by_arena.get(&(heap, arena));
        pins.copied().unwrap_or_default()
    }
}

/// The upper end of the visited part of one extent that grows upwards.
#[derive(Default)]
struct Tail {
    owner: Option<Owner>,
    free_since_live: u64,
    below_live: u64,
    /// The last slices, which contain at most a page's worth of bytes in use: only then do these
    /// blocks count as pinning the top.
    last: VecDeque<TailSlice>,
    in_use: u64,
}

#[derive(Copy, Clone)]
struct TailSlice {
    free_pages_bytes: u64,
    in_use: u64,
}

impl Tail {
    fn of(owner: Owner) -> Self {
        let grows = matches!(owner.kind, ExtentKind::Brk | ExtentKind::ThreadHeap);
        Self {
            owner: grows.then_some(owner),
            ..Self::default()
        }
    }

    /// Whether the slice is in the extent, including the arenas of inner heaps.
    fn covers(&self, slice: &PageSlice) -> bool {
        self.owner
            .is_some_and(|owner| owner.extent.contains(slice.range.start()))
    }

    fn page(&mut self, slice: &PageSlice, free: u64) {
        if self.owner.is_none() {
            return;
        }
        let (pages, tally) = (slice.pages(), &slice.tally);
        self.free_since_live += pages * free;
        if tally.live() > 0 {
            self.below_live += std::mem::take(&mut self.free_since_live);
        }
        let part = TailSlice {
            free_pages_bytes: match free == slice.page_size.bytes() {
                true => pages * free,
                false => 0,
            },
            in_use: pages * (tally.live() + tally.of(Use::Cached)),
        };
        self.in_use += part.in_use;
        self.last.push_back(part);
        while self.in_use > slice.page_size.bytes()
            && let Some(first) = self.last.pop_front()
        {
            self.in_use -= first.in_use;
        }
    }

    /// Whole free pages below the last blocks, which are at most a page's worth. Free pages above
    /// the last block belong to the top itself.
    fn pinned_below_top(&self) -> u64 {
        let last_block = self.last.iter().rposition(|part| part.in_use > 0);
        let below = self.last.iter().take(last_block.map_or(0, |i| i + 1));
        below.map(|part| part.free_pages_bytes).sum()
    }
}

//! A mimalloc page: blocks of one size; free blocks are in lists. The same in every release.

use std::ops::Range;

use crate::addr::RemoteAddr;
use crate::memory::{PageCache, ReadError, TargetMemory};
use crate::span::{SpanList, SpanState};

/// Areas up to this long are read at once, for the links in them.
const MAX_WINDOW: u64 = 1 << 20;

/// How links are hidden (`mi_ptr_decode` in `include/mimalloc/internal.h`), in builds that do.
#[derive(Copy, Clone, Debug)]
pub(super) struct Keys {
    pub(super) keys: [u64; 2],
    /// The value that marks the end of a list.
    pub(super) null: u64,
}

impl Keys {
    fn decode(self, link: u64) -> u64 {
        let [first, second] = self.keys;
        let at = link.wrapping_sub(first).rotate_right((first % 64) as u32) ^ second;
        if at == self.null { 0 } else { at }
    }
}

/// The blocks of one page.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// Its memory, including the part before the first block.
    pub(super) area: Range<u64>,
    /// The first block.
    pub(super) start: u64,
    /// Bytes of a block, a multiple of 8.
    pub(super) size: u64,
    /// Blocks ever handed out.
    pub(super) capacity: u64,
    /// Blocks that there is room for.
    pub(super) reserved: u64,
    /// Blocks in use by mimalloc's count, which still includes those freed by other threads.
    pub(super) used: u64,
    /// First blocks of the lists of free ones: `free`, `local_free`.
    pub(super) free: [u64; 2],
    /// First block of those that other threads freed: `xthread_free`.
    pub(super) thread_free: u64,
    pub(super) keys: Option<Keys>,
}

impl Blocks {
    /// The number of the block that begins at `at`.
    pub(super) fn index(&self, at: u64) -> Option<u64> {
        let offset = at.checked_sub(self.start)?;
        let index = offset / self.size;
        (offset.is_multiple_of(self.size) && index < self.capacity).then_some(index)
    }

    /// Whether the counts and lists are ones that mimalloc can have.
    pub(super) fn is_possible(&self) -> bool {
        let bytes = self.size.checked_mul(self.reserved);
        let end = bytes.and_then(|bytes| bytes.checked_add(self.start));
        self.size >= 8
            && self.size.is_multiple_of(8)
            && self.start.is_multiple_of(8)
            && self.area.start <= self.start
            && end.is_some_and(|end| end <= self.area.end)
            && self.capacity <= self.reserved
            && self.reserved <= u16::MAX.into()
            && self.used <= self.capacity
    }

    /// Whether each list is empty or begins with a block.
    pub(super) fn lists_fit(&self) -> bool {
        let heads = [self.free[0], self.free[1], self.thread_free];
        heads.iter().all(|&at| at == 0 || self.index(at).is_some())
    }
}

/// Sums over all pages.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) pages: u64,
    /// Pages whose blocks in use and free add up to all.
    pub(super) sound: u64,
    /// Pages whose lists could not be read.
    pub(super) unread: u64,
    /// Bytes in them whose use is not known.
    pub(super) unread_bytes: u64,
    /// Blocks that other threads freed and the owner has not taken back yet.
    pub(super) thread_freed: u64,
}

/// Why a list could not be followed to its end.
enum Broken {
    Unreadable,
    Damaged,
}

/// Lays pages out as spans.
pub(super) struct Walker<'a, M> {
    memory: &'a M,
    cache: PageCache<&'a M>,
    window: Range<u64>,
    bytes: Vec<u8>,
    marks: Vec<bool>,
    /// Blocks in heaps' lists of blocks freed by other threads, ascending.
    delayed: Vec<u64>,
    pub(super) totals: Totals,
    /// Pages with damaged lists.
    pub(super) damaged: Vec<u64>,
}

/// How often a page is read again if its lists and its header are from different moments.
const RENEWALS: u32 = 3;
/// Damaged pages named at most.
const MAX_DAMAGED: usize = 32;

impl<'a, M: TargetMemory> Walker<'a, M> {
    /// A walker that knows these blocks to be in heaps' delayed lists.
    pub(super) fn new(memory: &'a M, mut delayed: Vec<u64>) -> Self {
        delayed.sort_unstable();
        delayed.dedup();
        Self {
            memory,
            cache: PageCache::new(memory),
            window: 0..0,
            bytes: Vec::new(),
            marks: Vec::new(),
            delayed,
            totals: Totals::default(),
            damaged: Vec::new(),
        }
    }

    /// Appends the spans of a page over all of its area; returns whether none of its blocks is
    /// live. The page must be plausible.
    ///
    /// If the target has run since the page's header was read, so that its lists have changed, the
    /// page is `renewed`.
    pub(super) fn page(
        &mut self,
        page: &Blocks,
        spans: &mut SpanList,
        renewed: impl Fn(&M) -> Option<Blocks>,
    ) -> bool {
        self.totals.pages += 1;
        let mut page = page.clone();
        let thread_freed = self.totals.thread_freed;
        let mut known = self.mark_anew(&page);
        for _ in 0..RENEWALS {
            if self.memory.epoch() == 0 || !matches!(known, Err(Broken::Damaged)) {
                break;
            }
            let Some(now) = renewed(self.memory) else {
                break;
            };
            page = now;
            self.totals.thread_freed = thread_freed;
            known = self.mark_anew(&page);
        }
        match known {
            Ok(()) => self.totals.sound += 1,
            Err(Broken::Unreadable) => self.totals.unread += 1,
            Err(Broken::Damaged) if self.damaged.len() < MAX_DAMAGED => {
                self.damaged.push(page.start);
            }
            Err(Broken::Damaged) => {}
        }
        spans.push(page.start - page.area.start, SpanState::Metadata);
        let rest = match known {
            Ok(()) => SpanState::Live,
            // A page with no block in use needs no list to be known.
            Err(_) if page.used == 0 => SpanState::Free,
            Err(_) => SpanState::Unknown,
        };
        for &free in &self.marks {
            let state = if free { SpanState::Free } else { rest };
            if state == SpanState::Unknown {
                self.totals.unread_bytes += page.size;
            }
            spans.push(page.size, state);
        }
        let carved = page.capacity * page.size;
        let reserved = page.reserved * page.size;
        spans.push(reserved - carved, SpanState::Top);
        spans.push(page.area.end - page.start - reserved, SpanState::Metadata);
        rest == SpanState::Free || self.marks.iter().all(|free| *free)
    }

    fn mark_anew(&mut self, page: &Blocks) -> Result<(), Broken> {
        self.window = 0..0;
        self.marks.clear();
        self.marks.resize(page.capacity as usize, false);
        self.mark(page)
    }

    /// Marks the free blocks of a page.
    fn mark(&mut self, page: &Blocks) -> Result<(), Broken> {
        let mut free = 0;
        for head in page.free {
            free += self.follow(page, head)?;
        }
        let mut thread_freed = self.follow(page, page.thread_free)?;
        let end = page.start + page.capacity * page.size;
        let first = self.delayed.partition_point(|&at| at < page.start);
        let last = self.delayed.partition_point(|&at| at < end);
        for i in first..last {
            let index = page.index(self.delayed[i]).ok_or(Broken::Damaged)?;
            self.set(index)?;
            thread_freed += 1;
        }
        self.totals.thread_freed += thread_freed;
        if page.used + free == page.capacity && thread_freed <= page.used {
            Ok(())
        } else {
            Err(Broken::Damaged)
        }
    }

    /// Marks and counts a list's blocks. It terminates because no block is marked twice.
    fn follow(&mut self, page: &Blocks, head: u64) -> Result<u64, Broken> {
        let mut at = head;
        let mut count = 0;
        while at != 0 {
            let index = page.index(at).ok_or(Broken::Damaged)?;
            self.set(index)?;
            count += 1;
            let link = self.link(page, at).map_err(|_| Broken::Unreadable)?;
            at = page.keys.map_or(link, |keys| keys.decode(link));
        }
        Ok(count)
    }

    fn set(&mut self, index: u64) -> Result<(), Broken> {
        match self.marks.get_mut(index as usize) {
            Some(mark) if !*mark => {
                *mark = true;
                Ok(())
            }
            _ => Err(Broken::Damaged),
        }
    }

    /// The word at the beginning of a free block.
    fn link(&mut self, page: &Blocks, at: u64) -> Result<u64, ReadError> {
        let all = page.start..page.start + page.capacity * page.size;
        let len = all.end - all.start;
        if self.window != all && len <= MAX_WINDOW && self.window != (1..1) {
            self.bytes.resize(len as usize, 0);
            let read = self
                .memory
                .read(RemoteAddr::new(all.start), &mut self.bytes);
            // A part that is swapped out leaves the rest to be read link by link.
            self.window = if read.is_ok() { all } else { 1..1 };
        }
        let in_window = at
            .checked_sub(self.window.start)
            .filter(|_| self.window.contains(&at))
            .and_then(|offset| self.bytes.get(offset as usize..)?.first_chunk::<8>());
        match in_window {
            Some(word) => Ok(u64::from_le_bytes(*word)),
            None => self.cache.read_value(RemoteAddr::new(at)),
        }
    }
}

/// The blocks of a list that belongs to no page: at most `most`, and whether the list ended.
pub(super) fn list<M: TargetMemory>(
    memory: &M,
    head: u64,
    keys: Option<Keys>,
    most: usize,
) -> (Vec<u64>, bool) {
    let cache = PageCache::new(memory);
    let mut found = Vec::new();
    let mut at = head;
    while at != 0 && found.len() < most {
        let Ok(link) = cache.read_value::<u64>(RemoteAddr::new(at)) else {
            break;
        };
        found.push(at);
        at = keys.map_or(link, |keys| keys.decode(link));
    }
    (found, at == 0)
}

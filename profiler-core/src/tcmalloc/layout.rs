//! gperftools' static variables, found by their shape in the object's writable data.
//!
//! Sources: `src/{page_heap,pagemap,central_freelist,common,span}.h` of gperftools 2.10, as built
//! for x86-64 with pages of 8 KiB and addresses of 48 bits.

use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;

/// `kPageSize`.
pub(super) const PAGE: u64 = 8192;
/// `kClassSizesMax`.
pub(super) const CLASSES: usize = 128;
/// Pointers in a leaf of the page map, one a page.
pub(super) const LEAF_LENGTH: u64 = 1 << 18;
/// `sizeof(Span)`.
pub(super) const SPAN: usize = 48;
/// Writable data that is searched at most.
const MAX_DATA: u64 = 16 << 20;
/// `kMaxSize`: the largest block that has a size class.
const MAX_SIZE: u64 = 256 << 10;
/// Pages that a span of a size class has at most.
const MAX_CLASS_PAGES: u64 = 256;
/// Leaves that the root of the page map points to.
const ROOT_LENGTH: usize = 1 << 17;
/// Bytes of `pagemap_cache_`, before the page map.
const PAGE_CACHE: usize = 8 << 16;
/// Bytes between the root and `free_`: `allocator_`, `large_normal_`, `large_returned_`.
const AFTER_ROOT: usize = 8 + 48 + 48;
/// Span lists in `free_`: a normal and a returned one for each of 128 lengths.
const FREE_LISTS: usize = 256;
/// `sizeof(CentralFreeListPadded)`.
const CENTRAL: usize = 1216;
/// From `size_class_` of a central free list to `num_spans_`, `counter_`, `tc_slots_`,
/// `used_slots_`.
const NUM_SPANS: usize = 104;
const COUNTER: usize = 112;
const SLOTS: usize = 120;
const USED_SLOTS: usize = 1144;
/// `kMaxNumTransferEntries`.
const MAX_SLOTS: u32 = 64;

/// A size class and its central free list.
pub(super) struct Class {
    /// Bytes of a block; 0 for class 0.
    pub(super) size: u64,
    /// Pages of a span.
    pub(super) pages: u64,
    /// `num_objects_to_move`: blocks in each slot of the transfer cache.
    pub(super) batch: u64,
    /// `num_spans_`.
    pub(super) spans: u64,
    /// `counter_`: free blocks in its spans.
    pub(super) free: u64,
    /// Heads of the lists in the used slots of the transfer cache.
    pub(super) slots: Vec<u64>,
}

/// `PageHeap::Stats`, as far as a walk needs it; bytes.
#[derive(Copy, Clone)]
pub(super) struct Stats {
    pub(super) system: u64,
    pub(super) free: u64,
    pub(super) unmapped: u64,
}

/// All that a walk starts from.
pub(super) struct Statics {
    /// The address of the page heap.
    pub(super) addr: RemoteAddr,
    /// First page and address of each leaf of the page map, ascending by page.
    pub(super) leaves: Vec<(u64, u64)>,
    pub(super) stats: Stats,
    pub(super) aggressive_decommit: bool,
    pub(super) classes: Vec<Class>,
    /// Words that may point to a thread's cache.
    pub(super) pointers: Vec<u64>,
}

struct Data {
    start: u64,
    bytes: Vec<u8>,
}

impl Data {
    fn word(&self, at: usize) -> Option<u64> {
        let word = self.bytes.get(at..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*word))
    }

    fn half(&self, at: usize) -> Option<u32> {
        let half = self.bytes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*half))
    }

    /// `PageHeap::free_`: heads of lists, which have no page and no length and are never null.
    fn free_lists(&self) -> Option<usize> {
        let is_head = |at: usize| {
            self.word(at + 16).is_some_and(|next| next != 0)
                && self.word(at + 24).is_some_and(|prev| prev != 0)
                && self.word(at) == Some(0)
                && self.word(at + 8) == Some(0)
        };
        let first = PAGE_CACHE + 8 * ROOT_LENGTH + AFTER_ROOT;
        let mut places = (first..self.bytes.len()).step_by(8);
        let at = places.find(|at| (0..FREE_LISTS).all(|list| is_head(at + SPAN * list)))?;
        // The sets of large spans, before the lists, look like heads too unless they are empty.
        // Behind the lists are the bytes got from the system, which are never 0.
        let mut heads = (at..).step_by(SPAN);
        let end = heads.find(|at| !is_head(*at))?;
        end.checked_sub(SPAN * FREE_LISTS)
    }

    /// `SizeMap`: sizes, pages and batches of the classes.
    fn size_classes(&self) -> Option<Vec<Class>> {
        let places = (4 * CLASSES..self.bytes.len()).step_by(4);
        places.into_iter().find_map(|at| {
            let begins = self.half(at + 4) == Some(8) && self.half(at) == Some(0);
            begins.then(|| self.size_classes_at(at)).flatten()
        })
    }

    fn size_classes_at(&self, at: usize) -> Option<Vec<Class>> {
        let pages = (at + 4 * CLASSES).next_multiple_of(8);
        let count = usize::try_from(self.word(pages + 8 * CLASSES)?).ok()?;
        if !(2..=CLASSES).contains(&count) {
            return None;
        }
        let mut classes: Vec<Class> = Vec::new();
        for class in 0..count {
            let found = Class {
                size: u64::from(self.half(at + 4 * class)?),
                pages: self.word(pages + 8 * class)?,
                batch: u64::from(self.half(at - 4 * CLASSES + 4 * class)?),
                spans: 0,
                free: 0,
                slots: Vec::new(),
            };
            let sound = classes.last().is_none_or(|before| {
                found.size > before.size
                    && found.size <= MAX_SIZE
                    && found.size.is_multiple_of(8)
                    && (1..=MAX_CLASS_PAGES).contains(&found.pages)
                    && found.pages * PAGE >= found.size
                    && (1..=MAX_SIZE).contains(&found.batch)
            });
            if !sound {
                return None;
            }
            classes.push(found);
        }
        (classes.last()?.size == MAX_SIZE).then_some(classes)
    }

    /// `size_class_` of the first of `Static::central_cache_`: each list contains its index.
    fn central_lists(&self, count: usize) -> Option<usize> {
        let mut places = (0..self.bytes.len()).step_by(8);
        places.find(|at| {
            (0..count)
                .rev()
                .all(|n| self.word(at + CENTRAL * n) == Some(n as u64))
        })
    }

    fn statics(&self) -> Option<Statics> {
        let free_lists = self.free_lists()?;
        let mut classes = self.size_classes()?;
        let central = self.central_lists(classes.len())?;
        for (class, at) in classes.iter_mut().zip((central..).step_by(CENTRAL)) {
            class.spans = self.word(at + NUM_SPANS)?;
            class.free = self.word(at + COUNTER)?;
            let used = self.half(at + USED_SLOTS)?.min(MAX_SLOTS) as usize;
            let slots = (0..used).map(|slot| self.word(at + SLOTS + 16 * slot));
            class.slots = slots.collect::<Option<_>>()?;
        }
        let root = free_lists - AFTER_ROOT - 8 * ROOT_LENGTH;
        let page_heap = root - PAGE_CACHE;
        let stats = free_lists + SPAN * FREE_LISTS;
        let leaves = (0..ROOT_LENGTH).filter_map(|i| {
            let leaf = self.word(root + 8 * i).filter(|leaf| *leaf != 0)?;
            Some((i as u64 * LEAF_LENGTH, leaf))
        });
        let passed = |at: usize| {
            (page_heap..stats).contains(&at) || (central..central + CENTRAL * CLASSES).contains(&at)
        };
        let places = (0..self.bytes.len()).step_by(8);
        let pointers = places.filter(|at| !passed(*at)).filter_map(|at| {
            self.word(at)
                .filter(|word| *word != 0 && word.is_multiple_of(64))
        });
        Some(Statics {
            addr: RemoteAddr::new(self.start + page_heap as u64),
            leaves: leaves.collect(),
            stats: Stats {
                system: self.word(stats)?,
                free: self.word(stats + 8)?,
                unmapped: self.word(stats + 16)?,
            },
            aggressive_decommit: *self.bytes.get(stats + 100)? != 0,
            classes,
            pointers: pointers.collect(),
        })
    }
}

/// The static variables in these ranges, which ascend; ranges that touch are one.
pub(super) fn find<M: TargetMemory>(memory: &M, ranges: &[AddrRange]) -> Option<Statics> {
    let mut joined: Vec<AddrRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end() == range.start() => {
                *last = AddrRange::new(last.start(), range.end())?;
            }
            _ => joined.push(*range),
        }
    }
    joined.iter().find_map(|range| {
        let len = range.len().min(MAX_DATA) as usize;
        let mut bytes = vec![0; len];
        memory.read(range.start(), &mut bytes).ok()?;
        let start = range.start().get();
        Data { start, bytes }.statics()
    })
}

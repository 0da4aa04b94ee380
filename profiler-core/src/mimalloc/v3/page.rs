//! `mi_page_t` of mimalloc 3.x (`include/mimalloc/types.h`, LP64), and the location of its memory.

use crate::mimalloc::blocks::{Blocks, Keys};
use crate::mimalloc::number;

/// Bytes of a slice (`MI_ARENA_SLICE_SIZE`), which is the alignment of pages.
pub(super) const SLICE: u64 = 64 << 10;
/// Bytes read of a page's description: enough for every layout.
pub(super) const PAGE: usize = 136;
/// `MI_MEM_OS`, `MI_MEM_OS_HUGE`, `MI_MEM_OS_REMAP`.
const FROM_OS: std::ops::RangeInclusive<u32> = 4..=6;
/// The bits of `xthread_id` that are not the thread (`MI_PAGE_FLAG_MASK`,
/// `MI_THREADID_ABANDONED_MAPPED`).
const FLAGS: u64 = 7;
/// `MI_MEM_ARENA`.
const FROM_ARENA: u32 = 7;

/// The position of the first block.
#[derive(Copy, Clone, Debug)]
enum Start {
    /// Its address, at 48.
    Pointer,
    /// Words from the description, a u32 at 48.
    Words,
}

/// Offsets of the fields that differ.
#[derive(Debug)]
pub(super) struct Layout {
    /// The releases with this layout.
    pub(super) name: &'static str,
    start: Start,
    /// The page's keys, in builds that encode lists.
    keys: Option<usize>,
    /// `memid`: the origin of its memory.
    memid: usize,
}

pub(super) static LAYOUTS: [Layout; 5] = [
    Layout {
        name: "3.0 to 3.3",
        start: Start::Pointer,
        keys: None,
        memid: 96,
    },
    Layout {
        name: "3.4",
        start: Start::Words,
        keys: None,
        memid: 88,
    },
    Layout {
        name: "3.0 to 3.1, secure or debug",
        start: Start::Pointer,
        keys: Some(64),
        memid: 112,
    },
    Layout {
        name: "3.2 to 3.3, secure or debug",
        start: Start::Pointer,
        keys: Some(56),
        memid: 112,
    },
    Layout {
        name: "3.4, secure or debug",
        start: Start::Words,
        keys: Some(56),
        memid: 104,
    },
];

/// The origin of memory (`mi_memid_t`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Memory {
    /// Slices of the arena at this address.
    Arena { arena: u64, slice: u64, count: u64 },
    /// A mapping of its own.
    Os { base: u64, size: u64 },
}

impl Memory {
    /// Reads the 24 bytes of a `mi_memid_t`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at| number(bytes, at, 8);
        let memory = match number(bytes, 16, 4) as u32 {
            FROM_ARENA => Self::Arena {
                arena: word(0),
                slice: number(bytes, 8, 4),
                count: number(bytes, 12, 4),
            },
            kind if FROM_OS.contains(&kind) => Self::Os {
                base: word(0),
                size: word(8),
            },
            _ => return None,
        };
        memory.range().map(|_| memory)
    }

    /// Its address range.
    pub(super) fn range(&self) -> Option<std::ops::Range<u64>> {
        let (start, len) = match *self {
            Self::Arena {
                arena,
                slice,
                count,
            } => (arena.checked_add(slice * SLICE)?, count * SLICE),
            Self::Os { base, size } => (base, size),
        };
        let end = start.checked_add(len)?;
        let sound = len > 0 && start.is_multiple_of(4096) && end.is_multiple_of(4096);
        sound.then_some(start..end)
    }
}

/// A page in use.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) blocks: Blocks,
    pub(super) memory: Memory,
    /// The thread that owns it; `None` if that has ended.
    pub(super) owner: Option<u64>,
}

impl Page {
    /// The page described at `addr`, if it is plausible.
    pub(super) fn parse(addr: u64, bytes: &[u8; PAGE], layout: &Layout) -> Option<Self> {
        let word = |at| number(bytes, at, 8);
        let memory = Memory::parse(bytes.get(layout.memid..)?)?;
        let start = match layout.start {
            Start::Pointer => word(48),
            Start::Words => addr.checked_add(8 * number(bytes, 48, 4))?,
        };
        let blocks = Blocks {
            area: memory.range()?,
            start,
            size: word(40),
            capacity: number(bytes, 18, 2),
            reserved: number(bytes, 20, 2),
            used: number(bytes, 16, 2),
            free: [word(8), word(24)],
            // The lowest bit says that a thread owns the page.
            thread_free: word(32) & !1,
            keys: layout.keys.map(|keys| Keys {
                keys: [word(keys), word(keys + 8)],
                null: addr,
            }),
        };
        // `xthread_id`; the lowest bits are flags, one of which means that a thread has abandoned
        // it.
        let owner = Some(word(0) & !FLAGS).filter(|owner| *owner != 0);
        let sound = blocks.reserved > 0 && blocks.is_possible();
        sound.then_some(Self {
            blocks,
            memory,
            owner,
        })
    }
}

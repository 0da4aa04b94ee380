//! Pool headers and the blocks of a pool.

use crate::addr::RemoteAddr;

/// Bytes of a pool's header; blocks begin after it (`POOL_OVERHEAD`).
pub(super) const HEADER: u64 = 48;
/// The largest block, in bytes (`SMALL_REQUEST_THRESHOLD`).
const LARGEST_BLOCK: u64 = 512;
/// The offset of a pool's links in its header.
const LINKS_AT: u64 = 16;
/// Bytes of a list's two links in `usedpools`.
const LINK_PAIR: u64 = 16;

/// A pool's header that makes sense (`struct pool_header`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Pool {
    /// The pool's address.
    pub(super) addr: RemoteAddr,
    /// Blocks in the program's hands.
    pub(super) count: u64,
    /// First of the freed blocks, as an offset into the pool; 0 when there is none.
    pub(super) first_free: u64,
    /// The index of its arena.
    pub(super) arena: u32,
    /// Bytes of each block.
    pub(super) block: u64,
    /// The offset at which the next block would be carved.
    pub(super) next_offset: u64,
    /// Its size class, from 0.
    class: u64,
    /// The next and the previous pool of its list, or the list's head.
    links: [u64; 2],
    /// Bytes of the pool itself.
    size: u64,
}

fn word32(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
        .into()
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

impl Pool {
    /// Reads the header of a pool in use. `None` if it is not one: the geometry is recognised by
    /// `maxnextoffset == pool size - block size`.
    pub(super) fn parse(
        addr: RemoteAddr,
        header: &[u8; HEADER as usize],
        size: u64,
    ) -> Option<Self> {
        let count = word32(header, 0);
        let freeblock = word64(header, 8);
        let (next, prev) = (word64(header, 16), word64(header, 24));
        let arena = word32(header, 32) as u32;
        let class = word32(header, 36);
        let next_offset = word32(header, 40);
        let block = size.checked_sub(word32(header, 44))?;
        let aligned = block == (class + 1) * 16 || block == (class + 1) * 8;
        let first_free = match freeblock {
            0 => 0,
            pointer => pointer
                .checked_sub(addr.get())
                .filter(|&offset| offset >= HEADER)?,
        };
        let pool = Self {
            addr,
            count,
            first_free,
            arena,
            block,
            next_offset,
            class,
            links: [next, prev],
            size,
        };
        let sound = aligned
            && (8..=LARGEST_BLOCK).contains(&block)
            && (1..=pool.capacity()).contains(&count)
            && next_offset > HEADER
            && next_offset <= size
            && (next_offset - HEADER).is_multiple_of(block)
            && (first_free == 0 || pool.is_carved_block(first_free) || pool.is_being_carved())
            // A pool in use is linked, or full and unlinked with stale links; never with null ones.
            && next != 0
            && prev != 0;
        sound.then_some(pool)
    }

    /// How many blocks the pool has room for.
    pub(super) fn capacity(&self) -> u64 {
        (self.size - HEADER) / self.block
    }

    /// The start of `usedpools` if a link leads to the head of the list and not to a pool.
    ///
    /// A list's head is not a pool: its address is that of the pair of links in `usedpools` minus
    /// the bytes that precede the links in a pool's header, so that links are at the same offset in
    /// both.
    pub(super) fn list_heads(&self) -> [Option<RemoteAddr>; 2] {
        self.links.map(|link| {
            let before = LINK_PAIR * self.class;
            let table = link.checked_add(LINKS_AT)?.checked_sub(before)?;
            let head = link % self.size != 0 && link % 8 == 0;
            head.then_some(RemoteAddr::new(table))
        })
    }

    /// Bytes of `usedpools` in this Python: two links for each class.
    pub(super) const fn table_bytes(alignment: u64) -> u64 {
        LARGEST_BLOCK / alignment * LINK_PAIR
    }

    /// Whether a thread was stopped while carving the next block: `pymalloc_pool_extend` makes it
    /// the first free block before counting it as carved.
    fn is_being_carved(&self) -> bool {
        self.first_free == self.next_offset && self.next_offset + self.block <= self.size
    }

    fn is_carved_block(&self, offset: u64) -> bool {
        offset >= HEADER
            && offset < self.next_offset
            && (offset - HEADER).is_multiple_of(self.block)
    }

    /// Which blocks are in use by the program, from the pool's bytes: one bool per block. `None` if
    /// the list of freed blocks is invalid, or the header's count differs.
    pub(super) fn live(&self, bytes: &[u8], live: &mut Vec<bool>) -> Option<Count> {
        let capacity = self.capacity();
        let carved = (self.next_offset - HEADER) / self.block;
        live.clear();
        live.extend((0..capacity).map(|index| index < carved));
        let carving = self.is_being_carved();
        let mut offset = if carving { 0 } else { self.first_free };
        let mut freed = 0;
        while offset != 0 {
            let index = ((offset - HEADER) / self.block) as usize;
            // A block that is free twice is a cycle.
            if !std::mem::replace(live.get_mut(index)?, false) {
                return None;
            }
            freed += 1;
            offset = match word64(bytes, offset as usize) {
                0 => 0,
                pointer => pointer
                    .checked_sub(self.addr.get())
                    .filter(|&offset| self.is_carved_block(offset))?,
            };
        }
        if carved > capacity {
            return None;
        }
        match (self.count + freed).abs_diff(carved) {
            0 if carving => Some(Count::InChange),
            0 => Some(Count::Agrees),
            1 if !carving => Some(Count::InChange),
            _ => None,
        }
    }
}

/// How the header's count of blocks in use compares with the list of freed ones.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Count {
    /// They make up all blocks carved.
    Agrees,
    /// The state left by a thread that was stopped in between: `pymalloc_alloc` and `pymalloc_free`
    /// change the count (`ref.count`) and the list (`freeblock`) one after the other, so that they
    /// differ by one block; carving also takes two steps.
    InChange,
}

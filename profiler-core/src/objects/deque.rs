//! Deques: their blocks, and which words of each block are items.

use std::ops::Range;

use super::layout::Layout;
use super::words::{read_word, word};
use crate::memory::TargetMemory;

/// The blocks of the deque that begins with these bytes, from left to right, at most `limit`: the
/// address of each block, and which of its words are items. The first block contains items from the
/// deque's first one on, the last block up to its last. Spare blocks are left out, because they
/// contain old data.
pub(super) fn blocks<'m, M: TargetMemory>(
    memory: &'m M,
    layout: &Layout,
    object: &[u8],
    limit: usize,
) -> impl Iterator<Item = (u64, Range<u32>)> + use<'m, M> {
    let deque = layout.deque();
    let field = |nth: u64| word(object, deque.left_block + nth * 8);
    let fields = || Some((field(0)?, field(1)?, field(2)?, field(3)?));
    let (left, right, first, last) = fields().unwrap_or_default();
    let place = move |item: u64| (deque.items + item.min(deque.block_items)) as u32;
    let mut next = Some(left).filter(|left| *left != 0);
    let blocks = std::iter::from_fn(move || {
        let at = next?;
        let from = place(if at == left { first } else { 0 });
        // The allocator may make a block longer than requested.
        let end = match at == right {
            true => place(last) + 1,
            false => place(deque.block_items),
        };
        next = (at != right)
            .then(|| read_word(memory, at.checked_add(deque.right_link * 8)?))
            .flatten()
            .filter(|&next| next != 0);
        Some((at, from..end.max(from)))
    });
    blocks.take(limit)
}

//! Reading one block in pieces, word by word.

use std::ops::Range;

use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;
use crate::objects::words::{Window, words};

/// Bytes that are read in one piece; a multiple of all entry sizes.
pub(super) const PIECE: u64 = 48 << 12;

/// Reads one block.
pub(super) struct Reader<'w, 'm, M> {
    pub(super) window: &'w mut Window<'m, M>,
    pub(super) range: AddrRange,
    /// The end of the last block.
    pub(super) end: RemoteAddr,
}

impl<M: TargetMemory> Reader<'_, '_, M> {
    /// Bytes of the block.
    pub(super) fn bytes(&mut self, from: u64, len: u64) -> Option<&[u8]> {
        let start = self.range.start().checked_add(from)?;
        let wanted = AddrRange::with_len(start, len)?;
        if !self.range.encloses(&wanted) {
            return None;
        }
        self.window.bytes(wanted, self.end).ok()
    }

    /// Gives each word of `len` bytes from `from` on.
    pub(super) fn words(&mut self, from: u64, len: u64, mut give: impl FnMut(u64)) -> Option<()> {
        for at in (0..len).step_by(PIECE as usize) {
            let piece = self.bytes(from + at, PIECE.min(len - at))?;
            words(piece).for_each(&mut give);
        }
        Some(())
    }

    /// Gives the words `taken` of each `stride` of them.
    pub(super) fn strided(
        &mut self,
        from: u64,
        len: u64,
        stride: usize,
        taken: Range<usize>,
        mut give: impl FnMut(u64),
    ) -> Option<()> {
        let mut nth = 0;
        self.words(
            from,
            len.min(self.range.len().saturating_sub(from)),
            |word| {
                if taken.contains(&(nth % stride)) {
                    give(word);
                }
                nth += 1;
            },
        )
    }
}

//! Reads bytes of the target, page by page where some are unreadable.

use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::memory::TargetMemory;

/// A piece of the target's memory. Pages that cannot be read are zeros.
pub(super) struct Bytes {
    pub(super) bytes: Vec<u8>,
    /// Bytes that could not be read.
    pub(super) unreadable: u64,
}

impl Bytes {
    /// Reads `len` bytes at `addr`; nothing at the end of the address space.
    pub(super) fn read<M: TargetMemory>(memory: &M, addr: u64, len: u64) -> Self {
        let range = AddrRange::with_len(RemoteAddr::new(addr), len).unwrap_or_default();
        let mut bytes = vec![0; range.len() as usize];
        let mut unreadable = 0;
        if memory.read(range.start(), &mut bytes).is_err() {
            let mut at = range.start();
            while at < range.end() {
                let next = AddrRange::new(at, range.end())
                    .and_then(|rest| {
                        at.align_down(PAGE_SIZE)
                            .checked_add(PAGE_SIZE)
                            .map(|n| n.min(rest.end()))
                    })
                    .unwrap_or(range.end());
                let from = (at.get() - addr) as usize;
                let part = &mut bytes[from..(next.get() - addr) as usize];
                if memory.read(at, part).is_err() {
                    part.fill(0);
                    unreadable += part.len() as u64;
                }
                at = next;
            }
        }
        Self { bytes, unreadable }
    }

    /// The word at an offset; 0 outside.
    pub(super) fn word(&self, at: u64) -> u64 {
        word(&self.bytes, at as usize)
    }

    /// The 32-bit word at an offset; 0 outside.
    pub(super) fn half(&self, at: u64) -> u32 {
        let bytes = self.bytes.get(at as usize..).and_then(|b| b.first_chunk());
        bytes.copied().map_or(0, u32::from_le_bytes)
    }
}

/// The word at an offset; 0 outside.
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(|b| b.first_chunk());
    bytes.copied().map_or(0, u64::from_le_bytes)
}

/// The word at an address.
pub(super) fn word_at<M: TargetMemory>(memory: &M, addr: u64) -> Option<u64> {
    memory.read_value(RemoteAddr::new(addr)).ok()
}

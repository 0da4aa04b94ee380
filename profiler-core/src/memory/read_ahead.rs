//! Reads ascending addresses in bulk.

use super::{ReadError, TargetMemory};
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};

/// The size of the largest bulk read, in bytes: data that stays in a core's own cache until it is
/// processed.
pub const WINDOW_BYTES: u64 = 256 << 10;

/// Reads ascending addresses in bulk into one reused buffer: what a walk over chunk headers needs.
///
/// Bulk reads grow while their pages are used and shrink while most are not, so that the inside of
/// large chunks is not read. A read that fails (a swapped page in the window) is repeated up to
/// where it failed, then for the requested page alone.
pub struct ReadAhead<M> {
    memory: M,
    limit: RemoteAddr,
    window: AddrRange,
    buffer: Vec<u8>,
    /// Bytes that the next read asks for.
    next_bytes: u64,
    /// How often the window was used.
    reads: u64,
    /// How often a window was read.
    windows: u64,
}

impl<M: TargetMemory> ReadAhead<M> {
    /// Reads from `memory`; never beyond `limit`.
    pub fn new(memory: M, limit: RemoteAddr) -> Self {
        Self {
            windows: 0,
            memory,
            limit,
            window: AddrRange::default(),
            buffer: Vec::new(),
            next_bytes: PAGE_SIZE,
            reads: 0,
        }
    }

    /// The number of bulk reads: everything returned between two of them comes from one.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Moves the limit, keeping the buffer.
    pub fn set_limit(&mut self, limit: RemoteAddr) {
        self.limit = limit;
    }

    /// The `N` bytes at `addr`.
    #[inline]
    pub fn bytes<const N: usize>(&mut self, addr: RemoteAddr) -> Result<[u8; N], ReadError> {
        if let Some(bytes) = self.in_window(addr) {
            self.reads += 1;
            return Ok(bytes);
        }
        self.fill(addr, N as u64)?;
        self.in_window(addr).ok_or(ReadError::Unmapped(addr))
    }

    /// The little-endian word at `addr`.
    pub fn word(&mut self, addr: RemoteAddr) -> Result<u64, ReadError> {
        self.bytes::<8>(addr).map(u64::from_le_bytes)
    }

    #[inline]
    fn in_window<const N: usize>(&self, addr: RemoteAddr) -> Option<[u8; N]> {
        let offset = addr.offset_from(self.window.start())? as usize;
        self.buffer.get(offset..)?.first_chunk::<N>().copied()
    }

    /// Chooses how much to read for `addr` by how much of the last read was used. Reading a page by
    /// itself costs as much as in bulk, or slightly more.
    fn adapt(&mut self, addr: RemoteAddr) {
        let pages = self.window.len() / PAGE_SIZE;
        let adjoins = addr.align_down(PAGE_SIZE) == self.window.end();
        let was_used = if pages > 1 {
            (self.reads + 1) * 4 >= pages * 3
        } else {
            adjoins
        };
        self.next_bytes = if was_used {
            (self.next_bytes * 2).min(WINDOW_BYTES)
        } else {
            (self.next_bytes / 2).max(PAGE_SIZE)
        };
        self.reads = 0;
    }

    fn fill(&mut self, addr: RemoteAddr, len: u64) -> Result<(), ReadError> {
        let wanted = AddrRange::with_len(addr, len)
            .filter(|wanted| wanted.end() <= self.limit)
            .ok_or(ReadError::Unmapped(addr))?;
        self.adapt(addr);
        self.window = AddrRange::default();
        let start = addr.align_down(PAGE_SIZE);
        let page_end = wanted.end().align_up(PAGE_SIZE).unwrap_or(wanted.end());
        let far = start.checked_add(self.next_bytes);
        let mut end = far.unwrap_or(page_end).max(page_end);
        loop {
            let window = AddrRange::new(start, end.min(self.limit))
                .filter(|window| window.encloses(&wanted))
                .ok_or(ReadError::Unmapped(addr));
            let read =
                window.and_then(|window| self.memory.read_window(window, wanted, &mut self.buffer));
            match read {
                Ok(window) => {
                    self.windows += 1;
                    // Another window than the asked one may go beyond the limit.
                    let end = window.end().min(self.limit);
                    self.window = AddrRange::new(window.start(), end).unwrap_or_default();
                    self.buffer.truncate(self.window.len() as usize);
                    return Ok(());
                }
                Err(ReadError::Swapped(at) | ReadError::Unmapped(at) | ReadError::Failed(at))
                    if wanted.end() <= at.align_down(PAGE_SIZE) && at < end =>
                {
                    end = at.align_down(PAGE_SIZE);
                }
                Err(ReadError::OutOfTime) => {
                    self.buffer.clear();
                    return Err(ReadError::OutOfTime);
                }
                Err(_) if end > page_end => end = page_end,
                Err(_) if end > wanted.end() => end = wanted.end(),
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Answers everything with zeros and keeps account.
    #[derive(Default)]
    struct Counting {
        reads: RefCell<Vec<u64>>,
    }

    impl TargetMemory for Counting {
        fn read(&self, _: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
            buf.fill(0);
            self.reads.borrow_mut().push(buf.len() as u64);
            Ok(())
        }
    }

    /// Reads 16 bytes at every `stride` of 64 MiB; the bytes and the calls that took.
    fn stride(stride: u64) -> (u64, usize) {
        const LEN: u64 = 64 << 20;
        let base = 1 << 32;
        let counting = Counting::default();
        let mut ahead = ReadAhead::new(&counting, RemoteAddr::new(base + LEN));
        for at in (0..LEN).step_by(stride as usize) {
            assert_eq!(ahead.bytes(RemoteAddr::new(base + at)), Ok([0; 16]));
        }
        let reads = counting.reads.borrow();
        (reads.iter().sum(), reads.len())
    }

    #[test]
    fn small_strides_are_read_in_bulk_and_the_inside_of_large_ones_is_not_read() {
        for small in [64, 1024, 3072, 4096] {
            let (bytes, calls) = stride(small);
            assert_eq!(bytes, 64 << 20, "strides of {small} bytes");
            assert!(calls <= 64 * 4 + 16, "{calls} calls for {small} bytes");
        }
        for large in [16 << 10, 1 << 20] {
            let (bytes, calls) = stride(large);
            assert_eq!(calls as u64, (64 << 20) / large);
            assert_eq!(bytes, calls as u64 * PAGE_SIZE, "strides of {large} bytes");
        }
    }
}

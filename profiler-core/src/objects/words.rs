//! Bytes of the target as words, and a window over ascending addresses.

use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::memory::{ReadError, TargetMemory};

/// Bytes that one read asks for.
const WINDOW: u64 = 256 << 10;

/// The word at `offset`.
#[inline]
pub(super) fn word(bytes: &[u8], offset: u64) -> Option<u64> {
    let offset = usize::try_from(offset).ok()?;
    let word = bytes.get(offset..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*word))
}

/// All whole words.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word))
}

/// Reads one word.
pub(super) fn read_word<M: TargetMemory>(memory: &M, addr: u64) -> Option<u64> {
    memory.read_value(RemoteAddr::new(addr)).ok()
}

/// Reads ranges of ascending addresses from few large reads.
pub(super) struct Window<'m, M> {
    memory: &'m M,
    range: AddrRange,
    buffer: Vec<u8>,
}

impl<'m, M: TargetMemory> Window<'m, M> {
    pub(super) fn new(memory: &'m M) -> Self {
        Self {
            memory,
            range: AddrRange::default(),
            buffer: Vec::new(),
        }
    }

    /// The bytes of `range`, which is at most a window long. Reads ahead up to `end`, as far as
    /// memory is readable.
    pub(super) fn bytes(&mut self, range: AddrRange, end: RemoteAddr) -> Result<&[u8], ReadError> {
        if !self.range.encloses(&range) {
            self.fill(range, end)?;
        }
        let from = (range.start().get() - self.range.start().get()) as usize;
        Ok(&self.buffer[from..from + range.len() as usize])
    }

    fn fill(&mut self, range: AddrRange, end: RemoteAddr) -> Result<(), ReadError> {
        let start = range.start();
        let far = start.align_down(PAGE_SIZE).checked_add(WINDOW);
        let mut end = far.unwrap_or(range.end()).min(end).max(range.end());
        self.range = AddrRange::default();
        loop {
            let len = end.get() - start.get();
            self.buffer.resize(len as usize, 0);
            match self.memory.read(start, &mut self.buffer) {
                Ok(()) => {
                    self.range = AddrRange::new(start, end).unwrap_or_default();
                    return Ok(());
                }
                Err(ReadError::OutOfTime) => return Err(ReadError::OutOfTime),
                Err(_) if end == range.end() => {
                    return Err(ReadError::Unmapped(start));
                }
                // Memory after the range must not prevent it from being read.
                Err(ReadError::Swapped(at) | ReadError::Unmapped(at))
                    if at >= range.end() && at < end =>
                {
                    end = at;
                }
                Err(_) => end = range.end(),
            }
        }
    }
}

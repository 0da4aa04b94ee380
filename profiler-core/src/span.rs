//! Spans: the allocator's use of each byte of an extent, packed into four bytes per span.

use crate::addr::{AddrRange, RemoteAddr};

/// The use of a span of bytes.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
#[repr(u8)]
pub enum SpanState {
    /// Handed out to the program.
    Live = 0,
    /// Freed by the program and kept ready in a cache (glibc: tcache, fastbins).
    Cached = 1,
    /// Free, known to the allocator's bins or free lists.
    Free = 2,
    /// The never-used or given-back tail that the allocator carves from.
    Top = 3,
    /// The allocator's own bookkeeping.
    Metadata = 4,
    /// Kept from the kernel although it is in no bin (jemalloc: dirty, muzzy, retained).
    Retained = 5,
    /// Could not be determined: unreadable or damaged.
    Unknown = 6,
}

impl SpanState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Live,
        Self::Cached,
        Self::Free,
        Self::Top,
        Self::Metadata,
        Self::Retained,
        Self::Unknown,
    ];
}

/// A run of bytes in one state. For `Live`, `Cached` and `Free` one span is one block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Span {
    /// Its addresses.
    pub range: AddrRange,
    /// Its use.
    pub state: SpanState,
}

/// Spans and block addresses are multiples of this many bytes: no allocator aligns to less.
pub const GRANULE: u64 = 8;
/// Bits that a state takes in addition to a length. Saved sessions store spans in this form, so it
/// cannot change.
pub const STATE_BITS: u32 = 3;
const LONG: u32 = 0;
const MAX_SHORT: u64 = (u32::MAX >> STATE_BITS) as u64;

/// The spans that tile a range from its start without gaps, in address order.
///
/// A span takes 4 bytes (its length in 8-byte granules and its state), a span of 4 GiB or more 12.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SpanList {
    words: Vec<u32>,
    bytes: u64,
    spans: u64,
}

/// Spans of these lengths in bytes, one after the other.
impl FromIterator<(u64, SpanState)> for SpanList {
    fn from_iter<I: IntoIterator<Item = (u64, SpanState)>>(all: I) -> Self {
        let mut list = Self::default();
        all.into_iter()
            .for_each(|(len, state)| list.push(len, state));
        list
    }
}

impl SpanList {
    /// Appends a span of `len` bytes. A `len` of 0 is ignored.
    ///
    /// # Panics
    /// In debug builds, when `len` is not a multiple of 8: every allocator here aligns to 8 or
    /// more, and walkers check what they read before they push.
    pub fn push(&mut self, len: u64, state: SpanState) {
        debug_assert_eq!(len % GRANULE, 0, "a span must be a multiple of 8 bytes");
        let granules = len / GRANULE;
        if granules == 0 {
            return;
        }
        if granules <= MAX_SHORT {
            self.words
                .push((granules as u32) << STATE_BITS | state as u32);
        } else {
            self.words.push(LONG << STATE_BITS | state as u32);
            self.words.push(granules as u32);
            self.words.push((granules >> 32) as u32);
        }
        self.bytes += granules * GRANULE;
        self.spans += 1;
    }

    /// Bytes that the spans cover.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many spans there are.
    pub fn count(&self) -> u64 {
        self.spans
    }

    /// Whether there is no span.
    pub fn is_empty(&self) -> bool {
        self.spans == 0
    }

    /// The spans, the first beginning at `base`.
    pub fn iter(&self, base: RemoteAddr) -> Spans<'_> {
        Spans {
            words: self.words.iter(),
            at: base,
        }
    }
}

/// The spans of a [`SpanList`], in address order.
#[derive(Clone, Debug)]
pub struct Spans<'a> {
    words: std::slice::Iter<'a, u32>,
    at: RemoteAddr,
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let word = self.words.next()?;
        let state = SpanState::ALL[(word & ((1 << STATE_BITS) - 1)) as usize];
        let granules = match word >> STATE_BITS {
            LONG => u64::from(*self.words.next()?) | u64::from(*self.words.next()?) << 32,
            short => u64::from(short),
        };
        let range = AddrRange::with_len(self.at, granules * GRANULE)?;
        self.at = range.end();
        Some(Span { range, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back_as_pushed_short_and_long() {
        let mut list = SpanList::default();
        let pushed = [
            (16, SpanState::Live),
            (MAX_SHORT * 8, SpanState::Free),
            (MAX_SHORT * 8 + 8, SpanState::Unknown),
            (1 << 40, SpanState::Top),
            (8, SpanState::Metadata),
        ];
        for (len, state) in pushed {
            list.push(len, state);
        }
        let base = RemoteAddr::new(0x1000);
        let seen: Vec<_> = list.iter(base).map(|s| (s.range.len(), s.state)).collect();
        assert_eq!(seen, pushed);
        assert_eq!(list.count(), 5);
        assert_eq!(list.bytes(), pushed.iter().map(|p| p.0).sum::<u64>());
    }
}

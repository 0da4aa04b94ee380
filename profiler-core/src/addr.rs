//! Addresses in the target's address space: checked arithmetic, no dereference.

use std::fmt;

/// Bytes of the smallest page of any kernel: the unit in which pages are kept, drawn and written to files. A page of the
/// target's kernel is one of them, or several ([`PageSize`]).
pub const PAGE_SIZE: u64 = profiler_common::PAGE_BYTES as u64;

/// Bytes of a page of a kernel: what it gives to a process and takes back as a whole. That of x86-64 has 4 KiB, those
/// of aarch64 are built with 4, 16 or 64 (`arch/arm64/Kconfig`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PageSize(u64);

impl PageSize {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self(4 << 10), Self(16 << 10), Self(64 << 10)];

    /// The page size with this many bytes; `None` if no kernel has it.
    pub fn new(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.0 == bytes)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// How many of the smallest pages it is.
    pub const fn units(self) -> u64 {
        self.0 / PAGE_SIZE
    }

    /// Bytes of a transparent huge page: what one page of entries, 8 bytes each, leads to (`PMD_SIZE`). 2 MiB with
    /// pages of 4 KiB, 32 and 512 MiB with the larger ones.
    pub const fn huge_bytes(self) -> u64 {
        self.0 / 8 * self.0
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self(PAGE_SIZE)
    }
}

/// No process has addresses from here on: with five levels of page tables x86-64 has 57 bits of them, half
/// of which are the kernel's.
pub const USER_END: RemoteAddr = RemoteAddr::new(1 << 56);
/// Where the addresses of a process end that does not ask for more (`DEFAULT_MAP_WINDOW` in
/// `arch/x86/include/asm/page_64_types.h`), which no allocator does. No heap is larger, in bytes.
pub const HEAP_END: u64 = 1 << 47;

/// A virtual address in the target process.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Default)]
pub struct RemoteAddr(u64);

impl RemoteAddr {
    /// The address with this numeric value.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The numeric value.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// `self + bytes`, or `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// `self - bytes`, or `None` below zero.
    pub fn checked_sub(self, bytes: u64) -> Option<Self> {
        self.0.checked_sub(bytes).map(Self)
    }

    /// Bytes from `base` up to `self`, or `None` when `self` lies below `base`.
    pub fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// The nearest multiple of `alignment` (a power of two) at or below `self`.
    pub const fn align_down(self, alignment: u64) -> Self {
        Self(self.0 & !(alignment - 1))
    }

    /// The nearest multiple of `alignment` (a power of two) at or above `self`.
    pub fn align_up(self, alignment: u64) -> Option<Self> {
        self.0
            .checked_add(alignment - 1)
            .map(|v| Self(v & !(alignment - 1)))
    }

    /// Whether `self` is a multiple of `alignment` (a power of two).
    pub const fn is_aligned(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }

    /// The number of the smallest page that holds this address: address divided by [`PAGE_SIZE`].
    pub const fn page(self) -> u64 {
        self.0 / PAGE_SIZE
    }
}

impl fmt::Debug for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A half-open range of the target's addresses, `start..end` with `start <= end`.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Default)]
pub struct AddrRange {
    start: RemoteAddr,
    end: RemoteAddr,
}

impl AddrRange {
    /// `start..end`, or `None` when `end` lies below `start`.
    pub fn new(start: RemoteAddr, end: RemoteAddr) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// `len` bytes from `start`, or `None` past the end of the address space.
    pub fn with_len(start: RemoteAddr, len: u64) -> Option<Self> {
        Some(Self {
            start,
            end: start.checked_add(len)?,
        })
    }

    /// The first address.
    pub const fn start(&self) -> RemoteAddr {
        self.start
    }

    /// The address after the last.
    pub const fn end(&self) -> RemoteAddr {
        self.end
    }

    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether the range holds no byte.
    pub const fn is_empty(&self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether `addr` lies in the range.
    pub fn contains(&self, addr: RemoteAddr) -> bool {
        self.start <= addr && addr < self.end
    }

    /// Whether every byte of `other` lies in `self`.
    pub fn encloses(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The bytes that both hold, or `None` when there are none.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }

    /// The whole pages inside the range (its ends rounded inward), empty when there are none.
    pub fn whole_pages(&self) -> Self {
        let start = self.start.align_up(PAGE_SIZE).unwrap_or(self.end);
        let end = self.end.align_down(PAGE_SIZE);
        if start < end {
            Self { start, end }
        } else {
            Self { start, end: start }
        }
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

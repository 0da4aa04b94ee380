//! Addresses in the target's address space: checked arithmetic, no dereference.

use std::fmt;

/// The smallest page size of any kernel, in bytes: the unit in which pages are stored, drawn and
/// written to files. A page of the target's kernel is one or several of these units ([`PageSize`]).
pub const PAGE_SIZE: u64 = profiler_common::PAGE_BYTES as u64;

/// A kernel's page size in bytes: the unit in which it gives memory to a process and takes it back.
/// 4 KiB on x86-64; aarch64 kernels are built with 4, 16 or 64 KiB (`arch/arm64/Kconfig`).
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

    /// The size in units of the smallest page.
    pub const fn units(self) -> u64 {
        self.0 / PAGE_SIZE
    }

    /// Bytes of a transparent huge page: the range covered by one page of 8-byte page table entries
    /// (`PMD_SIZE`). 2 MiB with 4 KiB pages, 32 and 512 MiB with the larger ones.
    pub const fn huge_bytes(self) -> u64 {
        self.0 / 8 * self.0
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self(PAGE_SIZE)
    }
}

/// The end of every process's address space: with five levels of page tables x86-64 has 57-bit
/// addresses, half of which belong to the kernel.
pub const USER_END: RemoteAddr = RemoteAddr::new(1 << 56);
/// The end of the addresses, in bytes, of a process that does not request more
/// (`DEFAULT_MAP_WINDOW` in `arch/x86/include/asm/page_64_types.h`). No allocator requests more, so
/// no heap is larger than this.
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

    /// Bytes from `base` up to `self`, or `None` when `self` is below `base`.
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
    /// `start..end`, or `None` when `end` is below `start`.
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

    /// Whether `addr` is in the range.
    pub fn contains(&self, addr: RemoteAddr) -> bool {
        self.start <= addr && addr < self.end
    }

    /// Whether every byte of `other` is in `self`.
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

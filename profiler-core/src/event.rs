//! Allocation events after decoding: who allocated or freed what, and when.

use crate::addr::RemoteAddr;

/// One allocation or free. A realloc is a [`AllocEventKind::Free`] of the old block at entry and an
/// [`AllocEventKind::Alloc`] of the new block at return.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct AllocEvent {
    /// Nanoseconds on the monotonic clock.
    pub time_ns: u64,
    /// The thread, by the kernel's thread id.
    pub tid: u32,
    /// The block's address as the program sees it.
    pub addr: RemoteAddr,
    /// What happened.
    pub kind: AllocEventKind,
}

/// What happened to a block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum AllocEventKind {
    /// Allocated.
    Alloc {
        /// Bytes: usable size if `usable`, else the requested size.
        bytes: u64,
        /// Whether `bytes` is the usable size that the allocator gave.
        usable: bool,
    },
    /// Freed.
    Free,
}

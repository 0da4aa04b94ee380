//! Plain records shared by the BPF programs and userspace.
//!
//! Every record is `#[repr(C)]` without padding, so that both sides read the same bytes alike.
#![no_std]
#![forbid(unsafe_code)]

mod cookie;
pub mod growth;
mod kind;
// Not for the BPF programs, whose target has no atomics of 32 bits.
#[cfg(not(target_arch = "bpf"))]
pub mod program;
#[cfg(not(target_arch = "bpf"))]
pub mod ring;
pub mod sampling;

pub use cookie::{Arguments, Cookie};
pub use kind::RecordKind;

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a page of x86-64.
pub const PAGE_BYTES: usize = 4096;

/// Bits of the number of a process or of a thread: the kernel gives none above 2^22 (`PID_MAX_LIMIT` in
/// `include/linux/threads.h`).
pub const PID_BITS: u32 = 22;

/// One event in the ring buffer.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct RawEvent {
    /// Nanoseconds on the monotonic clock.
    pub time_ns: u64,
    /// The block's address as the program sees it.
    pub addr: u64,
    /// Bytes of the block: usable with [`RawEvent::USABLE`], else as requested; 0 for a free. For
    /// [`RecordKind::Lost`] the total number of events lost so far.
    pub size: u64,
    /// The thread's id in the root PID namespace.
    pub tid: u32,
    /// The number of a [`RecordKind`].
    pub kind: u16,
    /// [`RawEvent::USABLE`], and in the upper half the alignment that was requested, as a power of
    /// two; 0 when none was.
    pub flags: u16,
}

impl RawEvent {
    /// `flags`: `size` is the usable size that the allocator gave, not the requested one.
    pub const USABLE: u16 = 1;

    /// The flags with an alignment of 2 to the power of `log2` bytes.
    pub const fn with_align(flags: u16, log2: u8) -> u16 {
        flags & 0xff | (log2 as u16) << 8
    }

    /// The requested alignment, as a power of two; 0 if none was requested.
    pub const fn align(&self) -> u8 {
        (self.flags >> 8) as u8
    }

    /// What happened; `None` for a number that no BPF program writes.
    pub fn kind(&self) -> Option<RecordKind> {
        RecordKind::of(self.kind.into())
    }
}

/// The settings of the BPF programs, the only element of the map `CONFIG`.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Config {
    /// The process whose calls count, by its pid in the root PID namespace; 0 for any that reaches
    /// the probes.
    pub tgid: u32,
    /// Not 0 while a window is open: only then are there events. Hits are counted always.
    pub open: u32,
    /// Mean bytes between two points of the sample ([`sampling`]); 0 when none is taken.
    pub mean_bytes: u64,
    /// The same for the sample of growth ([`growth`]), whether or not a window is open.
    pub growth_mean_bytes: u64,
    /// Not 0 if samples come with the tops of native stacks ([`sampling::RawNative`]).
    pub native_stacks: u64,
}

/// Elements of the per-CPU map `HITS`: one for each attached site.
pub const MAX_SITES: u32 = 256;

/// A call that a thread is inside of: the value of the map `CALLS`, by thread.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Call {
    /// The stack pointer at the entry site.
    pub stack_pointer: u64,
    /// Bytes requested.
    pub size: u64,
    /// The old block of a realloc, or where `posix_memalign` puts its result.
    pub pointer: u64,
    /// [`Cookie::probe`] of the function.
    pub probe: u32,
    /// 1 when the function is a [`Cookie::leaf`], else 0.
    pub leaf: u16,
    /// The requested alignment, as a power of two.
    pub align: u16,
    /// The function's return address, before its return is probed; 0 if nobody needs it.
    pub return_address: u64,
}

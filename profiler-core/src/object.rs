//! Mapped objects that contain an allocator: the starting point of the walkers of malloc
//! replacements.

use crate::addr::{AddrRange, RemoteAddr};
use crate::allocator::AllocatorIdentity;

/// An allocator inside a program or library that the target maps. An object may hold several (a
/// static program with libc's malloc and jemalloc); each is one of these.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AllocatorObject {
    /// The allocator, its version and its file.
    pub identity: AllocatorIdentity,
    /// The object's writable data, ascending: pages of the file, and the `.bss` after them.
    pub data: Vec<AddrRange>,
    /// Variables that contain the allocator's options, if the object's file shows them.
    pub options: Vec<OptionAt>,
}

/// A variable of an allocator that contains one of its options.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OptionAt {
    /// The option's name as the allocator writes it.
    pub name: String,
    /// The address of its value.
    pub addr: RemoteAddr,
    /// Its type.
    pub kind: OptionKind,
}

/// The type of an option's variable.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum OptionKind {
    /// A byte, 0 or 1.
    Bool,
    /// 32 bits.
    Unsigned32,
    /// 64 bits.
    Unsigned64,
    /// 64 bits with a sign.
    Signed64,
    /// 32 bits that number these words.
    Words(&'static [&'static str]),
}

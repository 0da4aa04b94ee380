//! Programs for the player: an allocation stream with slots instead of addresses, and the memory
//! that fragscope and a player share.
//!
//! A program is a file: a header of one page, then operations. It may grow while it is replayed.
//! Players only read it. Each player has a separate file as its control block.

use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::PAGE_BYTES;

/// The first word of a program: a name and the version of this layout.
pub const PROGRAM_MAGIC: u64 = u64::from_le_bytes(*b"FSPLAY\x00\x01");

/// Bytes before the first operation.
pub const OPS_AT: usize = PAGE_BYTES;
/// The player maps this many bytes of a program; bytes beyond the end of the file are not touched.
pub const PROGRAM_BYTES: usize = 1 << 38;

/// Bytes from which a block may stay partly untouched: smaller ones are always written to.
pub const LARGE_BYTES: u64 = 128 << 10;

/// Threads at most, over all processes.
pub const MAX_THREADS: u32 = 1 << 16;
/// Processes at most.
pub const MAX_PROCESSES: u32 = 1 << 12;
/// Live blocks of a process at most.
pub const MAX_SLOTS: u32 = 1 << 28;
/// The stack size of a player's thread, in bytes: allocators need little, and untouched pages cost
/// nothing.
pub const STACK_BYTES: usize = 256 << 10;
/// The size of the address range that a player reserves for the stacks of its threads.
pub const STACKS_BYTES: usize = STACK_BYTES * MAX_THREADS as usize;

/// The head of a program.
#[derive(Debug)]
#[repr(C)]
pub struct ProgramHeader {
    /// [`PROGRAM_MAGIC`].
    pub magic: u64,
    /// Operations that are whole.
    pub published: AtomicU64,
    /// Not 0 when no more will follow.
    pub closed: AtomicU32,
}

/// One operation.
#[cfg_attr(
    feature = "user",
    derive(zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Op {
    /// What [`OpCode`] says.
    pub value: u64,
    /// What [`OpCode`] says.
    pub slot: u32,
    /// The operation's code.
    pub code: OpCode,
    /// The alignment as a power of two; 0 if none was requested.
    pub align: u8,
    /// Whether it was calloc.
    pub zeroed: u8,
    /// The allocators that it applies to.
    pub only: Only,
}

/// Which allocators alone play an operation: a byte in the program's file.
#[cfg_attr(
    feature = "user",
    derive(zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Only(u8);

impl Only {
    /// Every allocator.
    pub const ALL: Self = Self(0);
    /// The C library's own: the operation shapes its heap.
    pub const C_LIBRARY: Self = Self(1);
    /// All others.
    pub const OTHERS: Self = Self(2);
    /// All others, if [`Control::fill`] is 0: one of two ways to fill the gaps between blocks from
    /// before the recording.
    pub const FIRST_FILL: Self = Self(3);
    /// All others, if it is not 0: the other way.
    pub const SECOND_FILL: Self = Self(4);
    /// All, if [`Control::objects`] is not 0: Python's requests to its object allocator.
    pub const OBJECTS: Self = Self(5);
}

/// The kind of an operation: a byte in the program's file. Any other value means a damaged program.
#[cfg_attr(
    feature = "user",
    derive(zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct OpCode(u8);

impl OpCode {
    /// Allocate `value` bytes into `slot`.
    pub const ALLOC: Self = Self(1);
    /// Free `slot`.
    pub const FREE: Self = Self(2);
    /// Reallocate `slot` to `value` bytes.
    pub const REALLOC: Self = Self(3);
    /// Of the next block `value` bytes are touched; [`UNKNOWN`] when that is not known, which
    /// matters for large blocks only.
    pub const TOUCH: Self = Self(4);
    /// The time is `value` nanoseconds since the recording began.
    pub const CLOCK: Self = Self(5);
    /// Go on in thread `slot`.
    pub const SWITCH: Self = Self(6);
    /// Start thread `slot` in this process.
    pub const SPAWN: Self = Self(7);
    /// The thread ends; continue in thread `slot` of its process.
    pub const THREAD_END: Self = Self(8);
    /// Wait until thread `slot` has ended.
    pub const JOIN: Self = Self(9);
    /// Fork: process `value` is new, its thread is `slot`.
    pub const FORK: Self = Self(10);
    /// Start process `value` with an empty heap, its thread is `slot`.
    pub const START: Self = Self(11);
    /// The process ends; go on in thread `slot` of another.
    pub const EXIT: Self = Self(12);
    /// The process executes another program, with an empty heap; its only thread is `slot`.
    pub const EXEC: Self = Self(14);
    /// Checkpoint `value`, of the process that plays it.
    pub const CHECKPOINT: Self = Self(13);
    /// `malloc_trim(value)`.
    pub const TRIM: Self = Self(15);
}

/// How much of a block is touched is not known.
pub const UNKNOWN: u64 = u64::MAX;

/// What fragscope sets for one player, and what that reports.
#[derive(Debug)]
#[repr(C)]
pub struct Control {
    /// Operations played.
    pub played: AtomicU64,
    /// The player's time, in ns since the recording began.
    pub now_ns: AtomicU64,
    /// `malloc_trim(0)` is called in each process at this interval, in ns; 0 means never.
    pub trim_every_ns: u64,
    /// The first call comes this many ns earlier than one interval after the start.
    pub trim_phase_ns: u64,
    /// Not 0 if `malloc_trim(0)` is called before each checkpoint is measured.
    pub trim_at_checkpoints: u32,
    /// Not 0 if blocks of unknown use are left untouched, else they are touched completely.
    pub least: u32,
    /// Why the player failed: one of [`failure`].
    pub failure: AtomicU32,
    /// Bytes requested when it failed, or a detail of [`failure`].
    pub detail: AtomicU64,
    /// Nanoseconds of processor time, since it began, of the process that plays a checkpoint.
    pub cpu_ns: AtomicU64,
    /// Its page faults that needed no reading.
    pub faults: AtomicU64,
    /// Counts up when a forked or started process is ready.
    pub ready: AtomicU32,
    /// Not 0 when the allocator is not the C library's own: decides about operations with
    /// [`Op::only`].
    pub other: u32,
    /// Which fill of gaps is played: see [`Only::FIRST_FILL`].
    pub fill: u32,
    /// Whether blocks of Python's object allocator are asked of this one: see [`Only::OBJECTS`].
    pub objects: u32,
    /// Not 0 when the program starts others or becomes one; else the player gives up executing.
    pub executes: u32,
    /// The pid of each process, once it plays.
    pub pids: [AtomicU32; MAX_PROCESSES as usize],
    /// The number of each process's first thread, which is there until the process ends.
    pub mains: [AtomicU32; MAX_PROCESSES as usize],
    /// Where the stacks of its threads are, for [`STACKS_BYTES`]: that memory is not the allocator's.
    pub stacks: [AtomicU64; MAX_PROCESSES as usize],
    /// Counts up when a process has trimmed for another: see [`turn::TRIM`].
    pub trimmed: AtomicU32,
    /// What a thread must do next: one of [`turn`].
    pub turns: [AtomicU32; MAX_THREADS as usize],
}

/// What a thread must do next.
pub mod turn {
    /// To wait.
    pub const NONE: u32 = 0;
    /// To play.
    pub const PLAY: u32 = 1;
    /// Return free memory, and wait again.
    pub const TRIM: u32 = 2;
}

/// Why a player failed.
pub mod failure {
    /// The allocator gave no memory; the detail is how much was requested.
    pub const NO_MEMORY: u32 = 1;
    /// A thread or process could not be started.
    pub const NO_THREAD: u32 = 2;
    /// A mapping of the player's own failed.
    pub const NO_MAPPING: u32 = 3;
    /// An operation of unknown kind; the detail is its number.
    pub const BAD_PROGRAM: u32 = 4;
    /// A process ended before it could play; the detail is its number in the program.
    pub const CHILD_ENDED: u32 = 5;
}

/// The environment variable with the descriptor of the program, open for reading: a decimal number.
pub const PROGRAM_VARIABLE: &core::ffi::CStr = c"FRAGSCOPE_REPLAY_PROGRAM";
/// The environment variable with the descriptor of the control block: a decimal number. Both stay
/// open, for the players that a player executes.
pub const CONTROL_VARIABLE: &core::ffi::CStr = c"FRAGSCOPE_REPLAY_CONTROL";
/// The environment variable in which a player passes its identity to the player that it executes: the
/// numbers of the process and the thread, and 1 if it waits for its turn, each as a decimal number.
pub const IDENTITY_VARIABLE: &core::ffi::CStr = c"FRAGSCOPE_REPLAY_AS";
/// The environment variable with the number of processors that the allocator sees.
pub const CPUS_VARIABLE: &core::ffi::CStr = c"FRAGSCOPE_REPLAY_CPUS";

/// A message of a player: one byte. After each except [`Self::Failure`] it waits for a byte.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum PlayerMessage {
    /// Its first process is about to play.
    Start = b'S',
    /// A checkpoint is reached.
    Checkpoint = b'C',
    /// The program is played.
    End = b'E',
    /// It fails for the reason in [`Control::failure`].
    Failure = b'F',
}

impl PlayerMessage {
    /// The message of this byte, if there is one.
    pub fn of(byte: u8) -> Option<Self> {
        [Self::Start, Self::Checkpoint, Self::End, Self::Failure]
            .into_iter()
            .find(|message| *message as u8 == byte)
    }
}

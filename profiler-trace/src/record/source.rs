//! What sources of a recording give.

use profiler_common::RecordKind;

use crate::trace::By;

/// One thing that a source recorded, in the order in which it took effect.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SourceEvent {
    /// Nanoseconds on the source's clock.
    pub time_ns: u64,
    /// The process, by the source's number: the kernel's, for what fragscope records itself.
    pub process: u64,
    /// The thread, likewise. It needs to be unique within its process only.
    pub thread: u64,
    /// What happened.
    pub kind: SourceKind,
}

/// What happened, as far as a source sees it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum SourceKind {
    /// A block was allocated.
    Alloc {
        /// Its address.
        addr: u64,
        /// Bytes requested.
        bytes: u64,
        /// The alignment asked for as a power of two; 0 when none was.
        align: u8,
        /// Which call gave it.
        by: By,
    },
    /// A block was freed.
    Free {
        /// Its address.
        addr: u64,
    },
    /// A realloc of a block began.
    Realloc {
        /// The block's address.
        addr: u64,
    },
    /// A realloc failed: its block lives on.
    Kept {
        /// Its address.
        addr: u64,
    },
    /// The thread ended.
    ThreadEnd,
    /// A program began in the process: the first one, or another by exec.
    Start,
    /// The thread is about to fork.
    Forking,
    /// The first event of a forked child.
    Forked {
        /// The process that forked.
        process: u64,
        /// Its thread that did.
        thread: u64,
    },
    /// The program ended.
    Exit,
    /// So many events were lost before this one.
    Lost {
        /// How many.
        events: u64,
    },
}

impl SourceKind {
    /// What an event of fragscope's own recorders says; [`RecordKind`] documents the numbers.
    pub fn of(kind: RecordKind, addr: u64, size: u64, align: u8) -> Self {
        let alloc = |by| Self::Alloc {
            addr,
            bytes: size,
            align,
            by,
        };
        match kind {
            RecordKind::Alloc => alloc(By::Malloc),
            RecordKind::Calloc => alloc(By::Calloc),
            RecordKind::Reallocated => alloc(By::Realloc),
            RecordKind::Free => Self::Free { addr },
            RecordKind::Realloc => Self::Realloc { addr },
            RecordKind::Kept => Self::Kept { addr },
            RecordKind::ThreadEnd => Self::ThreadEnd,
            RecordKind::Start => Self::Start,
            RecordKind::Forking => Self::Forking,
            RecordKind::Forked => Self::Forked {
                process: addr & u64::from(u32::MAX),
                thread: addr >> 32,
            },
            RecordKind::Exit => Self::Exit,
            RecordKind::Lost => Self::Lost { events: size },
        }
    }
}

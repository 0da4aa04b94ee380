//! What the sources of a recording provide.

use profiler_common::RecordKind;

use crate::trace::{By, EventKind};

/// One thing that a source recorded, in the order in which it took effect.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SourceEvent {
    /// Nanoseconds on the source's clock.
    pub time_ns: u64,
    /// The process, by the source's number: the kernel's, for what fragscope records itself.
    pub process: u64,
    /// The thread, likewise. It only needs to be unique within its process.
    pub thread: u64,
    /// What happened.
    pub kind: SourceKind,
}

/// What happened, from the view of a source.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum SourceKind {
    /// Events that the trace has too. [`EventKind::Begin`], [`EventKind::Fork`] and
    /// [`EventKind::Exec`] are left out here: they are derived from the others.
    Event(EventKind),
    /// A program began in the process: the first one, or another by exec.
    Start,
    /// The thread is about to fork.
    Forking {
        /// Which of its forks this is.
        fork: u64,
    },
    /// The program in the process is about to end.
    Ending,
    /// The thread announces that it ends its process: the reader of the source finds out whether it
    /// does, and reports that with [`Recorder::left`](super::Recorder::left).
    Leaving,
    /// The first event of a forked child.
    Forked {
        /// The process that forked.
        process: u64,
        /// The thread that forked.
        thread: u64,
        /// Which of that thread's forks it was.
        fork: u64,
    },
}

impl From<EventKind> for SourceKind {
    fn from(kind: EventKind) -> Self {
        Self::Event(kind)
    }
}

impl SourceKind {
    /// The meaning of an event of fragscope's own recorders; [`RecordKind`] documents the numbers.
    pub fn of(kind: RecordKind, addr: u64, size: u64, align: u8) -> Self {
        let alloc = |by| EventKind::Alloc {
            addr,
            bytes: size,
            align,
            by,
        };
        let object = |by| EventKind::ObjectAlloc {
            addr,
            bytes: size,
            by,
        };
        Self::Event(match kind {
            RecordKind::Alloc => alloc(By::Malloc),
            RecordKind::Calloc => alloc(By::Calloc),
            RecordKind::Reallocated => alloc(By::Realloc),
            RecordKind::Free => EventKind::Free { addr },
            RecordKind::Realloc => EventKind::Realloc { addr },
            RecordKind::Kept => EventKind::Kept { addr },
            RecordKind::ThreadEnd => EventKind::ThreadEnd,
            RecordKind::Exit => EventKind::Exit,
            RecordKind::Lost => EventKind::Lost { events: size },
            RecordKind::ObjectAlloc => object(By::Malloc),
            RecordKind::ObjectCalloc => object(By::Calloc),
            RecordKind::ObjectReallocated => object(By::Realloc),
            RecordKind::ObjectFree => EventKind::ObjectFree { addr },
            RecordKind::ObjectRealloc => EventKind::ObjectRealloc { addr },
            RecordKind::Trimmed => EventKind::Trim { pad: size },
            RecordKind::Start => return Self::Start,
            RecordKind::Ending => return Self::Ending,
            RecordKind::Leaving => return Self::Leaving,
            RecordKind::Forking => return Self::Forking { fork: size },
            RecordKind::Forked => {
                return Self::Forked {
                    process: addr & u64::from(u32::MAX),
                    thread: addr >> 32,
                    fork: size,
                };
            }
        })
    }
}

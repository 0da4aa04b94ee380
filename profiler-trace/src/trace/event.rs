//! Events and their bytes within a block.

use crate::varint::{put, put_signed, take, take_signed};

/// One thing that happened, in the order in which it took effect.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Nanoseconds since the recording began.
    pub time_ns: u64,
    /// The thread, by its number in the trace: numbered from 0 in order of appearance, across all
    /// processes.
    pub thread: u32,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum EventKind {
    /// A block was allocated.
    Alloc {
        /// Its address.
        addr: u64,
        /// Bytes requested.
        bytes: u64,
        /// The requested alignment as a power of two; 0 if none was requested.
        align: u8,
        /// The call that returned it.
        by: By,
    },
    /// A block was freed.
    Free {
        /// Its address.
        addr: u64,
    },
    /// A realloc of a block began: its address no longer belongs to the thread. The thread's next
    /// allocation [`By::Realloc`], or [`EventKind::Kept`], ends the call.
    Realloc {
        /// The block's address.
        addr: u64,
    },
    /// A realloc failed: its block stays alive.
    Kept {
        /// Its address.
        addr: u64,
    },
    /// A large live block at a checkpoint: how many of its bytes are on resident pages.
    Touched {
        /// Its address.
        addr: u64,
        /// Bytes of it on resident or swapped pages.
        bytes: u64,
    },
    /// Python's object allocator gave a block.
    ObjectAlloc {
        /// Its address.
        addr: u64,
        /// Bytes requested.
        bytes: u64,
        /// The call that returned it.
        by: By,
    },
    /// A block was given back to Python's object allocator.
    ObjectFree {
        /// Its address.
        addr: u64,
    },
    /// Python's object allocator has resized a block: the thread's next [`EventKind::ObjectAlloc`], [`By::Realloc`],
    /// says to what.
    ObjectRealloc {
        /// Its former address.
        addr: u64,
    },
    /// The thread called `malloc_trim`.
    Trim {
        /// Bytes that were to be left at the top.
        pad: u64,
    },
    /// The thread ended.
    ThreadEnd,
    /// The first event of a thread that begins in a process other than the first: the thread
    /// belongs to this process. A process with a new number is a new program, whose heap is empty.
    Begin {
        /// The process.
        process: u32,
    },
    /// The thread's process forked.
    Fork {
        /// The new process, with a new number; its heap is a copy of this one's.
        process: u32,
        /// Its only thread.
        child: u32,
    },
    /// The thread's process executed another program: its heap is gone.
    Exec,
    /// The thread's process ended.
    Exit,
    /// This many events of the thread's process were lost here.
    Lost {
        /// How many.
        events: u64,
    },
}

/// Which call allocated a block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum By {
    /// malloc, or one of the calls with an alignment.
    Malloc,
    /// calloc: the allocator need not touch fresh pages.
    Calloc,
    /// The new half of a realloc.
    Realloc,
}

impl By {
    fn flag(self) -> u8 {
        match self {
            Self::Malloc => 0,
            Self::Calloc => ZEROED,
            Self::Realloc => MOVED,
        }
    }

    fn of_flag(tag: u8) -> Option<Self> {
        match tag & (ZEROED | MOVED) {
            0 => Some(Self::Malloc),
            ZEROED => Some(Self::Calloc),
            MOVED => Some(Self::Realloc),
            _ => None,
        }
    }
}

const ALLOC: u8 = 0;
const FREE: u8 = 1;
const REALLOC: u8 = 2;
const KEPT: u8 = 3;
const TOUCHED: u8 = 4;
const THREAD_END: u8 = 5;
const FORK: u8 = 6;
const EXEC: u8 = 7;
const EXIT: u8 = 8;
const LOST: u8 = 9;
const BEGIN: u8 = 10;
const OBJECT_ALLOC: u8 = 11;
const OBJECT_FREE: u8 = 12;
const OBJECT_REALLOC: u8 = 13;
const TRIM: u8 = 14;
const KIND_MASK: u8 = 0x0f;
/// Flag: another thread than that of the previous event.
const SWITCH: u8 = 0x10;
/// Flag: an alignment follows.
const ALIGNED: u8 = 0x20;
/// Flag: from calloc.
const ZEROED: u8 = 0x40;
/// Flag: from realloc.
const MOVED: u8 = 0x80;

/// What an event's bytes are relative to: the previous event in the same block.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Context {
    time_ns: u64,
    thread: u32,
    addr: u64,
}

impl Context {
    /// Appends an event.
    pub(super) fn put(&mut self, out: &mut Vec<u8>, event: &Event) {
        let (tag, addr) = match event.kind {
            EventKind::Alloc {
                addr, align, by, ..
            } => {
                let aligned = if align > 0 { ALIGNED } else { 0 };
                (ALLOC | aligned | by.flag(), Some(addr))
            }
            EventKind::ObjectAlloc { addr, by, .. } => (OBJECT_ALLOC | by.flag(), Some(addr)),
            EventKind::ObjectFree { addr } => (OBJECT_FREE, Some(addr)),
            EventKind::ObjectRealloc { addr } => (OBJECT_REALLOC, Some(addr)),
            EventKind::Free { addr } => (FREE, Some(addr)),
            EventKind::Realloc { addr } => (REALLOC, Some(addr)),
            EventKind::Kept { addr } => (KEPT, Some(addr)),
            EventKind::Touched { addr, .. } => (TOUCHED, Some(addr)),
            EventKind::Trim { .. } => (TRIM, None),
            EventKind::ThreadEnd => (THREAD_END, None),
            EventKind::Begin { .. } => (BEGIN, None),
            EventKind::Fork { .. } => (FORK, None),
            EventKind::Exec => (EXEC, None),
            EventKind::Exit => (EXIT, None),
            EventKind::Lost { .. } => (LOST, None),
        };
        let switch = event.thread != self.thread;
        out.push(tag | if switch { SWITCH } else { 0 });
        if switch {
            put(out, event.thread.into());
            self.thread = event.thread;
        }
        // In traces of earlier versions time may step back by a little.
        put_signed(out, event.time_ns.wrapping_sub(self.time_ns) as i64);
        self.time_ns = event.time_ns;
        if let Some(addr) = addr {
            put_signed(out, addr.wrapping_sub(self.addr) as i64);
            self.addr = addr;
        }
        match event.kind {
            EventKind::Alloc { bytes, align, .. } => {
                put(out, bytes);
                if align > 0 {
                    out.push(align);
                }
            }
            EventKind::Touched { bytes, .. } | EventKind::ObjectAlloc { bytes, .. } => {
                put(out, bytes);
            }
            EventKind::Begin { process } => put(out, process.into()),
            EventKind::Fork { process, child } => {
                put(out, process.into());
                put(out, child.into());
            }
            EventKind::Lost { events } => put(out, events),
            EventKind::Trim { pad } => put(out, pad),
            _ => {}
        }
    }

    /// Takes an event from the front; `None` if there is no complete one.
    pub(super) fn take(&mut self, input: &mut &[u8]) -> Option<Event> {
        let (&tag, rest) = input.split_first()?;
        *input = rest;
        if tag & SWITCH != 0 {
            self.thread = u32::try_from(take(input)?).ok()?;
        }
        self.time_ns = self.time_ns.wrapping_add(take_signed(input)? as u64);
        let kind = tag & KIND_MASK;
        if kind <= TOUCHED || (OBJECT_ALLOC..=OBJECT_REALLOC).contains(&kind) {
            self.addr = self.addr.wrapping_add(take_signed(input)? as u64);
        }
        let addr = self.addr;
        let kind = match kind {
            ALLOC => EventKind::Alloc {
                addr,
                bytes: take(input)?,
                align: if tag & ALIGNED == 0 {
                    0
                } else {
                    let (&align, rest) = input.split_first()?;
                    *input = rest;
                    align
                },
                by: By::of_flag(tag)?,
            },
            OBJECT_ALLOC => EventKind::ObjectAlloc {
                addr,
                bytes: take(input)?,
                by: By::of_flag(tag)?,
            },
            OBJECT_FREE => EventKind::ObjectFree { addr },
            OBJECT_REALLOC => EventKind::ObjectRealloc { addr },
            FREE => EventKind::Free { addr },
            REALLOC => EventKind::Realloc { addr },
            TOUCHED => EventKind::Touched {
                addr,
                bytes: take(input)?,
            },
            KEPT => EventKind::Kept { addr },
            TRIM => EventKind::Trim { pad: take(input)? },
            THREAD_END => EventKind::ThreadEnd,
            BEGIN => EventKind::Begin {
                process: u32::try_from(take(input)?).ok()?,
            },
            FORK => EventKind::Fork {
                process: u32::try_from(take(input)?).ok()?,
                child: u32::try_from(take(input)?).ok()?,
            },
            EXEC => EventKind::Exec,
            EXIT => EventKind::Exit,
            LOST => EventKind::Lost {
                events: take(input)?,
            },
            _ => return None,
        };
        Some(Event {
            time_ns: self.time_ns,
            thread: self.thread,
            kind,
        })
    }
}

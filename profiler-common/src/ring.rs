//! The ring through which a preloaded recorder passes its events to `fragscope record`: shared
//! memory with a header and slots, in one total order over all threads and processes.
//!
//! Events are numbered; event N is in slot N modulo [`SLOTS`]. A writer claims the slot of the next
//! event with one compare-exchange on its [`Slot::turn`], which also stores the writer's thread
//! number. So a slot that is never filled says which thread to check. The writer then fills the
//! slot and marks it complete. The reader takes slots in order and frees each for its next turn.
//! Because slots are claimed in order, [`Header::head`] is only a hint where to begin.
//!
//! Every process that maps the ring can write to all of it, so neither side relies on it for its
//! own safety: the reader keeps its position itself, and the contents of a slot are data. The one
//! thing that writers must trust, that there is a reader worth waiting for, is in a [`ReaderPage`],
//! which only the reader can write.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::{PAGE_BYTES, PID_BITS};

/// The first word of the ring: a name and the version of this layout.
pub const RING_MAGIC: u64 = u64::from_le_bytes(*b"FSRING\x00\x08");

/// The number of slots: at most this many events wait while the reader is not reading.
pub const SLOTS: u64 = 1 << 20;

/// Bytes before the first slot.
pub const SLOTS_AT: usize = PAGE_BYTES;

/// Bytes of the whole.
pub const RING_BYTES: usize = SLOTS_AT + SLOTS as usize * size_of::<Slot>();

/// The value in [`Header::given_up`] from a writer for which the reader did not come.
pub const READER_MISSED: u32 = 1;
/// The value from a writer that finds no slot, although the reader is alive.
pub const RING_DAMAGED: u32 = 2;

/// Why a process continues without the recording, although the reader is alive.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Leaves {
    /// It got no room for too long.
    NoRoom,
    /// It is in another PID namespace than the reader: its events would name processes and threads
    /// by ids that belong to others here.
    Namespace,
    /// It is a copy of a recorded process, made by its own system call: it would write in the name of that process.
    Copy,
    /// It has made reading the clock a fault (`PR_SET_TSC`).
    Clock,
    /// It has no room for the ring: its address space limit is too low.
    NoAddresses,
}

impl Leaves {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::NoRoom,
        Self::Namespace,
        Self::Copy,
        Self::Clock,
        Self::NoAddresses,
    ];
}

/// The first word of the reader's page: a name and the version of its layout.
pub const READER_MAGIC: u64 = u64::from_le_bytes(*b"FSREAD\x00\x04");

/// Bytes of the reader's page.
pub const READER_BYTES: usize = PAGE_BYTES;

/// The reader's page, in a separate file that nobody else can map for writing
/// (`F_SEAL_FUTURE_WRITE`).
#[derive(Debug)]
#[repr(C)]
pub struct ReaderPage {
    /// [`READER_MAGIC`].
    pub magic: AtomicU64,
    /// Not 0 if nothing more is to be written.
    pub closed: AtomicU32,
    /// Moves on while the reader lives and comes for events.
    pub heartbeat: AtomicU32,
    /// The processes, by pid, that are so large that the reader wants to measure them when they
    /// [end](crate::RecordKind::Ending), each at [its place](ending_at).
    pub awaited: [AtomicU32; ENDINGS],
    /// The reader's [answers](answer) to such processes.
    pub answers: [AtomicU32; ENDINGS],
}

/// After its question was read, an ending process waits this many ns for an answer.
pub const ASKS_FOR_NS: u64 = 100_000_000;
/// It waits this many ns for the question to be read, behind everything in the ring. Older questions are not answered.
pub const UNREAD_FOR_NS: u64 = 2_000_000_000;

/// The number of places for processes that end. A process whose place another took meanwhile does not wait.
pub const ENDINGS: usize = 256;

/// The place of a process in [`ReaderPage::awaited`] and [`ReaderPage::answers`].
pub const fn ending_at(process: u32) -> usize {
    process as usize % ENDINGS
}

/// The answer to a process that announced its end with the number `asked`: no other of the 512
/// numbers next to it gives the same answer. It is held, or it need not wait.
pub const fn answer(process: u32, asked: u32, is_held: bool) -> u32 {
    process | asked << PID_BITS & !HELD | if is_held { HELD } else { 0 }
}

/// The bit of [`answer`] for a held process.
const HELD: u32 = 1 << 31;

const _: () = assert!(size_of::<ReaderPage>() <= READER_BYTES && PID_BITS < 31);

/// The environment variable with the locations of the ring and of the reader's page: for each `PATH
/// DEVICE INODE`, numbers in decimal. Whoever opens the path compares the file there with the two
/// numbers. After both comes the number of system call filters that apply to the reader itself
/// (`Seccomp_filters`, proc_pid_status(5)).
pub const RING_NAME: &CStr = c"FRAGSCOPE_RECORD_RING";
/// The same as text.
pub const RING_VARIABLE: &str = text(RING_NAME);

/// The environment variable that says, whatever its value, that what Python asks of its object allocator is recorded too.
pub const OBJECTS_NAME: &CStr = c"FRAGSCOPE_RECORD_OBJECTS";
/// The same as text.
pub const OBJECTS_VARIABLE: &str = text(OBJECTS_NAME);

const fn text(name: &CStr) -> &str {
    match name.to_str() {
        Ok(text) => text,
        Err(_) => "",
    }
}

/// The head of the ring.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    /// [`RING_MAGIC`].
    pub magic: u64,
    /// Not 0 when a writer went on without the reader, and why. The reader ends then; no other writer believes it.
    pub given_up: AtomicU32,
    /// How many processes go on without the recording, by the number of a [`Leaves`].
    pub left: [AtomicU32; Leaves::ALL.len()],
    /// The fields that writers change are on another cache line.
    pub apart: [u32; 8],
    /// The number of the next event to be claimed, or of one shortly before it.
    pub head: AtomicU64,
}

/// One event.
#[derive(Debug)]
#[repr(C)]
pub struct Slot {
    /// Whose turn it is: the bits of a [`Turn`].
    pub turn: AtomicU64,
    /// Nanoseconds on the monotonic clock.
    pub time_ns: AtomicU64,
    /// The block's address, or as described for the kind.
    pub addr: AtomicU64,
    /// Bytes requested, or as described for the kind.
    pub size: AtomicU64,
    /// The thread's id in the upper half, the process's in the lower, in its own namespace.
    pub thread: AtomicU64,
    /// The number of a [`RecordKind`](crate::RecordKind) in the lowest byte, above it the alignment
    /// as a power of two.
    pub kind: AtomicU64,
}

/// The state of a slot, in one word: two bits of state, 22 for the thread that claimed it (no kernel
/// thread id is longer), and 40 for the lap, which is the number of earlier rounds of the ring.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Turn(pub u64);

/// The meaning of a [`Turn`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// It may be claimed.
    Free,
    /// This thread is filling it.
    Claimed(u32),
    /// It is filled.
    Whole,
    /// Its writer never filled it. It is not used again: that writer may still come.
    Abandoned,
}

impl Turn {
    /// An abandoned slot, in all laps.
    pub const ABANDONED: Self = Self(3);
    const STATE: u64 = 0b11;
    const THREAD_AT: u32 = 2;
    const THREAD: u64 = (1 << PID_BITS) - 1;
    const LAP_AT: u32 = Self::THREAD_AT + PID_BITS;

    /// The slot of this event before anybody has claimed it.
    pub const fn free(number: u64) -> Self {
        Self(Self::lap_of(number) << Self::LAP_AT)
    }

    /// The same while this thread fills it.
    pub const fn claimed(number: u64, thread: u32) -> Self {
        let thread = thread as u64 & Self::THREAD;
        Self(Self::free(number).0 | thread << Self::THREAD_AT | 1)
    }

    /// The same once it is filled.
    pub const fn whole(number: u64) -> Self {
        Self(Self::free(number).0 | 2)
    }

    /// Its state.
    pub const fn state(self) -> State {
        match self.0 & Self::STATE {
            0 => State::Free,
            1 => State::Claimed((self.0 >> Self::THREAD_AT & Self::THREAD) as u32),
            2 => State::Whole,
            _ => State::Abandoned,
        }
    }

    /// Its lap.
    pub const fn lap(self) -> u64 {
        self.0 >> Self::LAP_AT
    }

    /// The lap of an event's number, as far as a turn can hold it.
    pub const fn lap_of(number: u64) -> u64 {
        (number / SLOTS) & (u64::MAX >> Self::LAP_AT)
    }

    /// Whether the event of this number can no longer be claimed here: it was claimed, or the slot
    /// is not used. If it can, and the slot is not free for it, an event of the previous lap is
    /// still to be read.
    pub const fn is_past(self, number: u64) -> bool {
        let lap = Self::lap_of(number);
        match self.state() {
            State::Abandoned => true,
            State::Free => self.lap() > lap,
            State::Claimed(_) | State::Whole => self.lap() >= lap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_two_times_differ() {
        let process = (1 << PID_BITS) - 1;
        for asked in [1, 2, 511, 512, u32::MAX] {
            let (held, go) = (answer(process, asked, true), answer(process, asked, false));
            assert_ne!(held, go);
            for other in [
                answer(process, asked - 1, true),
                answer(process, asked - 1, false),
            ] {
                assert!(other != held && other != go && other != 0);
            }
        }
    }

    #[test]
    fn a_turn_says_what_was_put_into_it() {
        for number in [0, 5, SLOTS, 7 * SLOTS + 3, (1 << 59) - 1] {
            let (free, whole) = (Turn::free(number), Turn::whole(number));
            let claimed = Turn::claimed(number, 4_194_303);
            assert_eq!(free.state(), State::Free);
            assert_eq!(claimed.state(), State::Claimed(4_194_303));
            assert_eq!(whole.state(), State::Whole);
            for turn in [free, claimed, whole] {
                assert_eq!(turn.lap(), Turn::lap_of(number));
                assert_eq!(turn.is_past(number), turn != free);
                assert!(!turn.is_past(number + SLOTS));
            }
            assert!(Turn::free(number + SLOTS).is_past(number));
        }
        assert!(Turn::ABANDONED.is_past(0) && Turn::ABANDONED.is_past(u64::MAX));
        assert_eq!(Turn::free(0), Turn(0), "new memory is a ring");
    }
}

//! Writes events into the ring.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use profiler_common::RecordKind;
use profiler_common::ring::{
    ASKS_FOR_NS, Header, Leaves, RING_DAMAGED, ReaderPage, SLOTS, SLOTS_AT, Slot, Turn,
    UNREAD_FOR_NS, answer as answer_to, ending_at,
};

use crate::clock::now_ns;
use crate::wait::{Patience, Wait, earn};
use crate::{filter, thread};

/// The ring, or null while nothing is recorded. Once this program continues without it, it does so
/// for good, whatever others write into the ring.
static RING: AtomicPtr<Header> = AtomicPtr::new(ptr::null_mut());
/// The reader's page, which is there when the ring is.
static READER: AtomicPtr<ReaderPage> = AtomicPtr::new(ptr::null_mut());

/// From this event on, slots that this process has claimed are its own, not its parent's.
static FORKED_AT: AtomicU64 = AtomicU64::new(0);

/// A writer takes this many steps from the head before it reads the head again.
const STEPS: u32 = 256;
/// A process that is about to end and should wait does so for at most this long.
const HELD_FOR_NS: u64 = 1_000_000_000;
/// It stops waiting for a reader whose heartbeat has not changed for this long.
const STILL_FOR_NS: u64 = 500_000_000;
/// Steps between two looks at the clock.
const SPINS: u32 = 64;
/// In a sound ring the head is never behind by more than one, and only a thread that lost its
/// processor takes [`STEPS`] in vain. If that happens repeatedly, somebody is damaging the ring;
/// after this many times, over all threads, the program continues without it.
const MAX_ASTRAY: u32 = 2_000;
/// How often threads went astray twice or more in a row.
static ASTRAY: AtomicU32 = AtomicU32::new(0);

/// Records one event without a size.
pub(crate) fn record(kind: RecordKind, addr: u64) {
    record_block(kind, addr, 0, 0);
}

/// Records one event of a block. If the ring is full it waits for the reader, so that nothing is
/// lost.
pub(crate) fn record_block(kind: RecordKind, addr: u64, size: u64, align: u8) {
    let Some(ring) = Ring::now() else {
        return;
    };
    if ring.is_over() {
        return go_on_without();
    }
    if thread::is_in_a_copy() {
        return leave(Leaves::Copy);
    }
    let event = Event {
        kind,
        addr,
        size,
        align,
    };
    let patience = match filter::is_filtered() {
        true => Patience::WithoutACall,
        false => Patience::UntilItComes,
    };
    if ring.write(&event, patience).is_none() {
        // If it waited for the reader, the reader knows why.
        match patience == Patience::WithoutACall && !ring.is_over() {
            true => leave(Leaves::NoRoom),
            false => go_on_without(),
        }
    }
}

/// Records one event of a program that is about to end, without any system call: if there is no
/// room for it, it is left out, and the program continues.
fn record_at_end(ring: Ring, kind: RecordKind, addr: u64) -> Option<Written> {
    let event = Event {
        kind,
        addr,
        size: 0,
        align: 0,
    };
    if ring.is_over() {
        return None;
    }
    ring.write(&event, Patience::WithoutACall)
}

/// Records that the program has ended. Its threads record nothing after that.
pub(crate) fn record_exit() {
    if let Some(ring) = Ring::of_this_process() {
        go_on_without();
        let _ = record_at_end(ring, RecordKind::Exit, 0);
    }
}

/// Records that the process ends, or a child that shares its memory: the reader finds out which.
pub(crate) fn record_leaving() {
    if let Some(ring) = Ring::of_this_process() {
        let _ = record_at_end(ring, RecordKind::Leaving, 0);
    }
}

/// An event in its slot.
#[derive(Copy, Clone)]
struct Written {
    number: u64,
    slot: &'static Slot,
}

impl Written {
    /// Whether the reader has not reached it.
    fn is_unread(self) -> bool {
        self.slot.turn.load(Ordering::Acquire) == Turn::whole(self.number).0
    }
}

/// The content of a slot, except the time and the writer.
struct Event {
    kind: RecordKind,
    addr: u64,
    size: u64,
    align: u8,
}

/// The ring with its reader's page. The mappings stay until the process ends; all shared fields are
/// atomic.
#[derive(Copy, Clone)]
pub(crate) struct Ring {
    header: &'static Header,
    reader: &'static ReaderPage,
}

impl Ring {
    pub(crate) fn new(header: &'static Header, reader: &'static ReaderPage) -> Self {
        Self { header, reader }
    }

    /// Starts recording this program in it.
    pub(crate) fn begin(self) {
        READER.store(ptr::from_ref(self.reader).cast_mut(), Ordering::Relaxed);
        RING.store(ptr::from_ref(self.header).cast_mut(), Ordering::Release);
    }

    /// The ring, while this program is recorded.
    fn now() -> Option<Self> {
        Self::of(RING.load(Ordering::Acquire))
    }

    /// The same at the end, unless this process is a copy: a copy just ends, and nothing of it is
    /// missing.
    fn of_this_process() -> Option<Self> {
        Self::now().filter(|_| !thread::is_in_a_copy())
    }

    /// The ring with this header, with its reader's page.
    fn of(header: *mut Header) -> Option<Self> {
        // SAFETY: null, or a mapping that stays.
        let header = unsafe { header.as_ref() }?;
        // SAFETY: as above; it is there before the ring is.
        let reader = unsafe { READER.load(Ordering::Relaxed).as_ref() }?;
        Some(Self { header, reader })
    }

    /// Writes an event of this thread, if there is room for it.
    fn write(self, event: &Event, patience: Patience) -> Option<Written> {
        loop {
            let caller = thread::word();
            let claimed = claim(self, number_of(caller), patience)?;
            let Some(thread) = claimed.filler(caller) else {
                continue;
            };
            let Claimed { number, slot, now } = claimed;
            slot.time_ns.store(now, Ordering::Relaxed);
            slot.addr.store(event.addr, Ordering::Relaxed);
            slot.size.store(event.size, Ordering::Relaxed);
            slot.thread.store(thread, Ordering::Relaxed);
            let kind = event.kind as u64 | u64::from(event.align) << 8;
            slot.kind.store(kind, Ordering::Relaxed);
            if claimed.filler(thread).is_none() {
                continue;
            }
            // A slot that was given up meanwhile may belong to another.
            let turn = Turn::claimed(number, number_of(caller)).0;
            if slot.turn.load(Ordering::Relaxed) == turn {
                slot.turn.store(Turn::whole(number).0, Ordering::Release);
            }
            earn(now);
            return Some(Written { number, slot });
        }
    }

    /// Whether nothing more is to be written. Only the reader says so: anybody may have written the
    /// ring's content.
    pub(crate) fn is_over(self) -> bool {
        self.reader.closed.load(Ordering::Relaxed) != 0
    }

    /// Moves on while the reader lives.
    pub(crate) fn heartbeat(self) -> u32 {
        self.reader.heartbeat.load(Ordering::Relaxed)
    }

    /// This program continues without the reader, which is to end if it is alive.
    pub(crate) fn give_up(self, why: u32) {
        self.header.given_up.store(why, Ordering::Relaxed);
    }

    /// A process continues without the recording, which is counted.
    pub(crate) fn left(self, why: Leaves) {
        if let Some(left) = self.header.left.get(why as usize) {
            left.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// From now on this program is not recorded.
#[cold]
fn go_on_without() {
    RING.store(ptr::null_mut(), Ordering::Relaxed);
}

/// The same, with counting.
#[cold]
pub(crate) fn leave(why: Leaves) {
    if let Some(ring) = Ring::of(RING.swap(ptr::null_mut(), Ordering::Acquire)) {
        ring.left(why);
    }
}

/// Whether the reader wants to look at this process's program when it ends.
pub(crate) fn awaits(process: u32) -> bool {
    let awaited = Ring::now().and_then(|ring| ring.reader.awaited.get(ending_at(process)));
    awaited.is_some_and(|awaited| awaited.load(Ordering::Relaxed) == process)
}

/// Records that this process's program is about to end, and waits until the reader lets it go, has
/// ended, or does not come. Returns whether nothing more needs to be done for it. It waits without
/// a system call: a filter may forbid them from one moment to the next.
pub(crate) fn record_ending(process: u32) -> bool {
    let Some(ring) = Ring::of_this_process() else {
        return false;
    };
    let Some(answer) = ring.reader.answers.get(ending_at(process)) else {
        return false;
    };
    let began = now_ns();
    // Most likely a number that a copy of this process (`clone`) has not used for asking: equal
    // ones would count as one.
    let asked = (began >> 12) as u32;
    let [held, go] = [true, false].map(|is_held| answer_to(process, asked, is_held));
    let Some(question) = record_at_end(ring, RecordKind::Ending, asked.into()) else {
        return true;
    };
    let beat = || ring.heartbeat();
    let (mut is_unread, mut is_held) = (true, false);
    let (mut until, mut last) = (began.saturating_add(UNREAD_FOR_NS), (beat(), began));
    loop {
        let now = now_ns();
        if now >= until || ring.is_over() {
            return true;
        }
        if is_unread {
            if last.0 != beat() {
                last = (beat(), now);
            }
            if now.saturating_sub(last.1) > STILL_FOR_NS {
                return true;
            }
            if !question.is_unread() {
                (is_unread, until) = (false, now.saturating_add(ASKS_FOR_NS));
            }
        }
        for _ in 0..SPINS {
            core::hint::spin_loop();
        }
        let said = answer.load(Ordering::Acquire);
        if said == held && !is_held {
            (is_held, is_unread, until) = (true, false, now.saturating_add(HELD_FOR_NS));
        }
        if said == go {
            return is_held;
        }
    }
}

/// A slot that this thread must fill. Until it has, nothing is called and nothing can fail.
struct Claimed {
    number: u64,
    slot: &'static Slot,
    /// The time just before, in ns: what reads the clock may end the program.
    now: u64,
}

impl Claimed {
    /// For which thread this one, whose word before the call is `caller`, fills the slot. A signal
    /// handler may have forked meanwhile, and its child continues here: a slot claimed before that
    /// is its parent's to fill (`None`), and the child, which has reached the event like its
    /// parent, writes it once more.
    fn filler(&self, caller: u64) -> Option<u64> {
        if thread::process() == caller as u32 {
            return Some(caller);
        }
        (self.number >= FORKED_AT.load(Ordering::Relaxed)).then(thread::word)
    }
}

/// In a child that was just forked: all that its parent's thread has claimed came before the event
/// that announced the fork, and so before this.
pub(crate) fn forked() {
    if let Some(ring) = Ring::now() {
        let head = ring.header.head.load(Ordering::Acquire);
        FORKED_AT.store(head, Ordering::Relaxed);
    }
}

/// The thread's number of a word.
fn number_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Takes the next event's slot for this thread; nothing when the reader has ended or died, or does not come in time.
fn claim(ring: Ring, thread: u32, patience: Patience) -> Option<Claimed> {
    let header = ring.header;
    let mut wait = Wait::default();
    let mut astray = false;
    loop {
        let now = now_ns();
        let mut number = header.head.load(Ordering::Acquire);
        let mut is_full = false;
        for _ in 0..STEPS {
            let slot = slot(header, number);
            let taken = slot.turn.compare_exchange(
                Turn::free(number).0,
                Turn::claimed(number, thread).0,
                Ordering::Acquire,
                Ordering::Acquire,
            );
            if let Err(found) = taken
                && !Turn(found).is_past(number)
            {
                is_full = true;
                break;
            }
            let next = number.wrapping_add(1);
            // Another process may have moved it.
            let _ =
                header
                    .head
                    .compare_exchange(number, next, Ordering::Release, Ordering::Relaxed);
            if taken.is_ok() {
                return Some(Claimed { number, slot, now });
            }
            number = next;
        }
        if !is_full && !core::mem::replace(&mut astray, true) {
            continue;
        }
        if !is_full && ASTRAY.fetch_add(1, Ordering::Relaxed) >= MAX_ASTRAY {
            ring.give_up(RING_DAMAGED);
            return None;
        }
        if !wait.a_moment(ring, patience) {
            return None;
        }
    }
}

fn slot(header: &'static Header, number: u64) -> &'static Slot {
    let index = (number % SLOTS) as usize;
    let at = ptr::from_ref(header).cast::<u8>();
    // SAFETY: the mapping holds all slots, and the index is below their number.
    let slot = unsafe { at.add(SLOTS_AT + index * size_of::<Slot>()) }.cast::<Slot>();
    // SAFETY: as said; its fields are atomic, and the mapping is aligned to a page.
    unsafe { &*slot }
}

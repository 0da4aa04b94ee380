//! Writing events into the ring.

use core::ffi::{CStr, c_char, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use profiler_common::RecordKind;
use profiler_common::ring::{
    ASKS_FOR_NS, Header, READER_BYTES, READER_MAGIC, READER_MISSED, RING_BYTES, RING_DAMAGED,
    RING_MAGIC, ReaderPage, SLOTS, SLOTS_AT, Slot, Turn, UNREAD_FOR_NS, answer as answer_to,
    ending_at,
};

use crate::{next, sys, thread};

/// The ring, or null while nothing is recorded. Once this program goes on without it, it does so for good,
/// whatever others write into the ring.
static RING: AtomicPtr<Header> = AtomicPtr::new(ptr::null_mut());
/// The reader's page, which is there when the ring is.
static READER: AtomicPtr<ReaderPage> = AtomicPtr::new(ptr::null_mut());

/// After so many sleeps of [`SLEEP_NS`] in which the reader did not move, it is taken for dead.
const MOST_IDLE_SLEEPS: u32 = 2_000;
const SLEEP_NS: i64 = 1_000_000;
/// A writer takes so many steps from the head before it looks again where that is.
const STEPS: u32 = 256;
/// A process that is about to end, and is to wait, waits for so long at most.
const HELD_FOR_NS: u64 = 1_000_000_000;
/// It waits no longer for a reader whose heart has not moved for so long.
const STILL_FOR_NS: u64 = 500_000_000;
/// Steps between two looks at the clock.
const SPINS: u32 = 64;
/// So long a program waits for room in all, in ns, though the reader comes: more than the reader is ever absent.
const MOST_WAITED_NS: u64 = 60_000_000_000;
/// What its own events earn it back, by chance one of [`EARNING`]: of a program that writes on, the ring is full
/// because it is slower to read, and of one that does not come to writing, because others take all the room.
const EARNED_NS: u64 = 1_000_000;
/// See [`EARNED_NS`]: a power of two.
const EARNING: u64 = 128;
/// How long threads waited in all, but for what was earned. Those that waited at the same time count once.
static WAITED_NS: AtomicU64 = AtomicU64::new(0);
/// Until when that was counted.
static COUNTED_NS: AtomicU64 = AtomicU64::new(0);
/// In a sound ring the head is never behind by more than one, and only a thread that lost its
/// processor takes [`STEPS`] in vain. One that does so again and again is in a ring that somebody
/// damages, and after so many times, of all threads together, the program goes on without it.
const MOST_ASTRAY: u32 = 2_000;
/// How often threads went astray twice or more in a row.
static ASTRAY: AtomicU32 = AtomicU32::new(0);
/// So often a writer yields before it sleeps.
const YIELDS: u32 = 64;

/// Maps the ring that the environment names, if it is there and is that ring. When it is not, the
/// program runs unrecorded and is not bothered: fragscope may be gone, and the path another's.
///
/// # Safety
/// The environment is not changed at the same moment: called from the object's constructor.
pub(crate) unsafe fn open() {
    // SAFETY: a constant name with its zero; the constructor runs before other threads do.
    let named = unsafe { next::getenv(c"FRAGSCOPE_RECORD_RING".as_ptr()) };
    if named.is_null() {
        return;
    }
    // SAFETY: getenv gave a string with its zero.
    let mut words = unsafe { CStr::from_ptr(named) }
        .to_bytes()
        .split(|&byte| byte == b' ');
    let places = (Place::parse(&mut words), Place::parse(&mut words));
    let (Some(ring), Some(reader), None) = (places.0, places.1, words.next()) else {
        return;
    };
    let Some(page) = reader.map(READER_BYTES, Access::Read, READER_MAGIC) else {
        return;
    };
    let Some(header) = ring.map(RING_BYTES, Access::Write, RING_MAGIC) else {
        // SAFETY: the mapping made above, of this length.
        unsafe { sys::unmap(page, READER_BYTES) };
        return;
    };
    READER.store(page.cast(), Ordering::Relaxed);
    RING.store(header.cast(), Ordering::Release);
}

/// How a file is mapped.
#[derive(Copy, Clone)]
enum Access {
    Read,
    Write,
}

impl Access {
    /// The flag of `open(2)` and the protection of `mmap(2)`.
    fn flags(self) -> (i32, i32) {
        match self {
            Self::Read => (sys::O_RDONLY, sys::PROT_READ),
            Self::Write => (sys::O_RDWR, sys::PROT_READ_WRITE),
        }
    }
}

/// Maps so many bytes of a file that begins with this word.
fn map(fd: i32, bytes: usize, protection: i32, magic: u64) -> Option<*mut c_void> {
    let at = sys::map_shared(bytes, protection, fd)?;
    // SAFETY: the file is as long as the mapping and cannot be made shorter; both were checked.
    if unsafe { at.cast::<u64>().read() } == magic {
        return Some(at);
    }
    // SAFETY: the mapping made above, of this length.
    unsafe { sys::unmap(at, bytes) };
    None
}

/// Where one of the files is, and what distinguishes it from anything else that may lie there.
struct Place {
    path: [u8; 64],
    device: u64,
    inode: u64,
}

impl Place {
    fn parse<'w>(words: &mut impl Iterator<Item = &'w [u8]>) -> Option<Self> {
        let (path, device, inode) = (words.next()?, words.next()?, words.next()?);
        let mut place = Self {
            path: [0; 64],
            device: decimal(device)?,
            inode: decimal(inode)?,
        };
        // With a zero after it.
        if path.is_empty() || path.len() >= place.path.len() {
            return None;
        }
        for (to, from) in place.path.iter_mut().zip(path) {
            *to = *from;
        }
        Some(place)
    }

    fn path(&self) -> *const c_char {
        self.path.as_ptr().cast()
    }

    /// Maps what is there, if it is the file that fragscope made, of so many bytes.
    fn map(&self, bytes: usize, access: Access, magic: u64) -> Option<*mut c_void> {
        let (flags, protection) = access.flags();
        // A handle that touches nothing: whatever lies at the path now is neither read nor woken up.
        // SAFETY: a path with its zero.
        let handle = unsafe { sys::open(self.path(), sys::O_PATH | sys::O_CLOEXEC) };
        if handle < 0 {
            return None;
        }
        let mut mapped = None;
        if self.is_it(handle, bytes) {
            let path = OwnFile::of(handle);
            // SAFETY: a path with its zero.
            let fd = unsafe { sys::open(path.0.as_ptr().cast(), flags | sys::O_CLOEXEC) };
            if fd >= 0 {
                mapped = map(fd, bytes, protection, magic);
                sys::close(fd);
            }
        }
        sys::close(handle);
        mapped
    }

    /// Whether the handle is on the very file that fragscope made: the kernel gives the numbers of
    /// its files in memory once, and nobody but root makes a file that belongs to root.
    fn is_it(&self, handle: i32, bytes: usize) -> bool {
        let mut found = sys::Statx::default();
        // What is known without asking whoever serves the file: it may be another's, who lets us
        // wait.
        // SAFETY: an empty path for the handle itself, and a place for the answer.
        let error = unsafe {
            sys::statx(
                handle,
                c"".as_ptr(),
                sys::AT_EMPTY_PATH | sys::AT_STATX_DONT_SYNC,
                sys::STATX_BASIC_STATS,
                &mut found,
            )
        };
        let own = sys::user();
        error == 0
            && found.device() == self.device
            && found.inode == self.inode
            && (found.user == 0 || found.user == own)
            && found.mode & sys::S_IFMT == sys::S_IFREG
            && found.size == bytes as u64
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let mut number = (!digits.is_empty()).then_some(0u64)?;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

/// `/proc/self/fd/N`, with its zero.
struct OwnFile([u8; 32]);

impl OwnFile {
    /// Nothing here can panic: there is no standard library to do so with.
    fn of(fd: i32) -> Self {
        const DIGITS: [u32; 10] = [
            1_000_000_000,
            100_000_000,
            10_000_000,
            1_000_000,
            100_000,
            10_000,
            1_000,
            100,
            10,
            1,
        ];
        let fd = fd.unsigned_abs();
        let digits = DIGITS.iter().filter(|unit| fd >= **unit || **unit == 1);
        let digits = digits.map(|unit| b'0' + (fd.checked_div(*unit).unwrap_or(0) % 10) as u8);
        let mut path = [0; 32];
        let text = b"/proc/self/fd/".iter().copied().chain(digits);
        for (to, from) in path.iter_mut().zip(text) {
            *to = from;
        }
        Self(path)
    }
}

/// Records one event without a size.
pub(crate) fn record(kind: RecordKind, addr: u64) {
    record_block(kind, addr, 0, 0);
}

/// Records one event of a block. When the ring is full it waits for the reader, so that nothing is lost.
pub(crate) fn record_block(kind: RecordKind, addr: u64, size: u64, align: u8) {
    let Some(ring) = Ring::now() else {
        return;
    };
    if ring.is_over() {
        return go_on_without();
    }
    let event = Event {
        kind,
        addr,
        size,
        align,
    };
    if ring.write(&event, Patience::UntilItComes).is_none() {
        go_on_without();
    }
}

/// Records one event of a program that is about to end, without any system call: where there is no room for it, it
/// is missing, and the program goes on.
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
    if let Some(ring) = Ring::now() {
        go_on_without();
        let _ = record_at_end(ring, RecordKind::Exit, 0);
    }
}

/// Records that the process ends, or a child that shares its memory does: the reader finds out which.
pub(crate) fn record_leaving() {
    if let Some(ring) = Ring::now() {
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
    /// Whether the reader has not come to it.
    fn is_unread(self) -> bool {
        self.slot.turn.load(Ordering::Acquire) == Turn::whole(self.number).0
    }
}

/// What is written into a slot, but for when and by whom.
struct Event {
    kind: RecordKind,
    addr: u64,
    size: u64,
    align: u8,
}

/// How long a writer waits for room in a full ring.
#[derive(Copy, Clone, Eq, PartialEq)]
enum Patience {
    /// Until the reader comes, has ended or died; it sleeps meanwhile.
    UntilItComes,
    /// For [`ASKS_FOR_NS`], in a loop.
    WithoutACall,
}

/// The ring with its reader's page. The mappings stay until the process ends; all shared fields are atomic.
#[derive(Copy, Clone)]
struct Ring {
    header: &'static Header,
    reader: &'static ReaderPage,
}

impl Ring {
    /// It, while this program is recorded.
    fn now() -> Option<Self> {
        let header = RING.load(Ordering::Acquire);
        // SAFETY: null, or a mapping that stays.
        let header = unsafe { header.as_ref() }?;
        // SAFETY: as above; it is there before the ring is.
        let reader = unsafe { READER.load(Ordering::Relaxed).as_ref() }?;
        Some(Self { header, reader })
    }

    /// Writes an event of this thread, if there is room for it.
    fn write(self, event: &Event, patience: Patience) -> Option<Written> {
        let thread = thread::word();
        let (number, slot) = claim(self, (thread >> 32) as u32, patience)?;
        let now = now_ns();
        earn(now);
        slot.time_ns.store(now, Ordering::Relaxed);
        slot.addr.store(event.addr, Ordering::Relaxed);
        slot.size.store(event.size, Ordering::Relaxed);
        slot.thread.store(thread, Ordering::Relaxed);
        let kind = event.kind as u64 | u64::from(event.align) << 8;
        slot.kind.store(kind, Ordering::Relaxed);
        slot.turn.store(Turn::whole(number).0, Ordering::Release);
        Some(Written { number, slot })
    }

    /// Whether nothing more is to be written.
    fn is_over(self) -> bool {
        let is_closed = self.reader.closed.load(Ordering::Relaxed) != 0;
        is_closed || self.header.given_up.load(Ordering::Relaxed) != 0
    }

    /// From now on nobody writes.
    fn give_up(self, why: u32) {
        self.header.given_up.store(why, Ordering::Relaxed);
    }
}

/// Whether this program is recorded.
pub(crate) fn is_there() -> bool {
    !RING.load(Ordering::Relaxed).is_null()
}

/// From now on this program is not recorded.
#[cold]
pub(crate) fn go_on_without() {
    RING.store(ptr::null_mut(), Ordering::Relaxed);
}

/// Whether the reader wants to see the program of this process as it ends.
pub(crate) fn awaits(process: u32) -> bool {
    let awaited = Ring::now().and_then(|ring| ring.reader.awaited.get(ending_at(process)));
    awaited.is_some_and(|awaited| awaited.load(Ordering::Relaxed) == process)
}

/// Records that the program of this process is about to end, and waits until the reader lets it go, has ended, or
/// does not come; whether that was all that is to be done for it. It waits without a system call: a filter may forbid it
/// any, from one moment to the next.
pub(crate) fn record_ending(process: u32) -> bool {
    let Some(ring) = Ring::now() else {
        return false;
    };
    let Some(answer) = ring.reader.answers.get(ending_at(process)) else {
        return false;
    };
    let began = now_ns();
    // A number that a copy of this process (`clone`) has not asked by, most likely: those would count alike.
    let asked = (began >> 12) as u32;
    let [held, go] = [true, false].map(|is_held| answer_to(process, asked, is_held));
    let Some(question) = record_at_end(ring, RecordKind::Ending, asked.into()) else {
        return true;
    };
    let beat = || ring.reader.heartbeat.load(Ordering::Relaxed);
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

/// An event was written at this time.
fn earn(now: u64) {
    if now.is_multiple_of(EARNING) {
        let earned = |waited: u64| Some(waited.saturating_sub(EARNED_NS));
        let _ = WAITED_NS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }
}

/// A thread that has waited since `began` waits on; whether its program has waited too long.
fn has_waited_too_long(began: u64) -> bool {
    let now = now_ns();
    let counted = COUNTED_NS.load(Ordering::Relaxed);
    let is_counted = COUNTED_NS
        .compare_exchange(counted, now, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok();
    if !is_counted {
        return false;
    }
    let waited = now.saturating_sub(began.max(counted));
    WAITED_NS.fetch_add(waited, Ordering::Relaxed) + waited > MOST_WAITED_NS
}

/// Takes the next event's slot for this thread; nothing when the reader has ended or died, or does not come in time.
fn claim(ring: Ring, thread: u32, patience: Patience) -> Option<(u64, &'static Slot)> {
    let header = ring.header;
    let mut wait = Wait::default();
    let mut astray = false;
    loop {
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
            // Somebody else may have moved it.
            let _ =
                header
                    .head
                    .compare_exchange(number, next, Ordering::Release, Ordering::Relaxed);
            if taken.is_ok() {
                return Some((number, slot));
            }
            number = next;
        }
        if !is_full && !core::mem::replace(&mut astray, true) {
            continue;
        }
        if !is_full && ASTRAY.fetch_add(1, Ordering::Relaxed) >= MOST_ASTRAY {
            ring.give_up(RING_DAMAGED);
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

/// Waiting for a full ring. Whoever waits has claimed nothing: when it dies, nothing is missing.
#[derive(Default)]
struct Wait {
    /// When it began, in ns.
    began: u64,
    turns: u32,
    beat: u32,
    still: u32,
}

impl Wait {
    /// Waits a little; false when the reader has ended or died, or it was enough.
    #[cold]
    fn a_moment(&mut self, ring: Ring, patience: Patience) -> bool {
        if ring.is_over() {
            return false;
        }
        if self.began == 0 {
            self.began = now_ns();
        }
        if patience == Patience::WithoutACall {
            core::hint::spin_loop();
            return now_ns().saturating_sub(self.began) < ASKS_FOR_NS;
        }
        if has_waited_too_long(self.began) {
            // Of all that are recorded it alone: the others may have their room.
            ring.header.gone_on.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if self.turns < YIELDS {
            self.turns += 1;
            self.beat = ring.reader.heartbeat.load(Ordering::Relaxed);
            sys::give_way();
            return true;
        }
        sys::nap(SLEEP_NS);
        let now = ring.reader.heartbeat.load(Ordering::Relaxed);
        self.still = if now == self.beat { self.still + 1 } else { 0 };
        self.beat = now;
        if self.still > MOST_IDLE_SLEEPS {
            ring.give_up(READER_MISSED);
            return false;
        }
        true
    }
}

fn now_ns() -> u64 {
    let mut time = sys::Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: a place for the answer.
    unsafe { next::clock_gettime(sys::CLOCK_MONOTONIC, &mut time) };
    time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64
}

//! The reader's side of the ring through which a preloaded recorder hands over its events
//! (`profiler_common::ring` describes the bytes).
//!
//! The ring is memory of fragscope's own, shared with the programs that it started under the
//! recorder. All of it is theirs to write: the reader's place in it is kept here, each step is
//! bounded, and what a slot holds is data, never an index.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use profiler_common::ring::{
    Header, READER_BYTES, READER_MAGIC, RING_BYTES, RING_DAMAGED, RING_MAGIC, ReaderPage, SLOTS,
    SLOTS_AT, Slot, State, Turn, let_go_at,
};

/// How often writers see that the reader lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);
/// How long the reader may do something else than read, sampling a process among it, until it no longer
/// counts as alive: writers that wait for it then go on without being recorded.
const LONGEST_ABSENCE: Duration = Duration::from_secs(10);
/// A ring of which more slots than these were abandoned is of no use any more.
const MOST_ABANDONED: usize = SLOTS as usize / 4;
/// So far behind the claimed slots the head may be: one for each thread that is about to move it.
const MOST_HEAD_LAG: u64 = 4096;

/// A thread that lives and does not finish its event for so long is suspended in the midst of it.
pub const SUSPENDED_AFTER: Duration = Duration::from_secs(2);
/// So long a recording waits for claimed slots in all, but for what [`MOST_FREE_WAIT`] allows: what
/// is full meanwhile holds up malloc of all recorded programs, and any of them can claim in the name
/// of another.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// On a busy host a thread loses its processor in the midst of writing, about once in 100,000
/// events. So each event that comes earns so much of waiting,
const FREE_WAIT_PER_EVENT: Duration = Duration::from_micros(20);
/// of which so much at most is kept for the next wait.
const MOST_FREE_WAIT: Duration = Duration::from_millis(100);
/// In a sound ring the head is where it should be; one that was moved back there so often is not.
const MOST_REPAIRS: u32 = 1000;

/// One event as the recorder wrote it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RingEvent {
    /// Nanoseconds on the monotonic clock.
    pub time_ns: u64,
    /// The block's address, or what the kind says.
    pub addr: u64,
    /// Bytes requested, or what the kind says.
    pub size: u64,
    /// The thread's number.
    pub thread: u32,
    /// The process's number.
    pub process: u32,
    /// The number of a `profiler_common::RecordKind`, when a recorder wrote it.
    pub kind: u64,
    /// The alignment as a power of two.
    pub align: u8,
}

/// What the next slot holds.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// An event.
    Event(RingEvent),
    /// An event that this thread has begun to write, by the number that it gave.
    Claimed {
        /// The thread's number, in its own namespace.
        thread: u32,
        /// How long it has been waited for.
        waited: Duration,
        /// Whether the one before it was given up.
        follows_abandoned: bool,
    },
    /// No event: the slot was abandoned, or says what no recorder writes.
    Damaged,
    /// Nothing yet.
    Empty,
    /// What comes after a [mark](Marker::mark), and is held back.
    Held,
}

/// The ring. While it lives, writers wait for it when it is full; when it is dropped, they go on
/// without it.
#[derive(Debug)]
pub struct RecordRing {
    memory: Arc<Memory>,
    /// What writers believe: nobody else can write there.
    reader: Arc<Memory>,
    /// Keep the names of both in `/proc/PID/fd` alive.
    file: File,
    reader_file: File,
    /// Since when the slot at the tail is seen to be claimed.
    waiting: Option<Instant>,
    /// Whether that is nobody's fault.
    is_excused: bool,
    /// How long claimed slots before it were waited for, but for what was free of charge.
    waited: Duration,
    /// Of the next wait so much is free of charge.
    free_wait: Duration,
    has_abandoned: bool,
    repairs: u32,
    /// Indexes of slots that are not used again.
    abandoned: HashSet<u64>,
    activity: Arc<ReaderActivity>,
    heartbeat: Option<JoinHandle<()>>,
}

/// Marks moments of a ring, on another thread than the reader's.
#[derive(Clone, Debug)]
pub struct Marker {
    memory: Arc<Memory>,
    activity: Arc<ReaderActivity>,
}

impl Marker {
    /// The number of the next event to be written: all before it were claimed before now. From this moment
    /// on the reader takes none that is claimed later, until it [releases](RecordRing::release) them: what
    /// stands still now, and writes on when it is let go, is seen as it was between the two.
    pub fn mark(&self) -> u64 {
        self.activity
            .held_from
            .fetch_min(self.head(), Ordering::SeqCst);
        // The reader may be taking one that was claimed meanwhile: it is before the mark, too.
        fence(Ordering::SeqCst);
        self.head()
    }

    fn head(&self) -> u64 {
        let tail = self.activity.tail.load(Ordering::Acquire);
        let head = self.memory.header().head.load(Ordering::Acquire);
        let mut head = head.clamp(tail, tail + SLOTS);
        let end = (head + MOST_HEAD_LAG).min(tail + SLOTS);
        while head < end && self.memory.turn(head).is_past(head) {
            head += 1;
        }
        head
    }
}

/// What other threads know of the reader, and it of them.
#[derive(Debug)]
struct ReaderActivity {
    /// The number of the next event to be taken.
    tail: AtomicU64,
    /// Events from this number on are held back.
    held_from: AtomicU64,
    /// How often it came for an event.
    visits: AtomicU64,
    /// Whether it has not come for [`LONGEST_ABSENCE`], or had not when the ring was closed.
    is_absent: AtomicBool,
    /// Whether it has ended.
    over: AtomicBool,
}

impl ReaderActivity {
    fn new() -> Self {
        Self {
            tail: AtomicU64::new(0),
            held_from: AtomicU64::new(u64::MAX),
            visits: AtomicU64::new(0),
            is_absent: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }
}

impl RecordRing {
    /// Makes an empty ring.
    ///
    /// # Errors
    /// When the kernel refuses the memory or the thread.
    pub fn new() -> io::Result<Self> {
        // A program that makes it shorter would end everybody who maps it.
        let length = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        let (file, memory) = shared(c"fragscope-ring", RING_BYTES, RING_MAGIC, length)?;
        let seals = length | NOBODY_ELSE_WRITES;
        let (reader_file, reader) = shared(c"fragscope-reader", READER_BYTES, READER_MAGIC, seals)?;
        let activity = Arc::new(ReaderActivity::new());
        let heartbeat = {
            let (reader, activity) = (Arc::clone(&reader), Arc::clone(&activity));
            std::thread::Builder::new()
                .name("heartbeat".into())
                .spawn(move || send_heartbeats(reader.reader_page(), &activity))?
        };
        Ok(Self {
            memory,
            reader,
            file,
            reader_file,
            waiting: None,
            is_excused: false,
            waited: Duration::ZERO,
            free_wait: MOST_FREE_WAIT,
            has_abandoned: false,
            repairs: 0,
            abandoned: HashSet::new(),
            activity,
            heartbeat: Some(heartbeat),
        })
    }

    /// Where it and the reader's page are, for the recorder's environment. A path leads to fragscope's
    /// descriptor while it lives, and later to whoever got its number: so each file's own numbers come with
    /// it.
    ///
    /// # Errors
    /// When the kernel does not say the numbers.
    pub fn place(&self) -> io::Result<String> {
        let place = |file: &File| -> io::Result<String> {
            let (pid, fd) = (std::process::id(), file.as_raw_fd());
            let file = file.metadata()?;
            Ok(format!("/proc/{pid}/fd/{fd} {} {}", file.dev(), file.ino()))
        };
        Ok(format!(
            "{} {}",
            place(&self.file)?,
            place(&self.reader_file)?
        ))
    }

    /// The number of its file, by which it is found among the mappings of a process.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn file_number(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// What marks moments of it.
    pub fn marker(&self) -> Marker {
        Marker {
            memory: Arc::clone(&self.memory),
            activity: Arc::clone(&self.activity),
        }
    }

    /// From now on nothing is held back.
    pub fn release(&self) {
        self.activity.held_from.store(u64::MAX, Ordering::SeqCst);
    }

    /// A process that waits before it ends, by the number that it gave, need not wait any more.
    pub fn let_go(&self, process: u32) {
        let place = self.memory.header().let_go.get(let_go_at(process));
        if let Some(place) = place {
            place.store(process, Ordering::Release);
        }
    }

    /// The number of the next event to be written: all before it were claimed before now.
    pub fn head(&self) -> u64 {
        self.marker().head()
    }

    /// The number of the next event to be taken.
    pub fn tail(&self) -> u64 {
        // None but the reader moves it.
        self.activity.tail.load(Ordering::Relaxed)
    }

    /// Whether a writer gave the reader up for dead, or the ring was closed.
    pub fn is_closed(&self) -> bool {
        let is_closed = self.reader.reader_page().closed.load(Ordering::Relaxed) != 0;
        is_closed || self.memory.header().given_up.load(Ordering::Relaxed) != 0
    }

    /// Whether claimed slots were waited for so long that no other will be; then it is closed.
    pub fn has_waited_too_long(&self) -> bool {
        self.waited >= LONGEST_WAIT
    }

    /// Whether it was damaged so often that it is not repaired any more; then it is closed.
    pub fn is_too_damaged(&self) -> bool {
        let said = self.memory.header().given_up.load(Ordering::Relaxed);
        self.repairs >= MOST_REPAIRS
            || self.abandoned.len() > MOST_ABANDONED
            || said == RING_DAMAGED
    }

    /// Whether the reader does not come for events for 10 s, or did not when a writer gave it up and
    /// closed the ring.
    pub fn is_reader_absent(&self) -> bool {
        self.activity.is_absent.load(Ordering::Relaxed)
    }

    /// From now on nothing more is recorded.
    pub fn close(&self) {
        let page = self.reader.reader_page();
        page.closed.store(1, Ordering::SeqCst);
    }

    /// Takes the next event.
    pub fn take(&mut self) -> Next {
        let tail = self.tail();
        let turn = self.memory.turn(tail);
        // Asked after the slot was looked at: what is written there after a mark was not yet, or is held.
        fence(Ordering::SeqCst);
        if tail >= self.activity.held_from.load(Ordering::SeqCst) {
            return Next::Held;
        }
        self.activity.visits.fetch_add(1, Ordering::Relaxed);
        if self.abandoned.contains(&(tail % SLOTS)) {
            // A writer that came late may have written here once more.
            self.set(Turn::ABANDONED);
            self.next();
            return Next::Damaged;
        }
        if turn == Turn::whole(tail) {
            let event = read(self.memory.slot(tail));
            self.set(Turn::free(tail + SLOTS));
            self.next();
            self.has_abandoned = false;
            self.free_wait = (self.free_wait + FREE_WAIT_PER_EVENT).min(MOST_FREE_WAIT);
            return Next::Event(event);
        }
        if turn == Turn::free(tail) {
            self.repair_head();
            self.end_wait();
            return Next::Empty;
        }
        match turn.state() {
            State::Claimed(thread) if turn.lap() == Turn::lap_of(tail) => {
                let since = *self.waiting.get_or_insert_with(Instant::now);
                let waited = since.elapsed();
                Next::Claimed {
                    thread,
                    waited,
                    follows_abandoned: self.has_abandoned,
                }
            }
            _ => {
                self.abandon();
                Next::Damaged
            }
        }
    }

    /// Gives up the next event, whose writer is gone or does not come. Its slot is not used again.
    pub fn abandon(&mut self) {
        // A whole one may have become of it meanwhile; it is lost like the others that are given up.
        self.set(Turn::ABANDONED);
        self.abandoned.insert(self.tail() % SLOTS);
        self.has_abandoned = true;
        self.next();
        if self.abandoned.len() > MOST_ABANDONED {
            self.close();
        }
    }

    /// The wait for the next event does not count: its writer's process is held still for a sample.
    pub fn excuse_wait(&mut self) {
        self.is_excused = true;
    }

    /// While nothing is claimed at the tail the head is there. One that is not makes writers seek
    /// in vain.
    fn repair_head(&mut self) {
        let (head, tail) = (&self.memory.header().head, self.tail());
        let said = head.load(Ordering::Acquire);
        if said != tail && self.memory.turn(tail) == Turn::free(tail) {
            // A writer may have come meanwhile, who moved it on from there.
            let _ = head.compare_exchange(said, tail, Ordering::Release, Ordering::Relaxed);
            self.repairs += 1;
            if self.repairs >= MOST_REPAIRS {
                self.close();
            }
        }
    }

    /// Sets the turn of the slot at the tail.
    fn set(&self, turn: Turn) {
        let slot = self.memory.slot(self.tail());
        slot.turn.store(turn.0, Ordering::Release);
    }

    fn next(&mut self) {
        self.end_wait();
        self.activity.tail.store(self.tail() + 1, Ordering::Release);
    }

    /// Each slot is waited for from its own beginning; what all took counts together.
    fn end_wait(&mut self) {
        let Some(since) = self.waiting.take() else {
            return;
        };
        if std::mem::take(&mut self.is_excused) {
            return;
        }
        // No longer than the reader would: it may have been suspended itself.
        let waited = since.elapsed().min(SUSPENDED_AFTER);
        let free_wait = std::mem::take(&mut self.free_wait);
        self.waited += waited.saturating_sub(free_wait);
        self.free_wait = free_wait.saturating_sub(waited);
        if self.has_waited_too_long() {
            self.close();
        }
    }
}

/// `F_SEAL_FUTURE_WRITE` (`include/uapi/linux/fcntl.h`, since 5.1): whoever has mapped it goes on writing,
/// and nobody else can begin.
const NOBODY_ELSE_WRITES: SealFlag = SealFlag::from_bits_retain(0x0010);

/// A file in memory of so many bytes that begins with this word, mapped, and then sealed.
fn shared(
    name: &CStr,
    bytes: usize,
    magic: u64,
    seals: SealFlag,
) -> io::Result<(File, Arc<Memory>)> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(name, flags)?);
    file.set_len(bytes as u64)?;
    file.write_all_at(&magic.to_ne_bytes(), 0)?;
    let memory = Arc::new(Memory::of(&file, bytes)?);
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok((file, memory))
}

/// What the slot holds now; others may write it at the same moment.
fn read(slot: &Slot) -> RingEvent {
    let thread = slot.thread.load(Ordering::Relaxed);
    let kind = slot.kind.load(Ordering::Relaxed);
    RingEvent {
        time_ns: slot.time_ns.load(Ordering::Relaxed),
        addr: slot.addr.load(Ordering::Relaxed),
        size: slot.size.load(Ordering::Relaxed),
        thread: (thread >> 32) as u32,
        process: thread as u32,
        kind: kind & 0xff,
        align: (kind >> 8) as u8,
    }
}

/// Shows writers that the reader lives, until it is over, and for as long as it comes for events: a
/// reader that is held up, say by a file system that hangs, must not hold up a program for ever.
fn send_heartbeats(page: &ReaderPage, reader: &ReaderActivity) {
    let mut last = (reader.visits.load(Ordering::Relaxed), Instant::now());
    while !reader.over.load(Ordering::Relaxed) {
        let now = reader.visits.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        let is_absent = last.1.elapsed() >= LONGEST_ABSENCE;
        // Why it was closed stays known when the reader comes back.
        if page.closed.load(Ordering::Relaxed) == 0 {
            reader.is_absent.store(is_absent, Ordering::Relaxed);
        }
        if !is_absent {
            page.heartbeat.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::park_timeout(HEARTBEAT_INTERVAL);
    }
}

impl Drop for RecordRing {
    fn drop(&mut self) {
        self.close();
        self.activity.over.store(true, Ordering::Relaxed);
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.thread().unpark();
            // It does nothing that panics.
            let _ = heartbeat.join();
        }
    }
}

/// The mapping.
#[derive(Debug)]
struct Memory {
    at: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: all that is read and written through it after it was made are atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn of(file: &File, bytes: usize) -> io::Result<Self> {
        let len = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, placed by the kernel.
        let at = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                file,
                0,
            )
        }?;
        Ok(Self { at, bytes })
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping holds a header and lives as long as self; fields that others write
        // are atomics.
        unsafe { self.at.cast().as_ref() }
    }

    fn reader_page(&self) -> &ReaderPage {
        // SAFETY: the mapping holds a reader's page and lives as long as self; fields that others read
        // are atomics.
        unsafe { self.at.cast().as_ref() }
    }

    fn slot(&self, number: u64) -> &Slot {
        let index = (number % SLOTS) as usize;
        // SAFETY: the mapping holds all slots behind the header, and the index is below their
        // number.
        let slot = unsafe { self.at.byte_add(SLOTS_AT + index * size_of::<Slot>()) };
        // SAFETY: as above; a slot has only atomics.
        unsafe { slot.cast().as_ref() }
    }

    /// Whose turn the slot of this event is.
    fn turn(&self, number: u64) -> Turn {
        Turn(self.slot(number).turn.load(Ordering::Acquire))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, of which no reference is left.
        let unmapped = unsafe { munmap(self.at, self.bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::RecordKind;

    use super::*;

    /// Writes the next event as a recorder does.
    fn write(ring: &RecordRing) {
        let number = ring.head();
        let slot = ring.memory.slot(number);
        slot.turn
            .store(Turn::claimed(number, 7).0, Ordering::SeqCst);
        slot.size.store(number, Ordering::SeqCst);
        slot.kind.store(RecordKind::Alloc as u64, Ordering::SeqCst);
        slot.turn.store(Turn::whole(number).0, Ordering::SeqCst);
        ring.memory
            .header()
            .head
            .store(number + 1, Ordering::SeqCst);
    }

    /// The number that the next event bears.
    fn taken(ring: &mut RecordRing) -> Option<u64> {
        match ring.take() {
            Next::Event(event) => Some(event.size),
            Next::Held | Next::Empty => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_after_a_mark_is_held_until_it_is_released() {
        let mut ring = RecordRing::new().expect("a ring");
        let marker = ring.marker();
        write(&ring);
        write(&ring);
        assert_eq!(taken(&mut ring), Some(0));
        assert_eq!(marker.mark(), 2);
        write(&ring);
        // A later mark holds back what the first did.
        assert_eq!(marker.mark(), 3);
        assert_eq!(taken(&mut ring), Some(1));
        let visits = ring.activity.visits.load(Ordering::Relaxed);
        assert_eq!(ring.take(), Next::Held);
        // Programs that wait meanwhile are not to wait for ever.
        assert_eq!(ring.activity.visits.load(Ordering::Relaxed), visits);
        ring.release();
        assert_eq!(taken(&mut ring), Some(2));
        assert_eq!(ring.take(), Next::Empty);
    }

    #[test]
    fn no_mark_comes_after_an_event_that_is_written_when_it_is_known() {
        const ROUNDS: u64 = 20_000;
        let mut ring = RecordRing::new().expect("a ring");
        let (marker, writer) = (ring.marker(), ring.marker());
        let memory = Arc::clone(&ring.memory);
        let (marks, moments) = std::sync::mpsc::channel();
        // The next mark comes after the last was released.
        let (release, released) = std::sync::mpsc::channel();
        let marking = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                // The event that follows is of a program that stood still at the moment.
                let moment = marker.mark();
                let number = writer.head();
                let slot = memory.slot(number);
                slot.size.store(moment, Ordering::SeqCst);
                slot.kind.store(RecordKind::Alloc as u64, Ordering::SeqCst);
                slot.turn.store(Turn::whole(number).0, Ordering::SeqCst);
                memory.header().head.store(number + 1, Ordering::SeqCst);
                marks.send(moment).expect("the reader lives");
                released.recv().expect("the reader lives");
            }
        });
        for _ in 0..ROUNDS {
            let moment = loop {
                // Nothing passes a mark that is not known here yet.
                assert_eq!(taken(&mut ring), None);
                match moments.try_recv() {
                    Ok(moment) => break moment,
                    Err(_) => std::thread::yield_now(),
                }
            };
            assert_eq!(ring.tail(), moment);
            ring.release();
            assert_eq!(taken(&mut ring), Some(moment));
            release.send(()).expect("it marks");
        }
        marking.join().expect("it marks");
    }
}

//! The reader's side of the ring through which a preloaded recorder passes its events
//! (`profiler_common::ring` describes the bytes).
//!
//! The ring is fragscope's memory, shared with the programs that it started under the recorder.
//! They can write to all of it: so the reader's position is kept here, each step is bounded, and
//! the contents of a slot are data, never an index.

mod event;
mod memory;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::SealFlag;
use profiler_common::ring::{
    Leaves, READER_BYTES, READER_MAGIC, READER_MISSED, RING_BYTES, RING_MAGIC, SLOTS, State, Turn,
    answer, ending_at,
};

use crate::host;

use self::event::read;
pub use self::event::{Next, RingEvent};
use self::memory::{Memory, NOBODY_ELSE_WRITES, shared};
pub use self::reader::Marker;
use self::reader::{MAX_HEAD_LAG, ReaderActivity, is_closed, send_heartbeats};

/// A ring with more abandoned slots than this is no longer usable.
const MAX_ABANDONED: usize = SLOTS as usize / 4;

/// A live thread that does not finish its event for this long was suspended in the middle of it.
pub const SUSPENDED_AFTER: Duration = Duration::from_secs(2);
/// A recording waits at most this long in total for claimed slots, not counting what
/// [`MAX_FREE_WAIT`] allows: a full ring blocks malloc in all recorded programs meanwhile, and any
/// of them can claim slots in the name of another.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// On a busy host a thread loses its processor in the middle of writing about once in 100,000
/// events. So each event that arrives earns this much waiting time,
const FREE_WAIT_PER_EVENT: Duration = Duration::from_micros(20);
/// of which at most this much is kept for the next wait.
const MAX_FREE_WAIT: Duration = Duration::from_millis(100);
/// The position of the head is checked every this many events.
const HEAD_CHECK_INTERVAL: u64 = 1 << 12;
/// Programs' own counts of processes that left the recording are believed up to this number.
const MAX_LEFT: u32 = 10_000;
/// In a sound ring the head is where it should be. A ring whose head was moved back more often is
/// given up.
const MAX_REPAIRS: u32 = 1000;

/// The ring. While it exists, writers wait for it when it is full; when it is dropped, they
/// continue without it.
#[derive(Debug)]
pub struct RecordRing {
    memory: Arc<Memory>,
    /// What writers trust: nobody else can write there.
    reader: Arc<Memory>,
    /// Keep the names of both in `/proc/PID/fd` alive.
    file: File,
    reader_file: File,
    /// Since when the slot at the tail is seen to be claimed.
    waiting: Option<Instant>,
    /// Whether the delay is not the writer's fault.
    is_excused: bool,
    /// Total waiting time for claimed slots before it, without free waiting time.
    waited: Duration,
    /// The part of the next wait that does not count.
    free_wait: Duration,
    has_abandoned: bool,
    repairs: u32,
    /// Indexes of slots that are not used again.
    abandoned: HashSet<u64>,
    activity: Arc<ReaderActivity>,
    heartbeat: Option<JoinHandle<()>>,
}

impl RecordRing {
    /// Makes an empty ring.
    ///
    /// # Errors
    /// When the kernel refuses the memory or the thread.
    pub fn new() -> io::Result<Self> {
        // A program that shortened it would crash every process that maps it.
        let length = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        let (file, memory) = shared(c"fragscope-ring", RING_BYTES, RING_MAGIC, length)?;
        let seals = length | NOBODY_ELSE_WRITES;
        let (reader_file, reader) = shared(c"fragscope-reader", READER_BYTES, READER_MAGIC, seals)?;
        let activity = Arc::new(ReaderActivity::new());
        let heartbeat = {
            let [ring, page] = [&memory, &reader].map(Arc::clone);
            let activity = Arc::clone(&activity);
            crate::start_thread("heartbeat", move || {
                send_heartbeats(&ring, page.reader_page(), &activity)
            })?
        };
        Ok(Self {
            memory,
            reader,
            file,
            reader_file,
            waiting: None,
            is_excused: false,
            waited: Duration::ZERO,
            free_wait: MAX_FREE_WAIT,
            has_abandoned: false,
            repairs: 0,
            abandoned: HashSet::new(),
            activity,
            heartbeat: Some(heartbeat),
        })
    }

    /// Where the ring and the reader's page are, for the recorder's environment, and how the reader
    /// is identified. A path leads to fragscope's descriptor while fragscope lives, and later to
    /// whatever reuses its pid, so each file's own numbers are included.
    ///
    /// # Errors
    /// When the kernel does not return the numbers.
    pub fn place(&self) -> io::Result<String> {
        let place = |file: &File| -> io::Result<String> {
            let (pid, fd) = (std::process::id(), file.as_raw_fd());
            let file = file.metadata()?;
            Ok(format!("/proc/{pid}/fd/{fd} {} {}", file.dev(), file.ino()))
        };
        let filters = host::seccomp_filters().and_then(|filters| u32::try_from(filters).ok());
        Ok(format!(
            "{} {} {}",
            place(&self.file)?,
            place(&self.reader_file)?,
            filters.unwrap_or(0)
        ))
    }

    /// The inode of its file, which identifies it among the mappings of a process.
    ///
    /// # Errors
    /// When the kernel does not return it.
    pub fn file_number(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// A handle for marking moments in it.
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

    /// Makes this process announce its end and wait for the answer.
    pub fn await_ending(&self, process: u32) {
        let awaited = &self.reader.reader_page().awaited;
        awaited[ending_at(process)].store(process, Ordering::Release);
    }

    /// Makes a process that [ends](Self::await_ending), announced with the number `asked`, wait
    /// until it is [released](Self::let_go).
    pub fn hold(&self, process: u32, asked: u32) {
        self.answer(process, answer(process, asked, true));
    }

    /// An ending process, identified by the number that it gave, need not wait, or no longer.
    pub fn let_go(&self, process: u32, asked: u32) {
        self.answer(process, answer(process, asked, false));
    }

    fn answer(&self, process: u32, answer: u32) {
        let answers = &self.reader.reader_page().answers;
        answers[ending_at(process)].store(answer, Ordering::Release);
    }

    /// Whether this thread of a process has written one of the events that were claimed and not yet
    /// taken; `None` if there are more than `most` of them.
    pub fn writes_on(&self, process: u32, thread: u32, most: u64) -> Option<bool> {
        let (from, to) = (self.tail(), self.head());
        let is_of = |number| match self.memory.turn(number).state() {
            State::Claimed(writer) => writer == thread,
            State::Whole => {
                let event = read(self.memory.slot(number));
                (event.process, event.thread) == (process, thread)
            }
            State::Free | State::Abandoned => false,
        };
        (to.saturating_sub(from) <= most).then(|| (from..to).any(is_of))
    }

    /// The number of the next event to be written: all earlier ones were claimed before now.
    pub fn head(&self) -> u64 {
        self.marker().head()
    }

    /// The number of the next event to be taken.
    pub fn tail(&self) -> u64 {
        // Only the reader moves it.
        self.activity.tail.load(Ordering::Relaxed)
    }

    /// Whether a writer gave the reader up for dead, or the ring was closed.
    pub fn is_closed(&self) -> bool {
        is_closed(&self.memory, self.reader.reader_page())
    }

    /// Whether claimed slots were waited for up to the limit, so that no more waits follow; the
    /// ring is then closed.
    pub fn has_waited_too_long(&self) -> bool {
        self.waited >= LONGEST_WAIT
    }

    /// Whether it was damaged too often to be repaired again; the ring is then closed.
    pub fn is_too_damaged(&self) -> bool {
        let said = self.memory.header().given_up.load(Ordering::Relaxed);
        self.repairs >= MAX_REPAIRS
            || self.abandoned.len() > MAX_ABANDONED
            // A value that no writer sets counts as damage too.
            || !matches!(said, 0 | READER_MISSED)
    }

    /// How many processes report that they continue without the recording for this reason, up to
    /// the credible maximum.
    pub fn left(&self, why: Leaves) -> u32 {
        let said = self.memory.header().left[why as usize].load(Ordering::Relaxed);
        said.min(MAX_LEFT)
    }

    /// Whether the reader has not come for events for 10 s, or had not when a writer gave it up and
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
        // Checked after the slot was read: an event written there after a mark was either not seen,
        // or is held back.
        fence(Ordering::SeqCst);
        if tail >= self.activity.held_from.load(Ordering::SeqCst) {
            return Next::Held;
        }
        self.activity.visits.fetch_add(1, Ordering::Relaxed);
        if self.abandoned.contains(&(tail % SLOTS)) {
            // A writer that came late may have written here once more.
            self.set(Turn::ABANDONED);
            self.next();
            return Next::Nothing;
        }
        if turn == Turn::whole(tail) {
            let event = read(self.memory.slot(tail));
            self.set(Turn::free(tail + SLOTS));
            self.next();
            if tail.is_multiple_of(HEAD_CHECK_INTERVAL) {
                self.repair_head_ahead();
            }
            self.has_abandoned = false;
            self.free_wait = (self.free_wait + FREE_WAIT_PER_EVENT).min(MAX_FREE_WAIT);
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

    /// Gives up the next event, whose writer is gone or does not finish. Its slot is not used
    /// again.
    pub fn abandon(&mut self) {
        // It may have been completed meanwhile; it is lost like the others that are given up.
        self.set(Turn::ABANDONED);
        self.abandoned.insert(self.tail() % SLOTS);
        self.has_abandoned = true;
        self.next();
        if self.abandoned.len() > MAX_ABANDONED {
            self.close();
        }
    }

    /// Does not count the wait for the next event: its writer's process is stopped for a sample.
    pub fn excuse_wait(&mut self) {
        self.is_excused = true;
    }

    /// While nothing is claimed at the tail, the head must be there. Otherwise writers search in
    /// vain.
    fn repair_head(&mut self) {
        let (head, tail) = (&self.memory.header().head, self.tail());
        let said = head.load(Ordering::Acquire);
        if said != tail && self.memory.turn(tail) == Turn::free(tail) {
            self.repair(said);
        }
    }

    /// While events arrive, the head must be between the tail and its lap. Beyond that, writers
    /// search in vain.
    fn repair_head_ahead(&mut self) {
        let (head, tail) = (&self.memory.header().head, self.tail());
        let said = head.load(Ordering::Acquire);
        if said < tail || said > tail + SLOTS + MAX_HEAD_LAG {
            self.repair(said);
        }
    }

    /// Moves the head to the tail if it still has this value.
    fn repair(&mut self, said: u64) {
        let head = &self.memory.header().head;
        // A writer may have moved it on from there meanwhile.
        let _ = head.compare_exchange(said, self.tail(), Ordering::Release, Ordering::Relaxed);
        self.repairs += 1;
        if self.repairs >= MAX_REPAIRS {
            self.close();
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

    /// Each slot's wait is measured from its own beginning; the total counts.
    fn end_wait(&mut self) {
        let Some(since) = self.waiting.take() else {
            return;
        };
        if std::mem::take(&mut self.is_excused) {
            return;
        }
        // At most as long as the reader would wait: the reader may have been suspended itself.
        let waited = since.elapsed().min(SUSPENDED_AFTER);
        let free_wait = std::mem::take(&mut self.free_wait);
        self.waited += waited.saturating_sub(free_wait);
        self.free_wait = free_wait.saturating_sub(waited);
        if self.has_waited_too_long() {
            self.close();
        }
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

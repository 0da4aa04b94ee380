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

/// A ring of which more slots than these were abandoned is of no use any more.
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
/// What a program writes of how many left the recording is believed up to here.
const MAX_LEFT: u32 = 10_000;
/// In a sound ring the head is where it should be. A ring whose head was moved back more often is
/// given up.
const MAX_REPAIRS: u32 = 1000;

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
        // A program that makes it shorter would end everybody who maps it.
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

    /// Where it and the reader's page are, for the recorder's environment, and what the reader is behind. A path leads to fragscope's
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
        let filters = host::seccomp_filters().and_then(|filters| u32::try_from(filters).ok());
        Ok(format!(
            "{} {} {}",
            place(&self.file)?,
            place(&self.reader_file)?,
            filters.unwrap_or(0)
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

    /// This process is to say when it ends, and to wait for the answer.
    pub fn await_ending(&self, process: u32) {
        let awaited = &self.reader.reader_page().awaited;
        awaited[ending_at(process)].store(process, Ordering::Release);
    }

    /// A process that [ends](Self::await_ending), as it said by the number `asked`, is to wait until it is
    /// [let go](Self::let_go).
    pub fn hold(&self, process: u32, asked: u32) {
        self.answer(process, answer(process, asked, true));
    }

    /// A process that ends, by the number that it gave, need not wait, or not any more.
    pub fn let_go(&self, process: u32, asked: u32) {
        self.answer(process, answer(process, asked, false));
    }

    fn answer(&self, process: u32, answer: u32) {
        let answers = &self.reader.reader_page().answers;
        answers[ending_at(process)].store(answer, Ordering::Release);
    }

    /// Whether this thread of a process has written one of the events that were claimed and not taken; `None` where there
    /// are more of them than `most`.
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
            // What no writer says counts as well.
            || !matches!(said, 0 | READER_MISSED)
    }

    /// How many processes say that they go on without the recording for this reason: as many as may be believed.
    pub fn left(&self, why: Leaves) -> u32 {
        let said = self.memory.header().left[why as usize].load(Ordering::Relaxed);
        said.min(MAX_LEFT)
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

    /// Gives up the next event, whose writer is gone or does not come. Its slot is not used again.
    pub fn abandon(&mut self) {
        // A whole one may have become of it meanwhile; it is lost like the others that are given up.
        self.set(Turn::ABANDONED);
        self.abandoned.insert(self.tail() % SLOTS);
        self.has_abandoned = true;
        self.next();
        if self.abandoned.len() > MAX_ABANDONED {
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
            self.repair(said);
        }
    }

    /// While events come, the head is between the tail and its lap; beyond that, writers seek in vain.
    fn repair_head_ahead(&mut self) {
        let (head, tail) = (&self.memory.header().head, self.tail());
        let said = head.load(Ordering::Acquire);
        if said < tail || said > tail + SLOTS + MAX_HEAD_LAG {
            self.repair(said);
        }
    }

    /// Puts the head to the tail, where it said this.
    fn repair(&mut self, said: u64) {
        let head = &self.memory.header().head;
        // A writer may have come meanwhile, who moved it on from there.
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

//! The reader's side of the ring through which a preloaded recorder hands over its events
//! (`profiler_common::ring` describes the bytes).
//!
//! The ring is memory of fragscope's own, shared with the programs that it started under the
//! recorder. What they write is taken with a grain of salt: a slot is data, never an index.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use profiler_common::ring::{Header, RING_MAGIC, SLOTS_AT, Slot};

/// How many events wait for the reader at the most: it looks away for as long as a walk takes.
const SLOTS: u64 = 1 << 20;
/// How often writers see that the reader lives.
const BEAT: Duration = Duration::from_millis(50);
/// A slot that was reserved and not filled for so long was reserved by a process that died.
const ABANDONED: Duration = Duration::from_secs(2);

/// One event as the recorder told it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Told {
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
    /// One of `profiler_common::ring::kind`.
    pub kind: u64,
    /// The alignment as a power of two.
    pub align: u8,
}

/// What the next slot holds.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// An event.
    Told(Told),
    /// An event of a process that died before it could tell it.
    Abandoned,
    /// Nothing yet.
    Empty,
}

/// The ring. While it lives, writers wait for it when it is full; when it is dropped, they go on
/// without it.
#[derive(Debug)]
pub struct RecordRing {
    memory: Arc<Memory>,
    /// Keeps the memory's name in `/proc/PID/fd` alive.
    file: File,
    tail: u64,
    /// Since when the slot at the tail has been reserved and not filled.
    waiting: Option<Instant>,
    over: Arc<AtomicBool>,
    beating: Option<JoinHandle<()>>,
}

impl RecordRing {
    /// Makes an empty ring.
    ///
    /// # Errors
    /// When the kernel refuses the memory or the thread.
    pub fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(c"fragscope-ring", MFdFlags::MFD_CLOEXEC)?);
        let bytes = SLOTS_AT + SLOTS as usize * size_of::<Slot>();
        file.set_len(bytes as u64)?;
        // The first two words of the header, which never change.
        file.write_all_at(&RING_MAGIC.to_ne_bytes(), 0)?;
        file.write_all_at(&SLOTS.to_ne_bytes(), 8)?;
        let memory = Arc::new(Memory::of(&file, bytes)?);
        let over = Arc::new(AtomicBool::new(false));
        let beating = {
            let (memory, over) = (Arc::clone(&memory), Arc::clone(&over));
            std::thread::Builder::new()
                .name("heartbeat".into())
                .spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        memory.header().heartbeat.fetch_add(1, Ordering::Relaxed);
                        std::thread::park_timeout(BEAT);
                    }
                })?
        };
        Ok(Self {
            memory,
            file,
            tail: 0,
            waiting: None,
            over,
            beating: Some(beating),
        })
    }

    /// The path by which a program started from here opens it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// The number of the next event to be written: all before it were told before now.
    pub fn head(&self) -> u64 {
        self.memory.header().head.load(Ordering::SeqCst)
    }

    /// The number of the next event to be taken.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Whether a writer gave the reader up for dead, or the ring was closed.
    pub fn is_closed(&self) -> bool {
        self.memory.header().closed.load(Ordering::Relaxed) != 0
    }

    /// From now on nothing more is told.
    pub fn close(&self) {
        self.memory.header().closed.store(1, Ordering::SeqCst);
    }

    /// Takes the next event.
    pub fn take(&mut self) -> Next {
        let slot = self.memory.slot(self.tail);
        if slot.turn.load(Ordering::Acquire) == self.tail + 1 {
            let thread = slot.thread.load(Ordering::Relaxed);
            let kind = slot.kind.load(Ordering::Relaxed);
            let told = Told {
                time_ns: slot.time_ns.load(Ordering::Relaxed),
                addr: slot.addr.load(Ordering::Relaxed),
                size: slot.size.load(Ordering::Relaxed),
                thread: (thread >> 32) as u32,
                process: thread as u32,
                kind: kind & 0xff,
                align: (kind >> 8) as u8,
            };
            self.next();
            return Next::Told(told);
        }
        if self.head() <= self.tail {
            return Next::Empty;
        }
        let since = *self.waiting.get_or_insert_with(Instant::now);
        if since.elapsed() < ABANDONED {
            return Next::Empty;
        }
        self.next();
        Next::Abandoned
    }

    fn next(&mut self) {
        self.waiting = None;
        self.tail += 1;
        self.memory
            .header()
            .tail
            .store(self.tail, Ordering::Release);
    }
}

impl Drop for RecordRing {
    fn drop(&mut self) {
        self.close();
        self.over.store(true, Ordering::Relaxed);
        if let Some(beating) = self.beating.take() {
            beating.thread().unpark();
            // It does nothing that panics.
            let _ = beating.join();
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

    fn slot(&self, number: u64) -> &Slot {
        let index = (number & (SLOTS - 1)) as usize;
        // SAFETY: the mapping holds all slots behind the header, and the index is below their
        // number.
        let slot = unsafe { self.at.byte_add(SLOTS_AT + index * size_of::<Slot>()) };
        // SAFETY: as above; a slot has only atomics.
        unsafe { slot.cast().as_ref() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, of which no reference is left.
        let unmapped = unsafe { munmap(self.at, self.bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

//! Reading the target's memory: a live process, a recorded image, later a core file.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use zerocopy::{FromBytes, IntoBytes};

use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::residency::{PageState, ResidencyMap};

mod read_ahead;

pub use read_ahead::{ReadAhead, WINDOW_BYTES};

/// Why bytes of the target could not be read.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// Nothing (readable) is mapped there.
    #[error("nothing readable is mapped at {0}")]
    Unmapped(RemoteAddr),
    /// The page is swapped out. It is not read, because reading would swap it in.
    #[error("the page of {0} is swapped out and is left there")]
    Swapped(RemoteAddr),
    /// The page is not in the target's memory and reading would bring it there, or it belongs to a
    /// file whose server may not answer. It is not read.
    #[error(
        "the page of {0} is not in the target's memory, or of a file whose file system may not answer"
    )]
    NotRead(RemoteAddr),
    /// It could not be read, for no reason that says that nothing is there.
    #[error("the page of {0} could not be read")]
    Failed(RemoteAddr),
    /// Reading it waits for somebody who does not answer, or so many such reads wait that no more are made.
    #[error("reading the page of {0} waits for a file system that does not answer")]
    NotAnswered(RemoteAddr),
    /// The time for the walk is over, and nothing more is read.
    #[error("the time for the walk was over")]
    OutOfTime,
    /// The target has exited or executed another program.
    #[error("the target is gone")]
    Gone,
    /// The kernel refused the read.
    #[error("the kernel does not permit reading the target's memory")]
    NotPermitted,
}

/// Fills all of `buf` from `addr` on with calls of `read`. `read` returns how many of the requested
/// bytes it could read, or none if it should be called again.
///
/// # Errors
/// The error of `read`, or that there is no memory after the last address.
pub fn fill(
    addr: RemoteAddr,
    buf: &mut [u8],
    mut read: impl FnMut(RemoteAddr, &mut [u8]) -> Result<usize, ReadError>,
) -> Result<(), ReadError> {
    let mut done = 0;
    while done < buf.len() {
        let at = addr.checked_add(done as u64);
        let at = at.ok_or(ReadError::Unmapped(addr))?;
        done += read(at, &mut buf[done..])?;
    }
    Ok(())
}

/// Memory of a target, read by address.
pub trait TargetMemory {
    /// Fills all of `buf` from `addr`, or returns the address at which reading failed; then the
    /// contents of `buf` are unspecified.
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError>;

    /// As [`Self::read`], for memory to which a live object of the target refers now. A source that
    /// knows the pages of an earlier moment looks up pages that are new.
    fn read_current(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read(addr, buf)
    }

    /// As [`Self::read`], of pages that no other process maps and that come from no file. A source
    /// may have a faster way to those.
    fn read_unshared(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read(addr, buf)
    }

    /// Fills several small buffers at once: `out[i]` gets the `N` bytes at `addrs[i]`, or `None` if
    /// they are unreadable.
    fn read_scattered<const N: usize>(&self, addrs: &[RemoteAddr], out: &mut Vec<Option<[u8; N]>>)
    where
        Self: Sized,
    {
        out.clear();
        out.extend(addrs.iter().map(|&addr| {
            let mut buf = [0; N];
            self.read(addr, &mut buf).is_ok().then_some(buf)
        }));
    }

    /// As [`Self::read_scattered`], of pages that no other process maps and that come from no file. A
    /// source may answer many with one system call.
    fn read_unshared_scattered<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) where
        Self: Sized,
    {
        self.read_scattered(addrs, out);
    }

    /// Reads ascending addresses in bulk: fills `buffer` with `window`, or with another window that
    /// encloses `wanted`, and returns which. A memory that reads ahead on other cores returns what
    /// it has.
    ///
    /// # Errors
    /// When a byte of `window` could not be read; then the content of `buffer` is unspecified.
    fn read_window(
        &self,
        window: AddrRange,
        wanted: AddrRange,
        buffer: &mut Vec<u8>,
    ) -> Result<AddrRange, ReadError> {
        debug_assert!(window.encloses(&wanted));
        buffer.resize(window.len() as usize, 0);
        self.read(window.start(), buffer).map(|()| window)
    }

    /// As [`Self::read`], but if the target is stopped repeatedly for reading, it does not wait for
    /// the next stop: the target may change the bytes while they are read.
    fn read_meanwhile(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read(addr, buf)
    }

    /// As [`Self::read_scattered`], but also without waiting for a stop.
    fn read_scattered_meanwhile<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) where
        Self: Sized,
    {
        self.read_scattered(addrs, out);
    }

    /// How often the target has run since this was created. What was read at another count is from
    /// another moment and may contradict what is read now.
    fn epoch(&self) -> u64 {
        0
    }

    /// Whether each read looks up itself which pages are present: like [`ResidentMemory`], but at
    /// the moment of the read.
    fn looks_up_pages(&self) -> bool {
        false
    }

    /// Records that `bytes` bytes read now contradict what was read at an earlier
    /// [`epoch`](Self::epoch).
    fn note_changed(&self, _bytes: u64) {}

    /// Whether the time limit for reading is reached: from then on each read fails with
    /// [`ReadError::OutOfTime`]. Searches then end with what they have found.
    fn is_out_of_time(&self) -> bool {
        false
    }

    /// Reads one plain value.
    fn read_value<T: FromBytes + IntoBytes>(&self, addr: RemoteAddr) -> Result<T, ReadError>
    where
        Self: Sized,
    {
        let mut value = T::new_zeroed();
        self.read(addr, value.as_mut_bytes())?;
        Ok(value)
    }
}

impl<M: TargetMemory> TargetMemory for &M {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read(addr, buf)
    }

    fn read_current(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_current(addr, buf)
    }

    fn read_unshared(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_unshared(addr, buf)
    }

    fn read_scattered<const N: usize>(&self, addrs: &[RemoteAddr], out: &mut Vec<Option<[u8; N]>>) {
        (**self).read_scattered(addrs, out);
    }

    fn read_unshared_scattered<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) {
        (**self).read_unshared_scattered(addrs, out);
    }

    fn read_window(
        &self,
        window: AddrRange,
        wanted: AddrRange,
        buffer: &mut Vec<u8>,
    ) -> Result<AddrRange, ReadError> {
        (**self).read_window(window, wanted, buffer)
    }

    fn read_meanwhile(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_meanwhile(addr, buf)
    }

    fn read_scattered_meanwhile<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) {
        (**self).read_scattered_meanwhile(addrs, out);
    }

    fn epoch(&self) -> u64 {
        (**self).epoch()
    }

    fn looks_up_pages(&self) -> bool {
        (**self).looks_up_pages()
    }

    fn note_changed(&self, bytes: u64) {
        (**self).note_changed(bytes);
    }

    fn is_out_of_time(&self) -> bool {
        (**self).is_out_of_time()
    }
}

/// Reads only resident memory, so that reading changes nothing in the target. Present pages come
/// from the inner memory; pages that were never touched and zero pages read as zeros; swapped pages
/// and holes are errors.
///
/// Untouched pages of mapped files also read as zeros. Walkers that search a library's data for
/// pointers into heaps miss nothing by that: a page that neither a program nor its loader has
/// written contains none. Callers that need a file's contents (names of types) read the file.
pub struct ResidentMemory<'r, M> {
    inner: M,
    residency: &'r ResidencyMap,
}

impl<'r, M: TargetMemory> ResidentMemory<'r, M> {
    /// A view of `inner` through `residency`, both from the same moment.
    pub fn new(inner: M, residency: &'r ResidencyMap) -> Self {
        Self { inner, residency }
    }
}

impl<M: TargetMemory> TargetMemory for ResidentMemory<'_, M> {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        if self.inner.looks_up_pages() {
            return self.inner.read(addr, buf);
        }
        // A range that reads as zeros can have any length.
        if self.inner.is_out_of_time() {
            return Err(ReadError::OutOfTime);
        }
        let range = AddrRange::with_len(addr, buf.len() as u64).ok_or(ReadError::Unmapped(addr))?;
        let mut done = 0usize;
        while done < buf.len() {
            let at = RemoteAddr::new(range.start().get() + done as u64);
            let run = self.residency.run_at(at).ok_or(ReadError::Unmapped(at))?;
            let len = (run.range.end().min(range.end()).get() - at.get()) as usize;
            let part = &mut buf[done..done + len];
            if run.state.is_swapped() {
                return Err(ReadError::Swapped(at));
            } else if run.state.is_present() && !run.state.is_zero() {
                if is_unshared(run.state) {
                    self.inner.read_unshared(at, part)?;
                } else {
                    self.inner.read(at, part)?;
                }
            } else {
                part.fill(0);
            }
            done += len;
        }
        Ok(())
    }

    fn read_scattered<const N: usize>(&self, addrs: &[RemoteAddr], out: &mut Vec<Option<[u8; N]>>) {
        if self.inner.looks_up_pages() {
            return self.inner.read_scattered(addrs, out);
        }
        out.clear();
        let mut unshared = Vec::new();
        let mut places = Vec::new();
        for (place, &addr) in addrs.iter().enumerate() {
            let is_unshared = AddrRange::with_len(addr, N as u64).is_some_and(|whole| {
                let run = self.residency.run_at(addr);
                run.is_some_and(|run| run.range.encloses(&whole) && is_unshared(run.state))
            });
            if is_unshared {
                unshared.push(addr);
                places.push(place);
                out.push(None);
            } else {
                let mut buf = [0; N];
                out.push(self.read(addr, &mut buf).is_ok().then_some(buf));
            }
        }
        let mut found = Vec::new();
        self.inner.read_unshared_scattered(&unshared, &mut found);
        for (place, bytes) in places.into_iter().zip(found) {
            out[place] = bytes;
        }
    }

    fn read_meanwhile(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        match self.inner.looks_up_pages() {
            true => self.inner.read_meanwhile(addr, buf),
            false => self.read(addr, buf),
        }
    }

    fn read_scattered_meanwhile<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) {
        match self.inner.looks_up_pages() {
            true => self.inner.read_scattered_meanwhile(addrs, out),
            false => self.read_scattered(addrs, out),
        }
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    fn looks_up_pages(&self) -> bool {
        self.inner.looks_up_pages()
    }

    fn note_changed(&self, bytes: u64) {
        self.inner.note_changed(bytes);
    }

    fn is_out_of_time(&self) -> bool {
        self.inner.is_out_of_time()
    }
}

/// Whether a page is in memory, and there for this target alone.
fn is_unshared(state: PageState) -> bool {
    state.is_present()
        && !(state.is_zero() || state.is_shared() || state.is_file() || state.is_uncounted())
}

/// Pages kept by [`PageCache`].
const CACHED_PAGES: u64 = 1024;
/// How many answers a [`PageCache`] gives from its pages before it checks the time limit again:
/// following links in a circle needs no other reads.
const ANSWERS_BETWEEN_LOOKS: u32 = 1024;

/// Keeps the pages last read (4 MiB of them), for lists whose links return to the same pages. The
/// pages are dropped when the target has run.
pub struct PageCache<M> {
    memory: M,
    epoch: Cell<u64>,
    pages: RefCell<Vec<(u64, Vec<u8>)>>,
    answers: Cell<u32>,
}

impl<M: TargetMemory> PageCache<M> {
    /// A cache over `memory`.
    pub fn new(memory: M) -> Self {
        Self {
            epoch: Cell::new(memory.epoch()),
            memory,
            pages: RefCell::new(vec![(u64::MAX, Vec::new()); CACHED_PAGES as usize]),
            answers: Cell::default(),
        }
    }

    /// Whether the time is over, by a look now and then.
    fn has_run_out(&self) -> bool {
        let answers = self.answers.get().wrapping_add(1);
        self.answers.set(answers);
        answers.is_multiple_of(ANSWERS_BETWEEN_LOOKS) && self.memory.is_out_of_time()
    }
}

impl<M: TargetMemory> TargetMemory for PageCache<M> {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let offset = (addr.get() % PAGE_SIZE) as usize;
        if offset + buf.len() > PAGE_SIZE as usize {
            return self.memory.read(addr, buf);
        }
        let mut pages = self.pages.borrow_mut();
        let epoch = self.memory.epoch();
        if self.epoch.replace(epoch) != epoch {
            for (page, _) in pages.iter_mut() {
                *page = u64::MAX;
            }
        }
        let (page, bytes) = &mut pages[(addr.page() % CACHED_PAGES) as usize];
        if *page != addr.page() {
            *page = u64::MAX;
            bytes.resize(PAGE_SIZE as usize, 0);
            if self.memory.read(addr.align_down(PAGE_SIZE), bytes).is_err() {
                // Part of the page may still be readable (an image's edge).
                return self.memory.read(addr, buf);
            }
            *page = addr.page();
        } else if self.has_run_out() {
            return Err(ReadError::OutOfTime);
        }
        buf.copy_from_slice(&bytes[offset..offset + buf.len()]);
        Ok(())
    }

    fn read_scattered<const N: usize>(&self, addrs: &[RemoteAddr], out: &mut Vec<Option<[u8; N]>>) {
        self.memory.read_scattered(addrs, out);
    }

    fn epoch(&self) -> u64 {
        self.memory.epoch()
    }

    fn looks_up_pages(&self) -> bool {
        self.memory.looks_up_pages()
    }

    fn note_changed(&self, bytes: u64) {
        self.memory.note_changed(bytes);
    }

    fn is_out_of_time(&self) -> bool {
        self.memory.is_out_of_time()
    }
}

/// Memory held in a map of pieces: golden images and tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryImage {
    pieces: BTreeMap<RemoteAddr, Vec<u8>>,
}

impl MemoryImage {
    /// Places `bytes` at `addr`. Pieces must not overlap.
    pub fn insert(&mut self, addr: RemoteAddr, bytes: Vec<u8>) {
        self.pieces.insert(addr, bytes);
    }
}

impl TargetMemory for MemoryImage {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let mut done = 0usize;
        while done < buf.len() {
            let at = addr
                .checked_add(done as u64)
                .ok_or(ReadError::Unmapped(addr))?;
            let (start, piece) = self
                .pieces
                .range(..=at)
                .next_back()
                .ok_or(ReadError::Unmapped(at))?;
            let offset = (at.get() - start.get()) as usize;
            if offset >= piece.len() {
                return Err(ReadError::Unmapped(at));
            }
            let len = (piece.len() - offset).min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&piece[offset..offset + len]);
            done += len;
        }
        Ok(())
    }
}

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
    /// The page is swapped out; reading it would bring it back, so it is not read.
    #[error("the page of {0} is swapped out and is left there")]
    Swapped(RemoteAddr),
    /// The page is not in the target's memory, where reading would put it, or of a file for which somebody answers who
    /// may not. It is not read.
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

/// Fills all of `buf` from `addr` on by calls of `read`, which gives how many bytes it could read of what is
/// asked of it; none where it is to be called again.
///
/// # Errors
/// The error of `read`, or that there is no memory behind the last address.
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
    /// Fills all of `buf` from `addr`, or says at which address reading failed; then the content
    /// of `buf` is unspecified.
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError>;

    /// As [`Self::read`], of memory to which a live object of the target refers at this moment. A source
    /// that knows the pages of an earlier moment looks for those that are new.
    fn read_current(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read(addr, buf)
    }

    /// As [`Self::read`], of pages that no other process maps and that come from no file. A source
    /// may have a faster way to those.
    fn read_unshared(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read(addr, buf)
    }

    /// Fills several small buffers at once: `out[i]` gets the `N` bytes at `addrs[i]`, or `None`
    /// where they cannot be read.
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
    /// encloses `wanted`, and says which. A memory that reads ahead on other cores answers with what
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

    /// As [`Self::read`], but where the target is stopped now and then for reading, it does not wait for that: what
    /// it gives may be changed by the target while it is read.
    fn read_meanwhile(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read(addr, buf)
    }

    /// As [`Self::read_scattered`], but it does not wait for the target to stand still, either.
    fn read_scattered_meanwhile<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) where
        Self: Sized,
    {
        self.read_scattered(addrs, out);
    }

    /// How often the target has run since this was made. What was read at another count than this is of
    /// another moment, and may contradict what is read now.
    fn epoch(&self) -> u64 {
        0
    }

    /// Whether it looks up by itself, at each read, which pages are there: as [`ResidentMemory`] reads, but of
    /// the moment of the read.
    fn looks_up_pages(&self) -> bool {
        false
    }

    /// Notes that so many bytes, as they are read now, contradict what was read at an earlier
    /// [`epoch`](Self::epoch).
    fn note_changed(&self, _bytes: u64) {}

    /// Whether the time for reading is over: from then on each read fails with [`ReadError::OutOfTime`]. Who
    /// looks for something ends with what was found.
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

/// Reads only what is resident, so that reading changes nothing in the target: present pages come
/// from the inner memory, never-touched and zero pages are answered with zeros, swapped pages and
/// holes are errors.
///
/// Never-touched pages of mapped files are answered with zeros too. Walkers that search a library's
/// data for pointers into heaps miss nothing by it: a page that a program or its loader has not
/// written holds none. Callers that need what stands in the file (names of types) read the file.
pub struct ResidentMemory<'r, M> {
    inner: M,
    residency: &'r ResidencyMap,
}

impl<'r, M: TargetMemory> ResidentMemory<'r, M> {
    /// A view of `inner` through `residency`, which must be of the same moment.
    pub fn new(inner: M, residency: &'r ResidencyMap) -> Self {
        Self { inner, residency }
    }
}

impl<M: TargetMemory> TargetMemory for ResidentMemory<'_, M> {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        if self.inner.looks_up_pages() {
            return self.inner.read(addr, buf);
        }
        // What is answered with zeros can be of any length.
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
/// Answers of a [`PageCache`] from what it keeps between two looks at whether the time is over: links that lead in circles
/// need no other.
const ANSWERS_BETWEEN_LOOKS: u32 = 1024;

/// Keeps the pages last read (4 MiB of them), for lists whose links come back to the same pages.
/// They are forgotten when the target has run.
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
                // Part of the page may be readable all the same (an image's edge).
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

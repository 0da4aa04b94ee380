//! The memory of a live process, read through `/proc/PID/mem`, and for a stopped one partly with
//! `process_vm_readv(2)`.
//!
//! `process_vm_readv` is twice as fast. But since Linux 5.19 it makes a copy of every page that the
//! target shares with a relative since a fork, as if the target had written to it (it pins pages,
//! and `gup_must_unshare` in `mm/internal.h` requires pinned anonymous pages to be exclusive). On a
//! prefork worker one walk would undo what copy-on-write saved. So it is used only for pages that
//! belong to the target alone, while the target is stopped and cannot fork, and only if KSM has
//! merged none of its pages (a page merged by KSM may have a single user left). `/proc/PID/mem`
//! pins nothing.

mod aside;
mod in_slices;
mod read_time;

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::memory::{ReadError, TargetMemory, fill};

use self::aside::Silent;
pub use self::read_time::ReadTime;
use super::fuse;
use super::pagemap::for_pages;
use super::slices::Slices;
use super::stop::StopState;

/// The most pieces that the kernel accepts in one call (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;
/// Bytes brought back from swap at once.
const BRING_BACK_BYTES: usize = 1 << 20;

/// System calls that read a target's memory, and the bytes they returned.
#[derive(Debug, Default)]
struct Counted {
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    fn call(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Which pages of a file may be read.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Answers {
    /// Those that are in memory: the kernel reads others for itself.
    Always,
    /// Only those that are the process's own copies: another host may revoke the others at any
    /// time, and reading them then waits for that host.
    UnlessCopied,
    /// None: a process of any user's can take back all of them, also copies (by cutting off the file).
    Never,
}

/// The mappings of files and of shared memory, ascending, as of the last look.
type MappedFiles = Vec<(AddrRange, Answers)>;

/// The files mapped in this range; for an existing process they are always known.
fn files_within(
    known: Option<&[(AddrRange, Answers)]>,
    range: AddrRange,
) -> Result<impl Iterator<Item = &(AddrRange, Answers)> + Clone, ReadError> {
    let files = known.ok_or(ReadError::Gone)?;
    let first = files.partition_point(|(file, _)| file.end() <= range.start());
    let touched = files[first..].iter();
    Ok(touched.take_while(move |(file, _)| file.start() < range.end()))
}

/// Memory of a live process, as far as reading it changes nothing and cannot block. In a running
/// process, each page is looked up before it is read, and only present pages are read. While the
/// process is stopped, the caller knows which pages are present; for speed, wrap this in a
/// [`profiler_core::memory::ResidentMemory`] in either case.
///
/// Reading another page through `/proc/PID/mem` would make the kernel fetch it: from swap, or from
/// a file system that may never answer, which no signal interrupts (`filemap_fault` in
/// `mm/filemap.c` may not give up the lock of the address space here). A running process may map
/// another file at an address between the look and the read. So then a helper process reads its
/// memory, and is abandoned if it does not come back.
///
/// It belongs to the address space that the target had when it was opened: after an exit or an
/// exec, or when another process has the pid, every read fails with [`ReadError::Gone`].
#[derive(Clone, Debug)]
pub struct LiveMemory {
    mem: Arc<File>,
    /// None if the kernel has none: then nothing is read of a running process.
    pagemap: Option<Arc<File>>,
    files: Arc<RwLock<Option<MappedFiles>>>,
    counted: Arc<Counted>,
    /// The process whose unshared pages are read with `process_vm_readv`, and its stop.
    stopped: Option<(Pid, StopState)>,
    /// The process, if it is stopped repeatedly while it is read.
    slices: Option<(Pid, Arc<Slices>)>,
    /// When nothing more is read.
    time: Option<ReadTime>,
    /// When reading it while it ran was not answered.
    silent: Silent,
}

impl LiveMemory {
    pub(super) fn new(mem: File, pagemap: Option<File>) -> Self {
        Self {
            mem: Arc::new(mem),
            pagemap: pagemap.map(Arc::new),
            files: Arc::default(),
            counted: Arc::default(),
            stopped: None,
            slices: None,
            time: None,
            silent: Silent::default(),
        }
    }

    /// The same, readable only within a time limit.
    pub fn in_time(self, time: &ReadTime) -> Self {
        Self {
            time: Some(time.clone()),
            ..self
        }
    }

    /// The number of system calls that have read it so far, and of the bytes they returned.
    pub fn counted(&self) -> (u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.counted.calls), of(&self.counted.bytes))
    }

    /// The same for a process that is stopped as long as this is used, and of which KSM has merged
    /// no pages.
    pub(super) fn while_stopped(&self, pid: i32, stop: StopState) -> Self {
        Self {
            stopped: Some((Pid::from_raw(pid), stop)),
            ..self.clone()
        }
    }

    /// The same for a process that is read in slices.
    pub(super) fn in_slices(&self, pid: i32, slices: Arc<Slices>) -> Self {
        Self {
            stopped: None,
            slices: Some((Pid::from_raw(pid), slices)),
            ..self.clone()
        }
    }

    /// Sets the files that the process maps, for this and everything derived from it.
    pub(super) fn files_are(&self, files: MappedFiles) {
        let mut known = self.files.write().unwrap_or_else(PoisonError::into_inner);
        *known = Some(files);
    }

    /// Whether the mapped files were set.
    pub(super) fn knows_files(&self) -> bool {
        let known = self.files.read().unwrap_or_else(PoisonError::into_inner);
        known.is_some()
    }

    /// Whether these bytes may be read without putting a page into memory or waiting for a file system.
    fn check(&self, addr: RemoteAddr, len: usize) -> Result<(), ReadError> {
        let range = AddrRange::with_len(addr, len as u64).ok_or(ReadError::Unmapped(addr))?;
        let known = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let touched = files_within(known.as_deref(), range)?;
        let mut is_plain = true;
        for (_, answers) in touched.clone() {
            match answers {
                Answers::Always => {}
                Answers::UnlessCopied => is_plain = false,
                Answers::Never => return Err(ReadError::NotRead(addr)),
            }
        }
        if is_plain && self.while_it_stands().is_some() {
            return Ok(());
        }
        let of_file = |page: RemoteAddr| touched.clone().find(|(file, _)| file.contains(page));
        let pagemap = self.pagemap.as_deref().ok_or(ReadError::NotRead(addr))?;
        for_pages(pagemap, range, |page, entry| {
            let is_readable = match of_file(page) {
                Some((_, Answers::Always)) => true,
                // A file mapped since the last look was not examined.
                _ => !entry.is_file(),
            };
            match entry {
                entry if entry.is_present() && is_readable => Ok(()),
                entry if entry.is_swapped() => Err(ReadError::Swapped(page.max(addr))),
                _ => Err(ReadError::NotRead(page.max(addr))),
            }
        })
    }

    /// Reads swapped pages, which swaps them in.
    pub(super) fn bring_back(&self, range: AddrRange) {
        let is_served = |files: &MappedFiles| {
            let mut all = files.iter();
            all.any(|(file, answers)| {
                *answers != Answers::Always && file.intersect(&range).is_some()
            })
        };
        let known = self.files.read().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(is_served) {
            return;
        }
        drop(known);
        let mut buffer = vec![0; BRING_BACK_BYTES];
        for at in (0..range.len()).step_by(BRING_BACK_BYTES) {
            if self.is_out_of_time() {
                return;
            }
            let len = (range.len() - at).min(BRING_BACK_BYTES as u64) as usize;
            if let Some(addr) = range.start().checked_add(at) {
                let part = &mut buffer[..len];
                let _ = match self.may_wait() {
                    true => self.read_aside(addr, part),
                    false => self.read_unchecked(addr, part),
                };
            }
        }
    }

    fn read_unchecked(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        fill(addr, buf, |at, rest| {
            let read = self.mem.read_at(rest, at.get());
            self.counted.call(*read.as_ref().unwrap_or(&0));
            let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
            what_came(at, read.map_err(errno))
        })
    }

    /// The process, as long as it is stopped.
    fn while_it_stands(&self) -> Option<Pid> {
        let stopped = self.stopped.as_ref();
        stopped
            .filter(|(_, stop)| !stop.is_over())
            .map(|(pid, _)| *pid)
    }

    /// Reads pieces of the process `pid` into `buffer`, one after the other, and gives how many bytes
    /// came until one could not be read.
    fn read_pieces(
        &self,
        pid: Pid,
        buffer: &mut [u8],
        pieces: &[RemoteIoVec],
    ) -> Result<usize, Errno> {
        let read = process_vm_readv(pid, &mut [IoSliceMut::new(buffer)], pieces);
        self.counted.call(read.unwrap_or(0));
        read
    }
}

impl LiveMemory {
    /// Fails when the time is over.
    fn check_time(&self) -> Result<(), ReadError> {
        match self.is_out_of_time() {
            true => Err(ReadError::OutOfTime),
            false => Ok(()),
        }
    }

    fn read_running(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.check(addr, buf.len())?;
        match self.may_wait() {
            true => self.read_aside(addr, buf),
            false => self.read_unchecked(addr, buf),
        }
    }

    /// Whether a page that was looked up may belong to a file that is no longer answered for when
    /// it is read.
    fn may_wait(&self) -> bool {
        self.while_it_stands().is_none() && fuse::may_be_mounted()
    }
}

/// Interprets a read of `/proc/PID/mem` at `at`: the number of bytes, or none if it must be
/// repeated.
fn what_came(at: RemoteAddr, read: Result<usize, Errno>) -> Result<usize, ReadError> {
    match read {
        // The address space is gone (`mem_rw` in `fs/proc/base.c`).
        Ok(0) => Err(ReadError::Gone),
        Ok(read) => Ok(read),
        Err(Errno::EPERM | Errno::EACCES) => Err(ReadError::NotPermitted),
        Err(Errno::EINTR) => Ok(0),
        // Nothing is mapped there, or nothing that the kernel can read (`mem_rw`, process_vm_readv(2)).
        Err(Errno::EIO | Errno::EFAULT) => Err(ReadError::Unmapped(at)),
        Err(_) => Err(ReadError::Failed(at)),
    }
}

impl TargetMemory for LiveMemory {
    fn epoch(&self) -> u64 {
        self.slices.as_ref().map_or(0, |(_, slices)| slices.epoch())
    }

    fn looks_up_pages(&self) -> bool {
        self.slices.is_some()
    }

    fn is_out_of_time(&self) -> bool {
        self.time.as_ref().is_some_and(ReadTime::is_over)
    }

    fn read_meanwhile(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.check_time()?;
        match &self.slices {
            Some(slices) => self.read_between_slices(slices, addr, buf),
            None => self.read(addr, buf),
        }
    }

    fn read_scattered_meanwhile<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) {
        let Some(slices) = self.slices.as_ref().filter(|(_, slices)| !slices.goes_on()) else {
            return self.read_scattered(addrs, out);
        };
        if self.may_wait() {
            self.read_scattered_aside(addrs, out);
            let read = out.iter().flatten().count();
            slices.1.count_running((read * N) as u64);
            // Whether a page that is not there is zeros is known in a slice alone.
            for (piece, &addr) in out
                .iter_mut()
                .zip(addrs)
                .filter(|(piece, _)| piece.is_none())
            {
                let mut bytes = [0; N];
                let read = self.check_time();
                let read = read.and_then(|()| self.read_in_slice(slices, addr, &mut bytes));
                *piece = read.is_ok().then_some(bytes);
            }
            return;
        }
        out.clear();
        out.extend(addrs.iter().map(|&addr| {
            let mut piece = [0; N];
            let read = self.check_time();
            let read = read.and_then(|()| self.read_between_slices(slices, addr, &mut piece));
            read.is_ok().then_some(piece)
        }));
    }

    fn note_changed(&self, bytes: u64) {
        if let Some((_, slices)) = &self.slices {
            slices.note_changed(bytes);
        }
    }

    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.check_time()?;
        if let Some(slices) = &self.slices {
            return self.read_in_slice(slices, addr, buf);
        }
        self.read_running(addr, buf)
    }

    fn read_scattered<const N: usize>(&self, addrs: &[RemoteAddr], out: &mut Vec<Option<[u8; N]>>) {
        if let Some(slices) = &self.slices {
            return self.read_scattered_in_slices(slices, addrs, out);
        }
        if self.may_wait() {
            return self.read_scattered_aside(addrs, out);
        }
        out.clear();
        out.extend(addrs.iter().map(|&addr| {
            let mut buf = [0; N];
            self.read(addr, &mut buf).is_ok().then_some(buf)
        }));
    }

    fn read_unshared(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let Some(pid) = self.while_it_stands() else {
            // In slices, unshared pages are looked up.
            return self.read(addr, buf);
        };
        self.check_time()?;
        self.check(addr, buf.len())?;
        let whole = RemoteIoVec {
            base: addr.get() as usize,
            len: buf.len(),
        };
        let read = self.read_pieces(pid, buf, &[whole]).unwrap_or(0);
        // What this call does not read is read the other way, or that reports why not.
        match (addr.checked_add(read as u64), buf.get_mut(read..)) {
            (Some(rest), Some(left)) if !left.is_empty() => self.read(rest, left),
            _ => Ok(()),
        }
    }

    fn read_unshared_scattered<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) {
        if let Some(slices) = &self.slices {
            return self.read_scattered_in_slices(slices, addrs, out);
        }
        if self.may_wait() {
            return self.read_scattered_aside(addrs, out);
        }
        out.clear();
        let pieces = addrs.iter().map(|addr| RemoteIoVec {
            base: addr.get() as usize,
            len: N,
        });
        let pieces: Vec<_> = pieces.collect();
        let mut buffer = vec![0; N * pieces.len().min(MAX_PIECES)];
        // If one of them must not be read, each is examined separately.
        let may_all = addrs.iter().all(|addr| self.check(*addr, N).is_ok());
        let stands = || self.while_it_stands().filter(|_| !self.is_out_of_time());
        while out.len() < addrs.len() {
            let wanted = &pieces[out.len()..(out.len() + MAX_PIECES).min(pieces.len())];
            let read = match stands().filter(|_| may_all) {
                Some(pid) => self.read_pieces(pid, &mut buffer[..N * wanted.len()], wanted),
                None => Err(Errno::ESRCH),
            };
            let whole = buffer[..*read.as_ref().unwrap_or(&0)].as_chunks::<N>().0;
            out.extend(whole.iter().map(|&piece| Some(piece)));
            // What this call does not read may be readable the other way: the failing piece, or
            // all.
            let one_by_one = match read {
                Ok(_) | Err(Errno::EFAULT) if whole.len() < wanted.len() => 1,
                Ok(_) | Err(Errno::EFAULT) => 0,
                Err(_) => usize::MAX,
            };
            let rest = addrs[out.len()..].iter().take(one_by_one);
            out.extend(rest.map(|&addr| {
                let mut piece = [0; N];
                self.read(addr, &mut piece).is_ok().then_some(piece)
            }));
        }
    }
}

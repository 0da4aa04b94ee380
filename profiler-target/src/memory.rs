//! The memory of a live process, read through `/proc/PID/mem`, and for a stopped one in part by
//! `process_vm_readv(2)`.
//!
//! The latter is twice as fast, but since Linux 5.19 it makes a copy of every page that the target
//! shares with a relative since a fork, as if the target had written to it (it pins pages, and
//! `gup_must_unshare` in `mm/internal.h` wants pinned anonymous pages exclusive). On a prefork
//! worker one walk would undo what copy-on-write saved. So it is used for pages that are the
//! target's alone, while the target stands still and cannot fork, and when KSM has merged none of
//! its pages (one that KSM merged may have a single user left). `/proc/PID/mem` pins nothing.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use profiler_core::addr::RemoteAddr;
use profiler_core::memory::{ReadError, TargetMemory, fill};

use super::stop::StopState;

/// Pieces that the kernel takes in one call at most (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// System calls that read a target's memory, and what they gave.
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

/// Memory of a live process. Reading maps pages that were never touched and brings back swapped
/// ones: wrap it in a [`profiler_core::memory::ResidentMemory`].
///
/// It belongs to the address space that the target had when it was opened: after an exit or an
/// exec, or when another process has the pid, every read fails with [`ReadError::Gone`].
#[derive(Clone, Debug)]
pub struct LiveMemory {
    mem: Arc<File>,
    counted: Arc<Counted>,
    /// The process to read unshared pages of by `process_vm_readv`, and its stop.
    stopped: Option<(Pid, StopState)>,
}

impl LiveMemory {
    pub(super) fn new(mem: Arc<File>) -> Self {
        Self {
            mem,
            counted: Arc::default(),
            stopped: None,
        }
    }

    /// How many system calls have read it so far, and how many bytes they gave.
    pub fn counted(&self) -> (u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.counted.calls), of(&self.counted.bytes))
    }

    /// The same of a process that is stopped for as long as this is used, and that KSM has merged no
    /// pages of.
    pub(super) fn while_stopped(&self, pid: i32, stop: StopState) -> Self {
        Self {
            mem: Arc::clone(&self.mem),
            counted: Arc::clone(&self.counted),
            stopped: Some((Pid::from_raw(pid), stop)),
        }
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

impl TargetMemory for LiveMemory {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        fill(addr, buf, |at, rest| {
            let read = self.mem.read_at(rest, at.get());
            self.counted.call(*read.as_ref().unwrap_or(&0));
            match read {
                // The address space is gone (`mem_rw` in `fs/proc/base.c`).
                Ok(0) => Err(ReadError::Gone),
                Ok(read) => Ok(read),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => Err(ReadError::NotPermitted),
                    Some(libc::EINTR) => Ok(0),
                    _ => Err(ReadError::Unmapped(at)),
                },
            }
        })
    }

    fn read_unshared(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let Some(pid) = self.while_it_stands() else {
            return self.read(addr, buf);
        };
        let whole = RemoteIoVec {
            base: addr.get() as usize,
            len: buf.len(),
        };
        let read = self.read_pieces(pid, buf, &[whole]).unwrap_or(0);
        // What it does not read, the other way reads, or says why not.
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
        out.clear();
        let pieces = addrs.iter().map(|addr| RemoteIoVec {
            base: addr.get() as usize,
            len: N,
        });
        let pieces: Vec<_> = pieces.collect();
        let mut buffer = vec![0; N * pieces.len().min(MAX_PIECES)];
        while out.len() < addrs.len() {
            let wanted = &pieces[out.len()..(out.len() + MAX_PIECES).min(pieces.len())];
            let read = match self.while_it_stands() {
                Some(pid) => self.read_pieces(pid, &mut buffer[..N * wanted.len()], wanted),
                None => Err(Errno::ESRCH),
            };
            let whole = buffer[..*read.as_ref().unwrap_or(&0)].as_chunks::<N>().0;
            out.extend(whole.iter().map(|&piece| Some(piece)));
            // What it does not read, the other way may: the piece that it met, or all.
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

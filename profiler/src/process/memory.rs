//! The memory of a live process, read by `process_vm_readv(2)`.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use profiler_core::addr::RemoteAddr;
use profiler_core::memory::{ReadError, TargetMemory};

use super::proc_dir::PidFd;

/// How many places one call reads at most (`UIO_MAXIOV` in `include/uapi/linux/uio.h`).
const IOV_MAX: usize = 1024;

/// Memory of a live process. Reading maps pages that were never touched and brings back swapped
/// ones: wrap it in a [`profiler_core::memory::ResidentMemory`].
#[derive(Clone, Debug)]
pub struct LiveMemory {
    pid: Pid,
    pidfd: PidFd,
    /// `/proc/PID/mem`, for containers whose seccomp filter refuses `process_vm_readv`.
    mem: Option<Arc<File>>,
    refused: Arc<AtomicBool>,
}

impl LiveMemory {
    pub(super) fn new(pid: i32, pidfd: PidFd, mem: Option<File>) -> Self {
        Self {
            pid: Pid::from_raw(pid),
            pidfd,
            mem: mem.map(Arc::new),
            refused: Arc::default(),
        }
    }

    /// Reads at most all of `buf` in one call. `Ok(0)` is never returned for a non-empty `buf`.
    fn read_some(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<usize, ReadError> {
        if !self.refused.load(Ordering::Relaxed) {
            let remote = [RemoteIoVec {
                base: addr.get() as usize,
                len: buf.len(),
            }];
            match process_vm_readv(self.pid, &mut [IoSliceMut::new(buf)], &remote) {
                Ok(0) => return Err(ReadError::Unmapped(addr)),
                Ok(n) => return Ok(n),
                Err(Errno::ENOSYS | Errno::EPERM) if self.mem.is_some() => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(read_error(error, addr)),
            }
        }
        let mem = self.mem.as_ref().ok_or(ReadError::NotPermitted)?;
        match mem.read_at(buf, addr.get()) {
            // The address space is gone: `mem_rw` in `fs/proc/base.c` reads 0 bytes then.
            Ok(0) => Err(ReadError::Gone),
            Ok(n) => Ok(n),
            Err(error) => Err(read_error(
                Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
                addr,
            )),
        }
    }

    /// What was read is of this process only if its number was still its own afterwards.
    fn still_alive(&self) -> Result<(), ReadError> {
        self.pidfd.is_alive().then_some(()).ok_or(ReadError::Gone)
    }
}

fn read_error(error: Errno, addr: RemoteAddr) -> ReadError {
    match error {
        Errno::ESRCH => ReadError::Gone,
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => ReadError::NotPermitted,
        _ => ReadError::Unmapped(addr),
    }
}

impl TargetMemory for LiveMemory {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let mut done = 0;
        while done < buf.len() {
            let at = addr
                .checked_add(done as u64)
                .ok_or(ReadError::Unmapped(addr))?;
            done += self.read_some(at, &mut buf[done..])?;
        }
        self.still_alive()
    }

    fn read_scattered<const N: usize>(&self, addrs: &[RemoteAddr], out: &mut Vec<Option<[u8; N]>>) {
        out.clear();
        if N == 0 {
            out.resize(addrs.len(), Some([0; N]));
            return;
        }
        let mut bytes = vec![[0u8; N]; addrs.len().min(IOV_MAX)];
        let mut rest = addrs;
        while !rest.is_empty() && !self.refused.load(Ordering::Relaxed) {
            let batch = &rest[..rest.len().min(IOV_MAX)];
            let remote: Vec<_> = batch
                .iter()
                .map(|addr| RemoteIoVec {
                    base: addr.get() as usize,
                    len: N,
                })
                .collect();
            let local = bytes[..batch.len()].as_flattened_mut();
            let whole = match process_vm_readv(self.pid, &mut [IoSliceMut::new(local)], &remote) {
                Ok(n) => n / N,
                Err(Errno::ENOSYS | Errno::EPERM) => break,
                Err(_) => 0,
            };
            out.extend(bytes[..whole].iter().copied().map(Some));
            rest = &rest[whole..];
            // The call stops at the first place that it cannot read: leave that one out.
            if whole < batch.len() {
                out.push(None);
                rest = &rest[1..];
            }
        }
        for &addr in rest {
            let mut value = [0; N];
            out.push(self.read(addr, &mut value).is_ok().then_some(value));
        }
        if self.still_alive().is_err() {
            out.fill(None);
        }
    }
}

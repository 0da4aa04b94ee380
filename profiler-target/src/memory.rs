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

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use profiler_core::addr::RemoteAddr;
use profiler_core::memory::{ReadError, TargetMemory};

use super::stop::StopState;

/// Memory of a live process. Reading maps pages that were never touched and brings back swapped
/// ones: wrap it in a [`profiler_core::memory::ResidentMemory`].
///
/// It belongs to the address space that the target had when it was opened: after an exit or an
/// exec, and whoever gets the pid then, every read fails with [`ReadError::Gone`].
#[derive(Clone, Debug)]
pub struct LiveMemory {
    mem: Arc<File>,
    /// The process to read unshared pages of by `process_vm_readv`, and its stop.
    stopped: Option<(Pid, StopState)>,
}

impl LiveMemory {
    pub(super) fn new(mem: Arc<File>) -> Self {
        Self { mem, stopped: None }
    }

    /// The same of a process that is stopped for as long as this is used, and that KSM has merged no
    /// pages of.
    pub(super) fn while_stopped(&self, pid: i32, stop: StopState) -> Self {
        Self {
            mem: Arc::clone(&self.mem),
            stopped: Some((Pid::from_raw(pid), stop)),
        }
    }
}

impl TargetMemory for LiveMemory {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let mut done = 0;
        while done < buf.len() {
            let at = addr
                .checked_add(done as u64)
                .ok_or(ReadError::Unmapped(addr))?;
            match self.mem.read_at(&mut buf[done..], at.get()) {
                // The address space is gone (`mem_rw` in `fs/proc/base.c`).
                Ok(0) => return Err(ReadError::Gone),
                Ok(read) => done += read,
                Err(error) => {
                    return Err(match error.raw_os_error() {
                        Some(libc::EPERM | libc::EACCES) => ReadError::NotPermitted,
                        Some(libc::EINTR) => continue,
                        _ => ReadError::Unmapped(at),
                    });
                }
            }
        }
        Ok(())
    }

    fn read_unshared(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let stopped = self.stopped.as_ref();
        let Some((pid, _)) = stopped.filter(|(_, stop)| !stop.is_over()) else {
            return self.read(addr, buf);
        };
        let whole = RemoteIoVec {
            base: addr.get() as usize,
            len: buf.len(),
        };
        let read = process_vm_readv(*pid, &mut [IoSliceMut::new(buf)], &[whole]).unwrap_or(0);
        // What it does not read, the other way reads, or says why not.
        match (addr.checked_add(read as u64), buf.get_mut(read..)) {
            (Some(rest), Some(left)) if !left.is_empty() => self.read(rest, left),
            _ => Ok(()),
        }
    }
}

//! The memory of a live process, read through `/proc/PID/mem`.
//!
//! Not by `process_vm_readv(2)`: since Linux 5.19 that makes a copy of every page that the target
//! shares with a relative since a fork, as if the target had written to it (it pins pages, and
//! `gup_must_unshare` in `mm/internal.h` wants pinned anonymous pages exclusive). On a prefork
//! worker one walk would undo what copy-on-write saved. `/proc/PID/mem` pins nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use profiler_core::addr::RemoteAddr;
use profiler_core::memory::{ReadError, TargetMemory};

/// Memory of a live process. Reading maps pages that were never touched and brings back swapped
/// ones: wrap it in a [`profiler_core::memory::ResidentMemory`].
///
/// It belongs to the address space that the target had when it was opened: after an exit or an
/// exec, and whoever gets the pid then, every read fails with [`ReadError::Gone`].
#[derive(Clone, Debug)]
pub struct LiveMemory {
    mem: Arc<File>,
}

impl LiveMemory {
    pub(super) fn new(mem: Arc<File>) -> Self {
        Self { mem }
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
}

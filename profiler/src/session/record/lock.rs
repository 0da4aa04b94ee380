//! One recording of a process at a time: two would count each other's traps, and each would slow the
//! process down.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use profiler_trace::whole_file::{NoRuntimeDir, RuntimeDir};

/// The file in which processes are locked. It stays empty.
const FILE: &str = "recorded";
/// Bits of a process's number (`PID_MAX_LIMIT`).
const PID_BITS: u32 = 22;

/// Held while a process is recorded; the kernel gives it up however fragscope ends.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

impl Lock {
    /// Takes it for the process with this number, which began at this time (in clock ticks since
    /// the host did). `None` while another fragscope has it.
    ///
    /// Each process has a byte of its own in a file that only our own user can open: so nobody else
    /// can hold it, and nothing is left behind.
    ///
    /// # Errors
    /// When the file cannot be opened or the kernel locks nothing in it.
    pub(crate) fn take(pid: i32, began_ticks: u64) -> Result<Option<Self>, NoRuntimeDir> {
        RuntimeDir::first("locks", |dir| Self::within(dir, pid, began_ticks))
    }

    fn within(dir: &RuntimeDir, pid: i32, began_ticks: u64) -> io::Result<Option<Self>> {
        let file = dir.lock_file(FILE)?;
        let byte = (began_ticks << PID_BITS | u64::from(pid.cast_unsigned())) & i64::MAX as u64;
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: byte as i64,
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(Some(Self(file))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_taken_once_until_it_is_given_up() {
        let take = |ticks| {
            let pid = std::process::id() as i32;
            Lock::take(pid, ticks).expect("it can be locked")
        };
        let first = take(1).expect("free");
        assert!(take(1).is_none());
        assert!(take(2).is_some());
        drop(first);
        assert!(take(1).is_some());
    }
}

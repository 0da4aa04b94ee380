//! One recording of a process at a time: two would count each other's traps, and each would slow the
//! process down.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Held while a process is recorded; the kernel gives it up however fragscope ends.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its drop")] UnixListener);

impl Lock {
    /// Takes it for the process with this number, which began at this time (in clock ticks since
    /// the host did). `None` while another fragscope has it.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub(crate) fn take(pid: i32, began_ticks: u64) -> io::Result<Option<Self>> {
        // A name that only the kernel keeps: no file is left behind.
        let name = format!("fragscope-record-{pid}-{began_ticks}");
        match UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?) {
            Ok(listener) => Ok(Some(Self(listener))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_taken_once_until_it_is_given_up() {
        let (pid, ticks) = (std::process::id() as i32, 1);
        let first = Lock::take(pid, ticks).expect("a socket").expect("free");
        assert!(Lock::take(pid, ticks).expect("a socket").is_none());
        assert!(Lock::take(pid, ticks + 1).expect("a socket").is_some());
        drop(first);
        assert!(Lock::take(pid, ticks).expect("a socket").is_some());
    }
}

//! The kernel's account of this process in `/proc/self/status` (proc_pid_status(5)).
//!
//! It is read before any other system call is made, using only calls that the loader itself has
//! just made: the program may have been executed under a system call filter that kills it at any
//! other call.

use crate::open::decimal;
use crate::sys;

/// The process's state at its beginning.
#[derive(Default)]
pub(crate) struct Status {
    /// Its pid, which is also the id of its first thread.
    pub(crate) process: u32,
    pub(crate) parent: u32,
    /// The effective user.
    pub(crate) user: u32,
    /// Whether its PID namespace is that of the `/proc` in which this was found: its pid is the
    /// same there. If the kernel does not say (before Linux 4.1), it is assumed to be.
    pub(crate) is_numbered_here: bool,
    /// The number of system call filters that apply to it; before Linux 5.9, 1 if there are any.
    pub(crate) filters: u32,
}

/// Longer than the wanted part of the lines that are looked for.
const LINE: usize = 64;
/// Bytes read at most: a user of many groups has a line of up to half of this.
const MAX_BYTES: usize = 1 << 20;

impl Status {
    /// This process's status; `None` if there is no such file.
    pub(crate) fn own() -> Option<Self> {
        // SAFETY: a zero-terminated path.
        let fd = unsafe {
            sys::open(
                c"/proc/self/status".as_ptr(),
                sys::O_RDONLY | sys::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return None;
        }
        let mut status = Self {
            is_numbered_here: true,
            ..Self::default()
        };
        let (mut line, mut length) = ([0; LINE], 0);
        let (mut bytes, mut total) = ([0; 4096], 0);
        while total < MAX_BYTES {
            let read = sys::read(fd, &mut bytes);
            if read == 0 {
                break;
            }
            total += read;
            for byte in bytes.iter().take(read).copied() {
                if byte == b'\n' {
                    status.take(line.get(..length).unwrap_or_default());
                    length = 0;
                } else if let Some(to) = line.get_mut(length) {
                    *to = byte;
                    length += 1;
                }
            }
        }
        sys::close(fd);
        (status.process != 0).then_some(status)
    }

    /// Takes in the value of a line.
    fn take(&mut self, line: &[u8]) {
        let mut words = line.split(|&byte| byte == b'\t');
        let (Some(name), Some(first)) = (words.next(), words.next()) else {
            return;
        };
        let number = |word| decimal(word).and_then(|number| u32::try_from(number).ok());
        let number = |word| number(word).unwrap_or(0);
        match name {
            b"Pid:" => self.process = number(first),
            b"PPid:" => self.parent = number(first),
            // The real one comes first.
            b"Uid:" => self.user = words.next().map_or(u32::MAX, number),
            // One pid for each namespace, from that of the `/proc` to its own.
            b"NSpid:" => self.is_numbered_here = words.next().is_none(),
            // Its mode, where 2 means filters; their number comes after it.
            b"Seccomp:" => self.filters = u32::from(number(first) == 2),
            b"Seccomp_filters:" => self.filters = number(first),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let status = Status::own().expect("a file");
        assert_eq!(status.process, std::process::id());
        assert_eq!(status.parent, sys::parent());
        assert!(status.is_numbered_here);
    }

    #[test]
    fn lines_that_no_kernel_writes_are_taken_for_nothing() {
        let mut status = Status::default();
        for line in [
            "",
            "Pid:",
            "Pid:\t",
            "Pid:\t99999999999999999999",
            "\t\t",
            "Uid:\t5",
        ] {
            status.take(line.as_bytes());
        }
        assert_eq!((status.process, status.user), (0, u32::MAX));
        status.take(b"NSpid:\t12\t1");
        assert!(!status.is_numbered_here);
    }

    #[test]
    fn filters_are_known_of_kernels_that_do_not_count_them() {
        let mut status = Status::default();
        status.take(b"Seccomp:\t2");
        assert_eq!(status.filters, 1);
        status.take(b"Seccomp_filters:\t3");
        assert_eq!(status.filters, 3);
        status.take(b"Seccomp:\t0");
        assert_eq!(status.filters, 0);
    }
}

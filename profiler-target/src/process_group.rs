//! A process group, by its leader.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// `PIDFD_SIGNAL_PROCESS_GROUP` (`include/uapi/linux/pidfd.h`, since 6.9).
const TO_THE_GROUP: libc::c_uint = 1 << 2;

/// A group, whoever gets its number later.
#[derive(Debug)]
pub struct ProcessGroup {
    leader: Pid,
    handle: OwnedFd,
}

impl ProcessGroup {
    /// That of the process with this number, which leads it and has not been waited for.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_leader(leader: Pid) -> io::Result<Self> {
        // SAFETY: takes two numbers, and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, leader.as_raw(), 0) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows of it.
        let handle = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { leader, handle })
    }

    /// The number of its leader, and its own.
    pub fn leader(&self) -> Pid {
        self.leader
    }

    /// Sends a signal to all of its processes, also when its leader has ended. Before Linux 6.9 that is by its number, which
    /// the kernel gives to nobody else while one of them is there, and long after.
    pub fn send(&self, signal: Signal) {
        let (fd, none) = (self.handle.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        let (call, signal_number) = (libc::SYS_pidfd_send_signal, signal as libc::c_int);
        // SAFETY: takes numbers, and no siginfo.
        let sent = unsafe { libc::syscall(call, fd, signal_number, none, TO_THE_GROUP) };
        if sent != 0 && Errno::last() == Errno::EINVAL {
            // None of them may be there any more.
            let _ = killpg(self.leader, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_signal_reaches_all_of_a_group_though_its_leader_has_ended() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; exec sleep 1000"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut child = String::new();
        let out = shell.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut child)
            .expect("it speaks");
        let child: i32 = child.trim().parse().expect("a number");
        let group = ProcessGroup::of_leader(Pid::from_raw(shell.id().cast_signed()));
        let group = group.expect("it runs");
        shell.kill().expect("ours");
        assert_eq!(shell.wait().expect("ours").signal(), Some(9));
        group.send(Signal::SIGKILL);
        let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // Whoever adopted it may take its time to wait for it.
        while !state().is_empty() && !state().contains(") Z ") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

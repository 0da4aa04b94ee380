//! A process group, by its leader.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// `PIDFD_SIGNAL_PROCESS_GROUP` (`include/uapi/linux/pidfd.h`, since 6.9).
const TO_THE_GROUP: libc::c_uint = 1 << 2;

/// A process group, even if its id is reused later.
#[derive(Debug)]
pub struct ProcessGroup {
    leader: Pid,
    handle: OwnedFd,
}

impl ProcessGroup {
    /// The group led by the process with this pid, which has not been waited for.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_leader(leader: Pid) -> io::Result<Self> {
        // SAFETY: takes two numbers, and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, leader.as_raw(), 0) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel just gave us this descriptor, and no other code knows about it.
        let handle = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { leader, handle })
    }

    /// The pid of its leader, which is also the group's id.
    pub fn leader(&self) -> Pid {
        self.leader
    }

    /// Sends a signal to all its processes, even if its leader has ended. Before Linux 6.9 this
    /// uses the id, which the kernel does not reuse while one of them exists, and long after.
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
        // Its new parent may take its time to wait for it.
        while !state().is_empty() && !state().contains(") Z ") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

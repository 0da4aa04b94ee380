//! The `/proc` directory of one process, held so that a recycled pid is never read.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use procfs::ProcError;
use procfs::process::Process;

use super::kernel_file::{first_bytes, kernel_text, lossy};

/// The longest `/proc` file that is read whole. (`maps` and `smaps` are read line by line.)
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// The target ended or executed another program: what was to be read of it no longer exists.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Gone {
    /// It has exited.
    #[error("process {0} has exited")]
    Exited(i32),
    /// It executes another program than the one that was opened.
    #[error("process {0} has executed another program")]
    Execed(i32),
}

impl Gone {
    /// What an I/O error says about the target, if it says that the target is gone.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Gone> for io::Error {
    fn from(gone: Gone) -> Self {
        Self::new(io::ErrorKind::NotFound, gone)
    }
}

/// A target is not read while a process that shares its memory runs.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the target was not walked: process {0} has the same memory and does not stop with it, so that it could put a file that \
     never answers where is read"
)]
pub struct MemoryShared(pub i32);

impl MemoryShared {
    /// What an I/O error says about this, if it does.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<MemoryShared> for io::Error {
    fn from(shared: MemoryShared) -> Self {
        Self::other(shared)
    }
}

/// A procfs error as an I/O error of the same kind.
pub(super) fn io_error(error: ProcError) -> io::Error {
    match error {
        ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
        ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        ProcError::Io(error, _) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// The pids of all processes.
pub(super) fn all_pids() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// Whether a pid is that of a kernel thread. Such a thread has a process's memory while working for
/// it (vhost and io_uring of older kernels) and maps nothing: it has no program
/// (`get_task_exe_file` in `kernel/fork.c`).
pub(super) fn is_of_kernel(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe"))
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Whether two threads share their memory (`kcmp(2)`).
///
/// # Errors
/// When one of them is gone or may not be inspected, and if the kernel has no `kcmp`.
pub(super) fn have_same_memory(one: i32, other: i32) -> io::Result<bool> {
    // `include/uapi/linux/kcmp.h`.
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: kcmp takes numbers alone.
    match unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) } {
        0 => Ok(true),
        different if different > 0 => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A handle of exactly this process: it never refers to another one with the same pid.
#[derive(Clone, Debug)]
pub(super) struct PidFd(Arc<OwnedFd>);

impl PidFd {
    /// Opens the process with this pid, which must be that of its main thread.
    pub(super) fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, and no other code knows about it.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd as i32) })))
    }

    /// Whether the process has not exited. Until it has, its pid belongs to it.
    pub(super) fn is_alive(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Waits for the process to exit, for at most this long; returns whether it has.
    pub(super) fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut exits = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut exits, left) {
                Err(Errno::EINTR) => {}
                polled => return polled != Ok(0),
            }
        }
    }

    /// Sends a signal to the process.
    pub(super) fn send(&self, signal: Signal) -> io::Result<()> {
        let (fd, none) = (self.0.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: takes numbers, and no siginfo.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as i32, none, 0) };
        match sent {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Collects the end of a child that has ended, so that no zombie stays. Code that reaps all
    /// children may have done it before; the pid is not used, because it may have been reused by
    /// now.
    pub(super) fn reap(&self) {
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        while waitid(Id::PIDFd(self.0.as_fd()), ended) == Err(Errno::EINTR) {}
    }
}

/// `/proc/PID`, opened once.
#[derive(Debug)]
pub(super) struct ProcDir {
    dir: Process,
    pidfd: PidFd,
}

impl ProcDir {
    pub(super) fn new(dir: Process, pidfd: PidFd) -> Self {
        Self { dir, pidfd }
    }

    /// The directory of the process behind `pidfd`, whose pid is `pid`, opened again.
    pub(super) fn of(pid: i32, pidfd: PidFd) -> io::Result<Self> {
        let dir = Process::new(pid).map_err(io_error)?;
        if !pidfd.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self::new(dir, pidfd))
    }

    pub(super) fn pid(&self) -> i32 {
        self.dir.pid
    }

    pub(super) fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// The fields of `/proc/PID/stat`.
    pub(super) fn stat(&self) -> io::Result<procfs::process::Stat> {
        self.dir.stat().map_err(|error| self.why(io_error(error)))
    }

    /// The ids of its threads, only from the names in `task`: none of their files is opened.
    pub(super) fn tids(&self) -> io::Result<Vec<i32>> {
        let why = |error: Errno| self.why(error.into());
        let mut tasks = Dir::from_fd(self.file("task")?.into()).map_err(why)?;
        let mut tids = Vec::new();
        for task in tasks.iter() {
            let task = task.map_err(why)?;
            // Skips the directory itself and its parent.
            tids.extend(
                task.file_name()
                    .to_str()
                    .ok()
                    .and_then(|name| name.parse::<i32>().ok()),
            );
        }
        Ok(tids)
    }

    /// Whether this is the number of a thread of the process, dead or not, in one call.
    pub(super) fn has_thread(&self, tid: i32) -> bool {
        // SAFETY: takes numbers. Signal 0 sends nothing.
        let found = unsafe { libc::syscall(libc::SYS_tgkill, self.pid(), tid, 0) };
        found == 0 || Errno::last() != Errno::ESRCH
    }

    /// A file in the directory, opened for reading.
    pub(super) fn file(&self, name: &str) -> io::Result<File> {
        let opened = self.dir.open_relative(name);
        opened.map_err(|error| self.why(io_error(error)))
    }

    /// A file's bytes.
    pub(super) fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        self.first_bytes(name, MAX_TEXT_BYTES)
    }

    /// A file's first bytes, at most `most`.
    pub(super) fn first_bytes(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let read = first_bytes(self.file(name)?, most);
        read.map_err(|error| self.why(error))
    }

    /// A file's text. Names chosen by the target need not be UTF-8: invalid parts are replaced.
    pub(super) fn text(&self, name: &str) -> io::Result<String> {
        Ok(lossy(self.bytes(name)?))
    }

    /// The error, or that the process has exited, when that is why.
    pub(super) fn why(&self, error: io::Error) -> io::Error {
        // An exiting process loses its memory and program some time before it is dead.
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        let is_exiting = || is_missing && std::fs::read_link(self.path("exe")).is_err();
        let is_gone = error.raw_os_error() == Some(libc::ESRCH) || is_exiting();
        if is_gone || !self.pidfd.is_alive() {
            Gone::Exited(self.pid()).into()
        } else {
            error
        }
    }

    /// A path in the directory. Callers must check [`PidFd::is_alive`] after using it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid()))
    }

    /// Whether KSM may have merged pages of it: true unless the kernel says that there are none.
    pub(super) fn has_merged_pages(&self) -> bool {
        // Linux 6.1 and later; an older kernel's KSM is off for all, or not to be trusted.
        let merged = self.text("ksm_merging_pages").ok();
        let none = merged.is_some_and(|pages| pages.trim() == "0");
        let off = || {
            let run = kernel_text("/sys/kernel/mm/ksm/run");
            match run {
                Ok(run) => run.trim() == "0",
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
        };
        !none && !off()
    }
}

/// The number after `name:` in a file like `status` or `smaps_rollup`, without its unit (kB).
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::process::id;
    use std::sync::mpsc;
    use std::thread;

    use nix::unistd::{getpid, getppid, gettid};

    use super::*;

    #[test]
    fn threads_are_listed_and_known_from_those_of_others() {
        let pid = id().cast_signed();
        let pidfd = PidFd::open(pid).expect("ourselves");
        let dir = ProcDir::of(pid, pidfd).expect("ourselves");
        let (report, reported) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            report.send(gettid().as_raw()).expect("it is read");
            // The end of the other end.
            wait.recv().expect_err("nothing is sent");
        });
        let other_tid = reported.recv().expect("it runs");
        let tids = dir.tids().expect("ourselves");
        for tid in [getpid().as_raw(), gettid().as_raw(), other_tid] {
            assert!(tids.contains(&tid) && dir.has_thread(tid), "{tid} {tids:?}");
        }
        assert!(tids.iter().all(|tid| *tid > 0), "{tids:?}");
        assert!(!dir.has_thread(getppid().as_raw()), "of another process");
        drop(go_on);
        other.join().expect("it ends");
        // It disappears soon after it was joined.
        while dir.has_thread(other_tid) {
            thread::yield_now();
        }
        assert!(!dir.tids().expect("ourselves").contains(&other_tid));
    }
}

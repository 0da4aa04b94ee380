//! Opens a process, and determines why it cannot be opened.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::Process;
use profiler_core::text::visible;

use super::auxv::is_of_64_bit;
use super::host::{self, Capability, ptrace_scope};
use super::kernel_file::kernel_text;
use super::proc_dir::{Gone, PidFd, ProcDir, field, io_error};
use super::{Action, Denial, ErrorKind};

/// `PF_KTHREAD` in `include/linux/sched.h`: field 9 of `/proc/PID/stat`.
pub(super) const PF_KTHREAD: u32 = 0x0020_0000;

/// Why a process cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such process.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The number given.
        pid: i32,
    },
    /// It ended or changed while it was opened.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The pid is that of a thread.
    #[error("{tid} is a thread of process {pid}")]
    NotAProcess {
        /// The number given.
        tid: i32,
        /// The process that it belongs to.
        pid: u64,
    },
    /// It is a kernel thread.
    #[error(
        "process {pid} ({}) is a kernel thread and has no memory of its own to profile",
        visible(comm)
    )]
    KernelThread {
        /// The number given.
        pid: i32,
        /// Its name.
        comm: String,
    },
    /// It has exited and waits for its parent.
    #[error(
        "process {pid} ({}) is a zombie: it has exited and waits for its parent {parent}, its memory is gone",
        visible(comm)
    )]
    Zombie {
        /// The number given.
        pid: i32,
        /// Its name.
        comm: String,
        /// Its parent's pid.
        parent: i32,
    },
    /// Its first thread has ended while others run: the kernel no longer shows its memory.
    #[error(
        "the first thread of process {pid} ({}) has ended while others run on: the kernel shows \
         neither mappings nor memory of such a process",
        visible(comm)
    )]
    NoFirstThread {
        /// The number given.
        pid: i32,
        /// Its name.
        comm: String,
    },
    /// The kernel does not permit it.
    #[error("not permitted to read process {pid}: {denial}")]
    NotPermitted {
        /// The number given.
        pid: i32,
        /// The reason.
        denial: Denial,
    },
    /// There is no `/proc`.
    #[error("/proc is not mounted, in which the kernel shows processes")]
    NoProc,
    /// It is a 32-bit process.
    #[error(
        "process {pid} is a 32-bit program ({}): only targets of 64 bits are supported",
        visible(exe)
    )]
    Foreign32Bit {
        /// The number given.
        pid: i32,
        /// Its executable.
        exe: String,
    },
    /// The kernel lacks what fragscope cannot do without.
    #[error("this kernel has no pidfd_open(2), which came with Linux 5.3")]
    OldKernel,
    /// Something else failed.
    #[error("reading /proc of process {pid} failed: {source}")]
    Io {
        /// The number given.
        pid: i32,
        /// What failed.
        source: io::Error,
    },
}

impl OpenError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchProcess { .. } => ErrorKind::NoSuchProcess,
            // What it lacks, only a new process can have.
            Self::Gone(_) | Self::Zombie { .. } | Self::NoFirstThread { .. } => {
                ErrorKind::TargetGone
            }
            Self::NotAProcess { pid, .. } => ErrorKind::IsThread { pid: *pid },
            Self::KernelThread { .. } | Self::Foreign32Bit { .. } => ErrorKind::UnsupportedTarget,
            Self::NotPermitted { denial, .. } => ErrorKind::NotPermitted {
                action: Action::Inspect,
                denial: denial.clone(),
            },
            Self::NoProc => ErrorKind::NoProc,
            Self::OldKernel => ErrorKind::UnsupportedKernel,
            Self::Io { source, .. } => ErrorKind::of_io(source),
        }
    }
}

/// Opens `/proc/PID` and its memory.
pub(super) fn open(pid: i32) -> Result<(ProcDir, File), OpenError> {
    if pid <= 0 {
        return Err(OpenError::NoSuchProcess { pid });
    }
    let pidfd = PidFd::open(pid).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => OpenError::NoSuchProcess { pid },
        // EINVAL, from 6.15 on ENOENT: the number is a thread's (`kernel/pid.c`, `pidfd_prepare`).
        Some(libc::EINVAL | libc::ENOENT) => thread_of(pid),
        Some(libc::ENOSYS) => OpenError::OldKernel,
        _ => OpenError::Io { pid, source: error },
    })?;
    // Anybody may read these two, unless hidepid is set.
    let seen = Process::new(pid).map_err(io_error).and_then(|dir| {
        let dir = ProcDir::new(dir, pidfd.clone());
        Ok((dir.stat()?, dir))
    });
    let (stat, dir) = match seen {
        Ok(seen) => seen,
        Err(_) if !host::has_proc() => return Err(OpenError::NoProc),
        Err(_) if pidfd.is_alive() => return Err(denied(pid, Denial::HiddenProc)),
        Err(_) => return Err(OpenError::NoSuchProcess { pid }),
    };
    let comm = stat.comm;
    if matches!(stat.state, 'Z' | 'X') {
        if stat.num_threads > 1 {
            return Err(OpenError::NoFirstThread { pid, comm });
        }
        let parent = stat.ppid;
        return Err(OpenError::Zombie { pid, comm, parent });
    }
    if stat.flags & PF_KTHREAD != 0 {
        return Err(OpenError::KernelThread { pid, comm });
    }
    let mem = open_memory(&dir)?;
    check_64_bit(&dir)?;
    Ok((dir, mem))
}

fn thread_of(tid: i32) -> OpenError {
    let status = kernel_text(format!("/proc/{tid}/status")).unwrap_or_default();
    match field(&status, "Tgid") {
        Some(pid) => OpenError::NotAProcess { tid, pid },
        None => OpenError::NoSuchProcess { pid: tid },
    }
}

/// Opening `mem` requires the same permission as attaching with ptrace (`PTRACE_MODE_ATTACH`),
/// `auxv` the weaker one for reading (`PTRACE_MODE_READ`).
fn open_memory(dir: &ProcDir) -> Result<File, OpenError> {
    let pid = dir.pid();
    let error = match dir.file("mem") {
        Ok(mem) => return Ok(mem),
        Err(error) => error,
    };
    if let Some(gone) = Gone::of(&error) {
        return Err(OpenError::Gone(gone.clone()));
    }
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Err(OpenError::Io { pid, source: error });
    }
    let owner = dir.text("status").ok().and_then(|s| field(&s, "Uid"));
    let user = nix::unistd::geteuid().as_raw();
    let scope = ptrace_scope().unwrap_or(0);
    let is_root = user == 0;
    let is_ours = owner == Some(u64::from(user));
    // `mem` is only accessible to its owner: permission to attach does not suffice to read it.
    let unreadable = !is_ours && !host::reads_files_of_others();
    let denial = if Capability::SysPtrace.is_held() {
        match scope {
            3.. => Denial::PtraceScope(scope),
            // That `maps` can be opened, which asks for no right to the file, distinguishes the two.
            _ if unreadable && dir.file("maps").is_ok() => {
                Denial::missing(vec![Capability::DacReadSearch])
            }
            _ => Denial::of_inspection(),
        }
    } else if is_root || !is_ours && !host::held().is_empty() {
        let mut lacking = vec![Capability::SysPtrace];
        lacking.extend(unreadable.then_some(Capability::DacReadSearch));
        Denial::missing(lacking)
    } else if !is_ours {
        match host::is_real_root_namespace() {
            true => Denial::NotRoot {
                owner: owner.unwrap_or(0),
                user,
                withheld: host::withheld(),
            },
            false => Denial::UserNamespace,
        }
    } else if scope > 0 && dir.file("auxv").is_ok() {
        // Looking is allowed and attaching is not.
        Denial::PtraceScope(scope)
    } else {
        Denial::NotDumpable
    };
    Err(denied(pid, denial))
}

fn denied(pid: i32, denial: Denial) -> OpenError {
    OpenError::NotPermitted { pid, denial }
}

/// During `execve` a process has no auxiliary vector, for less than this long.
const EXECUTED_WITHIN: Duration = Duration::from_millis(20);

/// By the kernel's own account of the program, which needs no file to be read.
fn check_64_bit(dir: &ProcDir) -> Result<(), OpenError> {
    let began = Instant::now();
    loop {
        let auxv = dir.bytes("auxv").unwrap_or_default();
        match is_of_64_bit(&auxv) {
            Some(false) if dir.pidfd().is_alive() => {
                return Err(OpenError::Foreign32Bit {
                    pid: dir.pid(),
                    exe: exe_path(&dir.path("exe")),
                });
            }
            None if began.elapsed() < EXECUTED_WITHIN => {
                thread::sleep(Duration::from_millis(1));
            }
            _ => return Ok(()),
        }
    }
}

fn exe_path(link: &Path) -> String {
    fs::read_link(link)
        .map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default()
}

//! Counts a player's system calls for memory, where the kernel permits it.

use std::ffi::c_long;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use profiler_target::kernel_text;

/// The calls with which allocators get memory and return it.
const COUNTED: [c_long; 6] = [
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
];

/// The file with the number of the tracepoint, below the tracing file system.
const TRACEPOINT: &str = "events/raw_syscalls/sys_enter/id";
/// Where that file system is mounted.
const TRACING: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// `struct perf_event_attr` in its first version (`PERF_ATTR_SIZE_VER0`).
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample: [u64; 2],
    read_format: u64,
    flags: u64,
    rest: [u64; 2],
}

const PERF_TYPE_TRACEPOINT: u32 = 2;
/// `disabled` and `inherit`: threads and processes that begin later count too.
const DISABLED_INHERIT: u64 = 0b11;
/// `PERF_FLAG_FD_CLOEXEC`.
const PERF_CLOEXEC: c_long = 8;
/// `PERF_EVENT_IOC_ENABLE`.
const ENABLE: libc::c_ulong = 0x2400;
/// `PERF_EVENT_IOC_SET_FILTER`.
const SET_FILTER: libc::c_ulong = 0x4008_2406;

/// Counts the calls of a process and of all that it starts, from its creation on.
#[derive(Debug)]
pub(super) struct Calls(Vec<File>);

impl Calls {
    /// Begins to count; the process must wait meanwhile, or a thread may be missed.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let tracepoint = tracepoint()?;
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
        let counters = tasks.map(|task| {
            let name = task?.file_name();
            let thread = name.to_str().and_then(|name| name.parse().ok());
            counter(tracepoint, thread.ok_or(io::ErrorKind::InvalidData)?)
        });
        Ok(Self(counters.collect::<io::Result<_>>()?))
    }

    /// Calls so far.
    pub(super) fn count(&self) -> io::Result<u64> {
        let counts = self.0.iter().map(|mut counter| {
            let mut count = [0; 8];
            counter.read_exact(&mut count)?;
            Ok(u64::from_ne_bytes(count))
        });
        counts.sum()
    }
}

/// A counter of one thread and of what it starts.
fn counter(tracepoint: u64, thread: c_long) -> io::Result<File> {
    let attributes = Attributes {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: tracepoint,
        sample: [0; 2],
        read_format: 0,
        flags: DISABLED_INHERIT,
        rest: [0; 2],
    };
    let (any_cpu, no_group): (c_long, c_long) = (-1, -1);
    // SAFETY: attributes of the size that they tell.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            any_cpu,
            no_group,
            PERF_CLOEXEC,
        )
    };
    let counter = File::from(owned(fd)?);
    let wanted = COUNTED.map(|call| format!("id == {call}")).join(" || ");
    let wanted = std::ffi::CString::new(wanted)?;
    // SAFETY: a text with its terminating zero.
    let set = unsafe { libc::ioctl(counter.as_raw_fd(), SET_FILTER, wanted.as_ptr()) };
    nix::errno::Errno::result(set)?;
    // SAFETY: no argument.
    let enabled = unsafe { libc::ioctl(counter.as_raw_fd(), ENABLE, 0) };
    nix::errno::Errno::result(enabled)?;
    Ok(counter)
}

/// The number of the tracepoint that every kernel call passes.
fn tracepoint() -> io::Result<u64> {
    let read = |folder: &str| kernel_text(format!("{folder}/{TRACEPOINT}"));
    let mounted = TRACING.iter().find_map(|folder| read(folder).ok());
    let text = match mounted {
        Some(text) => text,
        None => {
            // Nobody else sees this mount, and it ends with its descriptor.
            let unseen = mount_tracing()?;
            read(&format!("/proc/self/fd/{}", unseen.as_raw_fd()))?
        }
    };
    text.trim().parse().map_err(io::Error::other)
}

/// The tracing file system, mounted nowhere.
fn mount_tracing() -> io::Result<OwnedFd> {
    let (cloexec, create, none): (c_long, c_long, c_long) = (1, 6, 0);
    // SAFETY: a name with its terminating zero, `FSOPEN_CLOEXEC`.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), cloexec) };
    let context = owned(fd)?;
    let null = ptr::null::<libc::c_char>();
    let fd = context.as_raw_fd();
    // SAFETY: `FSCONFIG_CMD_CREATE`, which takes neither key nor value.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, fd, create, null, null, none) };
    nix::errno::Errno::result(made)?;
    // SAFETY: numbers, `FSMOUNT_CLOEXEC`.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, cloexec, none) })
}

/// The descriptor that a call gave.
fn owned(given: c_long) -> io::Result<OwnedFd> {
    let fd = nix::errno::Errno::result(given)? as RawFd;
    // SAFETY: the kernel just returned it, to this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

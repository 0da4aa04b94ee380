//! Privileges of this process, and dropping them.

use std::io;
use std::panic::resume_unwind;
use std::thread;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, getgid, getuid, setfsgid, setfsuid, setresgid, setresuid};

use super::error_kind::not_started;

/// Whether this process has privileges that its caller lacks, by its file's capabilities or owner
/// (`AT_SECURE`): then the caller's environment must not decide anything.
pub fn has_borrowed_privileges() -> bool {
    // SAFETY: takes a number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Permanently drops privileges that this process has and its caller lacks: files that the caller
/// names are opened with the caller's rights alone. Must be called before other threads exist,
/// because each thread has its own capabilities.
///
/// # Errors
/// When the kernel rejects it.
pub fn give_up_borrowed_privileges() -> io::Result<()> {
    if !has_borrowed_privileges() {
        return Ok(());
    }
    let (user, group) = (getuid(), getgid());
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    drop_capabilities()
}

/// Does something with the caller's rights alone, if this process has privileges that its caller
/// lacks and still needs them: on a thread without these privileges. For files that the caller
/// names in addition to a process.
///
/// # Errors
/// When the thread cannot be started, or the kernel rejects the change.
pub fn as_caller<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if !has_borrowed_privileges() {
        return Ok(work());
    }
    let unprivileged = || {
        // Of this thread alone, unlike setresuid and setresgid.
        setfsgid(getgid());
        setfsuid(getuid());
        drop_capabilities()?;
        Ok(work())
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, unprivileged);
        let thread = thread.map_err(not_started)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// `struct __user_cap_header_struct` and `_data_struct` of `_LINUX_CAPABILITY_VERSION_3`
/// (`include/uapi/linux/capability.h`).
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

const CAPABILITIES_OF_THIS_THREAD: CapabilityHeader = CapabilityHeader {
    version: 0x2008_0522,
    pid: 0,
};

/// The credentials by which the kernel decides which files a thread may open.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rights {
    capabilities: [u32; 6],
    user: Uid,
    group: Gid,
}

impl Rights {
    /// This thread's.
    pub(crate) fn of_this_thread() -> Self {
        let header = CAPABILITIES_OF_THIS_THREAD;
        let mut capabilities = [0u32; 6];
        // SAFETY: a header of version 3, for this thread, and two records of three words to be filled.
        let got = unsafe {
            libc::syscall(
                libc::SYS_capget,
                &raw const header,
                capabilities.as_mut_ptr(),
            )
        };
        debug_assert_eq!(got, 0, "the kernel knows version 3");
        // An id that cannot be changes nothing (setfsuid(2)).
        Self {
            capabilities,
            user: setfsuid(Uid::from_raw(u32::MAX)),
            group: setfsgid(Gid::from_raw(u32::MAX)),
        }
    }
}

/// Drops all capabilities of this thread. Root would regain them at exec, unless no_new_privs is
/// set. Allocates nothing and takes no lock, so it may be called between fork and exec.
///
/// # Errors
/// When the kernel rejects it.
pub fn drop_capabilities() -> io::Result<()> {
    let header = CAPABILITIES_OF_THIS_THREAD;
    let none = [0u32; 6];
    // SAFETY: a header of version 3, for this thread, and two records of three words.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    Errno::result(set)?;
    Ok(())
}

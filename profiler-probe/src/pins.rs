//! Links that the kernel itself closes: pinned in a BPF file system that nobody else sees and that
//! disappears with its last descriptor.
//!
//! Removing a uprobe fails in a task that has a fatal signal pending, and a link's last reference
//! that is dropped by `close` or by a task's end removes the uprobe in that task. The last
//! reference of a pinned link is dropped by a kernel worker (`bpf_any_put` and `bpf_link_put` in
//! `kernel/bpf/inode.c` and `syscall.c`), which no signal reaches. So not even killing all of
//! fragscope's processes during the removal leaves a breakpoint. It takes one more grace period of
//! the kernel, about 20 ms.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use aya_obj::generated::bpf_cmd::BPF_OBJ_PIN;
use aya_obj::generated::{BPF_F_PATH_FD, bpf_attr};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::multi::{bpf, zeroed};

/// The file system (Linux 6.5, which can pin to a place given by a descriptor).
pub(super) struct Pins {
    root: OwnedFd,
    last: u32,
}

/// A link in it.
pub(super) struct Pinned(CString);

/// `fsconfig(2)`: make the file system (`include/uapi/linux/mount.h`).
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

impl Pins {
    /// Creates an empty one.
    ///
    /// # Errors
    /// If the kernel does not have it or does not permit it: it takes CAP_SYS_ADMIN.
    pub(super) fn new() -> io::Result<Self> {
        const KIND: &CStr = c"bpf";
        // SAFETY: a constant string and flags.
        let opened = unsafe { libc::syscall(libc::SYS_fsopen, KIND.as_ptr(), 1) };
        let context = owned(opened)?;
        let none = std::ptr::null::<libc::c_char>();
        // SAFETY: a descriptor of our own, a command and no strings.
        let made = unsafe {
            let fd = context.as_raw_fd();
            libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0)
        };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor of our own and flags.
        let mounted = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) };
        Ok(Self {
            root: owned(mounted)?,
            last: 0,
        })
    }

    /// Pins the link, which then stays until it is removed or this process ends; returns it if the
    /// kernel cannot pin by descriptor.
    pub(super) fn pin(&mut self, link: OwnedFd) -> Result<Pinned, OwnedFd> {
        self.last += 1;
        let name = CString::new(self.last.to_string()).expect("digits");
        let mut attr: bpf_attr = zeroed();
        // SAFETY: all bytes of the union are zero, which this member may be.
        let pin = unsafe { &mut attr.__bindgen_anon_4 };
        pin.pathname = name.as_ptr() as u64;
        pin.bpf_fd = link.as_raw_fd().cast_unsigned();
        pin.file_flags = BPF_F_PATH_FD;
        pin.path_fd = self.root.as_raw_fd();
        // SAFETY: `attr` points at a name that outlives the call.
        match unsafe { bpf(BPF_OBJ_PIN, &mut attr) } {
            Ok(_) => Ok(Pinned(name)),
            Err(_) => Err(link),
        }
    }

    /// Has the kernel remove a link, which takes some tens of milliseconds.
    pub(super) fn remove(&self, pinned: &Pinned) -> io::Result<()> {
        let removed = unlinkat(&self.root, pinned.0.as_c_str(), UnlinkatFlags::NoRemoveDir);
        Ok(removed?)
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: nobody else owns the descriptor that the kernel returned.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

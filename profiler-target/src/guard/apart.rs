//! Isolates a guard from fragscope, so that what hits one does not hit the other.

use std::ffi::CStr;
use std::fs;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::super::cgroup::{self, Group, UNIFIED};
use super::super::host::{OOM_SCORE, score_before};
use super::super::stat::Stat;

/// The cgroup hierarchies in which processes are frozen, killed or throttled together: a guard that
/// gets no processor time cannot end a stop.
const LEFT: [&str; 4] = [UNIFIED, "freezer", "memory", "cpu"];

/// Gives this process its own session, name and command line, and where permitted its own cgroup,
/// and closes all descriptors except those in `keep`; the standard ones lead to `nowhere`.
///
/// Whatever is refused is skipped: a guard that is frozen together with fragscope is better than
/// none.
pub(super) fn set_apart(name: &CStr, keep: &[RawFd], nowhere: RawFd) {
    separate(name, keep, nowhere);
    for place in cgroups() {
        // Fails without the privilege, or if the hierarchy does not accept it.
        let _ = fs::write(place, "0");
    }
    // When memory runs out, it must not be killed before fragscope. The lowest score is refused
    // without privilege.
    if fs::write(OOM_SCORE, "-1000").is_err()
        && let Some(before) = score_before()
    {
        let _ = fs::write(OOM_SCORE, before);
    }
    // So that it does not keep a file system busy.
    let _ = std::env::set_current_dir("/");
}

/// The same without the cgroup, for a process that need not run while fragscope does not, and whose
/// memory, such as copies of files, counts to the limit of fragscope's group.
pub(crate) fn separate(name: &CStr, keep: &[RawFd], nowhere: RawFd) {
    #[expect(
        clippy::multiple_unsafe_ops_per_block,
        reason = "one list of system calls with one reason"
    )]
    // SAFETY: system calls on plain numbers and a constant string.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        for standard in 0..3 {
            libc::dup2(nowhere, standard);
        }
    }
    close_others(keep);
    rename(name);
}

/// Closes all descriptors above the standard ones except these. It must not fail: fragscope's own
/// end of the channel is among them, and while that is open the guard does not notice the end of
/// the channel.
fn close_others(keep: &[RawFd]) {
    if close_ranges(keep) {
        return;
    }
    // Before Linux 5.9, or if a seccomp profile rejects the call.
    let listed = fs::read_dir("/proc/self/fd");
    let listed = listed.map(|all| {
        all.flatten()
            .filter_map(|one| one.file_name().to_str()?.parse().ok())
    });
    let open: Vec<RawFd> = match listed {
        Ok(listed) => listed.collect(),
        Err(_) => (0..MAX_DESCRIPTORS).collect(),
    };
    for fd in open.into_iter().filter(|fd| *fd > 2 && !keep.contains(fd)) {
        // SAFETY: closes a descriptor that this process does not use.
        unsafe { libc::close(fd) };
    }
}

/// The most descriptors assumed open in fragscope if they cannot be listed.
const MAX_DESCRIPTORS: RawFd = 65_536;

/// The same with `close_range(2)`; returns whether the kernel has it.
fn close_ranges(keep: &[RawFd]) -> bool {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|&fd| u32::try_from(fd).ok())
        .collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            // SAFETY: closes descriptors that this process does not use.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
            if closed != 0 {
                return false;
            }
        }
        from = fd.saturating_add(1);
    }
    true
}

/// Writes the name over the arguments of fragscope, which a guard would share, so that a search for
/// a command line finds the intended process.
fn rename(name: &CStr) {
    let Some((start, end)) = Stat::read("/proc/self/stat").and_then(|stat| stat.arguments) else {
        return;
    };
    let len = end.saturating_sub(start);
    if start == 0 || len == 0 {
        return;
    }
    let name = name.to_bytes();
    // SAFETY: the kernel says that the arguments are here, in this process's own writable memory;
    // nothing in a guard reads them.
    let arguments = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, len) };
    arguments.fill(0);
    let len = name.len().min(arguments.len().saturating_sub(1));
    arguments[..len].copy_from_slice(&name[..len]);
}

/// The files that take a process out of the cgroups that [`LEFT`] names, into their roots.
fn cgroups() -> Vec<PathBuf> {
    let mut nested = cgroup::own(&LEFT);
    nested.retain(Group::is_below_root);
    nested
        .into_iter()
        .map(|group| group.mount.join("cgroup.procs"))
        .collect()
}

//! Processes of our own that must not stand in the way of the target.

/// The process gives way to everything else that wants a processor. One that is gone needs not.
pub(crate) fn give_way(pid: u32) {
    const LOWEST: libc::c_int = 19;
    // SAFETY: takes numbers, and refuses those that are wrong.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, pid, LOWEST) };
}

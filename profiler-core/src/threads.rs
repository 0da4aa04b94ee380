//! Threads of a stopped target: the registers from which walks and stacks start.

use crate::addr::RemoteAddr;

/// One thread while it is stopped.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Thread {
    /// Thread id in fragscope's own pid namespace.
    pub tid: u32,
    /// Its stack pointer (x86-64 `rsp`, aarch64 `sp`).
    pub stack_pointer: RemoteAddr,
    /// Its program counter (x86-64 `rip`, aarch64 `pc`).
    pub program_counter: RemoteAddr,
    /// Its thread pointer (x86-64 `fs_base`, aarch64 `tpidr_el0`): the thread control block.
    pub thread_pointer: RemoteAddr,
}

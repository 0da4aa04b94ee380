//! fragscope's own address space, if it is limited (`ulimit -v`).

use nix::sys::resource::{Resource, getrlimit};

/// glibc reserves 64 MiB of addresses for each arena (`HEAP_MAX_SIZE`, malloc/arena.c, 2.36), up to
/// one per thread. With this much address space there is no need to save any.
const ROOM_BYTES: u64 = 16 << 30;

/// Makes all threads share one malloc arena if address space is short. Otherwise a thread that
/// cannot get its own arena asks the kernel for one at each allocation, which makes it many times
/// slower.
pub fn share_arena_where_addresses_are_short() {
    let is_short = getrlimit(Resource::RLIMIT_AS).is_ok_and(|(limit, _)| limit < ROOM_BYTES);
    #[cfg(target_env = "gnu")]
    if is_short {
        // SAFETY: it changes a malloc setting.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
    // Others have no arenas.
    #[cfg(not(target_env = "gnu"))]
    let _ = is_short;
}

/// Returns free memory of fragscope's malloc to the kernel: after the walk of a large heap, that is
/// most of its memory.
pub fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number and has no visible effect.
    unsafe {
        libc::malloc_trim(0);
    }
}

//! The player: replays a program (`profiler_common::program`) with the malloc of its process,
//! glibc's or a preloaded one, under the program's own clock.
//!
//! Its own tables are in shared mappings, and its threads' stacks are at addresses that it reports,
//! so that all other private anonymous memory belongs to the allocator alone. It allocates nothing
//! for itself and prints nothing.
#![no_std]

mod clock;
mod memory;
pub mod overrides;
mod play;
mod process;
pub mod start;
mod sys;
mod thread;

#[cfg(feature = "player")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort never returns and may be called at any moment.
    unsafe { sys::abort() }
}

/// What compiled parts of `core` name for unwinding, which does not happen here.
#[cfg(feature = "player")]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

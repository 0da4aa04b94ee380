//! The player: plays a program (`profiler_common::program`) into the malloc that its process has,
//! glibc's or one that is preloaded, under the program's own clock.
//!
//! Its own tables lie in shared mappings, and the stacks of its threads among addresses that it names, so
//! that all other private anonymous memory is the allocator's alone. It allocates nothing for itself, and
//! prints nothing.
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

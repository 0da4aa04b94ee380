//! The recorder: preloaded into a program, it records each call of malloc and related functions in
//! the ring of `fragscope record`, and passes the call on to the allocator that the program would
//! otherwise use.
//!
//! It allocates nothing, takes no lock, and keeps the order exact: a free, and the old half of a
//! realloc, is recorded before the call, an allocation after it. When the reader dies, recording
//! stops and the program runs on.
#![cfg_attr(not(test), no_std)]

mod clock;
mod ending;
mod environment;
mod filter;
mod next;
mod objects;
mod open;
mod ring;
mod root;
mod status;
mod sys;
mod thread;
mod trim;
mod wait;
pub mod wrap;

#[cfg(feature = "recorder")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort never returns and may be called at any moment.
    unsafe { sys::abort() }
}

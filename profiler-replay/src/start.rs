//! Where the player begins.

use core::ffi::CStr;

use profiler_common::program::{AT_START, CONTROL_VARIABLE, IDENTITY_VARIABLE, PROGRAM_VARIABLE};

use crate::process::Identity;
use crate::{memory, process, sys};

/// The dynamic loader: with it in its headers a shared object can be executed, and its functions
/// come before those of libc and of what is preloaded.
#[cfg(all(feature = "player", target_arch = "x86_64"))]
#[used]
#[unsafe(link_section = ".interp")]
static LOADER: [u8; 28] = *b"/lib64/ld-linux-x86-64.so.2\0";
#[cfg(all(feature = "player", target_arch = "aarch64"))]
#[used]
#[unsafe(link_section = ".interp")]
static LOADER: [u8; 28] = *b"/lib/ld-linux-aarch64.so.1\0\0";

/// The first function, called by the loader with the stack as the kernel made it.
#[cfg(all(feature = "player", target_arch = "x86_64"))]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor %ebp, %ebp",
    "and $-16, %rsp",
    "call {main}",
    "hlt",
    main = sym main,
    options(att_syntax)
);

/// Plays the program that the environment names.
pub extern "C" fn main() -> ! {
    // SAFETY: names with their zeros; nobody changes the environment.
    let program = unsafe { sys::getenv(PROGRAM_VARIABLE.as_ptr()) };
    // SAFETY: as above.
    let control = unsafe { sys::getenv(CONTROL_VARIABLE.as_ptr()) };
    if program.is_null() || control.is_null() {
        // SAFETY: nothing has begun.
        unsafe { sys::_exit(64) }
    }
    // SAFETY: getenv gave a string with its zero, which stays.
    let program = unsafe { CStr::from_ptr(program) };
    // SAFETY: as above.
    let control = unsafe { CStr::from_ptr(control) };
    if !memory::open(program, control) {
        // SAFETY: nothing has begun.
        unsafe { sys::_exit(65) }
    }
    // SAFETY: as above.
    let identity = unsafe { sys::getenv(IDENTITY_VARIABLE.as_ptr()) };
    if identity.is_null() {
        process::die_with_parent();
        process::ask(AT_START);
        process::be(Identity::FIRST)
    }
    // SAFETY: getenv gave a string with its zero, which stays.
    let identity = unsafe { CStr::from_ptr(identity) };
    process::be(Identity::from_text(identity.to_bytes()))
}

//! The player's entry point.

use core::ffi::CStr;

use profiler_common::program::{
    CONTROL_VARIABLE, IDENTITY_VARIABLE, PROGRAM_VARIABLE, PlayerMessage,
};

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

/// The entry point, called by the loader with the stack as the kernel made it.
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
    let (program, control) = (variable(PROGRAM_VARIABLE), variable(CONTROL_VARIABLE));
    let (Some(program), Some(control)) = (program, control) else {
        // SAFETY: nothing has begun.
        unsafe { sys::_exit(64) }
    };
    let descriptor = |text: &CStr| {
        let [number] = process::numbers(text.to_bytes());
        number as i32
    };
    if !memory::open(descriptor(program), descriptor(control)) {
        // SAFETY: nothing has begun.
        unsafe { sys::_exit(65) }
    }
    match variable(IDENTITY_VARIABLE) {
        None => {
            if memory::control().executes == 0 {
                process::never_execute();
            }
            process::send_and_wait(PlayerMessage::Start);
            process::run_as(Identity::FIRST)
        }
        Some(identity) => process::run_as(Identity::from_text(identity.to_bytes())),
    }
}

/// The value of a variable of the environment.
fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: a zero-terminated name; nobody changes the environment.
    let value = unsafe { sys::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv returned a zero-terminated string, which stays.
    Some(unsafe { CStr::from_ptr(value) })
}

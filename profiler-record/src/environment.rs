//! The environment with which the program was started.

use core::ffi::{CStr, c_char};
use core::ptr;

use crate::next;

/// The environment, before the program can change it.
#[derive(Copy, Clone)]
pub(crate) struct Environment(*const *const c_char);

impl Environment {
    /// From the third argument of a constructor. With glibc that is `main`'s environment
    /// (`call_init`, elf/dl-init.c), and before other constructors have run `getenv` finds nothing;
    /// musl passes nothing, and has its own environment by then.
    ///
    /// # Safety
    /// With glibc it is a null-terminated list of lines, which stay.
    pub(crate) unsafe fn given(third: *const *const c_char) -> Self {
        // The first also exists if another C library stands in for glibc, like gcompat on Alpine.
        let names = [c"gnu_get_libc_version", c"_thread_db_pthread_tid"];
        match names.iter().any(|name| next::first(name).is_null()) {
            true => Self(ptr::null()),
            false => Self(third),
        }
    }

    /// The value of a variable.
    ///
    /// # Safety
    /// The environment is not changed at the same moment, nor has it been.
    pub(crate) unsafe fn get(self, name: &CStr) -> Option<&'static CStr> {
        if self.0.is_null() {
            // SAFETY: a zero-terminated name.
            let value = unsafe { next::getenv(name.as_ptr()) };
            // SAFETY: getenv returned null, or a zero-terminated string that stays.
            return (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) });
        }
        let mut at = self.0;
        loop {
            // SAFETY: before the null at the end.
            let line = unsafe { at.read() };
            if line.is_null() {
                return None;
            }
            // SAFETY: a zero-terminated string that stays.
            let line = unsafe { CStr::from_ptr::<'static>(line) };
            let rest = line.to_bytes_with_nul().strip_prefix(name.to_bytes());
            if let Some(value) = rest.and_then(|rest| rest.strip_prefix(b"=")) {
                // SAFETY: the end of that string. (`from_bytes_with_nul` needs functions that are
                // not linked here.)
                return Some(unsafe { CStr::from_ptr(value.as_ptr().cast()) });
            }
            // SAFETY: not beyond the null.
            at = unsafe { at.add(1) };
        }
    }
}

//! Locations of allocators' roots, kept between walks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use profiler_core::{glibc, musl, pymalloc};

/// Where allocators have their roots, as far as that was found. Each walker notes what it finds.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    pub(crate) glibc: Mutex<glibc::Roots>,
    pub(crate) musl: Mutex<musl::Roots>,
    pub(crate) pymalloc: Mutex<pymalloc::Roots>,
}

/// What a thread that panicked had is as good as before: roots are compared with the memory again.
pub(crate) fn locked<T>(roots: &Mutex<T>) -> MutexGuard<'_, T> {
    roots.lock().unwrap_or_else(PoisonError::into_inner)
}

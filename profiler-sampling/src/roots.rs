//! Locations of allocators' roots, kept between walks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use profiler_core::{glibc, musl, pymalloc};

/// The known locations of allocators' roots. Each walker records what it finds.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    pub(crate) glibc: Mutex<glibc::Roots>,
    pub(crate) musl: Mutex<musl::Roots>,
    pub(crate) pymalloc: Mutex<pymalloc::Roots>,
}

/// The data of a thread that panicked is as good as before: roots are verified in memory again.
pub(crate) fn locked<T>(roots: &Mutex<T>) -> MutexGuard<'_, T> {
    roots.lock().unwrap_or_else(PoisonError::into_inner)
}

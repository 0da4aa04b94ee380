//! Looking at a child of one of the Pythons that are there.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod account;

use profiler_core::heap::HeapSnapshot;
use profiler_core::pymalloc::{self, Context, NotWalked};
use profiler_core::sample::PythonMalloc;
use profiler_target::{Process, Target};
use profiler_testing::child::while_stopped;

/// Stops the child and walks it.
pub(crate) fn walk(pid: i32) -> Result<HeapSnapshot, NotWalked> {
    let target = Target::open(pid).expect("the target opens");
    let context = Context {
        python: target.python_version(),
        serves: PythonMalloc::Unknown,
    };
    while_stopped(&target, |memory, residency, _| {
        pymalloc::walk(memory, residency, &context)
    })
}

/// Stops the child and determines what serves its objects.
pub(crate) fn serves(pid: i32) -> PythonMalloc {
    let target = Target::open(pid).expect("the target opens");
    let python = target.python_version().expect("a Python");
    while_stopped(&target, |memory, residency, _| {
        pymalloc::objects_allocator(memory, residency, python)
    })
}

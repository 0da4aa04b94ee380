//! Walks a child that runs one of the installed Pythons.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod account;

use profiler_core::heap::HeapSnapshot;
use profiler_core::pymalloc::{self, Context, NotWalked, Roots};
use profiler_core::sample::PythonMalloc;
use profiler_target::{Process, Target};
use profiler_testing::child::while_stopped;

/// Stops the child and walks it.
pub(crate) fn walk(pid: i32) -> Result<HeapSnapshot, NotWalked> {
    let target = Target::open(pid).expect("the target opens");
    let context = Context {
        python: target.python_version().expect("it runs"),
        serves: PythonMalloc::Unknown,
    };
    while_stopped(&target, |memory, residency, _| {
        let walked = pymalloc::walk(memory, residency, &context);
        // From where it was found, it is the same.
        let mut roots = Roots::default();
        for _ in 0..2 {
            let again = pymalloc::walk_from(memory, residency, &context, &mut roots);
            assert_eq!(again, walked);
        }
        walked
    })
}

/// Stops the child and determines what serves its objects.
pub(crate) fn serves(pid: i32) -> PythonMalloc {
    let target = Target::open(pid).expect("the target opens");
    let python = target.python_version().expect("it runs").expect("a Python");
    while_stopped(&target, |memory, residency, _| {
        let serves = pymalloc::objects_allocator(memory, residency, python);
        let mut roots = Roots::default();
        assert_eq!(
            pymalloc::find_roots(memory, residency, python, &mut roots),
            serves
        );
        let again = pymalloc::objects_allocator_from(memory, residency, python, &mut roots);
        assert_eq!(again, serves, "from where its tables were found");
        serves
    })
}

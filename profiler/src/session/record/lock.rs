//! One recording of a process at a time: two would count each other's traps, and each would slow
//! the process down.

use profiler_common::PID_BITS;
use profiler_trace::whole_file::{Lock, LockError};

/// The file in which processes are locked.
const LOCKS: &str = "recorded";

/// Takes the lock of the process with this pid and start time (in clock ticks since the host's
/// boot).
///
/// # Errors
/// When another fragscope has it, or no lock is available.
pub(super) fn take(pid: i32, began_ticks: u64) -> Result<Lock, LockError> {
    let number = began_ticks << PID_BITS | u64::from(pid.cast_unsigned());
    Lock::take(LOCKS, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_taken_once_until_it_is_given_up() {
        let take = |ticks| take(std::process::id() as i32, ticks);
        let first = take(1).expect("free");
        assert!(matches!(take(1), Err(LockError::Held(_))));
        take(2).expect("another process");
        drop(first);
        take(1).expect("free again");
    }
}

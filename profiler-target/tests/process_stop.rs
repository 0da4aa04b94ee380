//! Stopping a process of one's own user: no privilege needed.

mod child;

use std::time::Duration;

use child::{Child, wait_for_state};
use profiler_target::{StopError, Target};

#[test]
fn a_target_stops_with_all_its_threads_and_runs_on() {
    let mut child = Child::python(
        "
import threading, sys, time
ticks = [0] * 8
def tick(i):
    while True:
        ticks[i] += 1
for i in range(8):
    threading.Thread(target=tick, args=(i,), daemon=True).start()
print('ready', flush=True)
for line in sys.stdin:
    before = sum(ticks)
    while sum(ticks) == before:
        pass
    print('ran on', flush=True)
",
    );
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = child::stop(&target);
    assert_eq!(stopped.threads().len(), 9);
    for thread in stopped.threads() {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", thread.tid)).expect("there");
        assert!(state.contains(") t "), "{state}");
        assert_ne!(thread.stack_pointer.get(), 0);
        assert_ne!(thread.thread_pointer.get(), 0);
    }
    drop(stopped);
    child.tell("go on");
    assert_eq!(child.listen(), "ran on");
}

#[test]
fn a_target_in_a_job_control_stop_stays_in_it() {
    let mut child = Child::c("signals");
    let pid = nix::unistd::Pid::from_raw(child.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("our own child");
    wait_for_state(child.pid(), 'T');
    let target = Target::open(child.pid()).expect("our own child");
    for _ in 0..10 {
        let stopped = child::stop(&target);
        assert_eq!(stopped.threads().len(), 1);
        drop(stopped);
        wait_for_state(child.pid(), 'T');
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("our own child");
    child.tell("go on");
    assert_eq!(child.listen(), "0");
}

#[test]
fn a_thread_that_cannot_stop_is_given_up_and_runs_on() {
    let mut child = Child::c("vfork");
    wait_for_state(child.pid(), 'D');
    let target = Target::open(child.pid()).expect("our own child");
    let error = target
        .stop_within(Duration::from_millis(50))
        .expect_err("it waits for its child");
    assert!(
        matches!(error, StopError::TimedOut { state: 'D', .. }),
        "{error}"
    );
    child.tell("end the child half");
    assert_eq!(child.listen(), "over");
    assert_eq!(child::stop(&target).threads().len(), 1);
}

#[test]
fn a_target_that_dies_while_it_is_stopped_is_reaped_by_its_parent_as_soon_as_the_stop_ends() {
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .expect("a child");
    let target = Target::open(child.id() as i32).expect("our own child");
    let stopped = child::stop(&target);
    child.kill().expect("our own child");
    drop(stopped);
    // Who still looks at the target does not keep its end from anybody.
    assert!(!child.wait().expect("our own child").success());
    drop(target);
}

#[test]
fn a_panic_while_stopped_lets_the_target_run_on() {
    let mut child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _stopped = child::stop(&target);
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    child.tell("go on");
    assert_eq!(child.listen(), "0");
}

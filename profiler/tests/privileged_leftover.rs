//! No breakpoint stays in a target, whoever is killed, and one that a kernel left is removed. Needs
//! root.

#[path = "../../profiler-probe/tests/calls/mod.rs"]
mod calls;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calls::Calls;
use fragscope::session::doctor::{self, Fix, Grade};
use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession, leftover};
use profiler_target::Target;

const TARGET_VARIABLE: &str = "FRAGSCOPE_TEST_TARGET";

/// Not a test of its own: the profiler that the tests below kill.
#[test]
#[ignore = "started by the tests below"]
fn profiler_to_be_killed() {
    let pid = std::env::var(TARGET_VARIABLE).expect("set by the test that starts this");
    let pid: i32 = pid.parse().expect("a pid");
    let target = Target::open(pid).expect("it runs");
    let plan = ProbePlan::for_target(&target).expect("a plan");
    loop {
        let session = ProbeSession::attach(pid, &plan, Budget::Unlimited).expect("probes");
        println!("attached");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("a word");
        drop(session);
    }
}

/// A profiler with its probes attached.
fn profiler(calls: &Calls) -> Child {
    let mut profiler = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "profiler_to_be_killed",
        ])
        .env(TARGET_VARIABLE, calls.pid().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the profiler");
    let output = profiler.stdout.as_mut().expect("stdout");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("attached")));
    profiler
}

#[test]
fn the_target_survives_a_killed_profiler() {
    let mut calls = Calls::start();
    let before = calls.code();
    let mut profiler = profiler(&calls);
    assert_ne!(calls.code(), before, "breakpoints");
    calls.tell("spin 1000000");
    profiler.kill().expect("killed");
    assert_eq!(profiler.wait().expect("ended").signal(), Some(9));
    assert_eq!(calls.answer(), "spun");
    calls.wait_for_code(&before);
    calls.run(10);
}

#[test]
fn no_breakpoint_is_left_by_a_profiler_that_is_killed_while_its_probes_go() {
    let mut calls = Calls::start();
    let before = calls.code();
    for _ in 0..8 {
        let mut profiler = profiler(&calls);
        let armed = calls.code();
        // It detaches, and is killed when the first breakpoint goes.
        drop(profiler.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(60);
        while calls.code() == armed {
            assert!(Instant::now() < deadline, "it does not detach");
        }
        profiler.kill().expect("killed");
        profiler.wait().expect("ended");
        calls.wait_for_code(&before);
        calls.run(10);
    }
}

#[test]
fn what_a_killed_guard_left_is_removed_by_the_session() {
    let mut calls = Calls::start();
    let before = calls.code();
    let session = calls.attach(Budget::Unlimited);
    let guard = child_named("probe-guard");
    nix::sys::signal::kill(guard, nix::sys::signal::Signal::SIGKILL).expect("ours");
    // It is heard at once, and not when the session ends.
    let deadline = Instant::now() + Duration::from_secs(60);
    while session.activity().ended.is_none() {
        assert!(Instant::now() < deadline, "nobody noticed");
        std::thread::yield_now();
    }
    assert!(
        session
            .activity()
            .ended
            .is_some_and(|why| why.contains("ended by somebody"))
    );
    calls.wait_for_code(&before);
    calls.run(10);
    drop(session);
}

/// The child of this process that shows this name.
fn child_named(name: &str) -> nix::unistd::Pid {
    let tasks = fs::read_dir("/proc/self/task").expect("our threads");
    let children = tasks.flat_map(|task| {
        let path = task.expect("a thread").path().join("children");
        let children = fs::read_to_string(path).unwrap_or_default();
        let children: Vec<String> = children.split_whitespace().map(str::to_owned).collect();
        children
    });
    let of_name = |pid: &String| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let found: Vec<String> = children.filter(of_name).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    nix::unistd::Pid::from_raw(found[0].parse().expect("a number"))
}

#[test]
fn a_breakpoint_that_nobody_holds_is_found_and_removed_and_one_in_use_stays() {
    let mut calls = Calls::start();
    let before = calls.code();
    let target = Target::open(calls.pid()).expect("it runs");
    assert_eq!(leftover::find(&target).expect("it runs"), []);

    // What a kernel leaves: the first byte of a function changed, and nobody to remove it.
    let session = calls.attach(Budget::Unlimited);
    let armed = leftover::find(&target).expect("it runs");
    assert!(!armed.is_empty());
    let left = leftover::repair(&target, &armed).expect("we are root");
    assert_eq!(left, armed, "what a session holds stays");
    drop(session);
    assert_eq!(leftover::find(&target).expect("it runs"), []);
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/mem", calls.pid()));
    let memory = memory.expect("we are root");
    for breakpoint in &armed {
        memory
            .write_all_at(&[0xcc], breakpoint.addr.get())
            .expect("we are root");
    }
    assert_ne!(calls.code(), before);

    let checks = doctor::run(Some(calls.pid()));
    let check = checks
        .iter()
        .find(|check| check.name == "breakpoints")
        .expect("it looks");
    assert_eq!(check.ok, Grade::Limited);
    assert!(
        matches!(&check.fix, Some(Fix::Step(step)) if step.ends_with("--repair")),
        "{check:?}"
    );
    let repaired = Command::new(env!("CARGO_BIN_EXE_fragscope"))
        .args(["doctor", "--repair", "--pid", &calls.pid().to_string()])
        .output()
        .expect("fragscope starts");
    let said = String::from_utf8_lossy(&repaired.stdout);
    let count = format!("{} removed", armed.len());
    assert!(said.contains(&count), "{said}");
    assert!(calls.code() == before);
    calls.run(10);
}

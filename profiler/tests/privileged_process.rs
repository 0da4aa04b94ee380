//! Inspecting processes of others, and being inspected by others. Needs root.

mod privileged_process {
    mod denials;
    mod frozen;
    mod huge_pages;
    mod swap;
}
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use fragscope::session::doctor::{self, Grade};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::memory::{ReadError, ResidentMemory, TargetMemory};
use profiler_target::{ErrorKind, Process, StopError, Target, TargetState, host};
use profiler_testing::child::{self, Child, KillOnDrop, compiled, install, open_folder};
use profiler_testing::wait::promptly;
use support::{command, json};

/// The variable that names the process which a copy of this program shall attach to.
const TARGET: &str = "FRAGSCOPE_TEST_TARGET";

/// A copy of this program that runs one of the helpers below, as a process of its own.
struct Helper(KillOnDrop);

impl Helper {
    /// Runs until it has said `word`.
    fn start(name: &str, pid: i32, word: &str) -> Self {
        let inner = Command::new(std::env::current_exe().expect("ourselves"))
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env(TARGET, pid.to_string())
            .stdout(Stdio::piped())
            .spawn();
        let mut helper = Self(KillOnDrop(inner.expect("it starts")));
        assert_eq!(first_word_of(helper.0.stdout.take().expect("piped")), word);
        helper
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

fn helpers_target() -> i32 {
    let pid = std::env::var(TARGET).expect("set by the test that starts this");
    pid.parse().expect("a pid")
}

/// The first line of a helper's output that begins with this mark.
const MARK: &str = "helper: ";

fn first_word_of(output: impl std::io::Read) -> String {
    let lines = BufReader::new(output).lines();
    let mut words = lines.filter_map(|line| {
        let line = line.expect("text");
        line.split_once(MARK).map(|(_, word)| word.to_owned())
    });
    words.next().expect("the helper says something")
}

fn hold_the_target(longest: Duration) {
    let pid = helpers_target();
    let target = Target::open(pid).expect("we are root");
    let _stopped = loop {
        match target.stop_for(longest) {
            Err(StopError::TimedOut { .. }) => {}
            stopped => break stopped.expect("it stops"),
        }
    };
    println!("{MARK}stopped");
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "a helper of the tests below"]
fn helper_holds_the_target_for_an_hour() {
    hold_the_target(Duration::from_secs(3600));
}

#[test]
#[ignore = "a helper of the tests below"]
fn helper_holds_the_target_for_a_second() {
    hold_the_target(Duration::from_secs(1));
}

#[test]
#[ignore = "a helper of the tests below"]
fn helper_stops_the_target_again_and_again() {
    let pid = helpers_target();
    let target = Target::open(pid).expect("we are root");
    println!("{MARK}begins");
    loop {
        drop(child::stop(&target));
    }
}

#[test]
#[ignore = "a helper of the tests below"]
fn helper_opens_the_target() {
    let pid = helpers_target();
    match Target::open(pid) {
        Ok(target) => println!("{MARK}opened {}", target.pid()),
        Err(error) => {
            let is_denied = matches!(error.kind(), ErrorKind::NotPermitted { .. });
            println!(
                "{MARK}{} {error}",
                if is_denied { "denied" } else { "failed" }
            );
        }
    }
}

#[test]
#[ignore = "a helper of the tests below"]
fn helper_runs_doctor() {
    let pid = helpers_target();
    let checks = doctor::run(Some(pid));
    let bad = checks.iter().filter(|check| check.ok != Grade::Ok);
    println!(
        "{MARK}{}",
        bad.map(|check| check.name).collect::<Vec<_>>().join(",")
    );
}

#[test]
fn a_target_runs_on_after_its_stopper_is_killed() {
    let mut child = Child::c("signals");
    let stopper = Helper::start(
        "helper_holds_the_target_for_an_hour",
        child.pid(),
        "stopped",
    );
    let target = Target::open(child.pid()).expect("we are root");
    let error = target.stop().expect_err("one tracer at a time");
    let expected = guard_of(&stopper) as u64;
    assert!(
        matches!(error, StopError::AlreadyTraced { tracer, .. } if tracer == expected),
        "{error}"
    );
    // It can be looked at all the same.
    let mappings = target.mappings().expect("alive");
    let map = target.residency(&mappings).expect("alive");
    assert_eq!(
        map.resident_bytes(),
        target.kernel_count().expect("alive").rss_bytes
    );

    drop(stopper);
    child.send("go on");
    assert_eq!(child.next_line(), "0");
    assert_eq!(child::stop(&target).threads().len(), 1);
}

#[test]
fn no_signal_is_lost_or_made_up_by_stops_and_killed_stoppers() {
    let mut child = Child::c("signals");
    let pid = child.pid();
    let mut sent = 0;
    for _ in 0..8 {
        let _stopper = Helper::start("helper_stops_the_target_again_and_again", pid, "begins");
        for _ in 0..500 {
            send_queued(pid);
            sent += 1;
        }
    }
    let target = Target::open(pid).expect("we are root");
    for _ in 0..200 {
        let stopped = child::stop(&target);
        for _ in 0..5 {
            send_queued(pid);
            sent += 1;
        }
        drop(stopped);
    }
    child.send("how many?");
    assert_eq!(child.next_line(), sent.to_string());
}

#[test]
fn a_target_runs_on_when_its_stopper_is_suspended_or_killed() {
    for signal in [Signal::SIGSTOP, Signal::SIGTSTP, Signal::SIGKILL] {
        let mut child = Child::c("signals");
        let stopper = Helper::start(
            "helper_holds_the_target_for_an_hour",
            child.pid(),
            "stopped",
        );
        child::wait_for_state(child.pid(), 't');
        nix::sys::signal::kill(Pid::from_raw(stopper.pid() as i32), signal).expect("ours");
        child.send("do you run?");
        assert_eq!(child.next_line(), "0", "{signal}");
    }
}

#[test]
fn a_target_runs_on_when_its_stopper_and_the_guard_are_both_suspended() {
    let mut child = Child::c("signals");
    let stopper = Helper::start(
        "helper_holds_the_target_for_a_second",
        child.pid(),
        "stopped",
    );
    let guard = guard_of(&stopper);
    for pid in [guard, stopper.pid() as i32] {
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("ours");
    }
    child.send("do you run?");
    assert_eq!(child.next_line(), "0");
    // The kernel ended the guard for it.
    assert!(std::fs::read_link(format!("/proc/{guard}/exe")).is_err());
}

#[test]
fn a_guard_is_found_neither_by_name_nor_by_session_nor_by_group_and_leaves_with_its_stopper() {
    let child = Child::c("signals");
    let stopper = Helper::start(
        "helper_holds_the_target_for_an_hour",
        child.pid(),
        "stopped",
    );
    let guard = guard_of(&stopper);
    let of = |pid: i32, file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs")
    };
    assert_eq!(of(guard, "comm"), "stop-guard\n");
    assert_eq!(of(guard, "cmdline").trim_end_matches('\0'), "stop-guard");
    let stat = of(guard, "stat");
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .expect("a stat")
        .1
        .split(' ')
        .collect();
    assert_eq!(
        (fields[2], fields[3]),
        (&*guard.to_string(), &*guard.to_string())
    );
    let handle = Target::open(guard).expect("we are root");
    drop(stopper);
    promptly("the guard's end", || {
        (handle.state() != TargetState::Same).then_some(())
    });
}

#[test]
#[ignore = "a helper of the test below"]
fn helper_has_the_number_of_its_guard_given_to_another() {
    assert_eq!(helpers_target(), TARGET_IN_ITS_NAMESPACE);
    let mut child = Command::new("sleep").arg("1000").spawn().expect("a child");
    let target = Target::open(child.id() as i32).expect("our own child");
    drop(child::stop(&target));
    let guard = Pid::from_raw(guard_of_process(std::process::id()));
    nix::sys::signal::kill(guard, Signal::SIGKILL).expect("our own child");
    // As whoever reaps all children does.
    waitpid(guard, None).expect("our own child");
    let before = (guard.as_raw() - 1).to_string();
    std::fs::write("/proc/sys/kernel/ns_last_pid", before).expect("we are root here");
    let mut other = Command::new("sleep").arg("1000").spawn().expect("a child");
    assert_eq!(
        other.id() as i32,
        guard.as_raw(),
        "nobody else starts processes here"
    );
    // It neither waits for the end of the other one, nor ends it.
    drop(target);
    assert!(other.try_wait().expect("our own child").is_none());
    println!("{MARK}done");
    for child in [&mut child, &mut other] {
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
}

/// Which it does not open: it has a child of its own.
const TARGET_IN_ITS_NAMESPACE: i32 = 1;

#[test]
fn the_number_of_a_guard_that_somebody_reaped_is_not_waited_for() {
    // Numbers are given in order to nobody else in there.
    let alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let helper = "helper_has_the_number_of_its_guard_given_to_another";
    assert_eq!(said_by(helper, &alone, TARGET_IN_ITS_NAMESPACE), "done");
}

/// The process that holds the target of this helper.
fn guard_of(helper: &Helper) -> i32 {
    guard_of_process(helper.pid())
}

/// The first child of a process that is a guard.
fn guard_of_process(pid: u32) -> i32 {
    let children = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let mut all = children.flat_map(|task| {
        let path = task.expect("a thread").path().join("children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        let pids = children
            .split_whitespace()
            .map(|pid| pid.parse().expect("a number"));
        pids.collect::<Vec<i32>>()
    });
    let is_guard = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name == "stop-guard\n")
    };
    all.find(is_guard).expect("it has a guard")
}

/// Queued signals are never merged, so that they can be counted.
fn send_queued(pid: i32) {
    let value = libc::sigval {
        sival_ptr: std::ptr::null_mut(),
    };
    // SAFETY: sigqueue takes plain values and touches no memory of ours.
    while unsafe { libc::sigqueue(pid, libc::SIGRTMIN() + 1, value) } != 0 {
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
        std::thread::yield_now();
    }
}

/// What `fragscope snapshot --json` says of a process.
fn snapshot(pid: i32, more: &[&str]) -> serde_json::Value {
    let mut snapshot = command(&["snapshot", "--json", "--pid", &pid.to_string()]);
    json(&snapshot.args(more).output().expect("fragscope starts"))
}

/// Eight threads that do nothing but allocate and free.
const BUSY: &str = r"
import sys, threading
def work(n):
    kept = []
    while True:
        kept.append(bytearray(600 + 97 * n % 3000))
        if len(kept) > 400:
            del kept[::2]
for n in range(8):
    threading.Thread(target=work, args=(n,), daemon=True).start()
print('busy', flush=True)
for line in sys.stdin:
    print('on', flush=True)
";

#[test]
fn a_busy_target_is_walked_stopped_and_running() {
    let mut child = Child::python(BUSY);
    for _ in 0..3 {
        let seen = snapshot(child.pid(), &[]);
        let about = &seen["completeness"];
        assert_eq!(about["stopped"], true);
        // All was still: where no lock was held, all adds up.
        if about["threads_in_allocator"] == 0 {
            assert_eq!(about["layout_confidence"], "high", "{about}");
            assert_eq!(about["defects"], serde_json::json!([]));
        }
        let seen = snapshot(child.pid(), &["--no-stop"]);
        let about = &seen["completeness"];
        assert_eq!(about["stopped"], false);
        let gaps = about["gaps"].as_array().expect("a list");
        assert!(gaps.iter().any(|gap| gap == "moving"), "{about}");
        assert!(
            !seen["heaps"].as_array().expect("a list").is_empty(),
            "{about}"
        );
    }
    child.send("still there?");
    assert_eq!(child.next_line(), "on");
}

#[test]
fn a_stop_that_is_too_short_for_the_walk_is_said_to_have_ended_early() {
    let child = Child::python(
        "
import sys
kept = [bytes(n % 900) for n in range(400000)]
print('ready', flush=True)
sys.stdin.readline()
",
    );
    // On a busy host it may not have come to a stop by then.
    let about = (0..100).find_map(|_| {
        let seen = snapshot(child.pid(), &["--max-stop", "5ms"]);
        let about = seen["completeness"].clone();
        (!about["released"].is_null()).then_some(about)
    });
    let about = about.expect("one of them came to a stop");
    assert_eq!(about["stopped"], false, "{about}");
    assert_eq!(about["released"]["why"], "max-stop", "{about}");
    let after = about["released"]["after_ms"].as_f64().expect("a number");
    assert!(after >= 5.0, "{about}");
    let gaps = about["gaps"].as_array().expect("a list");
    assert!(gaps.iter().any(|gap| gap == "released"), "{about}");
}

#[test]
fn a_snapshot_killed_at_any_instant_lets_the_target_run_on() {
    let mut child = Child::python(BUSY);
    for later in 0..24u32 {
        let mut snapshot = command(&["snapshot", "--pid", &child.pid().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("fragscope starts");
        // From when it holds the target, a growing number of looks later.
        let mut looks = 0;
        while looks < later * later && snapshot.try_wait().expect("ours").is_none() {
            looks += u32::from(child::state_of(child.pid()) == 't');
        }
        let _ = snapshot.kill();
        snapshot.wait().expect("ours");
        child.send("still there?");
        assert_eq!(child.next_line(), "on", "killed after {looks} looks");
    }
    assert_ne!(child::state_of(child.pid()), 't');
}

/// What a helper that runs as someone less than root says.
fn said_by(name: &str, prefix: &[&str], pid: i32) -> String {
    let folder = open_folder();
    let copy = install(&std::env::current_exe().expect("ourselves"), &folder);
    let mut command = Command::new(prefix[0]);
    command
        .args(&prefix[1..])
        .arg(&copy)
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(TARGET, pid.to_string())
        .current_dir("/");
    let output = command
        .output()
        .expect("setpriv and unshare, of util-linux");
    assert!(output.status.success(), "{output:?}");
    first_word_of(&output.stdout[..])
}

#[test]
fn five_hundred_threads_stop_and_go_on() {
    let mut child = Child::python(
        "
import sys, threading
wait = threading.Event()
for _ in range(500):
    threading.Thread(target=wait.wait, daemon=True).start()
print('ready', flush=True)
for line in sys.stdin:
    print('ran on', flush=True)
",
    );
    let target = Target::open(child.pid()).expect("we are root");
    let stopped = child::stop(&target);
    assert_eq!(stopped.threads().len(), 501);
    drop(stopped);
    child.send("go on");
    assert_eq!(child.next_line(), "ran on");
}

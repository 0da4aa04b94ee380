//! No breakpoint stays in a target, whichever process is killed, and one that a kernel left is
//! removed. Needs root.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Stdio};
use std::sync::mpsc;
use std::thread;

use fragscope::session::doctor::{self, Fix, Grade};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use profiler_probe::leftover::{self, Scan};
use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;
use profiler_testing::calls::Calls;
use profiler_testing::child::{Child, child_of};
use profiler_testing::wait::promptly;
use support::{command, stderr, stdout};

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

fn plan(calls: &Calls) -> ProbePlan {
    let target = Target::open(calls.pid()).expect("it runs");
    ProbePlan::for_target(&target).expect("a plan")
}

fn attach(calls: &Calls) -> ProbeSession {
    ProbeSession::attach(calls.pid(), &plan(calls), Budget::Unlimited).expect("probes")
}

/// A profiler with its probes attached.
fn profiler(calls: &Calls) -> Child {
    let target = calls.pid().to_string();
    Child::ignored_test(
        "profiler_to_be_killed",
        (TARGET_VARIABLE, &target),
        "attached",
    )
}

#[test]
fn the_target_survives_a_killed_profiler() {
    let mut calls = Calls::start();
    let before = calls.code();
    let mut profiler = profiler(&calls);
    assert_ne!(calls.code(), before, "breakpoints");
    calls.send("spin 1000000");
    profiler.kill();
    assert_eq!(profiler.ended().signal(), Some(9));
    assert_eq!(calls.next_line(), "spun");
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
        profiler.close_input();
        promptly("the first breakpoint's end", || {
            (calls.code() != armed).then_some(())
        });
        profiler.kill();
        calls.wait_for_code(&before);
        calls.run(10);
    }
}

#[test]
fn what_a_killed_guard_left_is_removed_by_the_session() {
    a_killed_guard_leaves_nothing(Calls::start());
}

#[test]
fn what_a_killed_guard_left_in_jemalloc_is_removed_by_the_session() {
    let calls = Calls::start_with_jemalloc();
    let object = plan(&calls).object.identity.object;
    assert!(object.contains("libjemalloc"), "{object}");
    a_killed_guard_leaves_nothing(calls);
}

fn a_killed_guard_leaves_nothing(mut calls: Calls) {
    let before = calls.code();
    let session = attach(&calls);
    assert_ne!(calls.code(), before, "breakpoints");
    let guard = child_named("probe-guard");
    // In the midst of calls.
    calls.send("spin 1000000");
    kill(guard, Signal::SIGKILL).expect("ours");
    // It is reported at once, and not when the session ends.
    let why = promptly("the report", || session.activity().ended.clone());
    assert!(why.contains("ended by somebody"), "{why}");
    assert_eq!(calls.next_line(), "spun");
    calls.wait_for_code(&before);
    calls.run(10);
    drop(session);
    assert!(calls.code() == before, "breakpoints are left");
    let target = Target::open(calls.pid()).expect("it runs");
    assert_eq!(leftover::find(&target).expect("it runs"), Scan::default());
}

/// A thread of this process that keeps another from running, whatever wakes it, but not from being
/// killed.
struct Kept {
    let_go: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Kept {
    fn keep(pid: Pid) -> Self {
        let (let_go, wait) = mpsc::channel::<()>();
        let (report, kept) = mpsc::channel();
        let thread = thread::spawn(move || {
            ptrace::seize(pid, ptrace::Options::empty()).expect("we are root");
            ptrace::interrupt(pid).expect("we trace it");
            waitpid(pid, Some(WaitPidFlag::__WALL)).expect("it stops");
            report.send(()).expect("somebody waits");
            // Its end lets it go.
            let _ = wait.recv();
        });
        kept.recv().expect("it is kept");
        Self { let_go, thread }
    }

    fn let_go(self) {
        drop(self.let_go);
        self.thread.join().expect("it kept it");
    }
}

/// Waits until there is no such process but as a zombie.
fn wait_for_end(pid: Pid) {
    promptly("its end", || {
        fs::read_link(format!("/proc/{pid}/exe")).err()
    });
}

/// A headless `attach` whose probes are set.
fn attached(calls: &Calls, before: &[u8]) -> process::Child {
    let attached = command(&["attach", "--headless", "--budget", "unlimited"])
        .args(["--pid", &calls.pid().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fragscope starts");
    promptly("its probes and their guard", || {
        let has_guard = child_of(attached.id(), "probe-guard").is_some();
        (has_guard && calls.code() != before).then_some(())
    });
    attached
}

#[test]
fn a_suspended_guard_leaves_nothing_when_a_signal_ends_the_session() {
    let mut calls = Calls::start();
    let before = calls.code();
    let attached = attached(&calls, &before);
    let guard = child_of(attached.id(), "probe-guard").expect("it has one");
    kill(guard, Signal::SIGSTOP).expect("we are root");
    kill(Pid::from_raw(attached.id().cast_signed()), Signal::SIGTERM).expect("ours");
    let ended = attached.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    calls.wait_for_code(&before);
    wait_for_end(guard);
    calls.run(10);
}

#[test]
fn a_guard_that_nothing_wakes_leaves_nothing_when_a_signal_ends_the_session() {
    let mut calls = Calls::start();
    let before = calls.code();
    let attached = attached(&calls, &before);
    let guard = child_of(attached.id(), "probe-guard").expect("it has one");
    let kept = Kept::keep(guard);
    kill(Pid::from_raw(attached.id().cast_signed()), Signal::SIGTERM).expect("ours");
    let ended = attached.wait_with_output().expect("it ends");
    let said = stderr(&ended);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    match pins_links() {
        true => calls.wait_for_code(&before),
        // It may not be killed, and that is said.
        false => assert!(said.contains("does not end"), "{said}"),
    }
    kept.let_go();
    calls.wait_for_code(&before);
    calls.run(10);
}

#[test]
fn a_guard_that_does_not_answer_is_ended_where_that_leaves_nothing() {
    let mut calls = Calls::start();
    let before = calls.code();
    let mut session = Some(attach(&calls));
    let guard = child_named("probe-guard");
    let kept = Kept::keep(guard);
    if pins_links() {
        drop(session.take());
        // While nobody lets the guard go on: the kernel removes them when it is not busy.
        calls.wait_for_code(&before);
        wait_for_end(guard);
    }
    kept.let_go();
    drop(session);
    calls.wait_for_code(&before);
    calls.run(10);
}

#[test]
fn a_guard_that_is_suspended_together_with_fragscope_leaves_nothing_for_long() {
    if !pins_links() {
        return;
    }
    let mut calls = Calls::start();
    let before = calls.code();
    let mut attached = attached(&calls, &before);
    let guard = child_of(attached.id(), "probe-guard").expect("it has one");
    let fragscope = Pid::from_raw(attached.id().cast_signed());
    for process in [fragscope, guard] {
        kill(process, Signal::SIGSTOP).expect("we are root");
    }
    calls.wait_for_code(&before);
    wait_for_end(guard);
    kill(fragscope, Signal::SIGKILL).expect("ours");
    attached.wait().expect("ours");
    calls.run(10);
}

/// Whether this kernel pins links by descriptor: since Linux 6.5.
fn pins_links() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split('.').map(|number| number.parse::<u32>());
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next()) >= (6, 5)
}

/// The child of this process that shows this name.
fn child_named(name: &str) -> Pid {
    child_of(process::id(), name).expect("it runs")
}

#[test]
fn a_breakpoint_that_nobody_holds_is_found_and_removed_and_one_in_use_stays() {
    let mut calls = Calls::start();
    let before = calls.code();
    let target = Target::open(calls.pid()).expect("it runs");
    assert_eq!(leftover::find(&target).expect("it runs"), Scan::default());

    // What a kernel leaves: the first byte of a function changed, and nobody to remove it.
    let session = attach(&calls);
    let armed = leftover::find(&target).expect("it runs").breakpoints;
    assert!(!armed.is_empty());
    let left = leftover::repair(&target, &armed).expect("we are root");
    assert_eq!(left, armed, "what a session holds stays");
    drop(session);
    assert_eq!(leftover::find(&target).expect("it runs"), Scan::default());
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
        matches!(&check.fix, Some(Fix::Repair { pid }) if *pid == calls.pid()),
        "{check:?}"
    );
    let repaired = command(&["doctor", "--repair", "--pid", &calls.pid().to_string()])
        .output()
        .expect("fragscope starts");
    let said = stdout(&repaired);
    let count = format!("{} removed", armed.len());
    assert!(said.contains(&count), "{said}");
    assert!(calls.code() == before);
    calls.run(10);
}

/// Maps two files of a page side by side, as code.
const SIDE_BY_SIDE: &str = "
import ctypes, mmap, os, sys, tempfile
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
c.mmap.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
folder = tempfile.TemporaryDirectory()
area = c.mmap(None, 8192, 0, 0x22, -1, 0)
for i, name in enumerate(['first', 'second']):
    with open(os.path.join(folder.name, name), 'wb') as file:
        file.write(bytes(4096))
    fd = os.open(file.name, os.O_RDONLY)
    # Private, at this place.
    assert c.mmap(area + i * 4096, 4096, 5, 0x12, fd, 0) == area + i * 4096
print(area, flush=True)
sys.stdin.readline()
";

#[test]
fn breakpoints_in_two_files_that_are_mapped_side_by_side_are_found_in_each() {
    let child = Child::python(SIDE_BY_SIDE);
    let area: u64 = child.first_line().parse().expect("an address");
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/mem", child.pid()))
        .expect("we are root");
    for at in [area + 1, area + 4096 + 2] {
        memory.write_all_at(&[0xcc], at).expect("we are root");
    }
    let target = Target::open(child.pid()).expect("it runs");
    let found = leftover::find(&target).expect("it runs").breakpoints;
    let names = found.iter().map(|one| {
        let name = one.mapped.rsplit('/').next().expect("a name");
        (name, one.offset, one.addr.get() - area)
    });
    let names: Vec<_> = names.collect();
    assert_eq!(names, [("first", 1, 1), ("second", 2, 4098)]);
}

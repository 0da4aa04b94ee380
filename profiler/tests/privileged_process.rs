//! Looking at processes of others, and being looked at by others: needs root.

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

fn helpers_target() -> Option<i32> {
    std::env::var(TARGET).ok()?.parse().ok()
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
    let Some(pid) = helpers_target() else { return };
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
    let Some(pid) = helpers_target() else { return };
    let target = Target::open(pid).expect("we are root");
    println!("{MARK}begins");
    loop {
        drop(child::stop(&target));
    }
}

#[test]
#[ignore = "a helper of the tests below"]
fn helper_opens_the_target() {
    let Some(pid) = helpers_target() else { return };
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
    let Some(pid) = helpers_target() else { return };
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
    while handle.state() == TargetState::Same {
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "a helper of the test below"]
fn helper_has_the_number_of_its_guard_given_to_another() {
    let Some(TARGET_IN_ITS_NAMESPACE) = helpers_target() else {
        return;
    };
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

#[test]
fn swapped_pages_are_reported_and_left_in_swap() {
    let _swap = Swap::on();
    let child = Child::c("pages");
    let addrs: Vec<u64> = child
        .first_line()
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let area = AddrRange::with_len(RemoteAddr::new(addrs[4]), 1 << 20).expect("small");
    let target = Target::open(child.pid()).expect("we are root");
    let stopped = child::stop(&target);
    let mappings = target.mappings().expect("alive");
    let map = target.residency(&mappings).expect("alive");
    let before = target.kernel_count().expect("alive");
    assert_eq!(map.resident_bytes(), before.rss_bytes);
    assert_eq!(map.swapped_bytes(), before.swap_bytes);
    let swapped: Vec<_> = map
        .runs_in(area)
        .filter(|run| run.state.is_swapped())
        .collect();
    assert!(!swapped.is_empty(), "the kernel swapped nothing out");
    let memory = ResidentMemory::new(target.memory(), &map);
    for run in swapped {
        let at = run.range.start();
        assert_eq!(memory.read(at, &mut [0; 8]), Err(ReadError::Swapped(at)));
    }
    let after = target.kernel_count().expect("alive");
    drop(stopped);
    assert_eq!(after.rss_bytes, before.rss_bytes);
    assert_eq!(after.swap_bytes, before.swap_bytes);
}

/// What `fragscope snapshot --json` says of a process.
fn snapshot(pid: i32, more: &[&str]) -> serde_json::Value {
    let mut snapshot = command(&["snapshot", "--json", "--pid", &pid.to_string()]);
    json(&snapshot.args(more).output().expect("fragscope starts"))
}

/// Bytes of its memory that are in swap, by the kernel.
fn in_swap(pid: i32) -> u64 {
    let target = Target::open(pid).expect("we are root");
    target.quick_count().expect("alive").swap_bytes
}

#[test]
fn a_swapped_heap_stays_in_swap_unless_it_is_asked_for() {
    let _swap = Swap::on();
    let mut child = Child::python(
        r"
import ctypes, sys
kept = [[bytes([i % 250 + 1]) * 700 for i in range(200)] for _ in range(20)]
for row in kept:
    del row[::2]
untouched = bytearray(0)
print('ready', flush=True)
sys.stdin.readline()
libc = ctypes.CDLL(None, use_errno=True)
libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
MADV_PAGEOUT = 21
for line in open('/proc/self/maps'):
    if '[heap]' in line:
        start, end = (int(n, 16) for n in line.split()[0].split('-'))
        assert libc.madvise(start, end - start, MADV_PAGEOUT) == 0, ctypes.get_errno()
print('out', flush=True)
sys.stdin.readline()
",
    );
    let before = snapshot(child.pid(), &[]);
    child.send("page out");
    assert_eq!(child.next_line(), "out");
    // It waits in a read: nothing but fragscope touches its pages from here on.
    child::wait_for_state(child.pid(), 'S');
    let swapped = in_swap(child.pid());
    assert!(swapped > 1 << 20, "the kernel swapped {swapped} bytes out");

    for more in [&[][..], &["--no-stop"]] {
        let left = snapshot(child.pid(), more);
        assert_eq!(in_swap(child.pid()), swapped, "{more:?}");
        assert_eq!(left["swap_bytes"], swapped);
        assert!(left["completeness"]["unreadable_bytes"].as_u64() > Some(0));
    }
    let brought = snapshot(child.pid(), &["--swap-in"]);
    assert_eq!(
        brought["swap_bytes"], swapped,
        "the sample keeps the state before"
    );
    assert_eq!(brought["completeness"]["unreadable_bytes"], 0);
    assert_eq!(brought["completeness"]["layout_confidence"], "high");
    let live = |of: &serde_json::Value| of["heaps"][0]["live_bytes"].as_u64().expect("a number");
    assert!(live(&before).abs_diff(live(&brought)) < 64 << 10);
    assert!(in_swap(child.pid()) < swapped);
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

/// Swap for the time of a test, where the host has none.
struct Swap(Option<tempfile::TempDir>);

impl Swap {
    fn on() -> Self {
        let active = std::fs::read_to_string("/proc/swaps").expect("readable");
        if active.lines().count() > 1 {
            return Self(None);
        }
        let folder = open_folder();
        let script = "dd if=/dev/zero of=swap bs=1M count=32 status=none && chmod 600 swap && mkswap -q swap && swapon swap";
        let status = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder.path())
            .status();
        assert!(
            status.expect("a shell").success(),
            "swap needs root on the host"
        );
        Self(Some(folder))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let _ = Command::new("swapoff")
                .arg(folder.path().join("swap"))
                .status();
        }
    }
}

/// What a copy of this program that runs as someone less than root says of `pid`.
fn opened_by(prefix: &[&str], pid: i32) -> String {
    said_by("helper_opens_the_target", prefix, pid)
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

const NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

fn as_nobody(mut program: Vec<String>) -> Child {
    let mut command = Command::new(NOBODY[0]);
    command.args(&NOBODY[1..]).args(program.drain(..));
    Child::run(command)
}

#[test]
fn each_denial_has_a_sentence_and_a_fix_of_its_own() {
    let ours = Child::c("signals");
    let said = opened_by(&NOBODY, ours.pid());
    assert!(said.starts_with("denied "), "{said}");
    assert!(
        said.contains("belongs to user 0, and fragscope runs as user 65534"),
        "{said}"
    );

    let folder = compiled("undumpable");
    let program = folder.path().join("undumpable").display().to_string();
    let undumpable = as_nobody(vec![program]);
    let said = opened_by(&NOBODY, undumpable.pid());
    assert!(said.contains("not dumpable"), "{said}");

    let folder = compiled("signals");
    let program = folder.path().join("signals").display().to_string();
    let theirs = as_nobody(vec![program]);
    let said = opened_by(&NOBODY, theirs.pid());
    match host::ptrace_scope() {
        None | Some(0) => assert_eq!(said, format!("opened {}", theirs.pid())),
        Some(scope) => assert!(said.contains(&format!("ptrace_scope is {scope}")), "{said}"),
    }

    let weak_root = [
        "setpriv",
        "--bounding-set=-sys_ptrace",
        "--inh-caps=-sys_ptrace",
    ];
    let said = opened_by(&weak_root, theirs.pid());
    assert!(said.contains("root but without CAP_SYS_PTRACE"), "{said}");

    let hide = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    let mut hidden = vec!["unshare", "--mount", "sh", "-c", hide, "sh"];
    hidden.extend(NOBODY);
    let said = opened_by(&hidden, ours.pid());
    assert!(said.contains("hidepid"), "{said}");
}

#[test]
fn doctor_distinguishes_root_from_others() {
    let ours = Child::c("signals");
    let as_root = said_by("helper_runs_doctor", &["env"], ours.pid());
    assert_eq!(as_root, "", "root on the host has all that is needed");
    let as_nobody = said_by("helper_runs_doctor", &NOBODY, ours.pid());
    let expected = ["privilege", "BPF", "perf events", "target"];
    for name in expected {
        assert!(as_nobody.split(',').any(|bad| bad == name), "{as_nobody}");
    }
}

#[test]
fn a_kernel_thread_says_that_it_is_one() {
    assert!(
        host::sees_all_processes(),
        "run on the host or with --pid=host"
    );
    // `kthreadd`, the parent of all others, has this number on every Linux.
    let error = Target::open(2).expect_err("it has no memory");
    assert_eq!(error.kind(), ErrorKind::UnsupportedTarget);
    assert!(error.to_string().contains("kernel thread"), "{error}");
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

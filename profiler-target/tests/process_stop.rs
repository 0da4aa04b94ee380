//! Stops a process of the same user. Needs no privilege.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use profiler_core::completeness::EndedEarly;
use profiler_target::{StopError, Target};
use profiler_testing::child::{self, Child, state_of, wait_for_state};
use profiler_testing::wait::{WAIT_LIMIT, eventually};

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
    child.send("go on");
    assert_eq!(child.next_line(), "ran on");
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
    child.send("go on");
    assert_eq!(child.next_line(), "0");
}

#[test]
fn a_tracer_is_named_without_what_could_drive_a_terminal() {
    let program = child::compiled("traced");
    let mut command = std::process::Command::new(program.path().join("traced"));
    command.arg("\x1b[2J\nFORGED");
    let child = Child::run(command).keep(program);
    assert_eq!(child.first_line(), "ready");
    let target = Target::open(child.pid()).expect("our own child");
    let error = target.stop_within(WAIT_LIMIT).expect_err("it is traced");
    let said = error.to_string();
    assert!(said.ends_with("(\\x1b[2J\\nFORGED)"), "{said:?}");
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
    child.send("end the child half");
    assert_eq!(child.next_line(), "over");
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
    child.send("go on");
    assert_eq!(child.next_line(), "0");
}

/// The thread that traces a process, 0 for none.
fn tracer_of(pid: i32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("ours");
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.expect("a line").trim().parse().expect("a number")
}

/// The variable that names the process which a copy of this program shall attach to.
const TARGET: &str = "FRAGSCOPE_TEST_TARGET";

/// Open files of the helper below, at most.
const MAX_FILES: u64 = 64;

/// Not a test of its own: it stops a process with ever more files that it may still open.
#[test]
#[ignore = "started by the test below"]
fn helper_stops_the_target_with_few_files() {
    let pid = std::env::var(TARGET).expect("set by the test that starts this");
    let pid = pid.parse().expect("a pid");
    let target = Target::open(pid).expect("our own child");
    setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES).expect("fewer than before");
    let mut refused = 0;
    for left in 0.. {
        // Open all files that may be opened except `left`.
        let mut files: Vec<File> = (0..MAX_FILES)
            .map_while(|_| File::open("/dev/null").ok())
            .collect();
        files.truncate(files.len() - left);
        let stopped = target.stop_within(WAIT_LIMIT);
        drop(files);
        match stopped {
            Ok(_stopped) => {
                let thread = format!("/proc/self/task/{}", tracer_of(pid));
                assert!(std::fs::metadata(thread).is_err(), "a thread holds it");
                break;
            }
            Err(StopError::NoGuard(error)) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                refused += 1;
            }
            Err(StopError::TimedOut { .. }) => {}
            Err(error) => panic!("{left}: {error}"),
        }
    }
    // A channel takes two, and so on.
    assert!(refused > 2, "{refused}");
    drop(target);
    // No guard that was forked in vain stays as a zombie.
    assert_eq!(
        waitpid(None, Some(WaitPidFlag::WNOHANG)),
        Err(Errno::ECHILD)
    );
}

#[test]
fn a_target_is_not_stopped_where_no_guard_can_be_had() {
    let mut child = Child::c("signals");
    let helper = std::process::Command::new(std::env::current_exe().expect("ourselves"))
        .args(["--exact", "helper_stops_the_target_with_few_files"])
        .args(["--ignored", "--nocapture"])
        .env(TARGET, child.pid().to_string())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&helper.stderr);
    assert!(helper.status.success(), "{said}");
    child.send("go on");
    assert_eq!(child.next_line(), "0");
}

#[test]
fn targets_share_a_guard() {
    let children = [Child::c("signals"), Child::c("signals")];
    let targets = children
        .each_ref()
        .map(|child| Target::open(child.pid()).expect("our own child"));
    let guards = targets.each_ref().map(|target| {
        let _stopped = child::stop(target);
        tracer_of(target.pid())
    });
    assert_ne!(guards[0], 0);
    assert_eq!(guards[0], guards[1]);
    // At the same time each has its own.
    let _stopped = targets.each_ref().map(child::stop);
    let guards = targets.each_ref().map(|target| tracer_of(target.pid()));
    assert_ne!(guards[0], guards[1]);
}

#[test]
fn a_guard_that_was_suspended_between_two_stops_is_woken_by_the_next() {
    let child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = child::stop(&target);
    let guard = tracer_of(child.pid()).cast_signed();
    drop(stopped);
    kill(Pid::from_raw(guard), Signal::SIGSTOP).expect("our own child");
    wait_for_state(guard, 'T');
    let stopped = child::stop(&target);
    assert_eq!(tracer_of(child.pid()).cast_signed(), guard);
    // Also when the target is to run on.
    kill(Pid::from_raw(guard), Signal::SIGSTOP).expect("our own child");
    wait_for_state(guard, 'T');
    assert_eq!(stopped.resume().ended_early, None);
}

#[test]
fn a_guard_that_cannot_be_woken_is_replaced() {
    let child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = child::stop(&target);
    let guard = tracer_of(child.pid()).cast_signed();
    drop(stopped);
    // Whoever traces it keeps it from running, and it does not hear of SIGCONT.
    let traced = Pid::from_raw(guard);
    ptrace::seize(traced, ptrace::Options::empty()).expect("our own child");
    ptrace::interrupt(traced).expect("traced");
    wait_for_state(guard, 't');
    let stopped = target.stop().expect("by another one");
    assert_ne!(tracer_of(child.pid()).cast_signed(), guard);
    assert_eq!(stopped.threads().len(), 1);
}

#[test]
fn the_kernel_ends_a_stop_whose_guard_is_suspended() {
    let mut child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let longest = Duration::from_secs(1);
    let stopped = loop {
        match target.stop_for(longest) {
            Err(StopError::TimedOut { .. }) => {}
            stopped => break stopped.expect("it stops"),
        }
    };
    let guard = tracer_of(child.pid()).cast_signed();
    kill(Pid::from_raw(guard), Signal::SIGSTOP).expect("our own child");
    child.send("do you run?");
    assert_eq!(child.next_line(), "0");
    // It could not run, so its end let the target run on, and not before.
    assert!(stopped.since().elapsed() >= longest);
    assert!(matches!(state_of(guard), 'Z' | 'X'));
    assert_eq!(stopped.ended_early(), Some(EndedEarly::Overdue));
}

#[test]
fn a_guard_that_holds_nothing_after_an_error_is_kept() {
    let program = child::compiled("traced");
    let mut command = std::process::Command::new(program.path().join("traced"));
    // It shows the name of a guard, and is none.
    command.arg("stop-guard");
    let child = Child::run(command).keep(program);
    let target = Target::open(child.pid()).expect("our own child");
    let guard = || child::child_of(std::process::id(), "stop-guard");
    let mut guards = Vec::new();
    for _ in 0..3 {
        let error = target.stop_within(WAIT_LIMIT).expect_err("it is traced");
        // Who waited for it would do so for a minute.
        assert!(
            matches!(error, StopError::AlreadyTraced { guarded: None, .. }),
            "{error}"
        );
        assert!(error.to_string().ends_with("(stop-guard)"), "{error}");
        guards.push(guard().expect("one that is kept"));
    }
    guards.dedup();
    assert_eq!(guards.len(), 1, "{guards:?}");
}

#[test]
fn who_waits_for_another_fragscope_leaves_the_target_alone_and_keeps_its_guard() {
    let child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let first = child::stop(&target);
    let held_by = tracer_of(child.pid());
    std::thread::scope(|scope| {
        // Each stop has a guard of its own, as each fragscope has.
        let second = scope.spawn(|| child::stop(&target));
        let guards = || {
            let of_task = |task: std::io::Result<std::fs::DirEntry>| {
                let path = task.expect("a thread").path().join("children");
                std::fs::read_to_string(path).unwrap_or_default()
            };
            let tasks = std::fs::read_dir("/proc/self/task").expect("our threads");
            let children: String = tasks.map(of_task).collect();
            let children = children.split_whitespace();
            let others: Vec<u32> = children
                .filter_map(|pid| pid.parse().ok())
                .filter(|pid| *pid != held_by && *pid != child.pid().unsigned_abs())
                .collect();
            others
        };
        let waiting = eventually("the other guard", || guards().first().copied());
        for _ in 0..100 {
            assert_eq!(guards(), [waiting]);
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(first);
        drop(second.join().expect("it stops"));
    });
}

/// Not a test of its own: it stops a process while none of its guards ever runs.
#[test]
#[ignore = "started by the test below"]
fn helper_stops_the_target_without_a_guard_that_runs() {
    let pid = std::env::var(TARGET).expect("set by the test that starts this");
    let pid = pid.parse().expect("a pid");
    let target = Target::open(pid).expect("our own child");
    // What is asked for, the 0.3 s in which the kernel ends a stop, and 2 s for a busy host.
    let limit = Duration::from_secs(4);
    let patience = limit + Duration::from_millis(2300);
    let began = Instant::now();
    let stopped = target.stop_within(limit);
    let took = began.elapsed();
    assert!(matches!(stopped, Err(StopError::GuardLost)), "{stopped:?}");
    // Two guards are waited for: if each had all of it, that would be twice as long on any host.
    assert!(took >= patience && took < 2 * patience, "{took:?}");
}

#[test]
fn a_stop_whose_guards_never_run_is_given_up_within_one_patience() {
    let target = Child::c("signals");
    let mut helper = std::process::Command::new(std::env::current_exe().expect("ourselves"));
    helper
        .args([
            "--exact",
            "helper_stops_the_target_without_a_guard_that_runs",
        ])
        .args(["--ignored", "--nocapture"])
        .env(TARGET, target.pid().to_string());
    // SAFETY: one system call.
    unsafe { helper.pre_exec(|| Ok(ptrace::traceme()?)) };
    let helper = Pid::from_raw(helper.spawn().expect("it starts").id() as i32);
    assert_eq!(
        waitpid(helper, None),
        Ok(WaitStatus::Stopped(helper, Signal::SIGTRAP))
    );
    let also = ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(helper, also).expect("traced");
    ptrace::cont(helper, None).expect("traced");
    // Other tests of this program have children, too.
    let own = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    // Processes that it forks are guards, which stay where they begin.
    let mut guards = Vec::new();
    let code = loop {
        let (pid, signal) = match waitpid(None, Some(own)).expect("it runs") {
            WaitStatus::Exited(pid, code) if pid == helper => break code,
            WaitStatus::PtraceEvent(pid, _, event)
                if event == ptrace::Event::PTRACE_EVENT_FORK as i32 =>
            {
                let guard = ptrace::getevent(pid).expect("traced");
                let guard = Pid::from_raw(guard as i32);
                // A SIGCONT would make it forget a stop that it has not come to.
                if !guards.contains(&guard) {
                    waitpid(guard, Some(own)).expect("it stops");
                    guards.push(guard);
                }
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, ..) => (pid, None),
            WaitStatus::Stopped(pid, signal) => {
                let is_thread = std::fs::metadata(format!("/proc/{helper}/task/{pid}")).is_ok();
                if !is_thread {
                    guards.push(pid);
                    continue;
                }
                (
                    pid,
                    Some(signal).filter(|signal| *signal != Signal::SIGSTOP),
                )
            }
            _ => continue,
        };
        ptrace::cont(pid, signal).expect("traced");
    };
    assert_eq!((code, guards.len()), (0, 2));
}

#[test]
fn a_program_that_executes_another_one_is_not_held_up_by_a_stop() {
    const EXECS: usize = 40;
    /// Between two lines of the program, so that each of its execs meets one.
    const STOPS: usize = 5;
    /// A stop that waited for the program, as the program for it, would end after 5 s (`LONGEST_STOP`). No host is
    /// so busy that it holds up a program for half of that.
    const HELD_UP_MS: u64 = 2500;
    let program = child::compiled("execs");
    let start = |executes: &str| {
        let mut command = std::process::Command::new(program.path().join("execs"));
        command.arg(executes);
        Child::run(command)
    };
    let delay_and_time = |child: &mut Child| {
        let line = child.next_line();
        let (delay_ms, at) = line.split_once(' ').expect("it goes on");
        let delay_ms = delay_ms.parse::<u64>().expect("a number");
        (delay_ms, at.parse::<u128>().expect("a number"))
    };
    for executes in ["first", "other"] {
        let mut child = start(executes);
        let target = Target::open(child.pid()).expect("our own child");
        let (mut failed, mut delays) = (Vec::new(), Vec::new());
        for _ in 0..EXECS {
            failed.extend((0..STOPS).filter_map(|_| target.stop_within(WAIT_LIMIT).err()));
            delays.push(delay_and_time(&mut child).0);
        }
        // A thread may wait for the disk or, while it executes, for others to get a processor to die on.
        let is_kept = |error: &StopError| matches!(error, StopError::TimedOut { state: 'D', .. });
        let are_few = failed.len() < EXECS / 2;
        assert!(
            are_few && failed.iter().all(is_kept),
            "{executes}: {failed:?}"
        );
        let after = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
        let after = Duration::from(after).as_nanos();
        loop {
            let (delay_ms, at) = delay_and_time(&mut child);
            delays.push(delay_ms);
            if at > after {
                break;
            }
        }
        let longest = delays.iter().max().expect("some");
        assert!(*longest < HELD_UP_MS, "{executes}: {delays:?}");
    }
}

//! Counts the system calls of a stop.

use std::os::unix::process::CommandExt;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use profiler_target::{StopError, Target};
use profiler_testing::child::{self, Child};
use profiler_testing::wait::WAIT_LIMIT;

/// The variable that names the process which a copy of this program shall attach to.
const TARGET: &str = "FRAGSCOPE_TEST_TARGET";

/// Not a test of its own: it stops a process, and ends with the number of tries.
#[test]
#[ignore = "started by the test below"]
fn helper_stops_the_target_and_counts_its_tries() {
    let pid = std::env::var(TARGET).expect("set by the test that starts this");
    let pid = pid.parse().expect("a pid");
    let target = Target::open(pid).expect("our own child");
    for tries in 1..=5 {
        match target.stop_within(WAIT_LIMIT) {
            Err(StopError::TimedOut { .. }) => {}
            stopped => {
                drop(stopped.expect("it stops"));
                std::process::exit(tries);
            }
        }
    }
}

/// The calls that are counted: those that open files, and those that ask for news of one thread.
const COUNTED: [libc::c_long; 4] = [
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fcntl,
    libc::SYS_waitid,
];

/// Has this process, and what it forks, stop for its tracer at each call that is counted.
fn stop_at_counted_calls() -> std::io::Result<()> {
    let filter = |code: u32, jt, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    // Loads the number of the call; jumps to the end if it is one of these.
    let mut program = [filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0); 7];
    for (at, call) in COUNTED.into_iter().enumerate() {
        let to_end = (COUNTED.len() - at) as u8;
        program[1 + at] = filter(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            to_end,
            call as u32,
        );
    }
    program[5] = filter(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW);
    program[6] = filter(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_TRACE);
    let program = libc::sock_fprog {
        len: 7,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: takes numbers.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if done != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: takes a program that lives across the call.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    match done {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn a_stop_opens_no_file_for_each_thread_and_asks_for_the_news_of_each_a_few_times() {
    const THREADS: usize = 300;
    let program = child::compiled("threads");
    let mut command = std::process::Command::new(program.path().join("threads"));
    command.arg(THREADS.to_string());
    let target = Child::run(command).keep(program);
    let mut helper = std::process::Command::new(std::env::current_exe().expect("ourselves"));
    helper
        .args(["--exact", "helper_stops_the_target_and_counts_its_tries"])
        .args(["--ignored", "--nocapture"])
        .env(TARGET, target.pid().to_string());
    // SAFETY: system calls alone.
    unsafe {
        helper.pre_exec(|| {
            ptrace::traceme()?;
            stop_at_counted_calls()
        })
    };
    let helper = Pid::from_raw(helper.spawn().expect("it starts").id() as i32);
    assert_eq!(
        waitpid(helper, None),
        Ok(WaitStatus::Stopped(helper, Signal::SIGTRAP))
    );
    let also = ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACESECCOMP
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(helper, also).expect("traced");
    ptrace::cont(helper, None).expect("traced");
    let own = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    let mut counts = [0_usize; COUNTED.len()];
    let tries = loop {
        let (pid, signal) = match waitpid(None, Some(own)).expect("it runs") {
            WaitStatus::Exited(pid, code) if pid == helper => break code as usize,
            WaitStatus::PtraceEvent(pid, _, event)
                if event == ptrace::Event::PTRACE_EVENT_SECCOMP as i32 =>
            {
                let is_guard = std::fs::metadata(format!("/proc/{helper}/task/{pid}")).is_err();
                // It may have been killed meanwhile.
                if let Ok(registers) = ptrace::getregs(pid) {
                    let call = registers.orig_rax as libc::c_long;
                    let place = COUNTED.iter().position(|counted| *counted == call);
                    counts[place.expect("one of them")] += usize::from(is_guard);
                }
                (pid, None)
            }
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            WaitStatus::PtraceEvent(pid, ..) => (pid, None),
            _ => continue,
        };
        let signal = signal.filter(|signal| *signal != Signal::SIGSTOP);
        // It may have been killed meanwhile.
        let _ = ptrace::cont(pid, signal);
    };
    assert_ne!(tries, 0, "it failed");
    let [openat, openat2, fcntl, waitid] = counts;
    // Whatever the guard itself needs, and some lists of all threads.
    assert!(
        openat + openat2 + fcntl < THREADS * tries,
        "{counts:?} {tries}"
    );
    // Once when it is let go, and before each time that it does not stand yet.
    assert!(
        waitid >= THREADS && waitid < 50 * THREADS * tries,
        "{counts:?} {tries}"
    );
}

//! Probes on real processes. These tests need root (or the capabilities that `fragscope doctor`
//! names), and fail without.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use fragscope::probe::plan::ProbePlan;
use fragscope::probe::{Budget, ProbeError, ProbeSession};
use fragscope::process::Target;
use profiler_core::activity::{Activity, ProbeState};

fn compile(source: &str, flags: &[&str], output: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/privileged");
    let compiled = Command::new("cc")
        .args(["-fno-builtin", "-w", "-o"])
        .arg(output)
        .args(flags)
        .arg(folder.join(source))
        .status()
        .expect("a C compiler");
    assert!(compiled.success());
}

/// The program of `privileged/calls.c`, started and ready.
struct Calls {
    child: Child,
    answers: BufReader<ChildStdout>,
    _folder: tempfile::TempDir,
}

impl Calls {
    fn start() -> Self {
        Self::start_with(false)
    }

    /// With the allocator of `privileged/bump.c` preloaded.
    fn start_with_bump() -> Self {
        Self::start_with(true)
    }

    fn start_with(bump: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("calls");
        compile("calls.c", &["-O1", "-pthread"], &program);
        let mut command = Command::new(program);
        if bump {
            let library = folder.path().join("bump.so");
            compile("bump.c", &["-O2", "-fPIC", "-shared"], &library);
            command.env("LD_PRELOAD", library);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let answers = BufReader::new(child.stdout.take().expect("stdout"));
        let mut calls = Self {
            child,
            answers,
            _folder: folder,
        };
        assert_eq!(calls.answer(), "ready");
        calls
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn tell(&mut self, command: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin");
        writeln!(stdin, "{command}").expect("it reads");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        line.trim_end().to_string()
    }

    fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// Runs rounds of all calls; gives the allocations, frees and usable bytes by its own account.
    fn run(&mut self, rounds: u32) -> [u64; 3] {
        let answer = self.ask(&format!("run {rounds}"));
        let mut words = answer.split(' ');
        assert_eq!(words.next(), Some("ran"), "{answer}");
        let numbers: Vec<u64> = words.map(|w| w.parse().expect("a number")).collect();
        numbers.try_into().expect("three numbers")
    }

    fn plan(&self) -> ProbePlan {
        let target = Target::open(self.pid()).expect("it runs");
        ProbePlan::for_target(&target).expect("a plan")
    }

    fn attach(&self, budget: Budget) -> ProbeSession {
        ProbeSession::attach(self.pid(), &self.plan(), budget).expect("probes")
    }

    /// All code of the object that serves malloc, as it stands in the target's memory.
    fn code(&self) -> Vec<u8> {
        let object = self.plan().object.target_path;
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("maps");
        let memory = File::open(format!("/proc/{}/mem", self.pid())).expect("memory");
        let mut code = Vec::new();
        for line in maps.lines().filter(|line| line.ends_with(&object)) {
            let mut fields = line.split(' ');
            let (start, end) = fields
                .next()
                .and_then(|f| f.split_once('-'))
                .expect("range");
            if !fields.next().is_some_and(|access| access.contains('x')) {
                continue;
            }
            let hex = |text| u64::from_str_radix(text, 16).expect("an address");
            let mut bytes = vec![0; (hex(end) - hex(start)) as usize];
            memory.read_exact_at(&mut bytes, hex(start)).expect("code");
            code.extend(bytes);
        }
        assert!(!code.is_empty());
        code
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        self.child.wait().expect("it ends");
    }
}

fn hits(activity: &Activity) -> u64 {
    activity.probes.iter().map(|probe| probe.hits).sum()
}

#[test]
fn every_call_of_every_thread_is_counted_once() {
    let mut calls = Calls::start();
    let session = calls.attach(Budget::Unlimited);
    let expected = calls.run(500);
    let seen = session.detach();
    for probe in &seen.probes {
        eprintln!(
            "{} {} {} {:?}",
            probe.function, probe.site, probe.hits, probe.state
        );
    }
    assert_eq!(seen.events_lost, 0);
    assert_eq!([seen.allocs, seen.frees, seen.alloc_bytes], expected);
    assert_eq!(seen.frees_of_older, 0);
    assert!(
        seen.probes
            .iter()
            .all(|probe| probe.state == ProbeState::Firing)
    );
}

#[test]
fn an_allocator_that_no_one_knows_is_counted_by_its_arguments() {
    let mut calls = Calls::start_with_bump();
    let plan = calls.plan();
    assert!(plan.object.target_path.ends_with("bump.so") && !plan.object.chunk_header);
    let session = calls.attach(Budget::Unlimited);
    let [allocs, frees, _] = calls.run(50);
    let seen = session.detach();
    for probe in &seen.probes {
        eprintln!(
            "{} {} {} {:?}",
            probe.function, probe.site, probe.hits, probe.state
        );
    }
    assert_eq!(
        [seen.allocs, seen.frees, seen.events_lost],
        [allocs, frees, 0]
    );
    let requested = seen.sizes.max();
    assert!((400_000..=401_000).contains(&requested), "{requested}");
}

#[test]
fn what_still_lives_is_tracked_and_a_window_begins_anew() {
    let mut calls = Calls::start();
    for _ in 0..3 {
        let session = calls.attach(Budget::Unlimited);
        let expected = calls.run(20);
        let seen = session.detach();
        assert_eq!([seen.allocs, seen.frees, seen.alloc_bytes], expected);
        assert_eq!(seen.lifetimes.len(), seen.frees);
    }
}

#[test]
fn a_silent_probe_is_told_so() {
    let calls = Calls::start();
    let session = calls.attach(Budget::Unlimited);
    let seen = session.activity();
    assert!(
        seen.probes
            .iter()
            .all(|probe| probe.state == ProbeState::Silent)
    );
    assert_eq!((seen.allocs, hits(&seen)), (0, 0));
    assert!(seen.cost.ns_per_hit > 0.0);
}

#[test]
fn a_probe_that_the_kernel_refuses_is_told_and_the_others_count() {
    let mut calls = Calls::start();
    let mut plan = calls.plan();
    let is_free = |function: &str| function == "free";
    let free = plan.probes.iter_mut().find(|p| is_free(p.function.name()));
    let site = free.and_then(|probe| probe.entry.as_mut());
    site.expect("free is planned").file_offset = 1 << 40;
    let session =
        ProbeSession::attach(calls.pid(), &plan, Budget::Unlimited).expect("the other probes");
    let [allocs, _, bytes] = calls.run(20);
    let seen = session.detach();
    assert_eq!([seen.allocs, seen.alloc_bytes], [allocs, bytes]);
    for probe in &seen.probes {
        match &probe.state {
            ProbeState::Failed(why) if is_free(&probe.function) => {
                assert_eq!(why, "the kernel refuses this instruction");
            }
            state => assert_eq!(*state, ProbeState::Firing, "{}", probe.function),
        }
    }
}

#[test]
fn a_full_ring_loses_events_and_counts_them() {
    let mut calls = Calls::start();
    let plan = calls.plan();
    let session = ProbeSession::attach_with_ring(calls.pid(), &plan, Budget::Unlimited, 4096)
        .expect("probes");
    let pairs = 200_000;
    assert_eq!(calls.ask(&format!("spin {pairs}")), "spun");
    let seen = session.detach();
    assert!(seen.events_lost > 0);
    assert_eq!(seen.allocs + seen.frees + seen.events_lost, 3 * 2 * pairs);
}

#[test]
fn the_budget_bounds_what_a_busy_target_pays() {
    let share = 0.05;
    let mut calls = Calls::start();
    let start = Instant::now();
    let session = calls.attach(Budget::Share(share));
    while start.elapsed() < Duration::from_secs(8) {
        assert_eq!(calls.ask("spin 100000"), "spun");
    }
    let seen = session.detach();
    eprintln!(
        "armed {} of {} ms, {} hits of {:.0} ns, share {:.4}, {} allocs",
        seen.armed_ns / 1_000_000,
        seen.elapsed_ns / 1_000_000,
        seen.cost.hits,
        seen.cost.ns_per_hit,
        seen.cost.share,
        seen.allocs
    );
    let spent = seen.cost.hits as f64 * seen.cost.ns_per_hit / seen.elapsed_ns as f64;
    // One window may be spent ahead: two seconds' earnings.
    assert!(
        spent <= share * (1.0 + 2e9 / seen.elapsed_ns as f64),
        "{spent}"
    );
    assert!(seen.allocs > 0 && seen.armed_ns > 0 && seen.armed_ns < seen.elapsed_ns);
    assert_eq!(seen.events_lost, 0);
}

#[test]
fn a_quiet_target_stays_watched_within_the_budget() {
    let mut calls = Calls::start();
    let session = calls.attach(Budget::Share(0.05));
    let expected = calls.run(5);
    let seen = session.detach();
    assert_eq!([seen.allocs, seen.frees, seen.alloc_bytes], expected);
}

#[test]
fn detaching_leaves_the_code_as_it_was() {
    let mut calls = Calls::start();
    let before = calls.code();
    let session = calls.attach(Budget::Unlimited);
    assert_ne!(calls.code(), before, "breakpoints");
    calls.run(10);
    drop(session);
    assert!(calls.code() == before);
    let session = calls.attach(Budget::Unlimited);
    let panicked = std::thread::spawn(move || {
        let _session = session;
        std::panic::resume_unwind(Box::new("a panic with probes attached"));
    });
    assert!(panicked.join().is_err());
    assert!(calls.code() == before);
    calls.run(10);
}

#[test]
fn a_forked_child_is_not_counted_and_runs() {
    let mut calls = Calls::start();
    let session = calls.attach(Budget::Unlimited);
    let expected = calls.run(3);
    assert_eq!(calls.ask("fork 10000"), "forked");
    let seen = session.detach();
    assert_eq!([seen.allocs, seen.frees, seen.alloc_bytes], expected);
}

#[test]
fn a_target_that_dies_ends_the_session() {
    let mut calls = Calls::start();
    let session = calls.attach(Budget::Unlimited);
    calls.tell("spin 100000000");
    calls.child.kill().expect("killed");
    calls.child.wait().expect("ended");
    let deadline = Instant::now() + Duration::from_secs(60);
    while session.ended().is_none() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(session.ended().as_deref(), Some("the target has exited"));
    let plan_of_gone =
        ProbePlan::for_target(&Target::open(std::process::id().cast_signed()).expect("self"));
    let gone = ProbeSession::attach(
        calls.pid(),
        &plan_of_gone.expect("a plan"),
        Budget::Unlimited,
    );
    assert!(matches!(gone, Err(ProbeError::Gone(pid)) if pid == calls.pid()));
}

const TARGET_VARIABLE: &str = "FRAGSCOPE_TEST_TARGET";

/// Not a test of its own: the profiler that the next test kills.
#[test]
#[ignore = "started by the_target_survives_a_killed_profiler"]
fn profiler_to_be_killed() {
    let pid = std::env::var(TARGET_VARIABLE).expect("set by the test that starts this");
    let pid: i32 = pid.parse().expect("a pid");
    let target = Target::open(pid).expect("it runs");
    let plan = ProbePlan::for_target(&target).expect("a plan");
    let _session = ProbeSession::attach(pid, &plan, Budget::Unlimited).expect("probes");
    println!("attached");
    loop {
        std::thread::park();
    }
}

#[test]
fn the_target_survives_a_killed_profiler() {
    let mut calls = Calls::start();
    let before = calls.code();
    let mut profiler = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "profiler_to_be_killed",
        ])
        .env(TARGET_VARIABLE, calls.pid().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the profiler");
    let lines = BufReader::new(profiler.stdout.take().expect("stdout")).lines();
    assert!(
        lines
            .map_while(Result::ok)
            .any(|line| line.ends_with("attached"))
    );
    assert_ne!(calls.code(), before, "breakpoints");
    calls.tell("spin 1000000");
    profiler.kill().expect("killed");
    assert_eq!(profiler.wait().expect("ended").signal(), Some(9));
    assert_eq!(calls.answer(), "spun");
    assert!(calls.code() == before);
    calls.run(10);
}

//! What fragscope's environment does not permit is named: threads and processes, `/proc`,
//! directories of PATH.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use profiler_testing::child::{Child, install, open_folder};
use profiler_testing::wait::eventually;
use support::{FRAGSCOPE, idle_python, json, run, stderr, stdout, text};

/// A user without privileges.
const NOBODY: u32 = 65534;

/// A control group in which few threads and processes may run.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let of_pids = root.join("pids");
        let parent = if of_pids.is_dir() { &of_pids } else { root };
        let path = parent.join(format!("fragscope-limits-{}", std::process::id()));
        fs::create_dir(&path).expect("control groups are mounted, and we are root");
        Self(path)
    }

    /// Runs fragscope where no more than `most` may run.
    fn run(&self, most: u32, args: &[&str]) -> Output {
        fs::write(self.0.join("pids.max"), most.to_string()).expect("the controller is there");
        let mut command = Command::new("bash");
        let into = "echo $$ > \"$0\" && exec \"$@\"";
        command.args(["-c", into, text(&self.0.join("cgroup.procs")), FRAGSCOPE]);
        run(command.args(args))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Who has ended is in it until it is reaped.
            eventually("an empty group", || fs::remove_dir(&self.0).ok());
        }
    }
}

/// Whether it says that no more may run, why, and what to do.
fn names_the_limit(said: &str) -> bool {
    said.contains("no more may run") && said.contains("fix: ") && said.contains("pids.max")
}

#[test]
fn few_threads_and_processes_make_no_report_wrong() {
    let group = Group::new();
    let python = idle_python();
    let pid = python.pid().to_string();
    for most in 1..=6 {
        let taken = group.run(most, &["snapshot", "--json", "--objects", "--pid", &pid]);
        if taken.status.success() {
            let taken = json(&taken);
            let python = taken["target"]["python"].as_str();
            assert!(
                python.is_some_and(|python| python.starts_with("CPython 3")),
                "{most}"
            );
            assert!(taken["objects"].is_object(), "{most}: {}", taken["notices"]);
        } else {
            assert_eq!(taken.status.code(), Some(1), "{most}");
            assert!(
                names_the_limit(&stderr(&taken)),
                "{most}: {}",
                stderr(&taken)
            );
        }
    }
}

#[test]
fn a_stop_for_which_the_kernel_gives_no_timer_is_not_said_to_be_ended_by_somebody() {
    let python = idle_python();
    let pid = python.pid().to_string();
    let mut command = Command::new("prlimit");
    let limited = ["--sigpending=0", FRAGSCOPE, "snapshot", "--json", "--pid"];
    let taken = json(&run(command.args(limited).arg(&pid)));
    assert_eq!(taken["completeness"]["stopped"], false);
    let defects = taken["completeness"]["defects"].to_string();
    assert!(defects.contains("`ulimit -i`"), "{defects}");
}

#[test]
fn every_command_names_the_limit_of_threads_and_processes() {
    let group = Group::new();
    let python = idle_python();
    let pid = python.pid().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace.fragtrace");
    let each: [&[&str]; 5] = [
        &["attach", "--headless", "--duration", "1s", "--pid", &pid],
        &["check", "--max-rss", "900G", "--pid", &pid],
        &[
            "record",
            "--duration",
            "1s",
            "-o",
            text(&trace),
            "--pid",
            &pid,
        ],
        &["record", "-o", text(&trace), "--", "true"],
        &["top", "--once"],
    ];
    for args in each {
        for most in 1..=5 {
            let ended = group.run(most, args);
            let said = stdout(&ended) + &stderr(&ended);
            assert!(!said.contains("not a Python"), "{args:?} {most}: {said}");
            match ended.status.code() {
                Some(0) => {}
                Some(1) => assert!(names_the_limit(&said), "{args:?} {most}: {said}"),
                code => panic!("{args:?} {most}: {code:?} {said}"),
            }
        }
    }
}

#[test]
fn a_proc_of_another_pid_namespace_is_named_and_no_command_is_blamed() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace.fragtrace");
    let each: [&[&str]; 2] = [
        &["record", "-o", text(&trace), "--", "true"],
        &["snapshot", "--pid", "1"],
    ];
    for args in each {
        let mut command = Command::new("unshare");
        let ended = run(command.args(["--pid", "--fork", FRAGSCOPE]).args(args));
        let said = stderr(&ended);
        assert_eq!(ended.status.code(), Some(4), "{said}");
        assert!(
            said.contains("/proc is that of another PID namespace"),
            "{said}"
        );
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", FRAGSCOPE]);
        let ended = run(command.args(args));
        assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    }
}

#[test]
fn a_program_that_is_not_found_where_path_cannot_be_searched_is_not_to_be_made_executable() {
    let folder = open_folder();
    let program = install(Path::new(FRAGSCOPE), &folder);
    let closed = tempfile::tempdir().expect("a folder of ours alone");
    // All the way up nobody else can write.
    let home = tempfile::tempdir_in("/var/lib").expect("a folder");
    std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("we are root");
    let recorded = |command: &str, code| {
        let mut record = Command::new("setpriv");
        record.args(["--reuid", &NOBODY.to_string(), "--clear-groups"]);
        record.arg(&program).args(["record", "-o"]);
        record.arg(home.path().join("trace.fragtrace"));
        record.args(["--", command]).env("HOME", home.path());
        record.env("PATH", format!("{}:/usr/bin:/bin", text(closed.path())));
        let ended = run(&mut record);
        assert_eq!(ended.status.code(), Some(code), "{}", stderr(&ended));
        stderr(&ended)
    };
    let said = recorded("no-such-program", 127);
    assert!(said.contains("cannot start no-such-program"), "{said}");
    assert!(!said.contains("chmod") && said.contains("fix: "), "{said}");
    assert!(said.contains("PATH"), "{said}");
    let plain = home.path().join("plain");
    fs::write(&plain, "true").expect("written");
    let said = recorded(text(&plain), 126);
    assert!(said.contains("chmod +x"), "{said}");
}

/// As in a container: a limit of processes below what a player may have, and nobody who could raise it.
#[test]
fn predictions_are_made_where_limits_are_low_and_cannot_be_raised() {
    let child = Child::python(
        "import sys\nkept = [bytes(2000) for _ in range(20_000)]\ndel kept[::2]\nprint('READY', flush=True)\nsys.stdin.readline()",
    );
    let pid = child.pid().to_string();
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-sys_resource", "--bounding-set=-sys_resource"]);
    command.args([
        "prlimit",
        "--nproc=1024:1024",
        "--nofile=256:256",
        FRAGSCOPE,
    ]);
    let report = json(&run(command.args([
        "snapshot",
        "--predict",
        "--json",
        "--pid",
        &pid,
    ])));
    let why = &report["not_predicted"];
    let tried = report["predictions"].as_array().expect("some were tried");
    let played = tried.iter().filter(|one| one["failure"].is_null());
    assert!(why.is_null() && played.count() > 2, "{why} {tried:#?}");
}

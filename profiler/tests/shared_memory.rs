//! A target that begins to share its memory with a process that does not stop with it. Needs no
//! privilege.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use profiler_testing::child::{Child, SHARING};
use support::{command, stderr};

/// How often the process slept: each stop wakes it once or twice.
fn wakes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("since 2.6.23")
        .trim()
        .parse()
        .expect("a number")
}

#[test]
fn a_session_goes_on_without_walks_and_hardly_stops_the_target() {
    let program =
        format!("import sys\nprint('READY', flush=True)\nsys.stdin.readline()\n{SHARING}");
    let mut child = Child::python(&program);
    let pid = child.pid().to_string();
    let mut session = command(&[
        "attach",
        "--headless",
        "--no-probes",
        "--duration",
        "6s",
        "--pid",
        &pid,
    ]);
    let mut session = session
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fragscope");
    let lines = BufReader::new(session.stdout.take().expect("piped")).lines();
    let lines = lines.map(|line| line.expect("text"));
    let mut times = lines.filter_map(|line| {
        let first = line.split(' ').next()?;
        first.contains(':').then(|| first.to_owned())
    });
    times.next().expect("the first walk");
    let other = child.ask("share it");
    let before = wakes(child.pid());
    let mut later: Vec<String> = times.collect();
    let output = session.wait_with_output().expect("it ends");
    let woken = wakes(child.pid()) - before;
    // One walk a second, of two tries each.
    assert!(woken <= 6 * 2 * 2 + 8, "{woken} times in 6 s");
    let why = format!("process {other} has the same memory");
    assert!(stderr(&output).contains(&why), "{}", stderr(&output));
    // The kernel's counts go on.
    later.dedup();
    assert!(later.len() >= 4, "{later:?}");
    assert_eq!(child.ask("end"), "alone");
}

#[test]
fn who_does_not_stop_it_reads_it_and_is_told_so() {
    let mut child = Child::python(SHARING);
    let pid = child.pid().to_string();
    let refused = support::fragscope(&["snapshot", "--pid", &pid]);
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("does not stop with it") && said.contains("--no-stop"),
        "{said}"
    );
    let read = support::fragscope(&["snapshot", "--no-stop", "--pid", &pid]);
    assert_eq!(read.status.code(), Some(0), "{}", stderr(&read));
    assert_eq!(child.ask("end"), "alone");
}

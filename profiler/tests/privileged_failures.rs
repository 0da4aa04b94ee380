//! Failures of parts of a running session are reported at once: in JSON, in the lines, on the
//! screen.

mod support;

use std::io::{BufRead, BufReader, Lines};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_testing::child::{Child, KillOnDrop};
use profiler_testing::wait::WAIT_LIMIT;
use serde_json::Value;
use support::command;

/// A worker that allocates and frees all the time.
fn worker() -> Child {
    Child::python("print(1, flush=True)\nwhile True:\n  kept = [bytes(i) for i in range(2000)]")
}

/// `attach --json`, with its lines.
struct Attached {
    fragscope: KillOnDrop,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Attached {
    fn to(worker: &Child, flags: &[&str]) -> Self {
        let mut command = command(&["attach", "--json", "--interval", "200ms"]);
        command
            .args(["--pid", &worker.pid().to_string()])
            .args(flags);
        command.stdout(Stdio::piped());
        let mut fragscope = command.spawn().expect("it runs");
        let out = fragscope.stdout.take().expect("piped");
        Self {
            fragscope: KillOnDrop(fragscope),
            lines: BufReader::new(out).lines(),
        }
    }

    /// The first line of which this holds.
    fn line(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + WAIT_LIMIT;
        loop {
            let line = self.lines.next().expect("it goes on").expect("text");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            if is_it(&line) {
                return line;
            }
            assert!(Instant::now() < deadline, "the last line: {line}");
        }
    }

    /// Its child of this name.
    fn child(&self, name: &str) -> Pid {
        let own = self.fragscope.id().to_string();
        let all = std::fs::read_dir("/proc").expect("it is mounted").flatten();
        let found = all.into_iter().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (head, rest) = stat.rsplit_once(") ")?;
            let is_ours = rest.split(' ').nth(1) == Some(&own);
            // A player is executed by the number of a descriptor, which is its name.
            let exe = std::fs::read_link(entry.path().join("exe")).ok()?;
            let is_it = head.ends_with(&format!("({name}")) || exe.to_string_lossy().contains(name);
            (is_ours && is_it).then_some(Pid::from_raw(pid))
        });
        found.expect("it has one")
    }
}

fn notices(line: &Value) -> String {
    line["notices"].to_string()
}

fn has_gap(line: &Value, gap: &str) -> bool {
    let gaps = line["gaps"].as_array().expect("a list");
    gaps.iter().any(|one| one == gap)
}

#[test]
fn a_player_that_is_killed_is_reported_while_the_other_goes_on() {
    let worker = worker();
    let mut attached = Attached::to(&worker, &["--what-if", "glibc,jemalloc"]);
    let shadows = |line: &Value| line["what_if"]["shadows"].as_array().cloned();
    let line = attached.line(|line| {
        let shadows = shadows(line).unwrap_or_default();
        shadows.len() == 2 && shadows.iter().all(|one| one["resident_bytes"].is_u64())
    });
    assert!(!has_gap(&line, "shadow-ended"), "{line}");
    // What is recorded for the shadows costs something, and is no activity that is missing.
    assert_eq!(line["activity_source"], "recorded", "{line}");
    assert!(!has_gap(&line, "no-probes"), "{line}");
    let line = attached.line(|line| line["what_if"]["cost"]["hits"].as_u64() > Some(0));
    assert!(line["what_if"]["cost"]["share"].is_f64(), "{line}");
    kill(attached.child("fragscope-player"), Signal::SIGKILL).expect("ours");
    let line = attached.line(|line| has_gap(line, "shadow-ended"));
    let shadows = shadows(&line).expect("two");
    let ended: Vec<_> = shadows
        .iter()
        .filter(|one| !one["ended"].is_null())
        .collect();
    assert_eq!(ended.len(), 1, "{line}");
    assert!(ended[0]["ended"].to_string().contains("SIGKILL"), "{line}");
    assert!(notices(&line).contains("has ended: "), "{line}");
    // Without any the recording ends, and what it has to report is there.
    kill(attached.child("fragscope-player"), Signal::SIGKILL).expect("ours");
    let line = attached.line(|line| notices(line).contains("what if: the probes took "));
    let line = match has_gap(&line, "probes-ended") {
        true => line,
        false => attached.line(|line| has_gap(line, "probes-ended")),
    };
    assert_eq!(line["what_if"]["ended"], "no shadow is left", "{line}");
}

#[test]
fn probes_whose_guard_is_killed_are_reported() {
    let worker = worker();
    let mut attached = Attached::to(&worker, &["--budget", "unlimited"]);
    let line = attached.line(|line| line["activity"]["allocs_per_second"].as_f64() > Some(0.0));
    assert!(line["activity"]["ended"].is_null(), "{line}");
    kill(attached.child("probe-guard"), Signal::SIGKILL).expect("ours");
    let line = attached.line(|line| has_gap(line, "probes-ended"));
    assert!(
        line["activity"]["ended"].to_string().contains("somebody"),
        "{line}"
    );
    assert!(notices(&line).contains("the probes have ended"), "{line}");
}

/// A thread needs address space, which a limit may leave none of.
#[test]
fn what_there_is_no_thread_for_is_done_all_the_same() {
    let worker = worker();
    let script = r#"ulimit -v "$1"; exec "$0" snapshot --json --pid "$2""#;
    let pid = worker.pid().to_string();
    let mut walked = 0;
    for mebibytes in (40..=280).step_by(20) {
        let limit = (mebibytes << 10).to_string();
        let output = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_fragscope"), &limit, &pid])
            .output()
            .expect("sh");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{mebibytes} MiB: {said}");
        if output.status.code() == Some(0) {
            walked += 1;
            let snapshot: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert!(
                snapshot["heaps"]
                    .as_array()
                    .is_some_and(|heaps| !heaps.is_empty())
            );
        }
    }
    assert!(walked > 3, "{walked}");
}

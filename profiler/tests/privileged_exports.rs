//! Exports of a live session, and exports to full or read-only disks. Needs root, to probe and to
//! mount them.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use fragscope::export;
use fragscope::session::SessionError;
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::view::View;
use profiler_target::{ErrorKind, OutputProblem};
use profiler_testing::child::Child;
use serde_json::Value;
use support::{command, fragscope, stderr, stdout};

/// A small disk of its own, unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        run(
            "mount",
            &["-t", "tmpfs", "-o", "size=64k", "none"],
            folder.path(),
        );
        Self(folder)
    }

    fn files(&self) -> Vec<String> {
        let listed = fs::read_dir(self.0.path()).expect("listed");
        listed
            .map(|entry| {
                let name = entry.expect("an entry").file_name();
                name.to_string_lossy().into_owned()
            })
            .collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &[], self.0.path());
    }
}

fn run(program: &str, args: &[&str], path: &Path) {
    let status = Command::new(program).args(args).arg(path).status();
    assert!(status.expect("it runs").success(), "{program} {args:?}");
}

/// A view that takes more than the disk has.
fn large_view() -> View {
    View {
        report: Arc::new(FragReport::from_sample(&Sample::default())),
        activity: None,
        sites: None,
        probes_wanted: false,
        probes_attaching: false,
        notices: vec!["x".repeat(256 << 10)],
        history: Arc::default(),
        over_time: Default::default(),
        objects: Default::default(),
        what_if: None,
        ended: None,
    }
}

#[test]
fn a_full_disk_is_said_and_the_file_there_stays_whole() {
    let disk = Disk::mount();
    let path = disk.0.path().join("out.json");
    fs::write(&path, "before").expect("there is room");
    let place = export::reserve(&path).expect("nothing speaks against it yet");
    let error = export::write(&place, &large_view()).expect_err("no room");
    let kind = SessionError::from(error).kind();
    assert_eq!(kind, ErrorKind::Output(OutputProblem::NoSpace));
    assert_eq!(fs::read_to_string(&path).expect("read"), "before");
    assert_eq!(disk.files(), ["out.json"], "no part of a file is left");
}

#[test]
fn a_read_only_disk_is_said_before_attaching() {
    let disk = Disk::mount();
    run("mount", &["-o", "remount,ro"], disk.0.path());
    for name in ["out.json", "out.csv", "out.hlog"] {
        let error = export::reserve(&disk.0.path().join(name)).expect_err("read-only");
        let kind = SessionError::from(error).kind();
        assert_eq!(kind, ErrorKind::Output(OutputProblem::Denied));
    }
}

/// What probes record for other allocators, and what that costs, is in a saved session as it was seen.
#[test]
fn a_session_with_shadows_reads_back_as_it_was_seen() {
    let worker = Child::python(
        "import sys, time\nprint('ready', flush=True)\nkept = []\n\
         while True:\n    kept = [bytes(700) for _ in range(1000)]\n    time.sleep(0.01)",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let name = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let live = ["live.json", "live.csv", "live.hlog", "live.html"].map(name);
    let (session, pid) = (name("it.fragsnap"), worker.pid().to_string());
    let mut args = vec![
        "attach",
        "--headless",
        "--no-objects",
        "--no-predict",
        "--pid",
        &pid,
    ];
    args.extend(["--what-if", "jemalloc", "--duration", "5s", "-o", &session]);
    for file in &live {
        args.extend(["-o", file]);
    }
    let output = fragscope(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for file in &live {
        let again = file.replace("live", "again");
        let output = fragscope(&["export", &session, "-o", &again]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let [before, after] = [file, &again].map(|file| fs::read(file).expect("written"));
        assert!(before == after, "{file} differs");
    }
    let whole: Value = serde_json::from_slice(&fs::read(&live[0]).expect("written")).expect("JSON");
    assert_eq!(whole["activity_source"], "recorded");
    assert!(whole["what_if"]["cost"]["hits"].as_u64() > Some(0));
}

#[test]
fn the_files_of_a_session_hold_what_its_lines_said() {
    let worker = Child::python(
        "import sys\nprint('ready', flush=True)\nkept = []\n\
         while True:\n    kept = [bytes(700) for _ in range(1000)]",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let paths = ["out.json", "out.csv", "out.hlog", "out.fragsnap"];
    let paths = paths.map(|name| folder.path().join(name));
    let pid = worker.pid().to_string();
    let mut args = vec!["attach", "--pid", &pid, "--json", "--duration", "10s"];
    for path in &paths {
        args.extend(["-o", path.to_str().expect("UTF-8")]);
    }
    let output = fragscope(&args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");

    let lines = stdout(&output);
    let last: Value = serde_json::from_str(lines.lines().last().expect("lines")).expect("JSON");
    assert_eq!(last["schema"], "fragscope.interval/1");
    assert!(
        last["activity"]["lifetime_ns"]["count"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "{last}"
    );

    let text = fs::read_to_string(&paths[0]).expect("written");
    let whole: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(whole["target"]["pid"].as_i64(), Some(worker.pid().into()));
    // What had been seen by the last line is in the file.
    let count = |of: &Value| of["activity"]["lifetime_ns"]["count"].as_u64();
    assert!(
        count(&whole) >= count(&last),
        "{:?} {:?}",
        count(&whole),
        count(&last)
    );
    let ledger = whole["ledger"].as_array().expect("a list");
    let sum: u64 = ledger
        .iter()
        .filter_map(|row| row["resident_bytes"].as_u64())
        .sum();
    let rss = whole["rss_bytes"].as_u64().expect("known");
    assert!(sum.abs_diff(rss) * 100 <= rss, "{sum} of {rss}");

    let table = fs::read_to_string(&paths[1]).expect("written");
    let allocs = format!(",activity,,,allocs,{},calls", whole["activity"]["allocs"]);
    assert!(table.contains(&allocs), "{allocs}");
    let log = fs::read_to_string(&paths[2]).expect("written");
    for tag in ["alloc_bytes", "lifetime_ns", "live_block_bytes.glibc"] {
        assert!(log.contains(&format!("Tag={tag},")), "{tag}");
    }
    for (path, format) in paths[1..].iter().zip(["csv", "hlog"]) {
        assert!(
            exported(&paths[3], format) == fs::read(path).expect("read"),
            "the saved session has other figures in {format}"
        );
    }
    for key in ["sites", "site_sampling"] {
        assert!(!whole[key].is_null(), "{key}");
    }
    let saved: Value = serde_json::from_slice(&exported(&paths[3], "json")).expect("JSON");
    assert!(
        saved == whole,
        "the saved session has other figures in json"
    );
}

/// The last walk of a saved session in another format.
fn exported(session: &Path, format: &str) -> Vec<u8> {
    let session = session.to_str().expect("UTF-8");
    let output = fragscope(&["export", session, "--format", format]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    output.stdout
}

/// A worker that does nothing but wait for its input to close.
fn idle() -> Child {
    Child::python("import sys\nprint('ready', flush=True)\nsys.stdin.read()")
}

#[test]
fn a_session_that_a_signal_ends_saves_first() {
    let worker = idle();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.json");
    let mut session = command(&["attach", "--json", "--pid", &worker.pid().to_string(), "-o"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    let mut lines = BufReader::new(session.stdout.take().expect("piped"));
    lines.read_line(&mut line).expect("its first line");
    assert!(!path.exists(), "it is written at the end");
    let pid = session.id().to_string();
    run("kill", &["-TERM"], Path::new(&pid));
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("to its end");
    let output = session.wait_with_output().expect("it ends");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("SIGTERM"), "{said}");
    let text = fs::read_to_string(&path).expect("it was saved");
    serde_json::from_str::<Value>(&text).expect("JSON");
}

#[test]
fn a_target_that_ends_leaves_its_last_sample() {
    let worker = idle();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.json");
    let walks = folder.path().join("out.fragsnap");
    let mut session = command(&["attach", "--json", "--pid", &worker.pid().to_string(), "-o"])
        .arg(&path)
        .arg("-o")
        .arg(&walks)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    let mut lines = BufReader::new(session.stdout.take().expect("piped"));
    lines.read_line(&mut line).expect("its first line");
    drop(worker);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("to its end");
    let status = session.wait().expect("it ends");
    assert_eq!(status.code(), Some(5));
    let text = fs::read_to_string(&path).expect("it was saved");
    let saved: Value = serde_json::from_str(&text).expect("JSON");
    assert!(saved["rss_bytes"].as_u64() > Some(0), "the last good one");
    assert!(saved["ended"].is_string(), "{}", saved["ended"]);
    assert!(exported(&walks, "json") == text.as_bytes(), "how it ended");
}

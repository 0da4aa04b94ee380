//! fragscope on real workers: Celery with a Redis broker, pandas, sixteen threads. `cargo xtask
//! test` says which Python has them.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use profiler_testing::child::{Child, KillOnDrop};
use profiler_testing::wait::eventually;
use serde_json::Value;
use support::{fragscope, json, stderr, text};

/// Starts it in a process group of its own, which is killed when the test is over.
fn spawn(command: &mut Command) -> KillOnDrop {
    use std::os::unix::process::CommandExt;
    let child = command.process_group(0).spawn();
    KillOnDrop(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

fn workers_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workers")
}

/// The Python that has Celery and pandas.
fn python() -> String {
    std::env::var("FRAGSCOPE_TEST_PYTHON").expect(
        "FRAGSCOPE_TEST_PYTHON must name a Python with celery, redis and pandas: run `cargo xtask test`",
    )
}

/// Starts one of the worker scripts and waits until it says `word`.
fn start_script(name: &str, word: &str) -> KillOnDrop {
    let mut worker = spawn(
        Command::new(python())
            .arg(workers_dir().join(name))
            .stdout(Stdio::piped()),
    );
    let lines = BufReader::new(worker.stdout.take().expect("a piped stdout")).lines();
    let said = lines.map_while(Result::ok).any(|line| line.trim() == word);
    assert!(said, "{name} never said {word}");
    worker
}

/// Attaches for ten seconds, of which a loaded machine may spend some on attaching, and gives the snapshot that was exported.
fn attach(pid: u32) -> Value {
    attach_with(pid, &[])
}

/// The same with more arguments.
fn attach_with(pid: u32, more: &[&str]) -> Value {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("out.json");
    let pid = pid.to_string();
    let mut arguments = vec!["attach", "--headless", "--duration", "10s", "--pid", &pid];
    arguments.extend(["-o", text(&out)]);
    arguments.extend(more);
    let ran = fragscope(&arguments);
    assert!(ran.status.success(), "{}: {}", ran.status, stderr(&ran));
    let mut text = String::new();
    std::fs::File::open(&out)
        .expect("an export")
        .read_to_string(&mut text)
        .expect("UTF-8");
    serde_json::from_str(&text).expect("JSON")
}

fn sum(rows: &Value, key: &str) -> u64 {
    rows.as_array()
        .expect("rows")
        .iter()
        .map(|row| row[key].as_u64().expect(key))
        .sum()
}

/// What holds for every worker: an account that adds up, walks that agree with the allocators'
/// own accounts, and probes that see the worker work.
fn judge(snapshot: &Value) {
    let rss = snapshot["rss_bytes"].as_u64().expect("rss_bytes");
    let ledger = sum(&snapshot["ledger"], "resident_bytes");
    assert!(
        ledger.abs_diff(rss) * 100 <= rss,
        "ledger {ledger}, RSS {rss}"
    );
    assert_eq!(snapshot["completeness"]["stopped"], true);
    let heaps = snapshot["heaps"].as_array().expect("heaps");
    let checks: Vec<_> = heaps.iter().map(|heap| &heap["checks"]).collect();
    assert_eq!(
        snapshot["completeness"]["layout_confidence"], "high",
        "{} {checks:?}",
        snapshot["completeness"]
    );
    for allocator in ["glibc", "pymalloc"] {
        let heap = heaps.iter().find(|heap| heap["allocator"] == allocator);
        let heap = heap.unwrap_or_else(|| panic!("no {allocator} in {heaps:?}"));
        assert!(heap["live_bytes"].as_u64().expect("live_bytes") > 0);
    }
    let activity = &snapshot["activity"];
    assert!(
        activity["allocs"].as_u64().is_some_and(|n| n > 0),
        "{activity}"
    );
    let fired = |function: &str| {
        let probes = activity["probes"].as_array().expect("probes");
        probes.iter().any(|probe| {
            probe["function"]
                .as_str()
                .is_some_and(|f| f.split(", ").any(|f| f == function))
                && probe["hits"].as_u64().is_some_and(|hits| hits > 0)
        })
    };
    assert!(fired("malloc"), "{activity}");
    assert!(fired("free"), "{activity}");
}

#[test]
fn a_pandas_program_adds_up() {
    let mut worker = start_script("pandas_batches.py", "WARM");
    judge(&attach(worker.id()));
    assert!(
        worker.try_wait().expect("a child").is_none(),
        "the worker is still there"
    );
}

/// Which library asks for the memory of a program of numpy and pandas: the same live, and in a saved session.
#[test]
fn native_functions_name_the_library_that_allocates() {
    let worker = start_script("numeric.py", "ready");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let session = dir.path().join("it.fragsnap");
    let folded = dir.path().join("it.folded");
    let more = ["--native", "--no-objects", "--no-predict"];
    let files = ["-o", text(&session), "-o", text(&folded)];
    let snapshot = attach_with(worker.id(), &[more.as_slice(), &files].concat());
    let native = &snapshot["site_sampling"]["native"];
    assert!(native["copied"].as_u64() > Some(50), "{native}");
    assert!(native["unwinding_ns"].as_u64() > Some(0), "{native}");
    let bytes_of = |function: &str, library: &str| -> u64 {
        let sites = snapshot["sites"].as_array().expect("a list").iter();
        let of = sites.filter(|site| {
            let frames = site["stack"].as_array().expect("a stack");
            let is_library = |frame: &Value| {
                let file = frame["file"].as_str().unwrap_or_default();
                frame["kind"] == "native" && file.contains(library)
            };
            let at = frames
                .iter()
                .position(|frame| frame["function"] == function);
            // Native ones come before the Python function that called them.
            at.is_some_and(|at| frames[..at].iter().any(is_library))
        });
        of.map(|site| site["allocated_bytes"].as_u64().expect("a number"))
            .sum()
    };
    assert!(bytes_of("make_array", "/numpy/") > 1 << 20, "{native}");
    assert!(bytes_of("parse_table", "/pandas/") > 1 << 20, "{native}");
    assert_eq!(bytes_of("make_bytes", "/numpy/"), 0);
    let again = dir.path().join("again.folded");
    let exported = fragscope(&["export", text(&session), "-o", text(&again)]);
    assert!(exported.status.success(), "{}", stderr(&exported));
    let [live, saved] = [&folded, &again].map(|path| std::fs::read(path).expect("written"));
    assert!(live == saved, "the saved session has other stacks");
}

#[test]
fn a_program_with_sixteen_threads_adds_up() {
    let mut worker = start_script("sixteen_threads.py", "READY");
    let snapshot = attach(worker.id());
    judge(&snapshot);
    let heaps = snapshot["heaps"].as_array().expect("heaps");
    let glibc = heaps
        .iter()
        .find(|heap| heap["allocator"] == "glibc")
        .expect("glibc");
    assert!(
        glibc["arenas"].as_array().expect("arenas").len() > 1,
        "thread arenas are seen"
    );
    assert!(
        worker.try_wait().expect("a child").is_none(),
        "the worker is still there"
    );
}

/// A Redis on a socket in this folder, and its address for Celery.
fn redis(folder: &Path) -> (KillOnDrop, String) {
    let socket = folder.join("redis.sock");
    let redis = spawn(
        Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(&socket)
            .current_dir(folder)
            .stdout(Stdio::null()),
    );
    eventually("Redis listening", || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    (redis, format!("redis+socket://{}", socket.display()))
}

#[test]
fn a_celery_prefork_worker_adds_up() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (_redis, broker) = redis(dir.path());
    let master = spawn(
        Command::new(python())
            .args([
                "-m",
                "celery",
                "-A",
                "celery_tasks",
                "worker",
                "-c",
                "2",
                "--loglevel",
                "ERROR",
            ])
            .args([
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ])
            .current_dir(workers_dir())
            .env("BROKER", &broker)
            .env("C_FORCE_ROOT", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    let _producer = spawn(
        Command::new(python())
            .arg(workers_dir().join("celery_tasks.py"))
            .env("BROKER", &broker)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::null()),
    );
    let master_pid = master.id();
    // The prefork child that has worked for a second of CPU time: tasks are running.
    let child = eventually("a Celery child at work", || {
        let children = format!("/proc/{master_pid}/task/{master_pid}/children");
        let children = std::fs::read_to_string(children).ok()?;
        children.split_whitespace().find_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let ticks: u64 = stat
                .rsplit(')')
                .next()?
                .split_whitespace()
                .nth(11)?
                .parse()
                .ok()?;
            (ticks > 100).then(|| pid.parse::<u32>().ok())?
        })
    });
    let snapshot = attach(child);
    judge(&snapshot);
    assert!(
        sum(&snapshot["ledger"], "shared_bytes") > 0,
        "a prefork child shares with its master"
    );
    assert!(
        Path::new(&format!("/proc/{child}")).exists(),
        "the worker is still there"
    );
}

/// 256 MiB of numpy, each page of which was read: the kernel's zero page is behind them all.
const READ_ONLY: &str = "
import sys
import numpy
zeros = numpy.zeros(1 << 25, dtype=numpy.int64)
assert zeros.sum() == 0
used = [bytearray(1 << 20) for _ in range(24)]
print('ready', flush=True)
sys.stdin.readline()
";

#[test]
fn what_was_read_and_never_written_to_takes_no_memory() {
    let mut command = Command::new(python());
    command.args(["-c", READ_ONLY]);
    let child = Child::run(command);
    assert_eq!(child.first_line(), "ready");
    let pid = child.pid().to_string();
    let found = json(&fragscope(&[
        "snapshot",
        "--json",
        "--objects",
        "--pid",
        &pid,
    ]));
    let bytes = |of: &Value, key: &str| of[key].as_u64().unwrap_or_else(|| panic!("{key}"));
    let heaps = found["heaps"].as_array().expect("heaps");
    let untouched = heaps.iter().map(|heap| bytes(heap, "untouched_bytes"));
    let untouched = untouched.sum::<u64>();
    assert!((1u64 << 28).abs_diff(untouched) < 4 << 20, "{untouched}");
    assert!(bytes(&found, "rss_bytes") < 200 << 20, "{found}");
    let holders = found["objects"]["holders"].as_array().expect("holders");
    let zeros = holders
        .iter()
        .find(|one| {
            one["name"]
                .as_str()
                .is_some_and(|name| name.ends_with("zeros"))
        })
        .unwrap_or_else(|| panic!("{holders:?}"));
    let of_name = bytes(zeros, "untouched_bytes");
    assert!((1u64 << 28).abs_diff(of_name) < 4 << 20, "{zeros}");
}

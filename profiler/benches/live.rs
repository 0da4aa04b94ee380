//! The cost of a live session on real Python processes: time to the first line of an attach with
//! probes, duration and stop of a walk, fragscope's own peak memory, and the added cost of reading
//! Python objects.
//!
//! `cargo bench -p fragscope --bench live`, as root. Prints medians and ranges of several runs,
//! because machines are noisy.

use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use profiler_testing::child::{self, Child};

const RUNS: usize = 5;
const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

/// A Python that fills memory with many small objects and buffers, part of them freed again, then
/// goes on allocating.
const PROGRAM: &str = r"
import random, sys
rng = random.Random(1)
want = int(sys.argv[1]) << 20
def rss():
    with open('/proc/self/statm') as f:
        return int(f.read().split()[1]) * 4096
kept = []
while rss() < want:
    kept.append([bytes(rng.randint(520, 6000)) for _ in range(2000)])
    kept.append([str(i) * 3 for i in range(8000)])
    if len(kept) % 4 == 0:
        del kept[rng.randrange(len(kept) // 2)][::2]
print('READY', flush=True)
while True:
    junk = [bytes(rng.randint(16, 4000)) for _ in range(300)]
";

/// Ten million chunks of 48 bytes (with `PYTHONMALLOC=malloc`), plus large ones that fill a given
/// number of MiB; all are held until the end.
const CHUNKS: &str = r"
import sys
count, size = int(sys.argv[1]), int(sys.argv[2])
kept = [bytes(size) for _ in range(count)]
print('READY', flush=True)
sys.stdin.readline()
";

/// The given number of million objects, of 48 bytes on average, in lists below one dictionary.
const OBJECTS: &str = r"
import sys
class Order(object):
    __slots__ = ('number', 'text')
def order(n):
    one = Order()
    one.number, one.text = n * 1.5, str(n)
    return one
each = 250000
kept = {part: [order(n) for n in range(part * each, (part + 1) * each)]
        for part in range(int(sys.argv[1]) * 1000000 // each // 3)}
print('READY', flush=True)
sys.stdin.readline()
";

fn start(program: &str, args: &[u64], malloc: &str) -> Child {
    let mut command = Command::new("python3");
    command.args(["-c", program]);
    command.args(args.iter().map(u64::to_string));
    command.env("PYTHONMALLOC", malloc);
    let child = Child::run(command);
    assert_eq!(child.first_line(), "READY");
    child
}

/// Milliseconds until an attach with probes prints its first line.
fn first_line(pid: i32) -> f64 {
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fragscope"))
        .args(["attach", "--json", "--duration", "2s", "--pid"])
        .arg(pid.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("fragscope starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a piped stdout"));
    stdout.read_line(&mut line).expect("a line");
    let took = began.elapsed().as_secs_f64() * 1e3;
    assert!(!line.is_empty(), "attach printed nothing");
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("the rest");
    child.wait().expect("an end");
    took
}

struct Snapshot {
    whole_ms: f64,
    walk_ms: f64,
    stop_ms: f64,
    rss: f64,
    blocks: f64,
    own_bytes: f64,
    /// Of Python's objects: how long reading them took, and how many bytes lived.
    objects_ms: f64,
    live_bytes: f64,
}

/// Runs its arguments and prints their peak resident memory, in KiB by the kernel's account.
const MEASURE: &str = r"
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
";

fn snapshot(pid: i32, how: &[&str]) -> Snapshot {
    let began = Instant::now();
    let out = Command::new("python3")
        .args(["-c", MEASURE, env!("CARGO_BIN_EXE_fragscope")])
        .args(["snapshot", "--json", "--pid", &pid.to_string()])
        .args(how)
        .output()
        .expect("python3 starts fragscope");
    let whole_ms = began.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&out.stderr);
    let kib: f64 = said
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .unwrap_or_else(|| panic!("no peak memory in {said:?}"));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let heaps = json["heaps"].as_array().expect("heaps");
    Snapshot {
        whole_ms,
        walk_ms: number(&json["completeness"]["walk_ms"]),
        stop_ms: number(&json["completeness"]["stop_ms"]),
        rss: number(&json["rss_bytes"]),
        blocks: heaps.iter().map(|heap| number(&heap["live_blocks"])).sum(),
        own_bytes: kib * 1024.0,
        objects_ms: json["objects"]["read_ms"].as_f64().unwrap_or(0.0),
        live_bytes: json["objects"]["live_bytes"].as_f64().unwrap_or(0.0),
    }
}

fn median(values: Vec<f64>) -> String {
    median_of(values, 0)
}

/// A median and a range, with `digits` digits after the point.
fn median_of(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (first, last) = (values[0], values[values.len() - 1]);
    let middle = values[values.len() / 2];
    format!("{middle:.digits$} ({first:.digits$} to {last:.digits$})")
}

/// Several snapshots of one target.
struct Snapshots(Vec<Snapshot>);

impl Snapshots {
    fn take(pid: i32, how: &[&str]) -> Self {
        Self((0..RUNS).map(|_| snapshot(pid, how)).collect())
    }

    /// The median of a figure, and its range.
    fn of(&self, figure: fn(&Snapshot) -> f64) -> String {
        median(self.0.iter().map(figure).collect())
    }

    /// The most memory that one of them took.
    fn own_bytes(&self) -> f64 {
        let all = self.0.iter().map(|shot| shot.own_bytes);
        all.fold(0.0, f64::max)
    }
}

/// Prints a figure under what came before.
fn line(what: &str, figure: impl Display) {
    println!("  {what:<42} {figure}");
}

/// A Python worker of `megabytes` MB.
fn worker(megabytes: u64) {
    let worker = start(PROGRAM, &[megabytes], "pymalloc");
    let pid = worker.pid();
    let lines: Vec<f64> = (0..RUNS).map(|_| first_line(pid)).collect();
    let shots = Snapshots::take(pid, &[]);
    let blocks = shots.of(|s| s.blocks / 1e3);
    println!("a target of {megabytes} MiB, {blocks} thousand live blocks");
    line("attach with probes, ms to the first line", median(lines));
    line("snapshot, the whole command, ms", shots.of(|s| s.whole_ms));
    line("residency and walks, ms", shots.of(|s| s.walk_ms));
    line("stop, ms", shots.of(|s| s.stop_ms));
    let per_gib = shots.of(|s| s.stop_ms / s.rss * GIB);
    line("stop, ms a resident GiB", per_gib);
    let own = shots.own_bytes();
    let allowed = 64.0 * MIB + 64.0 * shots.0[0].blocks;
    line("own peak memory, MiB", format_args!("{:.0}", own / MIB));
    let share = own / allowed;
    line(
        "of 64 MiB and 64 bytes a live block",
        format_args!("{share:.2}"),
    );
}

/// A heap of many chunks of one size.
fn chunks(what: &str, count: u64, bytes: u64, malloc: &str) {
    let worker = start(CHUNKS, &[count, bytes], malloc);
    let shots = Snapshots::take(worker.pid(), &[]);
    println!("{what}");
    line("residency and walks, ms", shots.of(|s| s.walk_ms));
    let rate = shots.of(|s| s.rss / 1e3 / s.walk_ms);
    line("resident MB a second", rate);
    let ratio = shots.0[1].walk_ms / shots.0[0].walk_ms;
    line(
        "the second snapshot, times the first",
        format_args!("{ratio:.2}"),
    );
    let own = shots.own_bytes() / MIB;
    line("own peak memory, MiB", format_args!("{own:.0}"));
}

/// `millions` million Python objects.
fn objects(millions: u64) {
    let worker = start(OBJECTS, &[millions], "pymalloc");
    let shots = Snapshots::take(worker.pid(), &["--objects"]);
    println!(
        "objects: {} thousand live blocks, {} MiB",
        shots.of(|s| s.blocks / 1e3),
        shots.of(|s| s.live_bytes / MIB)
    );
    line("reading them, ms", shots.of(|s| s.objects_ms));
    line("own peak memory, MiB", shots.of(|s| s.own_bytes / MIB));
    let share = shots.of(|s| s.own_bytes / s.live_bytes * 100.0);
    line("own peak memory, percent of what is live", share);
    let per_block = shots.of(|s| s.own_bytes / s.blocks);
    line("own peak memory, bytes a block", per_block);
}

/// Libraries of four mappings and more, loaded beside a heap of 64 MiB.
const LIBRARIES: &str = r"
import ctypes, sys
kept = [bytes(2000) for _ in range(32000)]
loaded = [ctypes.CDLL(path) for path in sys.stdin.readline().split()]
print('READY', flush=True)
sys.stdin.readline()
";

/// The ratio of the stops of two targets with the same heap, one of which maps `libraries` more
/// libraries.
fn mappings(libraries: usize) {
    let folder = tempfile::Builder::new().prefix("python3").tempdir();
    let folder = folder.expect("a temporary folder");
    let paths = child::libraries(&folder, libraries);
    let paths: Vec<_> = paths.iter().filter_map(|path| path.to_str()).collect();
    let start = |paths: &[&str]| {
        let mut command = Command::new("python3");
        command.args(["-c", &format!("print(0, flush=True)\n{LIBRARIES}")]);
        let mut child = Child::run(command);
        assert_eq!(child.ask(&paths.join(" ")), "READY");
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.pid()));
        let count = maps.expect("alive").lines().count();
        (child, count)
    };
    let (few, many) = (start(&[]), start(&paths));
    // In pairs, so that what else the machine does meets both.
    let stops = (0..4 * RUNS).map(|_| {
        let [few, many] = [&few, &many].map(|(child, _)| snapshot(child.pid(), &[]).stop_ms);
        (few, many, many / few)
    });
    let stops: Vec<_> = stops.collect();
    let of = |figure: fn(&(f64, f64, f64)) -> f64| stops.iter().map(figure).collect();
    println!("{} mappings, and {}, around the same heap", few.1, many.1);
    line("stop with few, ms", median_of(of(|stop| stop.0), 1));
    line("stop with many, ms", median_of(of(|stop| stop.1), 1));
    line("many, times few", median_of(of(|stop| stop.2), 2));
}

/// A Python with pandas, which maps some hundred libraries; `FRAGSCOPE_TEST_PYTHON` has it.
fn pandas() {
    let Ok(python) = std::env::var("FRAGSCOPE_TEST_PYTHON") else {
        println!("pandas: left out, for FRAGSCOPE_TEST_PYTHON names no Python that has it");
        return;
    };
    let mut command = Command::new(python);
    let program = "import pandas; print('READY', flush=True); input()";
    command.args(["-c", program]);
    let child = Child::run(command);
    assert_eq!(child.first_line(), "READY");
    let shots = Snapshots::take(child.pid(), &[]);
    println!("import pandas, {} MiB resident", shots.of(|s| s.rss / MIB));
    line("stop, ms", shots.of(|s| s.stop_ms));
}

fn main() {
    mappings(125);
    pandas();
    for megabytes in [500, 2000] {
        worker(megabytes);
    }
    chunks("10 million chunks of 48 bytes", 10_000_000, 8, "malloc");
    chunks(
        "20 thousand chunks of 100 KiB",
        20_000,
        100 << 10,
        "pymalloc",
    );
    objects(20);
}

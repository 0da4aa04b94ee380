//! What a live session costs, on real Python processes: time to the first line of an attach with
//! probes, time and stop of a walk, fragscope's own peak memory, and what reading Python's objects adds.
//!
//! `cargo bench -p fragscope --bench live`, as root. Prints medians of several runs and their
//! range: machines are noisy.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const RUNS: usize = 5;

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

/// Ten million chunks of 48 bytes (with `PYTHONMALLOC=malloc`), and as many large ones as fill so many
/// MiB, each held until the end.
const CHUNKS: &str = r"
import sys
count, size = int(sys.argv[1]), int(sys.argv[2])
kept = [bytes(size) for _ in range(count)]
print('READY', flush=True)
sys.stdin.readline()
";

/// So many million objects of 48 bytes on average, in lists below one dictionary.
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

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, args: &[u64], malloc: &str) -> Worker {
    let mut child = Command::new("python3")
        .args(["-c", program])
        .args(args.iter().map(u64::to_string))
        .env("PYTHONMALLOC", malloc)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a piped stdout");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "READY");
    Worker(child)
}

/// Milliseconds until an attach with probes prints its first line.
fn first_line(pid: u32) -> f64 {
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

fn snapshot(pid: u32, how: &[&str]) -> Snapshot {
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

fn median(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (first, last) = (values[0], values[values.len() - 1]);
    format!("{:.0} ({first:.0} to {last:.0})", values[values.len() / 2])
}

fn main() {
    const GIB: f64 = (1u64 << 30) as f64;
    const MIB: f64 = (1u64 << 20) as f64;
    for megabytes in [500, 2000] {
        let worker = start(PROGRAM, &[megabytes], "pymalloc");
        let pid = worker.0.id();
        let lines: Vec<f64> = (0..RUNS).map(|_| first_line(pid)).collect();
        let shots: Vec<Snapshot> = (0..RUNS).map(|_| snapshot(pid, &[])).collect();
        let of = |figure: fn(&Snapshot) -> f64| median(shots.iter().map(figure).collect());
        println!(
            "a target of {megabytes} MiB, {} thousand live blocks",
            of(|s| s.blocks / 1e3)
        );
        println!(
            "  attach with probes, ms to the first line   {}",
            median(lines)
        );
        println!(
            "  snapshot, the whole command, ms            {}",
            of(|s| s.whole_ms)
        );
        println!(
            "  residency and walks, ms                    {}",
            of(|s| s.walk_ms)
        );
        println!(
            "  stop, ms                                   {}",
            of(|s| s.stop_ms)
        );
        println!(
            "  stop, ms a resident GiB                    {}",
            of(|s| s.stop_ms / s.rss * GIB)
        );
        let own = shots.iter().map(|s| s.own_bytes).fold(0.0, f64::max);
        let allowed = 64.0 * MIB + 64.0 * shots[0].blocks;
        println!(
            "  own peak memory, MiB                       {:.0}",
            own / MIB
        );
        println!(
            "  of 64 MiB and 64 bytes a live block        {:.2}",
            own / allowed
        );
    }
    for (what, count, bytes, malloc) in [
        ("10 million chunks of 48 bytes", 10_000_000, 8, "malloc"),
        (
            "20 thousand chunks of 100 KiB",
            20_000,
            100 << 10,
            "pymalloc",
        ),
    ] {
        let worker = start(CHUNKS, &[count, bytes], malloc);
        let pid = worker.0.id();
        let shots: Vec<Snapshot> = (0..RUNS).map(|_| snapshot(pid, &[])).collect();
        let of = |figure: fn(&Snapshot) -> f64| median(shots.iter().map(figure).collect());
        println!("{what}");
        println!(
            "  residency and walks, ms                    {}",
            of(|s| s.walk_ms)
        );
        println!(
            "  resident MB a second                       {}",
            of(|s| s.rss / 1e3 / s.walk_ms)
        );
        let ratio = shots[1].walk_ms / shots[0].walk_ms;
        println!("  the second snapshot, times the first       {ratio:.2}");
        let own = shots.iter().map(|s| s.own_bytes).fold(0.0, f64::max);
        println!(
            "  own peak memory, MiB                       {:.0}",
            own / MIB
        );
    }
    let worker = start(OBJECTS, &[20], "pymalloc");
    let pid = worker.0.id();
    let read = |_| snapshot(pid, &["--objects"]);
    let shots: Vec<Snapshot> = (0..RUNS).map(read).collect();
    let of = |figure: fn(&Snapshot) -> f64| median(shots.iter().map(figure).collect());
    println!(
        "objects: {} thousand live blocks, {} MiB",
        of(|s| s.blocks / 1e3),
        of(|s| s.live_bytes / MIB)
    );
    println!(
        "  reading them, ms                           {}",
        of(|s| s.objects_ms)
    );
    println!(
        "  own peak memory, MiB                       {}",
        of(|s| s.own_bytes / MIB)
    );
    println!(
        "  own peak memory, percent of what is live   {}",
        of(|s| s.own_bytes / s.live_bytes * 100.0)
    );
    println!(
        "  own peak memory, bytes a block             {}",
        of(|s| s.own_bytes / s.blocks)
    );
}

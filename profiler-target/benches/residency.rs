//! Cost of reading the page states of a large process, in milliseconds per GB, from either source
//! of page states, for contiguous memory and for memory of which every second page is resident.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use profiler_target::{PageSource, Process, Target};

const PROGRAM: &str = "
import mmap, sys
gigabytes, step = int(sys.argv[1]), int(sys.argv[2])
area = mmap.mmap(-1, gigabytes * step << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, len(area), 4096 * step):
    area[page] = 1
print('ready', flush=True)
sys.stdin.readline()
";

const GIGABYTES: f64 = 1.0;
const ROUNDS: usize = 5;

fn main() {
    for (shape, step) in [("in one piece", "1"), ("every second page", "2")] {
        let mut child = Command::new("python3")
            .args(["-S", "-c", PROGRAM, "1", step])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let target = Target::open(child.id() as i32).expect("our own child");
        for source in [PageSource::Scan, PageSource::Pagemap] {
            let took = best(|| {
                let mappings = target.mappings().expect("alive");
                let map = target.residency_from(&mappings, source).expect("alive");
                assert!(map.resident_bytes() >= (GIGABYTES * 1e9) as u64);
            });
            println!(
                "{shape:>18}  {source:?}: {:.1} ms per GB",
                milliseconds(took)
            );
        }
        let took = best(|| {
            target.kernel_count().expect("alive");
        });
        println!(
            "{shape:>18}  smaps_rollup: {:.1} ms per GB",
            milliseconds(took)
        );
        let stop = best(|| drop(target.stop().expect("it stops")));
        println!(
            "{shape:>18}  stop and resume: {:.3} ms",
            stop.as_secs_f64() * 1e3
        );
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
}

/// The shortest of a few rounds.
fn best(mut work: impl FnMut()) -> Duration {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    rounds.min().unwrap_or_default()
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3 / (GIGABYTES * 1.073_741_824)
}

//! The event path at full load: two threads of a C program make malloc and free pairs as fast as
//! they can under the probes, for ten seconds. Prints events, losses, and the processor time that
//! userspace spends on an event. Needs root: `sudo -E cargo bench --bench event_path`.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;

const LENGTH: Duration = Duration::from_secs(10);
const THREADS: &str = "2";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("calls");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/calls/calls.c");
    let compiled = Command::new("cc")
        .args(["-O1", "-fno-builtin", "-w", "-pthread", "-o"])
        .args([&program, &source])
        .status()?;
    if !compiled.success() {
        return Err("cc failed".into());
    }
    let mut child = Command::new(program)
        .arg(THREADS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut commands = child.stdin.take().ok_or("no stdin")?;
    let mut answers = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    answers.next().ok_or("the program did not start")??;

    let pid = child.id().cast_signed();
    let plan = ProbePlan::for_target(&Target::open(pid)?)?;
    let attaching = Instant::now();
    let session = ProbeSession::attach(pid, &plan, Budget::Unlimited)?;
    let attaching = attaching.elapsed();
    let start = Instant::now();
    while start.elapsed() < LENGTH {
        writeln!(commands, "spin 200000")?;
        answers.next().ok_or("the program ended")??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let userspace_ns = reader_cpu_ns()?;
    let detaching = Instant::now();
    let seen = session.detach();
    let detaching = detaching.elapsed();
    drop(commands);
    child.wait()?;

    let events = seen.allocs + seen.frees;
    println!(
        "events      {events} in {seconds:.2} s: {:.0} a second",
        events as f64 / seconds
    );
    println!("lost        {}", seen.events_lost);
    println!(
        "userspace   {:.1} ns an event",
        userspace_ns as f64 / events as f64
    );
    println!(
        "            {:.1} % of one core",
        userspace_ns as f64 / seconds / 1e7
    );
    println!("a hit costs {:.0} ns of the target", seen.cost.ns_per_hit);
    println!("attaching   {} ms, with calibration", attaching.as_millis());
    println!("detaching   {} ms", detaching.as_millis());
    Ok(())
}

/// Time on a processor so far of the thread that takes in the events, in ns (the first field of
/// its schedstat).
fn reader_cpu_ns() -> Result<u64, Box<dyn Error>> {
    for entry in fs::read_dir("/proc/self/task")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("comm"))?.trim() == "probe events" {
            let line = fs::read_to_string(path.join("schedstat"))?;
            let first = line.split(' ').next().ok_or("an empty schedstat")?;
            return Ok(first.parse()?);
        }
    }
    Err("the reader's thread is not there".into())
}

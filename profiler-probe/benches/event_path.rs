//! The event path at full load: two threads of a C program call malloc and free in pairs as fast as
//! they can under the probes, for ten seconds. Prints events, losses, and the processor time that
//! userspace spends on each event. Needs root: `sudo -E cargo bench --bench event_path`.

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;
use profiler_testing::calls::Calls;

const LENGTH: Duration = Duration::from_secs(10);
const THREADS: &str = "2";

fn main() -> Result<(), Box<dyn Error>> {
    let mut calls = Calls::start_with(|command, _| {
        command.arg(THREADS);
    });
    let pid = calls.pid();
    let plan = ProbePlan::for_target(&Target::open(pid)?)?;
    let attaching = Instant::now();
    let session = ProbeSession::attach(pid, &plan, Budget::Unlimited)?;
    let attaching = attaching.elapsed();
    let start = Instant::now();
    while start.elapsed() < LENGTH {
        assert_eq!(calls.ask("spin 200000"), "spun");
    }
    let seconds = start.elapsed().as_secs_f64();
    let userspace_ns = reader_cpu_ns()?;
    let detaching = Instant::now();
    let seen = session.detach();
    let detaching = detaching.elapsed();

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

//! Cost of stopping a process with many threads: how long it is stopped, and how long one of its
//! own threads sees it stopped.
#![allow(missing_docs)]

use std::process::Command;
use std::time::{Duration, Instant};

use profiler_target::Target;
use profiler_testing::child::{Child, compiled};

const ROUNDS: u32 = 5;

fn main() {
    let program = compiled("threads");
    for threads in [1_000, 5_000, 20_000] {
        let mut command = Command::new(program.path().join("threads"));
        command.arg(threads.to_string());
        let child = Child::run(command);
        if child.first_line() != "ready" {
            println!("{threads:>6} threads: this host does not have so many");
            continue;
        }
        let target = Target::open(child.pid()).expect("our own child");
        let (mut stopped_after, mut held, mut failed) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            let began = Instant::now();
            match target.stop() {
                Ok(stopped) => {
                    stopped_after.push(began.elapsed());
                    assert!(stopped.threads().len() > threads);
                    held.push(stopped.resume().held);
                }
                Err(error) => {
                    eprintln!("{error}");
                    failed += 1;
                }
            }
        }
        println!(
            "{threads:>6} threads: stand after {}, stood for {}, {failed} of {ROUNDS} stops failed",
            range(&mut stopped_after),
            range(&mut held)
        );
    }
}

/// The shortest, the middle and the longest.
fn range(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |place: usize| {
        times
            .get(place)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    };
    let last = times.len().saturating_sub(1);
    format!("{:.1} / {:.1} / {:.1} ms", at(0), at(last / 2), at(last))
}

//! The cost of probing for a Python worker that allocates a lot: its throughput without probes,
//! with probes at the chosen sites, within the default budget, and with probes at the functions'
//! first instructions as other tools place them, in turn. Needs root and python3: `sudo -E cargo
//! bench --bench slowdown`.

use std::error::Error;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use profiler_probe::plan::{Function, PlannedProbe, ProbePlan, ResultSite, Site};
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;

const ROUNDS: usize = 5;
const SECONDS: &str = "1.0";

/// Does tasks for as many seconds of its own processor time as each line on stdin says (which hold
/// the traps, and not what else runs on the machine), and answers how many.
const WORKER: &str = r#"
import json, sys, time

rows = [{"id": i, "name": "n%d" % i, "tags": list(range(i % 40))} for i in range(60)]

def task():
    text = json.dumps(rows)
    parsed = json.loads(text)
    totals = {}
    for row in parsed:
        buffer = bytes(560 + row["id"])
        totals[row["name"]] = sum(row["tags"]) + len(buffer)
    return sorted(totals.items())

for line in sys.stdin:
    end = time.process_time() + float(line)
    done = 0
    while time.process_time() < end:
        task()
        done += 1
    print(done, flush=True)
"#;

struct Worker {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Tasks done in one stretch.
    fn tasks(&mut self) -> Result<f64, Box<dyn Error>> {
        writeln!(self.commands, "{SECONDS}")?;
        Ok(self.answers.next().ok_or("the worker ended")??.parse()?)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut child = Command::new("python3")
        .args(["-c", WORKER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let commands = child.stdin.take().ok_or("no stdin")?;
    let answers = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let mut worker = Worker { commands, answers };
    worker.tasks()?;
    let pid = child.id().cast_signed();
    let chosen = ProbePlan::for_target(&Target::open(pid)?)?;
    let symbols = at_symbols(&chosen);
    let ways = [
        ("chosen sites, always armed", &chosen, Budget::Unlimited),
        ("chosen sites, 5 % budget", &chosen, Budget::default()),
        (
            "symbol addresses, always armed",
            &symbols,
            Budget::Unlimited,
        ),
    ];
    let mut kept: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    let mut rate = 0.0;
    for _ in 0..ROUNDS {
        for (way, kept) in ways.iter().zip(&mut kept) {
            let before = worker.tasks()?;
            let session = ProbeSession::attach(pid, way.1, way.2)?;
            let probed = worker.tasks()?;
            let seen = session.detach();
            let after = worker.tasks()?;
            let bare = (before + after) / 2.0;
            kept.push(probed / bare);
            if way.2 == Budget::Unlimited {
                rate = seen.allocs as f64 / (seen.armed_ns as f64 / 1e9) / (probed / bare);
            }
        }
    }
    drop(worker);
    child.wait()?;
    println!("the worker makes about {rate:.0} allocations a second when bare");
    for ((name, ..), mut kept) in ways.into_iter().zip(kept) {
        kept.sort_by(f64::total_cmp);
        let (least, median, most) = (kept[0], kept[kept.len() / 2], kept[kept.len() - 1]);
        println!("{name}: keeps {median:.2} of its throughput ({least:.2} to {most:.2})");
    }
    Ok(())
}

/// The same functions, each probed at its first instruction and at its return.
fn at_symbols(plan: &ProbePlan) -> ProbePlan {
    let mut plan = plan.clone();
    for probe in &mut plan.probes {
        if let Some(start) = start(probe) {
            probe.entry = Some(start.clone());
            if probe.function != Function::Free {
                probe.result = ResultSite::Return(start);
            }
        }
    }
    plan
}

fn start(probe: &PlannedProbe) -> Option<Site> {
    let known = probe.entry.as_ref().or(match &probe.result {
        ResultSite::None => None,
        ResultSite::Jumps(sites) => sites.first(),
        ResultSite::Return(site) => Some(site),
    })?;
    Some(Site {
        file_offset: known.file_offset.wrapping_sub(known.offset_in_function),
        offset_in_function: 0,
        instruction: "first".to_string(),
        emulated: false,
    })
}

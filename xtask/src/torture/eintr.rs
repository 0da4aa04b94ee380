//! Blocking calls that return EINTR when the target is stopped: those that the kernel does not
//! restart by itself (signal(7), "Interruption of system calls and library functions by stop
//! signals").

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::Stage;
use super::{Round, Tally};

const PROGRAM: &str = include_str!("eintr.c");
/// Calls that the kernel restarts, whatever stops their thread.
const RESTARTED: [&str; 14] = [
    "read",
    "futex",
    "futex with a timeout",
    "nanosleep",
    "poll",
    "select",
    "accept",
    "recv",
    "msgrcv",
    "send",
    "clock_nanosleep",
    "waitpid",
    "sem_wait",
    "flock",
];
/// Walks to wait for.
const SAMPLES: usize = 40;
const LIMIT: Duration = Duration::from_secs(120);

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    let mut round = Round::new(tally.seed);
    let done = one(stage, &mut round, tally);
    tally.add(round);
    done
}

fn one(stage: &Stage, round: &mut Round, tally: &mut Tally) -> Result<()> {
    round.what = "stops of a program that waits in each call".into();
    let mut waiting = Waiting::start(stage)?;
    let samples = watch(stage, round, waiting.program.id())?;
    let table = waiting.end()?;
    let mut walks: Vec<_> = samples.iter().filter_map(walked_at).collect();
    walks.dedup();
    let stops = walks.len();
    if stops < SAMPLES / 4 {
        round.fault(
            "too few stops",
            format!("{stops} in {} samples", samples.len()),
        );
    }
    tally.note(format!("of {stops} stops, EINTR was returned by"));
    for line in table.lines() {
        let (name, count) = line.split_once('\t').context("a line of the program")?;
        let count: u64 = count.parse()?;
        tally.note(format!(
            "  {name:<24} {:.2} a stop ({count})",
            count as f64 / stops.max(1) as f64
        ));
        if count > 0 && RESTARTED.contains(&name) {
            round.fault(
                "EINTR of a call that the kernel restarts",
                format!("{name}, {count} times"),
            );
        }
    }
    Ok(())
}

/// The program, each of whose threads waits in a different call.
struct Waiting {
    program: Child,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    fn start(stage: &Stage) -> Result<Self> {
        let (source, program) = (stage.fresh("eintr.c"), stage.fresh("eintr"));
        std::fs::write(&source, PROGRAM)?;
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-pthread", "-o"]);
        crate::run(compiler.arg(&program).arg(&source))?;
        let mut program = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let mut output = BufReader::new(program.stdout.take().context("piped")?);
        let mut ready = String::new();
        output.read_line(&mut ready)?;
        ensure!(ready.trim() == "ready", "the program does not start");
        Ok(Self { program, output })
    }

    /// Ends it. Returns its table of how often each call returned EINTR.
    fn end(&mut self) -> Result<String> {
        // The end of its input tells it to print.
        let mut input = self.program.stdin.take().context("piped")?;
        input.write_all(b"\n")?;
        drop(input);
        let mut table = String::new();
        self.output.read_to_string(&mut table)?;
        self.program.wait()?;
        Ok(table)
    }
}

/// The samples of a session with a walk in every interval, and a stop in every walk.
fn watch(stage: &Stage, round: &mut Round, pid: u32) -> Result<Vec<serde_json::Value>> {
    let mut watching = Command::new(&stage.fragscope)
        .args(["attach", "--json", "--no-probes", "--budget", "unlimited"])
        .args(["--interval", "100ms", "--pid", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let lines = BufReader::new(watching.stdout.take().context("piped")?).lines();
    let began = std::time::Instant::now();
    let mut samples: Vec<serde_json::Value> = Vec::new();
    for line in lines {
        samples.push(serde_json::from_str(&line?)?);
        let interrupted = stage
            .interrupted()
            .load(std::sync::atomic::Ordering::SeqCst);
        if samples.len() >= SAMPLES || began.elapsed() > LIMIT || interrupted {
            break;
        }
    }
    watching.kill()?;
    let watched = watching.wait_with_output()?;
    round.hear(String::from_utf8_lossy(&watched.stderr).into_owned());
    Ok(samples)
}

/// When the heap of this sample was walked, in a stop of the target.
fn walked_at(sample: &serde_json::Value) -> Option<String> {
    Some(sample.get("walked_at")?.as_str()?.to_owned())
}

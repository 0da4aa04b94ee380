//! `cargo xtask record-cost`: what recording costs a program, beside memray and heaptrack.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::compare::quantile;
use super::programs::{PROGRAMS, Tools};

const SCRIPTS: [&str; 2] = ["cost_frames", "cost_blocks"];
/// Rounds, in each of which everything runs once: what else the machine does meets all alike.
const ROUNDS: usize = 5;
const MEMRAY: &str = "memray==1.20.0";

/// Runs both scripts plainly and under each recorder, and prints the ratios of wall time.
pub(crate) fn run() -> Result<()> {
    let tools = Tools::install(&PROGRAMS.iter().collect::<Vec<_>>())?;
    crate::test::install(&["heaptrack"])?;
    let mut pip = Command::new(&tools.python);
    crate::run(pip.args([
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        MEMRAY,
    ]))?;
    crate::run(Command::new("cargo").args(["build", "--quiet", "--release", "-p", "fragscope"]))?;
    let fragscope = crate::root().join("target/release/fragscope");
    let folder = tempfile::tempdir_in(&tools.made)?;
    println!("program       recorder    x plain   ns an event   bytes an event");
    for script in SCRIPTS {
        let program = tools.sources.join(script).with_extension("py");
        one(&tools, &fragscope, folder.path(), &program)?;
    }
    Ok(())
}

fn one(tools: &Tools, fragscope: &Path, folder: &Path, program: &Path) -> Result<()> {
    let trace = folder.join("fragtrace");
    let python = |words: &[&str]| {
        let mut command = Command::new(&tools.python);
        command.args(words);
        command
    };
    let recorders = ["plain", "fragscope", "memray", "heaptrack"];
    let mut seconds: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (recorder, taken) in recorders.iter().zip(&mut seconds) {
            let mut command = match *recorder {
                "plain" => python(&[]),
                "memray" => {
                    let mut command = python(&["-m", "memray", "run", "-f", "-q", "-o"]);
                    command.arg(folder.join("memray"));
                    command
                }
                other => {
                    let heaptrack = other == "heaptrack";
                    let to = if heaptrack {
                        folder.join(other)
                    } else {
                        trace.clone()
                    };
                    let name = if heaptrack {
                        PathBuf::from(other)
                    } else {
                        fragscope.into()
                    };
                    let mut command = Command::new(name);
                    let words: &[&str] = if heaptrack {
                        &["-o"]
                    } else {
                        &["record", "-o"]
                    };
                    command.args(words).arg(to);
                    command.args(if heaptrack { &[][..] } else { &["--"][..] });
                    command.arg(&tools.python);
                    command
                }
            };
            command.arg(program).env("PYTHONHASHSEED", "0");
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let began = Instant::now();
            let status = command.status().with_context(|| format!("{command:?}"))?;
            ensure!(status.success(), "{command:?} ended with {status}");
            taken.push(began.elapsed().as_secs_f64());
        }
    }
    let events = events(fragscope, &trace)? as f64;
    let bytes = trace.metadata()?.len() as f64;
    let plain = seconds[0].clone();
    for (recorder, taken) in recorders.iter().zip(&seconds).skip(1) {
        let pairs = || taken.iter().zip(&plain);
        let ratio = median(pairs().map(|(with, without)| with / without).collect());
        let ns = median(
            pairs()
                .map(|(with, without)| (with - without) * 1e9 / events)
                .collect(),
        );
        let size = if *recorder == "fragscope" {
            format!("{:.1}", bytes / events)
        } else {
            "-".to_owned()
        };
        let name = program.file_stem().unwrap_or_default().to_string_lossy();
        println!("{name:13} {recorder:11} {ratio:7.2}   {ns:11.0}   {size:>14}");
    }
    Ok(())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    quantile(&all, 0.5)
}

/// How many events a trace holds.
fn events(fragscope: &Path, trace: &Path) -> Result<u64> {
    let mut replay = Command::new(fragscope);
    replay.args(["replay", "--json", "--runs", "1", "--allocator", "glibc"]);
    let said: serde_json::Value = serde_json::from_str(&crate::output(replay.arg(trace))?)?;
    said["trace"]["events"].as_u64().context("no events")
}

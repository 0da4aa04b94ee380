//! `cargo xtask record-cost`: the cost of recording for a program, compared with memray and
//! heaptrack.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use profiler_core::columns::TextColumn;

use super::compare::quantile;
use super::programs::{PROGRAMS, Tools};
use super::settings::BASELINE;

const SCRIPTS: [&str; 2] = ["cost_frames", "cost_blocks"];
/// Rounds, in each of which everything runs once: other load on the machine affects all of them
/// equally.
const ROUNDS: usize = 5;
const COLUMNS: [TextColumn; 5] = [
    TextColumn::left("program", 12),
    TextColumn::left("recorder", 9),
    TextColumn::right("x plain", 7),
    TextColumn::right("ns an event", 11),
    TextColumn::right("bytes an event", 14),
];
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
    let titles = COLUMNS.map(|column| column.heading());
    println!("{}", titles.join("  "));
    for script in SCRIPTS {
        let program = tools.sources.join(script).with_extension("py");
        one(&tools, &fragscope, folder.path(), &program)?;
    }
    Ok(())
}

/// How a script runs.
#[derive(Copy, Clone, PartialEq)]
enum Recorder {
    /// Under none.
    Plain,
    Fragscope,
    Memray,
    Heaptrack,
}

impl Recorder {
    const ALL: [Self; 4] = [Self::Plain, Self::Fragscope, Self::Memray, Self::Heaptrack];

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Fragscope => "fragscope",
            Self::Memray => "memray",
            Self::Heaptrack => "heaptrack",
        }
    }

    /// Python under it; its recording goes into the directory, under its name.
    fn python(self, tools: &Tools, fragscope: &Path, folder: &Path) -> Command {
        let output = folder.join(self.name());
        match self {
            Self::Plain => Command::new(&tools.python),
            Self::Fragscope => {
                let mut command = Command::new(fragscope);
                command.args(["record", "-o"]).arg(output).arg("--");
                command.arg(&tools.python);
                command
            }
            Self::Memray => {
                let mut command = Command::new(&tools.python);
                command.args(["-m", "memray", "run", "-f", "-q", "-o"]);
                command.arg(output);
                command
            }
            Self::Heaptrack => {
                let mut command = Command::new(self.name());
                command.arg("-o").arg(output).arg(&tools.python);
                command
            }
        }
    }
}

fn one(tools: &Tools, fragscope: &Path, folder: &Path, program: &Path) -> Result<()> {
    let mut seconds: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (recorder, taken) in Recorder::ALL.iter().zip(&mut seconds) {
            let mut command = recorder.python(tools, fragscope, folder);
            command.arg(program).env("PYTHONHASHSEED", "0");
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let began = Instant::now();
            let status = command.status().with_context(|| format!("{command:?}"))?;
            ensure!(status.success(), "{command:?} ended with {status}");
            taken.push(began.elapsed().as_secs_f64());
        }
    }
    let trace = folder.join(Recorder::Fragscope.name());
    let events = events(fragscope, &trace)? as f64;
    let bytes = trace.metadata()?.len() as f64;
    let name = program.file_stem().unwrap_or_default().to_string_lossy();
    let [plain, recorded @ ..] = &seconds;
    for (recorder, taken) in Recorder::ALL[1..].iter().zip(recorded) {
        let pairs = || taken.iter().zip(plain);
        let ratio = median(pairs().map(|(with, without)| with / without).collect());
        let ns = pairs().map(|(with, without)| (with - without) * 1e9 / events);
        let ns = median(ns.collect());
        let size = match recorder {
            Recorder::Fragscope => format!("{:.1}", bytes / events),
            _ => "-".to_owned(),
        };
        let recorder = recorder.name();
        let (ratio, ns) = (format!("{ratio:.2}"), format!("{ns:.0}"));
        let row = [&*name, recorder, &ratio, &ns, &size];
        let row = COLUMNS
            .iter()
            .zip(row)
            .map(|(column, cell)| column.cell(cell));
        println!("{}", row.collect::<Vec<_>>().join("  "));
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
    replay.args(["replay", "--json", "--runs", "1", "--allocator", BASELINE]);
    let said: serde_json::Value = serde_json::from_str(&crate::output(replay.arg(trace))?)?;
    said["trace"]["events"].as_u64().context("no events")
}

//! What replays of one recording predict.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Basis;
use super::moments::{self, Ended, kill};
use super::programs::{Program, Tools};
use super::settings::Setting;

/// What replays of one recording gave at a moment, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Predicted {
    pub(super) name: String,
    /// Their median.
    pub(super) bytes: u64,
    /// Their band.
    pub(super) low_bytes: u64,
    pub(super) high_bytes: u64,
}

/// A recording of the program under unchanged glibc.
pub(super) struct Recording {
    trace: PathBuf,
    /// The moments at which there is a checkpoint.
    pub(super) names: Vec<String>,
}

impl Recording {
    /// Records the program `runs` times, reusing existing recordings.
    pub(super) fn all(
        tools: &Tools,
        fragscope: &Path,
        program: &Program,
        basis: Basis,
        runs: usize,
    ) -> Result<Vec<Self>> {
        let numbers = 0..runs;
        numbers
            .map(|number| Self::of(tools, fragscope, program, basis, number))
            .collect()
    }

    fn of(
        tools: &Tools,
        fragscope: &Path,
        program: &Program,
        basis: Basis,
        number: usize,
    ) -> Result<Self> {
        let folder = tools.made.join("traces");
        let number = match basis {
            Basis::Attached => format!("attached-{number}"),
            Basis::Launch | Basis::OneWalk => number.to_string(),
        };
        let trace = folder.join(format!("{}.{number}.fragtrace", program.name));
        let kept = trace.with_extension("json");
        if !kept.exists() {
            eprintln!("recording {}", program.name);
            fs::create_dir_all(&folder)?;
            let names = match basis {
                Basis::Attached => record_attached(tools, fragscope, program, &trace)?,
                Basis::Launch | Basis::OneWalk => record(tools, fragscope, program, &trace)?,
            };
            fs::write(&kept, serde_json::to_vec(&names)?)?;
        }
        let names = serde_json::from_slice(&fs::read(&kept)?)?;
        Ok(Self { trace, names })
    }

    /// Replays it under the setting: what the replays gave at each moment.
    pub(super) fn replay(&self, fragscope: &Path, setting: &Setting) -> Result<Vec<Predicted>> {
        let mut command = Command::new(fragscope);
        command
            .args(["replay", "--json", "--runs", "3"])
            .arg(&self.trace);
        setting.choose(&mut command)?;
        let replayed: Replayed = serde_json::from_str(&crate::output(&mut command)?)?;
        let mut candidates = replayed.candidates.into_iter();
        let candidate = candidates.find(|candidate| candidate.now == setting.is_baseline());
        let candidate = candidate.with_context(|| format!("no replay under {}", setting.name))?;
        if let Some(failure) = candidate.failure {
            bail!("the replay under {} failed: {failure}", setting.name);
        }
        let asked = candidate.checkpoints.into_iter();
        let asked: Vec<_> = asked.filter(|one| one.asked && one.process == 0).collect();
        ensure!(
            asked.len() == self.names.len(),
            "{} has {} moments of {}",
            self.trace.display(),
            asked.len(),
            self.names.len()
        );
        let pairs = self.names.iter().zip(asked);
        Ok(pairs
            .map(|(name, checkpoint)| Predicted {
                name: name.clone(),
                bytes: checkpoint.resident_bytes,
                low_bytes: checkpoint.low_bytes,
                high_bytes: checkpoint.high_bytes,
            })
            .collect())
    }
}

/// Deletes the program's kept recordings.
pub(super) fn forget(tools: &Tools, program: &Program) -> Result<()> {
    super::remove(&tools.made.join("traces"), &format!("{}.", program.name))
}

/// The fields of `fragscope.replay/1` that are read.
#[derive(Deserialize)]
struct Replayed {
    candidates: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Candidate {
    now: bool,
    failure: Option<String>,
    checkpoints: Vec<Checkpoint>,
}

#[derive(Deserialize)]
struct Checkpoint {
    process: u32,
    resident_bytes: u64,
    low_bytes: u64,
    high_bytes: u64,
    asked: bool,
}

/// Records the program, with a checkpoint at each moment; gives their names.
fn record(tools: &Tools, fragscope: &Path, program: &Program, trace: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(fragscope);
    command.arg("record").arg("-o").arg(trace).arg("--");
    command.args(tools.command(program)?);
    let mut names = Vec::new();
    moments::run(tools, program, command, |name, pid| {
        names.push(name.to_owned());
        kill("-USR1", pid)
    })?;
    Ok(names)
}

/// Records the program from its first moment on, as somebody does who attaches to a process that
/// runs, with a checkpoint at each later moment; gives their names.
fn record_attached(
    tools: &Tools,
    fragscope: &Path,
    program: &Program,
    trace: &Path,
) -> Result<Vec<String>> {
    let words = tools.command(program)?;
    let (first, rest) = words.split_first().context("an empty command")?;
    let mut command = Command::new(first);
    command.args(rest);
    let mut names = Vec::new();
    let mut recorder: Option<Ended> = None;
    moments::run(tools, program, command, |name, pid| {
        let Some(recorder) = &recorder else {
            recorder = Some(Ended(attach(fragscope, pid, trace)?));
            return Ok(());
        };
        names.push(name.to_owned());
        kill("-USR1", recorder.0.id())
    })?;
    let mut recorder = recorder.context("the program marked no moment")?;
    let status = recorder.0.wait()?;
    ensure!(status.success(), "the recorder ended with {status}");
    ensure!(
        !names.is_empty(),
        "{} marked one moment alone",
        program.name
    );
    Ok(names)
}

/// Starts to record a process, and waits until its events are recorded.
fn attach(fragscope: &Path, pid: u32, trace: &Path) -> Result<Child> {
    let mut command = Command::new(fragscope);
    command.arg("record").arg("-o").arg(trace);
    command.args(["--pid", &pid.to_string()]);
    let mut recorder = command.stderr(Stdio::piped()).spawn()?;
    let stderr = recorder.stderr.take().context("no stderr")?;
    let mut lines = BufReader::new(stderr).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line?;
        let is_ready = line.contains("recording process");
        said.push(line);
        if is_ready {
            // It must not wait for somebody to read what it writes.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(recorder);
        }
    }
    let _ = recorder.wait();
    bail!("{command:?} did not begin to record: {}", said.join("\n"))
}

//! What replays of one recording predict.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::moments::{self, kill};
use super::programs::{Program, Tools};
use super::settings::Setting;
use super::truth::{Measurement, Run};

/// A recording of the program under unchanged glibc.
pub(super) struct Recording {
    trace: PathBuf,
    names: Vec<String>,
}

impl Recording {
    /// Records the program `runs` times, reusing existing recordings.
    pub(super) fn all(
        tools: &Tools,
        fragscope: &Path,
        program: &Program,
        runs: usize,
    ) -> Result<Vec<Self>> {
        let numbers = 0..runs;
        numbers
            .map(|number| Self::of(tools, fragscope, program, number))
            .collect()
    }

    fn of(tools: &Tools, fragscope: &Path, program: &Program, number: usize) -> Result<Self> {
        let folder = tools.made.join("traces");
        let trace = folder.join(format!("{}.{number}.fragtrace", program.name));
        let kept = trace.with_extension("json");
        if !kept.exists() {
            eprintln!("recording {}", program.name);
            fs::create_dir_all(&folder)?;
            let names = record(tools, fragscope, program, &trace)?;
            fs::write(&kept, serde_json::to_vec(&names)?)?;
        }
        let names = serde_json::from_slice(&fs::read(&kept)?)?;
        Ok(Self { trace, names })
    }

    /// Replays it under the setting: the median of the replays at each moment.
    pub(super) fn replay(&self, fragscope: &Path, setting: &Setting) -> Result<Run> {
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
            .map(|(name, checkpoint)| Measurement {
                name: name.clone(),
                bytes: checkpoint.resident_bytes,
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

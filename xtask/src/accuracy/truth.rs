//! The memory that the programs really have under each allocator; kept, so that it is measured only
//! once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::moments;
use super::programs::{Program, Tools};
use super::settings::Setting;

/// malloc's resident bytes at a marked moment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Measurement {
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// One run: its moments in order.
pub(super) type Run = Vec<Measurement>;

/// Runs the program under the setting until there are `runs` runs of it.
pub(super) fn measure(
    tools: &Tools,
    fragscope: &Path,
    program: &Program,
    setting: &Setting,
    runs: usize,
) -> Result<Vec<Run>> {
    kept_runs(
        &kept(tools, program, setting),
        program,
        setting,
        runs,
        || one(tools, fragscope, program, setting, None),
    )
}

/// The same for programs that continue before these moments until allocators have purged.
pub(super) fn settled(
    tools: &Tools,
    fragscope: &Path,
    program: &Program,
    setting: &Setting,
    moments: &str,
    runs: usize,
) -> Result<Vec<Run>> {
    let path = kept(tools, program, setting).with_extension("settled.json");
    kept_runs(&path, program, setting, runs, || {
        one(tools, fragscope, program, setting, Some(moments))
    })
}

fn kept_runs(
    path: &Path,
    program: &Program,
    setting: &Setting,
    runs: usize,
    mut run: impl FnMut() -> Result<Run>,
) -> Result<Vec<Run>> {
    let mut known: Vec<Run> = match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?,
        Err(_) => Vec::new(),
    };
    while known.len() < runs {
        eprintln!("running {} under {}", program.name, setting.name);
        let run = run()?;
        ensure!(!run.is_empty(), "{} marked no moment", program.name);
        known.push(run);
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(path, serde_json::to_vec(&known)?)?;
    }
    Ok(known)
}

/// Deletes the program's kept measurements.
pub(super) fn forget(tools: &Tools, program: &Program) -> Result<()> {
    super::remove(&tools.made.join("truth"), &format!("{}.", program.name))
}

fn kept(tools: &Tools, program: &Program, setting: &Setting) -> PathBuf {
    let name = format!("truth/{}.{}.json", program.name, setting.name);
    tools.made.join(name)
}

fn one(
    tools: &Tools,
    fragscope: &Path,
    program: &Program,
    setting: &Setting,
    settle: Option<&str>,
) -> Result<Run> {
    let words = tools.command(program)?;
    let (first, rest) = words.split_first().context("an empty command")?;
    let mut command = Command::new(first);
    command.args(rest);
    setting.apply(&mut command)?;
    if let Some(moments) = settle {
        command.env(moments::SETTLE, moments);
    }
    let mut run = Run::new();
    moments::run(tools, program, command, |name, pid| {
        let mut snapshot = Command::new(fragscope);
        snapshot.args(["snapshot", "--json", "--pid", &pid.to_string()]);
        let seen: serde_json::Value = serde_json::from_str(&crate::output(&mut snapshot)?)?;
        let bytes = seen["metrics"]["malloc_resident_bytes"].as_f64();
        run.push(Measurement {
            name: name.to_owned(),
            bytes: bytes.context("no malloc_resident_bytes")? as u64,
        });
        Ok(())
    })?;
    Ok(run)
}

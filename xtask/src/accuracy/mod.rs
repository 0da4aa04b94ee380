//! `cargo xtask accuracy`: what replays predict, compared with really running the programs.
//!
//! Each program runs under each allocator and is measured at moments that it marks. Then it is
//! recorded under glibc, from its launch or from its first moment on, with checkpoints at the same
//! moments, and the trace is replayed under each allocator; or a walk alone predicts.

mod compare;
pub(crate) mod cost;
mod moments;
mod one_walk;
mod predict;
mod programs;
mod settings;
mod table;
mod truth;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::compare::Summary;
use self::predict::Recording;
use self::programs::{CASES, PROGRAMS, Program, Tools};
use self::settings::{SETTINGS, Setting};

/// What is predicted from.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Basis {
    /// A recording from launch.
    Launch,
    /// A recording of a process that ran already.
    Attached,
    /// One walk, without a recording.
    OneWalk,
}

/// Options of the comparison.
struct Options {
    programs: Vec<&'static Program>,
    settings: Vec<&'static Setting>,
    runs: usize,
    /// The binary to use; `None` means this tree's.
    fragscope: Option<PathBuf>,
    /// Whether earlier measurements are repeated.
    fresh: bool,
    /// More than this median error is a failure.
    at_most: Option<f64>,
    basis: Basis,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            programs: PROGRAMS.iter().collect(),
            settings: SETTINGS.iter().collect(),
            runs: 3,
            fragscope: None,
            fresh: false,
            at_most: None,
            basis: Basis::Launch,
        };
        if arguments.contains(&"--one-walk") {
            options.basis = Basis::OneWalk;
            options.programs.extend(CASES.iter());
            options.runs = 2;
        } else if arguments.contains(&"--attached") {
            options.basis = Basis::Attached;
        }
        let mut arguments = arguments.iter();
        while let Some(&name) = arguments.next() {
            match name {
                "--fresh" => options.fresh = true,
                "--one-walk" | "--attached" => {}
                _ => {
                    let value = arguments.next();
                    options.take(
                        name,
                        value.with_context(|| format!("{name} needs a value"))?,
                    )?;
                }
            }
        }
        if options.programs.is_empty() || options.settings.is_empty() || options.runs == 0 {
            bail!("nothing to compare: the names are those of docs/accuracy.md");
        }
        Ok(options)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "--only" => self.programs.retain(|program| program.name == value),
            "--allocator" => self.settings.retain(|setting| setting.name == value),
            "--runs" => self.runs = value.parse().context("--runs")?,
            // It is run in other directories.
            "--fragscope" => self.fragscope = Some(std::path::absolute(value)?),
            "--at-most" => {
                let percent: f64 = value.parse().context("--at-most")?;
                self.at_most = Some(percent / 100.0);
            }
            _ => bail!("no option {name}"),
        }
        Ok(())
    }

    /// Whether everything is compared, so that the table can be written.
    fn is_whole(&self) -> bool {
        self.programs.len() == PROGRAMS.len() && self.settings.len() == SETTINGS.len()
    }
}

/// Runs the harness with the arguments after its name.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let tools = Tools::install(&options.programs)?;
    let fragscope = match &options.fragscope {
        Some(path) => path.clone(),
        None => build()?,
    };
    if options.basis == Basis::OneWalk {
        return one_walk::run(&tools, &fragscope, &options);
    }
    let mut all = Vec::new();
    for program in &options.programs {
        if options.fresh {
            truth::forget(&tools, program)?;
            predict::forget(&tools, program)?;
        }
        let recordings = Recording::all(&tools, &fragscope, program, options.basis, options.runs)?;
        for setting in &options.settings {
            let truth = truth::measure(&tools, &fragscope, program, setting, options.runs)?;
            let replays = recordings.iter();
            let replays = replays.map(|recording| recording.replay(&fragscope, setting));
            let predicted = replays.collect::<Result<Vec<_>>>()?;
            let rows = compare::rows(program.name, setting.name, &truth, &predicted);
            rows.iter().for_each(table::print);
            all.extend(rows);
        }
    }
    table::print_summary(&options.settings, &all);
    if options.is_whole() {
        let Options {
            basis,
            settings,
            programs,
            runs,
            ..
        } = &options;
        table::write(*basis, settings, programs, &all, *runs)?;
    }
    let median = Summary::of(all.iter()).median;
    match options.at_most {
        Some(most) if median > most => bail!("the median error is {:.1} %", median * 100.0),
        _ => Ok(()),
    }
}

/// Builds fragscope. Returns its binary.
fn build() -> Result<PathBuf> {
    crate::run(Command::new("cargo").args(["build", "--quiet", "--package", "fragscope"]))?;
    Ok(crate::root().join("target/debug/fragscope"))
}

/// Removes the files in a directory whose names begin with this.
fn remove(folder: &Path, begins: &str) -> Result<()> {
    let Ok(files) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for file in files {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with(begins) {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_the_same_from_every_folder() {
        let options = Options::parse(&["--fragscope", "target/release/fragscope"]).expect("parses");
        let here = std::env::current_dir().expect("a folder");
        let expected = here.join("target/release/fragscope");
        assert_eq!(options.fragscope, Some(expected));
    }
}

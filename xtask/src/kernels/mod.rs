//! `cargo xtask kernels`: boots Debian's kernels in a virtual machine and runs the privileged tests
//! on each.

pub(crate) mod disk;
pub(crate) mod machine;
pub(crate) mod packages;
pub(crate) mod plan;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use serde_json::Value;

use crate::target_folder;
use crate::test::install as install_packages;

use disk::Guest;
use machine::{Machine, Processor};
use packages::Origin;
use table::Seen;

/// What the host needs.
const PACKAGES: [&str; 6] = [
    "cpio",
    "debootstrap",
    "e2fsprogs",
    "kmod",
    "qemu-system-x86",
    "xz-utils",
];
/// The lockdown modes in which kernels are booted.
const LOCKDOWNS: [&str; 2] = ["integrity", "confidentiality"];

/// Options of the run.
#[derive(Default)]
struct Options<'o> {
    /// The suite whose kernel alone is booted.
    suite: Option<&'o str>,
    /// A part of the title of the rows that are run.
    row: Option<&'o str>,
    /// Whether nothing is booted, and the tables show the reports of the last runs.
    is_kept: bool,
}

/// Boots every kernel, and writes the tables.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let options = options(words)?;
    install_packages(&PACKAGES)?;
    let folder = target_folder()?.join("kernels");
    fs::create_dir_all(&folder)?;
    let clean = disk::clean_root(&folder)?;
    let guest = Guest {
        clean: &clean,
        cargo: &|| Command::new("cargo"),
        strip: "strip",
        rows: &plan::ROWS,
    };
    let disk = match options.is_kept {
        true => PathBuf::new(),
        false => disk::image(&guest, &folder)?,
    };
    let mut all = Vec::new();
    for suite in packages::SUITES {
        if options.suite.is_some_and(|only| only != suite) {
            continue;
        }
        let kernel = packages::kernel(&Origin::amd64(suite), &folder)?;
        let initramfs = disk::initramfs(&kernel, &clean, &folder)?;
        let machine = Machine {
            processor: Processor::X86_64,
            kernel: &kernel,
            initramfs: &initramfs,
            disk: &disk,
            folder: &folder,
        };
        eprintln!("== Linux {} of {suite}", kernel.release);
        let seen = Seen::of(&kernel, &reports(&machine, &options)?);
        seen.print();
        all.push(seen);
    }
    ensure!(!all.is_empty(), "no suite has this name");
    if options.suite.is_none() && options.row.is_none() {
        table::write(&all)?;
    }
    let failed: usize = all.iter().map(Seen::failures).sum();
    ensure!(failed == 0, "{failed} tests fail on some kernel");
    Ok(())
}

/// What one kernel's guests report, or have reported.
fn reports(machine: &Machine<'_>, options: &Options<'_>) -> Result<Vec<Value>> {
    if let Some(row) = options.row {
        let only = row.replace(' ', "_");
        return machine.run("row", &format!("checks=tests only={only}"));
    }
    let mut runs = vec![("tests", "checks=tests".to_owned())];
    runs.push(("settings", "checks=settings".to_owned()));
    for mode in LOCKDOWNS {
        runs.push((mode, format!("checks=settings lockdown={mode}")));
    }
    let mut all = Vec::new();
    for (name, words) in &runs {
        all.extend(match options.is_kept {
            true => machine.kept(name)?,
            false => machine.run(name, words)?,
        });
    }
    Ok(all)
}

fn options<'o>(words: &[&'o str]) -> Result<Options<'o>> {
    let mut options = Options::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().context("an option lacks its value");
        match *word {
            "--suite" => options.suite = Some(value()?),
            "--kept" => options.is_kept = true,
            "--row" => options.row = Some(value()?),
            word => bail!("{word} is no option of kernels"),
        }
    }
    Ok(options)
}

//! The BPF object: compiled, stripped, committed next to the code that loads it, and checked.

mod compile;
mod setup;
mod versions;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub(crate) use setup::setup;

use crate::root;

const FOLDER: &str = "profiler-probe/src/bpf";

/// The object's name for a machine.
fn object_name(machine: &str) -> String {
    match machine {
        "x86_64" => "fragscope.bpf.o".to_owned(),
        other => format!("fragscope-{other}.bpf.o"),
    }
}

const RECORD: &str = "fragscope.bpf.toolchain.txt";

/// Compiles the object and replaces the committed one.
pub(crate) fn build() -> Result<()> {
    let folder = root().join(FOLDER);
    fs::create_dir_all(&folder)?;
    for machine in compile::MACHINES {
        let (name, object) = (object_name(machine), compile::object(machine)?);
        fs::write(folder.join(&name), &object)?;
        println!("{FOLDER}/{name}: {} bytes", object.len());
    }
    fs::write(folder.join(RECORD), versions::present()?)?;
    Ok(())
}

/// Compiles the objects into `target/` and compares them with the committed ones.
pub(crate) fn check() -> Result<()> {
    compile::MACHINES.into_iter().try_for_each(check_one)
}

fn check_one(machine: &str) -> Result<()> {
    let fresh = compile::object(machine)?;
    let path = fresh_for(machine)?;
    fs::write(&path, &fresh)?;
    println!("fresh object: {}", path.display());
    let folder = root().join(FOLDER);
    let missing = "run `cargo xtask build-ebpf` and commit what it writes";
    let committed = fs::read(folder.join(object_name(machine))).context(missing)?;
    let record = fs::read_to_string(folder.join(RECORD)).context(missing)?;
    let differing = versions::differing(&record, &versions::present()?);
    if committed == fresh {
        println!("the committed object is what its source gives");
    } else if differing.is_empty() {
        bail!("the committed object is not what its source gives: {missing}");
    } else {
        println!("the objects differ, and so do the tools, so this proves nothing:");
    }
    for line in &differing {
        println!("  {line}");
    }
    Ok(())
}

/// The path of the object that [`check`] compiles for the machine on which this runs.
pub(crate) fn fresh_object() -> Result<PathBuf> {
    fresh_for(std::env::consts::ARCH)
}

fn fresh_for(machine: &str) -> Result<PathBuf> {
    let folder = root().join("target/bpf");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(object_name(machine)))
}

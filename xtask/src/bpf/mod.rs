//! The BPF object: compiled, stripped, committed beside the code that loads it, and checked.

mod compile;
mod setup;
mod versions;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub(crate) use setup::setup;

use crate::root;

const FOLDER: &str = "profiler-probe/src/bpf";
const OBJECT: &str = "fragscope.bpf.o";
const RECORD: &str = "fragscope.bpf.toolchain.txt";

/// Compiles the object and replaces the committed one.
pub(crate) fn build() -> Result<()> {
    let object = compile::object()?;
    let folder = root().join(FOLDER);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(OBJECT), &object)?;
    fs::write(folder.join(RECORD), versions::present()?)?;
    println!("{FOLDER}/{OBJECT}: {} bytes", object.len());
    Ok(())
}

/// Compiles the object into `target/` and compares it with the committed one.
pub(crate) fn check() -> Result<()> {
    let fresh = compile::object()?;
    let path = fresh_object()?;
    fs::write(&path, &fresh)?;
    println!("fresh object: {}", path.display());
    let folder = root().join(FOLDER);
    let missing = "run `cargo xtask build-ebpf` and commit what it writes";
    let committed = fs::read(folder.join(OBJECT)).context(missing)?;
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

/// Where [`check`] puts the object that it compiles.
pub(crate) fn fresh_object() -> Result<PathBuf> {
    let folder = root().join("target/bpf");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(OBJECT))
}

//! CPythons newer than the distribution's, for the tests that use every installed Python.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::test::install as install_packages;
use crate::{debootstrap, run, target_folder};

/// Debian's suite that has them.
const SUITE: &str = "sid";
/// Those.
const VERSIONS: [&str; 2] = ["3.14", "3.15"];

/// Installs them below `target/pythons`, once, and prints where they are.
pub(crate) fn install() -> Result<()> {
    let folder = target_folder()?.join("pythons");
    let root = folder.join(SUITE);
    if !root.exists() {
        install_packages(&["debootstrap", "patchelf"])?;
        fs::create_dir_all(&folder)?;
        // Under another name until it is complete.
        let draft = tempfile::tempdir_in(&folder)?;
        let new = draft.path().join(SUITE);
        let names = VERSIONS.map(|version| format!("python{version}"));
        debootstrap(SUITE, &names.each_ref().map(String::as_str), &new)?;
        for name in &names {
            run_here(&new.join("usr/bin").join(name), &root)?;
        }
        fs::rename(&new, &root)?;
    }
    let paths = VERSIONS.map(|version| root.join(format!("usr/bin/python{version}")));
    let paths = paths
        .iter()
        .map(|path| path.to_str().context("a path in UTF-8"));
    let paths: Vec<&str> = paths.collect::<Result<_>>()?;
    println!("FRAGSCOPE_TEST_PYTHONS=\"{}\"", paths.join(" "));
    Ok(())
}

/// Lets a program run outside the root for which it was built: with that root's loader and
/// libraries, because its C library is newer than the host's.
fn run_here(program: &Path, root: &Path) -> Result<()> {
    run(Command::new("patchelf")
        .arg("--set-interpreter")
        .arg(root.join("usr/lib64/ld-linux-x86-64.so.2"))
        .arg("--set-rpath")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(program))
}

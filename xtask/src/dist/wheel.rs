//! The wheel, for `pip install fragscope`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::contents::{Contents, write as write_file};
use super::{Date, Profile, VERSION, licences, only_file};
use crate::{root, run};

/// What builds it, in a virtual environment of its own, and what adds to it: maturin names the systems
/// of one C library alone, and takes no file that is made by the build.
const TOOLS: [&str; 2] = ["maturin==1.16.0", "wheel==0.45.1"];
/// Alpine's, among others.
const MUSL: &str = "musllinux_1_1_x86_64";

/// Writes the wheel into `folder`, and beside it the bill of materials that maturin puts inside: one
/// description of what the program is made of, for all packages.
///
/// # Errors
/// maturin's: with a program that is not linked statically it refuses the platforms that the dist
/// profile is for.
pub(super) fn write(
    contents: &Contents,
    profile: Profile,
    date: Date,
    target: &Path,
    folder: &Path,
) -> Result<()> {
    let python = venv(target)?;
    let staging = tempfile::tempdir_in(folder)?;
    let mut maturin = Command::new(&python);
    maturin
        .args(["-m", "maturin", "build", "--quiet", "--out"])
        .arg(staging.path())
        .arg("--compatibility")
        .arg(platform(profile))
        .current_dir(root());
    // Without the date: libraries in C would be compiled once more for it.
    run(profile.compile(&mut maturin))?;

    let wheel = |words: &[&str]| {
        let mut wheel = Command::new(&python);
        wheel
            .args(["-m", "wheel"])
            .args(words)
            .stdout(Stdio::null());
        wheel.env(Date::VARIABLE, date.seconds());
        wheel
    };
    let built = only_file(staging.path(), ".whl")?;
    if profile == Profile::Dist {
        let musl = format!("--platform-tag=+{MUSL}");
        run(wheel(&["tags", "--remove", &musl]).arg(built))?;
    }
    let unpacked = staging.path().join("unpacked");
    run(wheel(&["unpack", "--dest"])
        .arg(&unpacked)
        .arg(only_file(staging.path(), ".whl")?))?;
    let tree = only_file(&unpacked, "")?;
    let described = only_file(&tree, ".dist-info")?;
    write_file(
        &described.join("licenses").join(licences::NAME),
        contents.licences.as_bytes(),
        0o644,
    )?;
    let bill = only_file(&described.join("sboms"), ".cyclonedx.json")?;
    let name = format!("fragscope-{VERSION}.cyclonedx.json");
    fs::copy(&bill, folder.join(name)).with_context(|| format!("{}", bill.display()))?;
    run(wheel(&["pack", "--dest-dir"]).arg(folder).arg(&tree))
}

/// Where it may be installed, in pip's words. A program that is linked statically runs beside any C
/// library: glibc from 2.17 on, and musl.
const fn platform(profile: Profile) -> &'static str {
    match profile {
        Profile::Dist => "manylinux_2_17",
        Profile::Development => "linux",
    }
}

/// A Python that has both.
fn venv(target: &Path) -> Result<PathBuf> {
    let folder = target.join("packaging");
    let python = folder.join("bin/python");
    if !python.exists() {
        run(Command::new("/usr/bin/python3")
            .args(["-m", "venv"])
            .arg(&folder))?;
    }
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    run(Command::new(&python).args(pip).args(TOOLS))?;
    Ok(python)
}

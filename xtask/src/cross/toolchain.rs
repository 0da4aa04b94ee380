//! A compiler for aarch64. Debian has one compiler with the standard libraries of both
//! architectures, so no other toolchain of rustup is needed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::output;

/// The suite that has a compiler which is new enough (`rust-version` in Cargo.toml).
const SUITE: &str = "forky";
/// The compiler, its libraries, and the standard library for the target and for build scripts.
const PACKAGES: [&str; 16] = [
    "libbsd0",
    "libc6",
    "libedit2",
    "libffi8",
    "libgcc-s1",
    "libgmp10",
    "libmd0",
    "libstd-rust-dev",
    "libstd-rust-dev:arm64",
    "libstdc++6",
    "libtinfo6",
    "libxml2-16",
    "libz3-4",
    "libzstd1",
    "rustc",
    "zlib1g",
];
/// Those of the above whose name changes with each version.
const VERSIONED: [(&str, &str); 2] = [("rustc", "libstd-rust-1."), ("libstd-rust-1.", "libllvm")];

/// The compiler, in a folder that is made once.
pub(super) fn compiler(folder: &Path) -> Result<PathBuf> {
    let made = folder.join("rust");
    if !made.exists() {
        // Under another name until it is complete.
        let draft = tempfile::tempdir_in(folder)?;
        let apt = Apt::of(SUITE, &["amd64", "arm64"], draft.path())?;
        let library = depended(&apt, "libstd-rust-dev", VERSIONED[0].1)?;
        let llvm = depended(&apt, &library, VERSIONED[1].1)?;
        let packages = [&PACKAGES[..], &[library.as_str(), llvm.as_str()]].concat();
        apt.unpack(&packages, draft.path())?;
        fs::rename(draft.keep(), &made)?;
    }
    let script = folder.join("rustc");
    fs::write(&script, wrapper(&made))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    output(std::process::Command::new(&script).arg("-vV"))
        .context("Debian's compiler does not run")?;
    Ok(script)
}

fn depended(apt: &Apt, package: &str, begins: &str) -> Result<String> {
    let names = apt.depends(package)?;
    let found = names.into_iter().find(|name| name.starts_with(begins));
    found.with_context(|| format!("{package} depends on no {begins}"))
}

/// It runs with its own loader and libraries, because its C library is newer than the host's.
fn wrapper(root: &Path) -> String {
    let root = root.display();
    format!(
        "#!/bin/sh\nexec {root}/usr/lib64/ld-linux-x86-64.so.2 \\\n    --library-path \
         {root}/usr/lib/x86_64-linux-gnu \\\n    {root}/usr/bin/rustc --sysroot {root}/usr \"$@\"\n"
    )
}

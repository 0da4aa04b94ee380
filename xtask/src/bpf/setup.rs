//! Installs the BPF toolchain.
//!
//! rustup's stable toolchains contain no `core` for the BPF target. Debian's `rustc-web` does, and
//! can be installed next to them; the linker must be built against the same LLVM.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::compile::cargo_home;
use crate::{output, root, run};

/// Debian's compiler.
pub(super) const COMPILER: &str = "/usr/bin/rustc";
const PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "libLLVM.so.22.1";
const LLVM_FEATURE: &str = "llvm-22";

/// Installs what is missing.
pub(crate) fn setup() -> Result<()> {
    if can_compile() {
        println!("{COMPILER} can compile for BPF already");
    } else {
        apt_get(&["update"])?;
        let install = ["install", "-y", "--no-install-recommends"];
        apt_get(&[&install[..], &PACKAGES].concat())?;
    }
    if linker().is_some() {
        println!("bpf-linker {LINKER_VERSION} is there already");
        return Ok(());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .args(["install", "bpf-linker", "--version", LINKER_VERSION])
        .args(["--locked", "--force", "--no-default-features"])
        .args(["--features", LLVM_FEATURE])
        .env("LLVM_PREFIX", llvm_prefix()?))
}

/// The path of the right version of bpf-linker.
pub(super) fn linker() -> Option<PathBuf> {
    let path = cargo_home().ok()?.join("bin/bpf-linker");
    let version = output(Command::new(&path).arg("--version")).ok()?;
    (version.trim() == format!("bpf-linker {LINKER_VERSION}")).then_some(path)
}

fn can_compile() -> bool {
    let sysroot = output(Command::new(COMPILER).args(["--print", "sysroot"]));
    sysroot.is_ok_and(|sysroot| {
        let target = "lib/rustlib/bpfel-unknown-none/lib";
        Path::new(sysroot.trim()).join(target).exists()
    })
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        command.arg("apt-get");
    }
    run(command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

/// A directory whose `lib/libLLVM.so` is the compiler's LLVM: bpf-linker's build needs nothing
/// else, in particular no LLVM development packages.
fn llvm_prefix() -> Result<PathBuf> {
    let listed = output(Command::new("/sbin/ldconfig").arg("-p"))?;
    let library = listed
        .lines()
        .filter_map(|line| line.split_once(" => "))
        .find(|(name, _)| name.trim_start().starts_with(&format!("{LLVM} ")))
        .map(|(_, path)| path)
        .with_context(|| format!("{LLVM} is not installed"))?;
    let prefix = root().join("target/llvm");
    let folder = prefix.join("lib");
    fs::create_dir_all(&folder)?;
    let link = folder.join("libLLVM.so");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(library, &link)?;
    Ok(prefix)
}

//! `cargo xtask cross`: compiles everything for aarch64, runs the unit tests in a user-mode
//! emulator, and privileged tests in a virtual machine.

mod guest;
mod toolchain;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::test::install as install_packages;
use crate::{root, run as run_command, target_folder};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// What the host needs for it: the linker, the C library's files to link with, and the emulator.
const PACKAGES: [&str; 4] = [
    "gcc-aarch64-linux-gnu",
    "g++-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "qemu-user-static",
];
/// Where Debian's cross packages have the C library of the other machine.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// Crates whose tests need nothing of a kernel that the emulator has not, with the words that say which of them.
const TESTED: [(&str, &[&str]); 4] = [
    ("profiler-common", &["--lib"]),
    ("profiler-core", &["--lib", "--tests"]),
    ("profiler-trace", &["--lib"]),
    ("profiler-probe", &["--lib", "sites::"]),
];

/// Compiles everything, and runs those tests.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let boots = match words {
        [] => false,
        ["--boot"] => true,
        _ => bail!("cross has no option but --boot"),
    };
    install_packages(&PACKAGES)?;
    let folder = target_folder()?.join("cross");
    fs::create_dir_all(&folder)?;
    let compiler = toolchain::compiler(&folder)?;
    let of_target = || cargo(&compiler, &folder);
    if boots {
        install_packages(&guest::HOST_PACKAGES)?;
        return guest::run(&of_target, &folder);
    }
    run_command(of_target().args(["check", "--workspace", "--all-targets"]))?;
    for (package, which) in TESTED {
        run_command(of_target().args(["test", "-p", package]).args(which))?;
    }
    println!("everything compiles for aarch64, and the unit tests pass there");
    Ok(())
}

/// cargo with that compiler, in a separate directory: it cannot use what another compiler has
/// built.
fn cargo(compiler: &Path, folder: &Path) -> Command {
    let of_target = |what: &str| format!("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_{what}");
    let mut command = Command::new("cargo");
    command
        .current_dir(root())
        .env("RUSTC", compiler)
        .env("CARGO_BUILD_TARGET", TARGET)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env(of_target("LINKER"), "aarch64-linux-gnu-gcc")
        .env(
            of_target("RUNNER"),
            format!("qemu-aarch64-static -L {LIBRARIES}"),
        );
    command
}

//! `cargo xtask cross --boot`: Debian 13's arm64 kernels in a virtual machine, and privileged tests on each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::apt::Apt;
use crate::kernels::disk::{self, Guest};
use crate::kernels::machine::{Machine, Processor};
use crate::kernels::packages::{self, Origin};
use crate::kernels::plan::{Row, row};

/// What the host needs in addition.
pub(super) const HOST_PACKAGES: [&str; 5] =
    ["cpio", "e2fsprogs", "kmod", "qemu-system-arm", "xz-utils"];

const SUITE: &str = "trixie";
/// Debian's name of the machine.
const ARCHITECTURE: &str = "arm64";
/// With pages of 4 and of 16 KiB. Debian has none of 64.
const FLAVOURS: [&str; 2] = ["", "-16k"];
/// Packages that the tests use there.
const PACKAGES: [&str; 5] = [
    "busybox-static",
    "gcc",
    "libc6-dev",
    "libcap2-bin",
    "python3",
];
/// Programs replaced by busybox.
const BY_BUSYBOX: [&str; 10] = [
    "cat", "dmesg", "env", "hostname", "ifconfig", "kill", "ls", "mount", "sh", "sleep",
];

const TARGET: &str = "profiler-target";
const ROWS: [Row; 6] = [
    row(
        "states of pages, residency, shares",
        TARGET,
        "process_pages",
    ),
    row("stops of all threads", TARGET, "process_stop"),
    row("walks of glibc's heap", TARGET, "glibc_walk"),
    row("walks of pymalloc", TARGET, "pymalloc_walk"),
    row(
        "calls counted by probes",
        "profiler-probe",
        "privileged_probes",
    )
    .without(&[
        "a_quiet_target_stays_watched_within_the_budget",
        "the_budget_bounds_what_a_busy_target_pays",
    ]),
    row(
        "call sites with Python's stacks",
        "profiler-probe",
        "privileged_sites",
    ),
];

/// Boots each kernel, and prints the results of the tests.
pub(super) fn run(cargo: &dyn Fn() -> Command, folder: &Path) -> Result<()> {
    let clean = clean_root(folder)?;
    let guest = Guest {
        clean: &clean,
        cargo,
        strip: "aarch64-linux-gnu-strip",
        rows: &ROWS,
    };
    let disk = disk::image(&guest, folder)?;
    let mut failed = 0;
    for flavour in FLAVOURS {
        let origin = Origin {
            suite: SUITE,
            architecture: ARCHITECTURE,
            flavour,
        };
        let kernel = packages::kernel(&origin, folder)?;
        let initramfs = disk::initramfs(&kernel, &clean, folder)?;
        let machine = Machine {
            processor: Processor::Aarch64,
            kernel: &kernel,
            initramfs: &initramfs,
            disk: &disk,
            folder,
        };
        println!("== Linux {} of {SUITE}", kernel.release);
        failed += print(&machine.run("tests", "checks=tests")?);
    }
    ensure!(failed == 0, "{failed} tests fail on some kernel");
    Ok(())
}

/// Prints a line for each row and each test that failed; how many did.
fn print(reports: &[Value]) -> usize {
    let is_test = |one: &&Value| one["kind"] == "test";
    let tests: Vec<&Value> = reports.iter().filter(is_test).collect();
    for row in &ROWS {
        let of_row = tests.iter().filter(|one| one["row"] == row.title);
        let (passed, others): (Vec<&&Value>, Vec<_>) =
            of_row.partition(|one| one["passed"] == true);
        println!(
            "{}: {} pass, {} fail",
            row.title,
            passed.len(),
            others.len()
        );
        for one in others {
            let (test, said) = (one["test"].as_str(), one["said"].as_str());
            println!("  {}: {}", test.unwrap_or("?"), said.unwrap_or("?"));
        }
    }
    tests.iter().filter(|one| one["passed"] != true).count()
}

/// A Debian with those packages, made once. They are unpacked and not set up, which would have to be done by programs of
/// that machine.
fn clean_root(folder: &Path) -> Result<PathBuf> {
    let made = folder.join("root");
    if made.exists() {
        return Ok(made);
    }
    // Under another name until it is complete.
    let draft = tempfile::tempdir_in(folder)?;
    let new = draft.path().join("root");
    fs::create_dir(&new)?;
    let apt = Apt::of(SUITE, &[ARCHITECTURE], draft.path())?;
    apt.unpack_with_dependencies(&PACKAGES, &new)?;
    let programs = new.join("usr/bin");
    let links = BY_BUSYBOX.iter().map(|name| (*name, "busybox"));
    for (name, to) in links.chain([("cc", "gcc")]) {
        let link = programs.join(name);
        if link.symlink_metadata().is_err() {
            symlink(to, &link).with_context(|| link.display().to_string())?;
        }
    }
    fs::write(new.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(new.join("etc/group"), "root:x:0:\n")?;
    fs::rename(&new, &made)?;
    Ok(made)
}

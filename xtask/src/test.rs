//! `cargo xtask test`: everything that CI checks, what fails fastest first.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{accuracy, bpf, dependencies, deploy, layers, root, run as run_command};

/// Debian packages that the tests use besides the BPF toolchain: a C compiler for the programs
/// whose heaps are the oracles, on glibc, musl, mimalloc and tcmalloc; make for the jemalloc that is inside
/// fragscope, a C++ compiler for the library that fuzzes; a broker for the Celery worker; Prometheus with
/// promtool, which scrapes `serve`, curl and openssl, which ask it for its certificate; tmux for the screen; gdb for gcore; setcap.
const PACKAGES: [&str; 15] = [
    "curl",
    "g++",
    "gcc",
    "gdb",
    "libc6-dev",
    "libcap2-bin",
    "libmimalloc2.0",
    "libtcmalloc-minimal4",
    "make",
    "musl-tools",
    "openssl",
    "prometheus",
    "redis-server",
    "tmux",
    "python3-venv",
];
/// PyPI packages of third-party workers.
const PYTHON_PACKAGES: [&str; 4] = ["celery[redis]", "packaging", "pandas", "gunicorn"];

/// Where the kernel describes its tracepoints, for the probe of the OOM killer.
const TRACEFS: &str = "/sys/kernel/tracing";

/// Mounts tracefs unless it is mounted: systemd does so on a host, but nothing does in a small
/// virtual machine.
fn mount_tracefs() -> Result<()> {
    match Path::new(TRACEFS).join("events").exists() {
        true => Ok(()),
        false => run_command(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS])),
    }
}

/// Runs every check. Installs what is missing first (as root, with apt, cargo and pip).
pub(crate) fn run() -> Result<()> {
    let root = root();
    step("packages", || install(&PACKAGES))?;
    step("tracefs", mount_tracefs)?;
    let python = step("workers' Python", || install_workers(&root))?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("layers", || layers::check(&root))?;
    step("dependencies", dependencies::check)?;
    step("what Kubernetes takes", deploy::check)?;
    step("BPF toolchain", bpf::setup)?;
    step("BPF object", bpf::check)?;
    step("clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    })?;
    step("fuzz targets", || {
        // With the workspace's builds of their dependencies; fuzzing itself needs cargo-fuzz.
        let targets = ["check", "--manifest-path", "fuzz/Cargo.toml"];
        cargo(&[&targets[..], &["--target-dir", "target"]].concat())
    })?;
    step("docs", || {
        run_command(
            Command::new("cargo")
                .args(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    })?;
    step("doctests", || {
        cargo(&["test", "--workspace", "--doc", "--quiet"])
    })?;
    step("the program that `cargo run` names", || {
        cargo(&["run", "--quiet", "--", "--version"])
    })?;
    step("accuracy of a replay", || {
        accuracy::run(&[
            "--fresh",
            "--only",
            "blobs",
            "--allocator",
            "tcmalloc",
            // tcmalloc takes 2 MB more in one run of many: the median counts.
            "--runs",
            "3",
            "--at-most",
            "2",
        ])
    })?;
    step("tests, privileged ones included", || {
        let mut command = Command::new("cargo");
        // One runner for everything: nextest runs each test in a separate process, so one that
        // hangs or dies affects no other. cargo test is what a fresh machine has: nextest exists
        // only as source, which takes minutes to build. cargo test also runs one test binary after
        // the other, but not the tests of one: there the cost of probes is measured beside other
        // tests.
        if has("cargo-nextest") {
            command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
        } else {
            command.args(["test", "--workspace", "--tests", "--no-fail-fast"]);
        }
        run_command(
            command
                .env("FRAGSCOPE_BPF_OBJECT", bpf::fresh_object()?)
                .env("FRAGSCOPE_TEST_PYTHON", &python),
        )
    })
}

fn step<T>(name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("== {name}");
    run().with_context(|| format!("{name} failed"))
}

/// Installs the Debian packages that are missing (as root).
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    run_command(Command::new("apt-get").args(["update", "-qq"]))?;
    run_command(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output()
        .is_ok_and(|out| out.stdout.ends_with(b"install ok installed"))
}

/// A virtual environment with the workers, under `target/`; kept between runs.
fn install_workers(root: &Path) -> Result<PathBuf> {
    let venv = root.join("target/workers");
    let python = venv.join("bin/python");
    let ready = Command::new(&python)
        .args(["-c", "import celery, redis, packaging, pandas, gunicorn"])
        .output()
        .is_ok_and(|out| out.status.success());
    if !ready {
        run_command(
            Command::new("/usr/bin/python3")
                .args(["-m", "venv"])
                .arg(&venv),
        )?;
        run_command(
            Command::new(&python)
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .args(PYTHON_PACKAGES),
        )?;
    }
    Ok(python)
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success())
}

fn cargo(args: &[&str]) -> Result<()> {
    run_command(Command::new("cargo").args(args))
}

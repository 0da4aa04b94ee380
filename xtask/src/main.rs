//! The project's own tasks, which [`USAGE`] lists: building the BPF object, tests, checks, packages, kernels and torture.

mod accuracy;
mod apt;
mod bpf;
mod cross;
mod dependencies;
mod deploy;
mod dist;
mod kernels;
mod layers;
mod pythons;
mod test;
mod torture;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask TASK

tasks:
  bpf-setup           install the toolchain that compiles the BPF programs (Debian 12)
  build-ebpf          compile them, and replace the committed object and its record of versions
  build-ebpf --check  compile them into target/, and fail if the committed object differs while the
                      versions of the tools are those of its record
  test                install what the tests need, rebuild the BPF object, run every check and test
                      (as root: what CI runs)
  accuracy [OPTION...]
                      compare what replays predict with really running the programs, and write the
                      table of docs/accuracy.md; --attached (predictions of recordings that begin when
                      the program runs already), --one-walk (predictions of one walk, for the table of
                      docs/prediction.md), --only PROGRAM, --allocator NAME, --runs N (3),
                      --fresh (measure again what was kept), --fragscope BINARY,
                      --at-most PERCENT (fail when the median error is larger)
  record-cost         what recording costs two programs, beside memray and heaptrack (on a quiet
                      machine; builds for release)
  torture [OPTION...] kill it, signal it, damage its files and its targets, and look what is left (as
                      root, on a machine where nothing else sets uprobes); --rounds N or full (some:
                      minutes), --only kill, signals, target, attacks, damage, memory or eintr,
                      --fragscope BINARY (else a release build), --seed N
  dist [--development]
                      make what people install (a wheel, a Debian package, a tar of the static program,
                      a bill of materials, sums) in target/dist, and try each where nothing else is (as
                      root); --development packs the program of development instead, in seconds
  kernels [OPTION...] boot Debian's kernels (5.10, 6.1, 6.12 and the newest of its backports) in a virtual machine, run
                      the privileged tests on each, and write the tables of docs/kernels.md (as root; downloads
                      some 500 MB once; hours in software emulation); --suite NAME boots one kernel, --row WORDS runs
                      rows with them, --kept writes the tables of what the last runs have reported
  cross [--boot]      compile everything for aarch64 with Debian's compiler and standard library (downloads some 200 MB
                      once), and run unit tests there in an emulator (as root; a quarter of an hour at first); --boot
                      runs privileged tests instead, on Debian 13's arm64 kernels with pages of 4 and of 16 KiB in a
                      virtual machine (half an hour and more)
  pythons             install CPythons that are newer than the distribution's in target/pythons (as root), and
                      print what FRAGSCOPE_TEST_PYTHONS names so that tests take them, too
  check-deploy        fail where deploy/daemonset.yaml is not what Kubernetes takes; installs what knows that
  check-dependencies  fail where a licence is not allowed, or a crate is there twice without a reason
  check-layers        fail where a module uses what its layer must not
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        asked if asked.iter().any(|word| matches!(*word, "--help" | "-h")) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["bpf-setup"] => bpf::setup(),
        ["build-ebpf"] => bpf::build(),
        ["build-ebpf", "--check"] => bpf::check(),
        ["accuracy", options @ ..] => accuracy::run(options),
        ["record-cost"] => accuracy::cost::run(),
        ["test"] => test::run(),
        ["torture", options @ ..] => torture::run(options),
        ["dist", options @ ..] => dist::run(options),
        ["kernels", options @ ..] => kernels::run(options),
        ["cross", options @ ..] => cross::run(options),
        ["pythons"] => pythons::install(),
        ["check-deploy"] => deploy::check(),
        ["check-dependencies"] => dependencies::check(),
        ["check-layers"] => layers::check(&root()),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Runs `command`; its output goes to the terminal.
fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// Creates a Debian of this suite in `folder`, with its essential packages and these additional
/// ones. Anything mounted below it meanwhile is so in a separate namespace: whoever removes the
/// directory finds only files.
fn debootstrap(suite: &str, packages: &[&str], folder: &Path) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    command.args(["debootstrap", "--variant=minbase"]);
    if !packages.is_empty() {
        command.arg(format!("--include={}", packages.join(",")));
    }
    run(command.arg(suite).arg(folder).stdout(Stdio::null()))
}

/// The directory in which cargo builds.
fn target_folder() -> Result<PathBuf> {
    let described = output(
        Command::new("cargo")
            .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
            .current_dir(root()),
    )?;
    let described: serde_json::Value = serde_json::from_str(&described)?;
    let folder = described["target_directory"].as_str();
    Ok(folder.context("cargo metadata names no target")?.into())
}

/// What `command` prints.
fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

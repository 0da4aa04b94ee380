//! Crates without the standard library that run inside other programs.
//!
//! Cargo has no way to embed one crate's shared object in another, so rustc is called here, with
//! the compiler that builds everything else.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the recorder as a shared object, and tells where it lies.
pub(crate) fn recorder(workspace: &Path) {
    let common = common(workspace);
    let object = out_dir().join("librecord.so");
    let mut rustc = rustc("profiler_record", &workspace.join("profiler-record"));
    rustc
        .args(["--crate-type", "cdylib", "--cfg", "feature=\"recorder\""])
        .arg("--extern")
        .arg(format!("profiler_common={}", common.display()))
        .args(LOOSE)
        .arg("-o")
        .arg(&object);
    run(rustc);
    println!("cargo::rustc-env=FRAGSCOPE_RECORDER={}", object.display());
}

/// Compiles the player, and tells where it lies: a shared object with an entry.
pub(crate) fn player(workspace: &Path) {
    let common = common(workspace);
    let program = out_dir().join("player");
    let mut rustc = rustc("profiler_replay", &workspace.join("profiler-replay"));
    rustc
        .args(["--crate-type", "cdylib", "--cfg", "feature=\"player\""])
        .arg("--extern")
        .arg(format!("profiler_common={}", common.display()))
        .args(LOOSE)
        .arg("-Clink-arg=-Wl,-e,_start")
        .arg("-o")
        .arg(&program);
    run(rustc);
    println!("cargo::rustc-env=FRAGSCOPE_PLAYER={}", program.display());
}

/// No version of libc is bound to: a symbol version of the libc here would keep the object from
/// loading beside an older one. Before glibc 2.34 the dynamic loader's and the threads' functions
/// had libraries of their own, which later ones keep as empty files.
const LOOSE: [&str; 6] = [
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-Wl,--no-as-needed",
    "-Clink-arg=-l:libdl.so.2",
    "-Clink-arg=-l:libpthread.so.0",
    "-Clink-arg=-Wl,--hash-style=both",
    "-Clink-arg=-Wl,-z,undefs",
];

/// The records that both sides share, compiled for objects without the standard library.
fn common(workspace: &Path) -> PathBuf {
    let library = out_dir().join("libprofiler_common.rlib");
    let mut rustc = rustc("profiler_common", &workspace.join("profiler-common"));
    rustc.args(["--crate-type", "rlib", "-o"]).arg(&library);
    run(rustc);
    library
}

/// rustc on the library of a crate, as small and quick code that never unwinds.
fn rustc(name: &str, folder: &Path) -> Command {
    println!("cargo::rerun-if-changed={}", folder.join("src").display());
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .arg(folder.join("src/lib.rs"))
        .args(["--edition", "2024", "--crate-name", name])
        .args(["--target", &variable("TARGET")])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Ccodegen-units=1"])
        .args(["-Cstrip=debuginfo", "-Cforce-unwind-tables=no"]);
    rustc
}

pub(crate) fn run(mut command: Command) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?} failed: {status:?}"
    );
}

pub(crate) fn out_dir() -> PathBuf {
    variable("OUT_DIR").into()
}

pub(crate) fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

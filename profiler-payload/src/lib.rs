//! Shared code of build scripts that compile something to embed it in a program as data.
//!
//! The recorder and the player are crates without the standard library that run inside other
//! programs. Cargo cannot embed one crate's shared object in another, so rustc is called here, with
//! the same compiler that builds everything else. Any failure ends the build with a panic.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// The objects are not bound to a version of libc: a symbol version of the libc here would prevent
/// an object from being loaded with an older one. Before glibc 2.34 the dynamic loader's and the
/// threads' functions had separate libraries, which later versions keep as empty files.
const LOOSE: [&str; 6] = [
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-Wl,--no-as-needed",
    "-Clink-arg=-l:libdl.so.2",
    "-Clink-arg=-l:libpthread.so.0",
    "-Clink-arg=-Wl,--hash-style=both",
    "-Clink-arg=-Wl,-z,undefs",
];

/// Compiles a crate of the workspace, which may use `profiler-common`, as a shared object with one
/// of its features and additional arguments for rustc. Returns its path.
///
/// # Panics
/// If it does not compile.
pub fn shared_object(krate: &str, feature: &str, arguments: &[&str]) -> PathBuf {
    let common = out_dir().join("libprofiler_common.rlib");
    let mut compile = rustc("profiler-common");
    compile.args(["--crate-type", "rlib", "-o"]).arg(&common);
    run(compile);

    let object = out_dir().join(format!("{krate}.so"));
    let mut compile = rustc(krate);
    compile
        .args(["--crate-type", "cdylib", "--cfg"])
        .arg(format!("feature=\"{feature}\""))
        .arg("--extern")
        .arg(format!("profiler_common={}", common.display()))
        .args(LOOSE)
        .args(arguments)
        .arg("-o")
        .arg(&object);
    run(compile);
    object
}

/// rustc on the library of a crate, as small and quick code that never unwinds.
fn rustc(krate: &str) -> Command {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = workspace.join(krate).join("src");
    println!("cargo::rerun-if-changed={}", source.display());
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .arg(source.join("lib.rs"))
        .args(["--edition", "2024", "--crate-name"])
        .arg(krate.replace('-', "_"))
        .args(["--target", &variable("TARGET")])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Ccodegen-units=1"])
        .args(["-Cstrip=debuginfo", "-Cforce-unwind-tables=no"]);
    // Set if cargo was given one, for example for another machine.
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut argument = OsString::from("-Clinker=");
        argument.push(linker);
        rustc.arg(argument);
    }
    rustc
}

/// Runs a compiler to its end.
///
/// # Panics
/// When it does not start, or fails.
pub fn run(mut command: Command) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(ExitStatus::success),
        "{command:?} failed: {status:?}"
    );
}

/// The directory in which the build script may write.
pub fn out_dir() -> PathBuf {
    variable("OUT_DIR").into()
}

/// A variable that cargo sets for build scripts.
///
/// # Panics
/// When it is not set.
pub fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

//! Runs the command under test and reads its output.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod memory_group;
pub(crate) mod objects;
pub(crate) mod prometheus;
pub(crate) mod pyroscope;
pub(crate) mod record;
pub(crate) mod serving;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use profiler_testing::child::Child;
use serde_json::Value;

/// The program under test, for those who run it in a way of their own.
pub(crate) const FRAGSCOPE: &str = env!("CARGO_BIN_EXE_fragscope");

/// The commands that there are, by the program's own help; but for `help`.
pub(crate) fn all_commands() -> Vec<String> {
    let help = stdout(&fragscope(&["--help"]));
    let listed = help.split("Commands:\n").nth(1).expect("its commands");
    let lines = listed.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names = names.filter(|name| !name.is_empty() && *name != "help");
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() > 5, "{help}");
    names
}

/// Fails where a command is in none of `lines`, each of which begins with one, and not among those that are left out.
#[track_caller]
pub(crate) fn are_all(lines: &[String], left_out: &[&str]) {
    for name in all_commands() {
        let is_there = lines
            .iter()
            .any(|line| line.split(' ').next() == Some(&name));
        assert_eq!(
            is_there,
            !left_out.contains(&name.as_str()),
            "{name}: {lines:#?}"
        );
    }
}

/// `fragscope` with these arguments, without input, and with the width that it takes where there is no
/// terminal.
pub(crate) fn command(args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(FRAGSCOPE);
    command.args(args).stdin(Stdio::null());
    command.env_remove("COLUMNS");
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
}

/// Runs `fragscope` to its end.
pub(crate) fn fragscope(args: &[impl AsRef<OsStr>]) -> Output {
    run(&mut command(args))
}

/// What it printed on stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// What it printed on stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The document that it printed; it must have succeeded.
pub(crate) fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A script of this name that runs.
pub(crate) fn script(name: &str, program: &str) -> Child {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, program).expect("written");
    let mut command = Command::new("python3");
    command.arg("-S").arg(&path);
    Child::run(command).keep(folder)
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A Python that does nothing until its input closes.
pub(crate) fn idle_python() -> Child {
    Child::python("import sys; print(1, flush=True); sys.stdin.readline()")
}

/// A core of a process that runs on, written by gdb's `gcore` into the folder.
pub(crate) fn core_of(pid: &str, folder: &Path) -> PathBuf {
    let made = Command::new("gcore")
        .arg("-o")
        .arg(folder.join("core"))
        .arg(pid)
        .output();
    let made = made.expect("gcore, of gdb: cargo xtask test installs it");
    assert!(made.status.success(), "{}", stderr(&made));
    folder.join(format!("core.{pid}"))
}

//! Running the command under test, and reading what it printed.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod record;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use profiler_testing::child::{Child, WAIT_LIMIT};
use serde_json::Value;

/// `fragscope` with these arguments and without input.
pub(crate) fn command(args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fragscope"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs `fragscope` to its end.
pub(crate) fn fragscope(args: &[&str]) -> Output {
    command(args).output().expect("it runs")
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

/// Waits for a state, which comes at once but on a busy host.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_LIMIT, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

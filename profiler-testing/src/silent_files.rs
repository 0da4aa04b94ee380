//! Files of a file system that stops answering.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::child::{Child, compiled};

/// The content of the files that a Python program gets.
pub const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";

/// A program with a file on a file system that stops answering on request.
pub struct SilentFiles {
    // Killed first, and the file system with it: whatever waits for that continues.
    program: Child,
    folder: TempDir,
}

impl SilentFiles {
    /// Runs a Python program with the names of the files of `count` file systems as arguments.
    pub fn of_mounts(count: usize, python: &str) -> Self {
        Self::mounted(count, JEMALLOC, |mounts| {
            let mut command: Vec<OsString> = ["python3", "-c", python].map(Into::into).into();
            command.extend(mounts.iter().map(|mount| mount.join("file").into()));
            command
        })
    }

    /// Runs a command on `count` file systems whose file contains `holds`. The command prints a
    /// line when it is ready.
    pub fn mounted(
        count: usize,
        holds: &str,
        command: impl FnOnce(&[PathBuf]) -> Vec<OsString>,
    ) -> Self {
        let program = compiled("silent_fuse");
        let folder = tempfile::tempdir().expect("a folder");
        let mounts: Vec<_> = (0..count)
            .map(|number| folder.path().join(format!("mount{number}")))
            .collect();
        // Each serves one, and starts the next.
        let mut servers = Command::new("env");
        for mount in &mounts {
            fs::create_dir(mount).expect("made");
            servers.arg(program.path().join("silent_fuse"));
            servers.arg(holds).arg(folder.path().join("silent"));
            servers.arg(mount);
        }
        servers.args(command(&mounts));
        Self {
            program: Child::run(servers),
            folder,
        }
    }

    /// The program, which is ready.
    pub fn program(&mut self) -> &mut Child {
        &mut self.program
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.program.pid()
    }

    /// Makes the file system stop answering.
    pub fn fall_silent(&self) {
        File::create(self.folder.path().join("silent")).expect("made");
    }

    /// A path beside it, in a directory that is removed with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for SilentFiles {
    /// The processes that serve its files are ended first: those that wait for them cannot be.
    fn drop(&mut self) {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            let server = Pid::from_raw(child.parse().expect("a number"));
            let _ = kill(server, Signal::SIGKILL);
        }
    }
}

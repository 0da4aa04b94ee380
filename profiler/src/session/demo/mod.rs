//! `demo`: a bundled Python worker to look at.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::options::AttachOptions;
use super::{Ending, SessionError, attach};
use crate::say;

/// The worker: standard library only, deterministic.
const WORKER: &str = include_str!("worker.py");

/// Starts the worker and attaches to it. The worker ends with the session.
///
/// # Errors
/// When there is no `python3`, the worker does not start, or attaching fails.
pub fn run(options: &AttachOptions) -> Result<Ending, SessionError> {
    say::line("starting a Python worker that fragments its heap; this takes some seconds");
    let worker = Worker::start()?;
    attach(&AttachOptions {
        pid: worker.pid(),
        ..options.clone()
    })
}

/// The worker, killed when dropped. It also ends by itself when its stdin closes, which the kernel
/// does when fragscope is killed.
struct Worker {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Worker {
    fn start() -> Result<Self, SessionError> {
        let failed = |why: String| SessionError::Demo(why);
        let mut child = Command::new("python3")
            .args(["-c", WORKER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                failed(format!(
                    "python3 cannot be started ({error}): install Python 3.6 or later"
                ))
            })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let worker = Self {
            child,
            _stdin: stdin,
        };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim() == "READY" {
            Ok(worker)
        } else {
            Err(failed(
                "the Python worker ended before it was ready: see its message above".into(),
            ))
        }
    }

    fn pid(&self) -> i32 {
        // A pid fits: the kernel's limit is 2^22.
        self.child.id() as i32
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A worker that has already ended needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

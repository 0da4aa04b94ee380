//! `demo`: a bundled Python worker to inspect.

use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::aside::aside;
use super::attach::attach_on;
use super::options::AttachOptions;
use super::signals::Signals;
use super::{Ending, SessionError, event_loop};
use crate::say;
use crate::tui;

/// The worker: standard library only, deterministic.
const WORKER: &str = include_str!("worker.py");

/// Starts the worker and attaches to it. The worker ends with the session.
///
/// # Errors
/// When there is no `python3`, the worker does not start, or attaching fails.
pub fn run(options: &AttachOptions) -> Result<Ending, SessionError> {
    if !options.headless && !options.json {
        // Checked before seconds are spent on a worker that nobody will see.
        tui::supported()?;
    }
    say::line("starting a Python worker that fragments its heap; this takes some seconds");
    // Before it is started, so that it never outlives a signal.
    let (runtime, mut signals) = event_loop()?;
    let worker = match runtime.block_on(start(&mut signals))? {
        Start::Ready(worker) => worker,
        Start::Interrupted(name) => return Ok(Ending::Interrupted(name)),
    };
    let options = AttachOptions {
        pid: worker.pid(),
        ..options.clone()
    };
    attach_on(&options, &runtime, &mut signals)
}

/// The outcome of starting the worker.
enum Start {
    Ready(Worker),
    /// By this signal.
    Interrupted(&'static str),
}

/// Starts the worker, and waits until its heap is ready to be inspected.
async fn start(signals: &mut Signals) -> Result<Start, SessionError> {
    let (worker, said) = Worker::start()?;
    let line = tokio::select! {
        biased;
        name = signals.next() => return Ok(Start::Interrupted(name)),
        line = aside("worker", move || {
            let mut line = String::new();
            BufReader::new(said).read_line(&mut line).map(|_| line)
        }) => line??,
    };
    match line.trim() {
        "READY" => Ok(Start::Ready(worker)),
        _ => Err(SessionError::Demo(
            "the Python worker ended before it was ready: see its message above".into(),
        )),
    }
}

/// The worker, killed when dropped. It also ends by itself when its stdin closes, which the kernel
/// does when fragscope is killed.
struct Worker {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Worker {
    /// The worker and its output.
    fn start() -> Result<(Self, ChildStdout), SessionError> {
        let failed = |why: String| SessionError::Demo(why);
        let python = python().ok_or_else(|| {
            failed("there is no python3 on the PATH: install Python 3.6 or later".into())
        })?;
        let mut child = Command::new(python)
            .args(["-c", WORKER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                failed(format!(
                    "python3 cannot be started ({error}): install Python 3.6 or later"
                ))
            })?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let worker = Self {
            child,
            _stdin: stdin,
        };
        let stdout = stdout.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok((worker, stdout))
    }

    fn pid(&self) -> i32 {
        // A pid fits: the kernel's limit is 2^22.
        self.child.id() as i32
    }
}

/// Python, from an absolute directory of the PATH: with `.` on the PATH and a working directory
/// that belongs to somebody else, files there are not run.
fn python() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    all.find_map(|folder| Some(folder.join("python3")).filter(|file| file.is_file()))
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A worker that has already ended needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

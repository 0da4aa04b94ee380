//! Runs a program with marked moments: at each it waits and is measured.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::programs::{Program, Start, Tools};

/// A program waits this long at each moment, however long measuring takes, so that allocators that
/// purge over time have the same time in every run.
const WAIT: Duration = Duration::from_millis(1200);
/// Work of other threads, or of a worker that has just answered, is finished after this long.
const SETTLING_TIME: Duration = Duration::from_millis(300);
/// A program that prints nothing for this long hangs.
const HANGS: Duration = Duration::from_secs(120);

/// The variable with the moments before which a program continues until allocators have purged.
pub(super) const SETTLE: &str = "ACCURACY_SETTLE";

/// Runs `command` as the process to look at, with the helpers that `program` needs. `look` is
/// called at each moment with its name and the process.
pub(super) fn run(
    tools: &Tools,
    program: &Program,
    mut command: Command,
    mut look: impl FnMut(&str, u32) -> Result<()>,
) -> Result<()> {
    let pipes = Pipes::new(tools)?;
    let broker = match program.start {
        Start::Celery => Some(Broker::start(&pipes.folder)?),
        _ => None,
    };
    let prepare = |command: &mut Command| {
        command
            .current_dir(&tools.sources)
            .env("PYTHONHASHSEED", "0")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("OPENBLAS_NUM_THREADS", "1")
            .stdin(Stdio::null());
        if let Some(broker) = &broker {
            command.env("ACCURACY_BROKER", &broker.url);
        }
    };
    let marks = |command: &mut Command| {
        command.env("ACCURACY_ASK", &pipes.ask);
        command.env("ACCURACY_ANSWER", &pipes.answer);
    };
    prepare(&mut command);
    let mut script = match program.start {
        Start::Celery => {
            let mut script = Command::new(&tools.python);
            script.arg(tools.script());
            prepare(&mut script);
            marks(&mut script);
            Some(script)
        }
        Start::Python | Start::C => {
            marks(&mut command);
            None
        }
    };
    let mut compared = Ended(command.spawn().with_context(|| format!("{command:?}"))?);
    let mut script = match &mut script {
        Some(script) => Some(Ended(script.spawn()?)),
        None => None,
    };
    let pid = compared.0.id();
    let driver = script.as_mut().unwrap_or(&mut compared);
    follow(&pipes, program, driver, |name| look(name, pid))?;
    if script.is_some() {
        // The worker runs until it is asked to end; the recorder passes that on.
        kill("-TERM", pid)?;
        compared.0.wait()?;
    }
    Ok(())
}

/// Looks at each marked moment, until the program that marks them has ended.
fn follow(
    pipes: &Pipes,
    program: &Program,
    driver: &mut Ended,
    mut look: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut silent = Instant::now();
    loop {
        match pipes.moments.recv_timeout(Duration::from_millis(20)) {
            Ok(name) => {
                let began = Instant::now();
                std::thread::sleep(SETTLING_TIME);
                look(&name).with_context(|| format!("at the moment {name}"))?;
                std::thread::sleep(WAIT.saturating_sub(began.elapsed()));
                (&pipes.answers).write_all(b"\n")?;
                silent = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the pipe is gone"),
            Err(RecvTimeoutError::Timeout) if silent.elapsed() > HANGS => {
                bail!("{} says nothing for {HANGS:?}", program.name)
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = driver.0.try_wait()? {
            ensure!(status.success(), "{} ended with {status}", program.name);
            return Ok(());
        }
    }
}

/// Sends a signal.
pub(super) fn kill(signal: &str, pid: u32) -> Result<()> {
    crate::run(Command::new("kill").args([signal, &pid.to_string()]))
}

/// A process that ends with this.
pub(super) struct Ended(pub(super) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // A process that has already ended cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The two pipes through which a program marks its moments.
struct Pipes {
    folder: tempfile::TempDir,
    ask: PathBuf,
    answer: PathBuf,
    moments: Receiver<String>,
    answers: File,
    asks: File,
}

impl Pipes {
    fn new(tools: &Tools) -> Result<Self> {
        let folder = tempfile::tempdir_in(&tools.made)?;
        let (ask, answer) = (folder.path().join("ask"), folder.path().join("answer"));
        crate::run(Command::new("mkfifo").args([&ask, &answer]))?;
        // Opened for reading and writing, so that neither opening nor writing waits for the
        // program.
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let (asks, answers) = (open(&ask)?, open(&answer)?);
        let (sender, moments) = channel();
        let lines = BufReader::new(asks.try_clone()?);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if line.is_empty() || sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            folder,
            ask,
            answer,
            moments,
            answers,
            asks,
        })
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // An empty line ends the reader.
        let _ = self.asks.write_all(b"\n");
    }
}

/// A separate Redis, on a socket.
struct Broker {
    url: String,
    _server: Ended,
}

impl Broker {
    fn start(folder: &tempfile::TempDir) -> Result<Self> {
        let socket = folder.path().join("redis");
        let mut command = Command::new("redis-server");
        command
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(&socket)
            .current_dir(folder.path())
            .stdout(Stdio::null());
        let server = Ended(command.spawn().context("cannot start redis-server")?);
        let began = Instant::now();
        while !socket.exists() {
            if began.elapsed() > HANGS {
                bail!("redis-server does not open its socket");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let url = format!("redis+socket://{}", socket.display());
        Ok(Self {
            url,
            _server: server,
        })
    }
}

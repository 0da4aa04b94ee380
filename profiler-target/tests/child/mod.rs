//! A child to look at: it says a line when it is ready, and ends when its input closes.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use profiler_target::{StopError, Stopped, Target};

/// Where the C programs are, from whichever crate's tests.
const PROGRAMS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../profiler-target/tests/child"
);

/// No measure of anything: what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Child {
    inner: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    said: String,
    /// Where its program lies, when it was compiled for it.
    folder: Option<tempfile::TempDir>,
}

/// A folder that everyone may enter, with the compiled C program of this name.
pub(crate) fn compiled(name: &str) -> tempfile::TempDir {
    let folder = open_folder();
    let source = Path::new(PROGRAMS).join(format!("{name}.c"));
    let status = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-pthread", "-o"])
        .arg(folder.path().join(name))
        .arg(source)
        .status()
        .expect("a C compiler");
    assert!(status.success());
    folder
}

/// Copies a program into a folder. Another process writes it: a descriptor of ours could be open in
/// a child that another test starts at the same moment, and then it is not executed (ETXTBSY).
pub(crate) fn install(program: &Path, folder: &tempfile::TempDir) -> PathBuf {
    let copy = folder.path().join("copy");
    let status = Command::new("install")
        .arg("-m755")
        .arg(program)
        .arg(&copy)
        .status();
    assert!(status.expect("install, of coreutils").success());
    copy
}

/// A new folder that everyone may enter.
pub(crate) fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), all).expect("it is ours");
    folder
}

impl Child {
    /// Runs a Python program that prints one line when it is ready.
    pub(crate) fn python(program: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-S", "-c", program]);
        Self::run(command)
    }

    /// Compiles the C program of this name beside this file, and runs it.
    pub(crate) fn c(name: &str) -> Self {
        let folder = compiled(name);
        let mut child = Self::run(Command::new(folder.path().join(name)));
        child.folder = Some(folder);
        child
    }

    /// Runs a command that prints one line when it is ready.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut inner = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let input = inner.stdin.take();
        let output = BufReader::new(inner.stdout.take().expect("piped"));
        let mut child = Self {
            inner,
            input,
            output,
            said: String::new(),
            folder: None,
        };
        child.said = child.listen();
        child
    }

    pub(crate) fn pid(&self) -> i32 {
        self.inner.id() as i32
    }

    /// The line that it said when it was ready.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Its next line.
    pub(crate) fn listen(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Gives it a line.
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{line}").expect("it reads");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}

/// Stops all threads of the target, however long that takes: on a busy host a thread waits seconds
/// for a processor before it can stop, or is in the midst of bringing in a page.
pub(crate) fn stop(target: &Target) -> Stopped {
    let began = Instant::now();
    loop {
        match target.stop_within(PATIENCE) {
            Err(StopError::TimedOut { .. }) if began.elapsed() < PATIENCE => {}
            stopped => return stopped.expect("it stops"),
        }
    }
}

/// The state of a thread, as its `stat` file has it.
pub(crate) fn state_of(tid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).expect("there");
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.expect("a state")
}

/// Waits until a thread is in this state.
pub(crate) fn wait_for_state(tid: i32, wanted: char) {
    let began = Instant::now();
    while state_of(tid) != wanted {
        assert!(began.elapsed() < PATIENCE, "thread {tid} is not {wanted}");
        std::thread::yield_now();
    }
}

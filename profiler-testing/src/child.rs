//! A child to attach to: it prints a line when it is ready, and ends when its input closes.

use std::io::{BufRead, BufReader, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};
use profiler_core::memory::ResidentMemory;
use profiler_core::residency::ResidencyMap;
use profiler_target::{LiveMemory, Process, StopError, Stopped, Target};
use tempfile::TempDir;

use crate::wait::{WAIT_LIMIT, eventually, promptly};

/// A Python program that starts a process sharing its memory (`CLONE_VM`), prints its pid, and ends
/// it on request.
pub const SHARING: &str = "
import ctypes, mmap, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
stack = mmap.mmap(-1, 1 << 16)
top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + (1 << 16) - 64
libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
CLONE_VM = 0x100
pid = libc.clone(pause, top, CLONE_VM | signal.SIGCHLD, None)
print(pid, flush=True)
sys.stdin.readline()
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
print('alone', flush=True)
sys.stdin.readline()
";

/// The directory of the C programs.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/programs");

/// A running program. It is killed when this is dropped.
pub struct Child {
    inner: KillOnDrop,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    first_line: String,
    /// The directory of its program, if that was compiled for it.
    folder: Option<TempDir>,
}

/// A folder that everyone may enter, with the C program of this name in `programs/`, compiled.
pub fn compiled(name: &str) -> TempDir {
    compiled_by("cc", name, &[])
}

/// Like [`compiled`], with this compiler and these additional options.
pub fn compiled_by(compiler: &str, name: &str, options: &[&str]) -> TempDir {
    let folder = open_folder();
    compile(compiler, &program(name), options, &folder.path().join(name));
    folder
}

/// The source of the C program of this name in `programs/`.
pub(crate) fn program(name: &str) -> PathBuf {
    Path::new(PROGRAMS).join(format!("{name}.c"))
}

/// Compiles a C program: without warnings, and with its calls of malloc's family left in place.
pub fn compile(compiler: &str, source: &Path, options: &[&str], program: &Path) {
    let status = Command::new(compiler)
        .args(["-O1", "-Wall", "-Werror", "-pthread", "-fno-builtin", "-o"])
        .arg(program)
        .arg(source)
        .args(options)
        .status()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(status.success(), "{} does not compile", source.display());
}

/// Creates `count` small libraries in `folder`, each with its own data and `.bss`.
pub fn libraries(folder: &TempDir, count: usize) -> Vec<PathBuf> {
    let first = folder.path().join("library-0.so");
    compile("cc", &program("library"), &["-shared", "-fPIC"], &first);
    let copies = (1..count).map(|number| {
        let copy = folder.path().join(format!("library-{number}.so"));
        std::fs::copy(&first, &copy).expect("a copy");
        copy
    });
    std::iter::once(first.clone()).chain(copies).collect()
}

/// Copies a program into a directory. Another process writes it: our own descriptor could be open
/// in a child that another test starts at the same moment, and then the program cannot be executed
/// (ETXTBSY).
pub fn install(program: &Path, folder: &TempDir) -> PathBuf {
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
pub fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), all).expect("it is ours");
    folder
}

impl Child {
    /// Runs a Python program that prints one line when it is ready.
    pub fn python(program: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-S", "-c", program]);
        Self::run(command)
    }

    /// Compiles the C program of this name in `programs/`, and runs it.
    pub fn c(name: &str) -> Self {
        let folder = compiled(name);
        Self::run(Command::new(folder.path().join(name))).keep(folder)
    }

    /// Runs an ignored test of this test program as a separate process, which can be killed, with a
    /// variable in its environment, until it prints a line that ends with `ready`.
    pub fn ignored_test(name: &str, (variable, value): (&str, &str), ready: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "--ignored", "--nocapture", name]);
        command.env(variable, value);
        let mut child = Self::run(command);
        while !child.first_line.ends_with(ready) {
            let line = child.next_line();
            assert!(!line.starts_with("test result"), "{name}: {line}");
            child.first_line = line;
        }
        child
    }

    /// Runs a command that prints one line when it is ready.
    pub fn run(mut command: Command) -> Self {
        let mut inner = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let input = inner.stdin.take();
        let output = BufReader::new(inner.stdout.take().expect("piped"));
        let mut child = Self {
            inner: KillOnDrop(inner),
            input,
            output,
            first_line: String::new(),
            folder: None,
        };
        child.first_line = child.next_line();
        child
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.inner.id() as i32
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> ExitStatus {
        self.inner.ended()
    }

    /// The line that it printed when it was ready.
    pub fn first_line(&self) -> &str {
        &self.first_line
    }

    /// Waits for its next line.
    pub fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Writes a line to its input, and waits for its next line.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.next_line()
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) {
        self.inner.end();
    }

    /// The directory of its program, if that was compiled for it.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("compiled for it").path()
    }

    /// Keeps the directory of its program until it ends.
    pub fn keep(mut self, folder: TempDir) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Closes its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Writes a line to its input.
    pub fn send(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{line}").expect("it reads");
    }
}

/// Stops all threads of the target, however long that takes: on a busy host a thread waits seconds
/// for a processor before it can stop, or is in the middle of bringing in a page.
pub fn stop(target: &Target) -> Stopped {
    let began = Instant::now();
    loop {
        match target.stop_within(WAIT_LIMIT) {
            Err(StopError::TimedOut { .. }) if began.elapsed() < WAIT_LIMIT => {}
            stopped => return stopped.expect("it stops"),
        }
    }
}

/// The state of a thread, from its `stat` file.
pub fn state_of(tid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).expect("there");
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.expect("a state")
}

/// Waits until a thread is in this state.
pub fn wait_for_state(tid: i32, wanted: char) {
    promptly(&format!("thread {tid} in state {wanted}"), || {
        (state_of(tid) == wanted).then_some(())
    });
}

/// Waits until a process has a handler for this signal.
pub fn wait_for_handler(pid: i32, signal: Signal) {
    promptly(&format!("a handler for {signal}"), || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mut lines = status.lines();
        let caught = lines.find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        ((caught >> (signal as i32 - 1)) & 1 == 1).then_some(())
    });
}

/// The child of a process with this name, of which there is at most one.
pub fn child_of(parent: u32, name: &str) -> Option<Pid> {
    let found = children_of(parent, name);
    assert!(found.len() < 2, "{found:?}");
    found.first().copied()
}

/// The children of a process that show this name.
pub fn children_of(parent: u32, name: &str) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).expect("its threads");
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.expect("a thread").path().join("children");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let children: String = tasks.map(of_task).collect();
    let is_it = |pid: &&str| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let found = children.split_whitespace().filter(is_it);
    let number = |pid: &str| Pid::from_raw(pid.parse().expect("a number"));
    found.map(number).collect()
}

/// Stops all threads of a process and provides its memory, through its resident pages.
pub fn while_stopped<R>(
    target: &Target,
    read: impl FnOnce(&ResidentMemory<'_, LiveMemory>, &ResidencyMap, &Stopped) -> R,
) -> R {
    let stopped = stop(target);
    let mappings = target.mappings().expect("maps");
    let residency = target.residency(&mappings).expect("pagemap");
    let memory = ResidentMemory::new(target.memory(), &residency);
    read(&memory, &residency, &stopped)
}

/// A process that is killed when this is dropped, with its process group if it leads one.
#[derive(Debug)]
pub struct KillOnDrop(pub std::process::Child);

impl KillOnDrop {
    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("its end", || self.0.try_wait().expect("our own child"))
    }

    /// Its pid, in the type that signals take.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    fn end(&mut self) {
        // A process that has ended cannot be killed.
        let _ = self.0.kill();
        let pid = self.pid();
        if getpgid(Some(pid)) == Ok(pid) {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.end();
    }
}

impl Deref for KillOnDrop {
    type Target = std::process::Child;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for KillOnDrop {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

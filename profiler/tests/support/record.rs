//! Recordings of commands and of processes, and the contents of their traces.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_testing::child::{KillOnDrop, compile};
use profiler_trace::trace::{EventKind, Item, Reader};

/// The command that records into this file.
pub(crate) fn record(trace: &Path, command: &[&str]) -> Command {
    let mut record = super::command(&["record", "-o"]);
    record.arg(trace).arg("--").args(command);
    record
}

/// The words that record a Python program of one text into this file.
pub(crate) fn record_python<'a>(trace: &'a Path, program: &'a str) -> [&'a str; 8] {
    let trace = super::text(trace);
    ["record", "-o", trace, "--", "python3", "-S", "-c", program]
}

/// The C program of this name in `tests/privileged`, compiled into the folder.
pub(crate) fn compiled(folder: &tempfile::TempDir, name: &str, options: &[&str]) -> PathBuf {
    compiled_by("cc", folder, name, options)
}

/// As [`compiled`], into a folder that others made.
pub(crate) fn compiled_into(folder: &Path, name: &str, options: &[&str]) -> PathBuf {
    program_by("cc", folder, name, options)
}

/// As [`compiled`], by this compiler.
pub(crate) fn compiled_by(
    compiler: &str,
    folder: &tempfile::TempDir,
    name: &str,
    options: &[&str],
) -> PathBuf {
    program_by(compiler, folder.path(), name, options)
}

fn program_by(compiler: &str, folder: &Path, name: &str, options: &[&str]) -> PathBuf {
    let program = folder.join(name);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/privileged");
    compile(
        compiler,
        &sources.join(name).with_extension("c"),
        options,
        &program,
    );
    program
}

/// `fragscope record` while it runs.
pub(crate) struct Recording {
    fragscope: KillOnDrop,
    out: BufReader<ChildStdout>,
    errors: BufReader<ChildStderr>,
    /// What it printed on stderr so far.
    printed: String,
}

impl Recording {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut fragscope = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("fragscope");
        let out = BufReader::new(fragscope.stdout.take().expect("piped"));
        let errors = BufReader::new(fragscope.stderr.take().expect("piped"));
        Self {
            fragscope: KillOnDrop(fragscope),
            out,
            errors,
            printed: String::new(),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.fragscope.pid()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    /// The next line that the recorded command prints.
    pub(crate) fn command_line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("it prints");
        line.trim_end().to_owned()
    }

    /// Waits until it has printed this on stderr.
    pub(crate) fn wait_for(&mut self, wanted: &str) {
        while !self.printed.contains(wanted) {
            let read = self.errors.read_line(&mut self.printed);
            assert!(read.expect("text") > 0, "it ended: {}", self.printed);
        }
    }

    /// Waits for its end; its command may go on.
    pub(crate) fn status(&mut self) -> ExitStatus {
        self.fragscope.ended()
    }

    /// Interrupts it, and waits for its end, as [`Self::end`].
    pub(crate) fn interrupt(self) -> (i32, String) {
        self.signal(Signal::SIGINT);
        self.end()
    }

    /// Waits for its end; gives its code and all that was printed on stderr, by its command too.
    pub(crate) fn end(mut self) -> (i32, String) {
        let read = self.errors.read_to_string(&mut self.printed);
        read.expect("UTF-8");
        let status = self.status();
        let code = status.code().expect("no signal ends it");
        (code, std::mem::take(&mut self.printed))
    }
}

/// What a trace holds, in numbers.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) events: u64,
    /// The number of allocations of this size.
    pub(crate) of_size: u64,
    pub(crate) lost: u64,
    /// Processes of which there are checkpoints.
    pub(crate) sampled: BTreeSet<u32>,
    pub(crate) whole: bool,
}

pub(crate) fn held(trace: &Path, size: u64) -> Held {
    let file = BufReader::new(File::open(trace).expect("a trace"));
    let mut reader = Reader::new(file).expect("a trace");
    let mut held = Held::default();
    while let Some(item) = reader.next_item().expect("sound") {
        match item {
            Item::Event(event) => {
                held.events += 1;
                match event.kind {
                    EventKind::Alloc { bytes, .. } if bytes == size => held.of_size += 1,
                    EventKind::Lost { events } => held.lost += events,
                    _ => {}
                }
            }
            Item::Checkpoint(checkpoint) => {
                held.sampled.insert(checkpoint.process);
            }
            Item::Seed(_) => {}
        }
    }
    held.whole = reader.is_complete();
    held
}

/// A Python program that allocates `count` blocks of `size` bytes.
pub(crate) fn allocate(count: u32, size: u64) -> String {
    format!(
        "import ctypes; c = ctypes.CDLL(None); c.malloc.restype = ctypes.c_void_p; \
         c.free.argtypes = [ctypes.c_void_p]\nfor i in range({count}): c.free(c.malloc({size}))\n"
    )
}

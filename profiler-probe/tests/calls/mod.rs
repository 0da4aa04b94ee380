//! A program that calls all functions of malloc's family and keeps its own account.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;

/// Where the C programs are, from whichever crate's tests.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../profiler-probe/tests/calls");

fn compile(source: &str, flags: &[&str], output: &Path) {
    let compiled = Command::new("cc")
        .args(["-fno-builtin", "-w", "-o"])
        .arg(output)
        .args(flags)
        .arg(Path::new(FOLDER).join(source))
        .status()
        .expect("a C compiler");
    assert!(compiled.success());
}

/// The program of `calls.c`, started and ready.
pub(crate) struct Calls {
    pub(crate) child: Child,
    answers: BufReader<ChildStdout>,
    _folder: tempfile::TempDir,
}

impl Calls {
    pub(crate) fn start() -> Self {
        Self::start_with(|_, _| {})
    }

    /// With the allocator of `bump.c` preloaded.
    pub(crate) fn start_with_bump() -> Self {
        Self::start_with(|command, folder| {
            let library = folder.join("bump.so");
            compile("bump.c", &["-O2", "-fPIC", "-shared"], &library);
            command.env("LD_PRELOAD", library);
        })
    }

    /// With Debian's jemalloc preloaded.
    pub(crate) fn start_with_jemalloc() -> Self {
        Self::start_with(|command, _| {
            command.env("LD_PRELOAD", "libjemalloc.so.2");
        })
    }

    fn start_with(change: impl FnOnce(&mut Command, &Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("calls");
        compile("calls.c", &["-O1", "-pthread"], &program);
        let mut command = Command::new(program);
        change(&mut command, folder.path());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let answers = BufReader::new(child.stdout.take().expect("stdout"));
        let mut calls = Self {
            child,
            answers,
            _folder: folder,
        };
        assert_eq!(calls.answer(), "ready");
        calls
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn tell(&mut self, command: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin");
        writeln!(stdin, "{command}").expect("it reads");
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        line.trim_end().to_string()
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// Runs rounds of all calls; gives the allocations, frees and usable bytes by its own account.
    pub(crate) fn run(&mut self, rounds: u32) -> [u64; 3] {
        let answer = self.ask(&format!("run {rounds}"));
        let mut words = answer.split(' ');
        assert_eq!(words.next(), Some("ran"), "{answer}");
        let numbers: Vec<u64> = words.map(|w| w.parse().expect("a number")).collect();
        numbers.try_into().expect("three numbers")
    }

    pub(crate) fn plan(&self) -> ProbePlan {
        let target = Target::open(self.pid()).expect("it runs");
        ProbePlan::for_target(&target).expect("a plan")
    }

    pub(crate) fn attach(&self, budget: Budget) -> ProbeSession {
        ProbeSession::attach(self.pid(), &self.plan(), budget).expect("probes")
    }

    /// All code of the object that serves malloc, as it stands in the target's memory.
    pub(crate) fn code(&self) -> Vec<u8> {
        let object = self.plan().object.identity.object;
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("maps");
        let memory = File::open(format!("/proc/{}/mem", self.pid())).expect("memory");
        let mut code = Vec::new();
        for line in maps.lines().filter(|line| line.ends_with(&object)) {
            let mut fields = line.split(' ');
            let (start, end) = fields
                .next()
                .and_then(|f| f.split_once('-'))
                .expect("range");
            if !fields.next().is_some_and(|access| access.contains('x')) {
                continue;
            }
            let hex = |text| u64::from_str_radix(text, 16).expect("an address");
            let mut bytes = vec![0; (hex(end) - hex(start)) as usize];
            memory.read_exact_at(&mut bytes, hex(start)).expect("code");
            code.extend(bytes);
        }
        assert!(!code.is_empty());
        code
    }
}

impl Calls {
    /// Waits until its code is this again.
    pub(crate) fn wait_for_code(&self, code: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.code() != code {
            assert!(Instant::now() < deadline, "breakpoints are left");
            std::thread::yield_now();
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        self.child.wait().expect("it ends");
    }
}

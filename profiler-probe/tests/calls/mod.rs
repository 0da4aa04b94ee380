//! A program that calls all functions of malloc's family and keeps its own account.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;
use profiler_testing::child::{self, Child, eventually, open_folder};

/// Where the C programs are, from whichever crate's tests.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../profiler-probe/tests/calls");

fn compile(source: &str, options: &[&str], output: &Path) {
    child::compile("cc", &Path::new(FOLDER).join(source), options, output);
}

/// The program of `calls.c`, started and ready.
pub(crate) struct Calls(Child);

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
        let folder = open_folder();
        let program = folder.path().join("calls");
        // It asks for more than there is, on purpose.
        compile("calls.c", &["-Wno-alloc-size-larger-than"], &program);
        let mut command = Command::new(program);
        change(&mut command, folder.path());
        let calls = Child::run(command).keep(folder);
        assert_eq!(calls.first_line(), "ready");
        Self(calls)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.pid()
    }

    pub(crate) fn send(&mut self, command: &str) {
        self.0.send(command);
    }

    pub(crate) fn answer(&mut self) -> String {
        self.0.next_line()
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.0.ask(command)
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill();
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
        eventually("the end of all breakpoints", || {
            (self.code() == code).then_some(())
        });
    }
}

//! `programs/calls.c`, which calls all functions of the malloc family and keeps its own account.

use std::fs::{self, File};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::child::{self, Child, open_folder};
use crate::wait::eventually;

fn compile(name: &str, options: &[&str], output: &Path) {
    child::compile("cc", &child::program(name), options, output);
}

/// The program, started and ready.
pub struct Calls(Child);

impl Calls {
    /// With the C library's malloc.
    pub fn start() -> Self {
        Self::start_with(|_, _| {})
    }

    /// With the allocator of `bump.c` preloaded.
    pub fn start_with_bump() -> Self {
        Self::start_with(|command, folder| {
            let library = folder.join("bump.so");
            compile("bump", &["-O2", "-fPIC", "-shared"], &library);
            command.env("LD_PRELOAD", library);
        })
    }

    /// With Debian's jemalloc preloaded.
    pub fn start_with_jemalloc() -> Self {
        Self::start_with(|command, _| {
            command.env("LD_PRELOAD", "libjemalloc.so.2");
        })
    }

    /// Starts it with a command modified by `change`, which also gets its directory.
    pub fn start_with(change: impl FnOnce(&mut Command, &Path)) -> Self {
        let folder = open_folder();
        let program = folder.path().join("calls");
        // It requests more than there is, on purpose.
        compile("calls", &["-Wno-alloc-size-larger-than"], &program);
        let mut command = Command::new(program);
        change(&mut command, folder.path());
        let calls = Child::run(command).keep(folder);
        assert_eq!(calls.first_line(), "ready");
        Self(calls)
    }

    /// Runs rounds of all calls. Returns the allocations, frees and usable bytes by its own
    /// account.
    pub fn run(&mut self, rounds: u32) -> [u64; 3] {
        let answer = self.ask(&format!("run {rounds}"));
        let mut words = answer.split(' ');
        assert_eq!(words.next(), Some("ran"), "{answer}");
        let numbers: Vec<u64> = words.map(|w| w.parse().expect("a number")).collect();
        numbers.try_into().expect("three numbers")
    }

    /// The code of its program and of all mapped objects, as it is in its memory.
    pub fn code(&self) -> Vec<u8> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("maps");
        let memory = File::open(format!("/proc/{}/mem", self.pid())).expect("memory");
        let mut code = Vec::new();
        for line in maps.lines().filter(|line| line.contains('/')) {
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

    /// Waits until its code is the same again.
    pub fn wait_for_code(&self, code: &[u8]) {
        eventually("the end of all breakpoints", || {
            (self.code() == code).then_some(())
        });
    }
}

impl Deref for Calls {
    type Target = Child;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Calls {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

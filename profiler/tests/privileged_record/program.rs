//! The recorded program, which keeps its own account.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_core::glibc::{self, Context};
use profiler_core::heap::ExtentKind;
use profiler_core::memory::ResidentMemory;
use profiler_core::span::SpanState;
use profiler_target::{Libc, Process, StopError, Stopped, Target};
use profiler_testing::child::{Child, open_folder};
use profiler_testing::wait::promptly;

use crate::support::command;
use crate::support::record::{Recording, compiled_by};

/// `fragscope record --pid`, up to where it records.
pub(crate) fn record(pid: i32, output: &Path, options: &[&str]) -> Recording {
    let mut command = command(&["record", "--pid", &pid.to_string(), "-o"]);
    let mut recording = Recording::start(command.arg(output).args(options));
    recording.wait_for("recording process");
    recording
}

/// `privileged/mutate.c`, running.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(threads: u32) -> Self {
        Self::start_with("cc", threads, |_| {})
    }

    pub(crate) fn start_with(
        compiler: &str,
        threads: u32,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let folder = open_folder();
        let program = compiled_by(compiler, &folder, "mutate", &[]);
        let mut command = Command::new(program);
        command.arg(threads.to_string()).process_group(0);
        change(&mut command);
        let program = Child::run(command).keep(folder);
        assert_eq!(program.first_line(), "ready");
        Self(program)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.pid()
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.0.ask(command)
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }

    /// A path of its own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.folder().join(name)
    }

    /// The blocks that it holds, by its own account.
    pub(crate) fn list(&mut self) -> BTreeSet<u64> {
        let line = self.ask("list");
        let hex = |word| u64::from_str_radix(word, 16).expect("an address");
        line.split_whitespace().map(hex).collect()
    }

    pub(crate) fn trace(&self) -> PathBuf {
        self.path("trace")
    }

    pub(crate) fn record(&self, options: &[&str]) -> Recording {
        record(self.pid(), &self.trace(), options)
    }

    /// Its live blocks by a walk, address to usable bytes, and which of them have their own mapping.
    pub(crate) fn live(&self) -> BTreeMap<u64, (u64, bool)> {
        let target = Target::open(self.pid()).expect("it runs");
        let stopped = stop(&target);
        let residency = target
            .residency(&target.mappings().expect("maps"))
            .expect("pages");
        let memory = ResidentMemory::new(target.memory(), &residency);
        let context = Context {
            version: target
                .libc()
                .expect("it runs")
                .and_then(Libc::glibc_release),
            threads: stopped.threads(),
            libc_data: target.libc_data_ranges().expect("it runs"),
            environment: Ok(&[]),
        };
        let heap = glibc::walk(&memory, &residency, &context).expect("a heap");
        assert!(heap.checks.iter().all(|check| check.holds()), "{heap:?}");
        let mut live = BTreeMap::new();
        for extent in &heap.extents {
            let mapped = extent.kind == ExtentKind::LargeMapped;
            let header = if mapped { 0 } else { 8 };
            for span in extent.spans.iter(extent.range.start()) {
                if span.state == SpanState::Live {
                    let addr = span.range.start().get() + header;
                    live.insert(addr, (span.range.len() - header, mapped));
                }
            }
        }
        live
    }
}

/// Stops it, once the recorder does not.
fn stop(target: &Target) -> Stopped {
    promptly("the recorder letting it go", || match target.stop() {
        Err(StopError::AlreadyTraced { .. } | StopError::TimedOut { .. }) => None,
        stopped => Some(stopped.expect("it stops")),
    })
}

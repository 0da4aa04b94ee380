//! The Pythons that are there, and looking at a child of one.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod account;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_core::heap::HeapSnapshot;
use profiler_core::pymalloc::{self, Context, NotWalked};
use profiler_core::sample::PythonMalloc;
use profiler_target::{Process, Target};
use profiler_testing::child::{Child, while_stopped};

/// A Python to run.
#[derive(Clone, Debug)]
pub(crate) struct Python {
    pub(crate) path: PathBuf,
    /// Major and minor.
    pub(crate) version: (u8, u8),
    /// Whether it is built without the GIL.
    pub(crate) free_threaded: bool,
    /// Whether it is built with `Py_DEBUG`.
    pub(crate) debug: bool,
}

impl Python {
    fn found(path: PathBuf) -> Option<Self> {
        const PROGRAM: &str = "import sys; print('%d %d %d %d' % (sys.version_info[:2] + \
            ('free-threading' in sys.version, hasattr(sys, 'gettotalrefcount'))))";
        let output = Command::new(&path).args(["-S", "-c", PROGRAM]).output();
        let text = String::from_utf8(output.ok()?.stdout).ok()?;
        let numbers: Vec<u8> = text.split_whitespace().flat_map(str::parse).collect();
        let &[major, minor, free_threaded, debug] = numbers.as_slice() else {
            return None;
        };
        Some(Self {
            path,
            version: (major, minor),
            free_threaded: free_threaded == 1,
            debug: debug == 1,
        })
    }

    /// Runs a program that prints one line when it is ready; its stderr goes to the file.
    pub(crate) fn run(&self, program: &str, errors: Option<&Path>, malloc: Option<&str>) -> Child {
        let mut command = Command::new(&self.path);
        command.args(["-S", "-c", program]);
        if let Some(path) = errors {
            command.stderr(File::create(path).expect("a file"));
        }
        if let Some(malloc) = malloc {
            command.env("PYTHONMALLOC", malloc);
        }
        Child::run(command)
    }
}

/// Every Python here: `python3`, what pyenv has, and those that `FRAGSCOPE_TEST_PYTHONS` names,
/// paths with spaces between them.
pub(crate) fn pythons() -> Vec<Python> {
    let mut paths = vec![PathBuf::from("python3"), PathBuf::from("/usr/bin/python3")];
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let versions = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let folders = versions.into_iter().flatten().flatten();
    paths.extend(folders.map(|folder| folder.path().join("bin/python")));
    let named = std::env::var("FRAGSCOPE_TEST_PYTHONS").unwrap_or_default();
    let wanted = named.split_whitespace().map(|path| {
        Python::found(path.into()).unwrap_or_else(|| panic!("{path} is no Python that runs"))
    });
    let mut found: Vec<_> = paths.into_iter().filter_map(Python::found).collect();
    found.extend(wanted);
    assert!(!found.is_empty(), "there is no Python: install python3");
    found
}

/// Stops the child and walks it.
pub(crate) fn walk(pid: i32) -> Result<HeapSnapshot, NotWalked> {
    let target = Target::open(pid).expect("the target opens");
    let context = Context {
        python: target.python_version(),
        serves: PythonMalloc::Unknown,
    };
    while_stopped(&target, |memory, residency, _| {
        pymalloc::walk(memory, residency, &context)
    })
}

/// Stops the child and determines what serves its objects.
pub(crate) fn serves(pid: i32) -> PythonMalloc {
    let target = Target::open(pid).expect("the target opens");
    let python = target.python_version().expect("a Python");
    while_stopped(&target, |memory, residency, _| {
        pymalloc::objects_allocator(memory, residency, python)
    })
}

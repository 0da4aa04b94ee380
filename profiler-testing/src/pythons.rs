//! The installed Pythons.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::Child;

/// A Python to run.
#[derive(Clone, Debug)]
pub struct Python {
    /// Its program.
    pub path: PathBuf,
    /// Major and minor.
    pub version: (u8, u8),
    /// Whether it is built without the GIL.
    pub free_threaded: bool,
    /// Whether it is built with `Py_DEBUG`.
    pub debug: bool,
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
    pub fn run(&self, program: &str, errors: Option<&Path>, malloc: Option<&str>) -> Child {
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
pub fn pythons() -> Vec<Python> {
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

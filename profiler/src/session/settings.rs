//! Settings files: where they may be, and messages about one that cannot be used.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use profiler_core::text::visible;
use profiler_target::{as_caller, open_checked};
use profiler_trace::whole_file::ownership;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why a file of settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {}", visible(path.display()), line.map_or(String::new(), |line| format!(" line {line}")), visible(why))]
pub struct SettingsError {
    path: PathBuf,
    /// From 1 on, if the error is in a particular line.
    line: Option<u64>,
    why: String,
}

impl SettingsError {
    pub(super) fn of(path: &Path, line: Option<u64>, why: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            line,
            why: why.to_string(),
        }
    }
}

/// The contents of a file that nobody else can have written, and that the caller may read.
pub(super) fn contents(path: &Path) -> io::Result<Vec<u8>> {
    limited(path, 0)
}

/// The same for a file with a secret: it must not be readable by everybody.
pub(super) fn secret_contents(path: &Path) -> io::Result<Vec<u8>> {
    limited(path, 0o004)
}

fn limited(path: &Path, forbidden: u32) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::MetadataExt;
    // Opening a pipe waits for its writer, and opening a device may do harm.
    let opened = as_caller(|| {
        open_checked(path, |about| {
            if !about.is_file() {
                return Err(io::Error::other("it is not a regular file"));
            }
            if about.mode() & forbidden != 0 {
                return Err(io::Error::other(
                    "everybody can read it, and it is to have passwords: `chmod 600` it",
                ));
            }
            ownership::check(about.uid(), about.mode())
                .map_err(|how| io::Error::other(format!("it {how}")))
        })
    })?;
    let file = opened?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(io::Error::other("it is larger than 1 MiB")),
        false => Ok(bytes),
    }
}

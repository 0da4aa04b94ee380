//! A tar of the program and its files, for a host without a package manager.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::contents::Contents;
use super::{Date, VERSION};
use crate::run;

/// The name without its ending, also of the only directory inside.
pub(super) fn name() -> String {
    format!("fragscope-{VERSION}-x86_64-linux")
}

/// Writes `fragscope-VERSION-x86_64-linux.tar.gz` into `folder`: the same program gives the same
/// bytes, whoever makes it and when.
///
/// # Errors
/// tar's.
pub(super) fn write(contents: &Contents, date: Date, folder: &Path) -> Result<()> {
    let staging = tempfile::tempdir_in(folder)?;
    contents.write_below(&staging.path().join(name()))?;
    run(Command::new("tar")
        .args(["--create", "--sort=name", "--owner=0", "--group=0"])
        .args(["--numeric-owner", "--mode=go-w", "--mtime"])
        .arg(format!("@{}", date.seconds()))
        // Without the time that gzip would put in.
        .args(["--use-compress-program", "gzip --no-name --best", "--file"])
        .arg(folder.join(name()).with_added_extension("tar.gz"))
        .arg("--directory")
        .arg(staging.path())
        .arg(name()))
}

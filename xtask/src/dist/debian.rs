//! The Debian package.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};

use super::contents::{Contents, Packaged, write as write_file};
use super::{Date, VERSION};
use crate::{root, run};

/// The copyright file, in Debian's format.
const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: fragscope

Files: *
Copyright: 2026 The fragscope authors
License: Apache-2.0 or Expat
 Both texts are beside this file: LICENSE-APACHE and LICENSE-MIT. The licences of
 what is linked into the program are in LICENSES-THIRD-PARTY.txt.
";

/// Writes `fragscope_VERSION_amd64.deb` into `folder`. The program needs nothing from the system on
/// which it is installed, so the package depends on none.
///
/// # Errors
/// dpkg's.
pub(super) fn write(contents: &Contents, date: Date, folder: &Path) -> Result<()> {
    let staging = tempfile::tempdir_in(folder)?;
    let tree = staging.path().join("tree");
    for file in &contents.files {
        let (path, bytes) = as_debian_has_it(file)?;
        write_file(&tree.join("usr").join(path), &bytes, file.mode)?;
    }
    let copyright = tree.join("usr/share/doc/fragscope/copyright");
    write_file(&copyright, COPYRIGHT.as_bytes(), 0o644)?;
    let unit = tree.join("usr/lib/systemd/system/fragscope.service");
    write_file(&unit, service_unit()?.as_bytes(), 0o644)?;
    let size: usize = contents.files.iter().map(|file| file.bytes.len()).sum();
    let control = control(size.div_ceil(1024));
    write_file(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(&tree)
        .arg(folder)
        .env(Date::VARIABLE, date.seconds()))
}

/// The unit of `fragscope serve`, which runs the program from where this package installs it.
fn service_unit() -> Result<String> {
    const ELSEWHERE: &str = "/usr/local/bin/fragscope";
    let path = root().join("deploy/fragscope.service");
    let unit = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    ensure!(unit.contains(ELSEWHERE), "the unit runs no {ELSEWHERE}");
    Ok(unit.replace(ELSEWHERE, "/usr/bin/fragscope"))
}

/// The control file of a package that takes `installed_size` KiB once installed.
fn control(installed_size: usize) -> String {
    format!(
        "Package: fragscope\n\
         Version: {VERSION}\n\
         Architecture: amd64\n\
         Maintainer: The fragscope authors\n\
         Installed-Size: {installed_size}\n\
         Section: devel\n\
         Priority: optional\n\
         Description: fragmentation profiler for live Python workers\n \
         Attaches to a running process and shows where its resident memory is, how full\n \
         its heap pages are, who holds what is live, and whether another allocator, a\n \
         setting, or nothing at all would help. Nothing is injected into the process.\n"
    )
}

/// Manual pages are compressed, and so is the changelog, which gets another name.
fn as_debian_has_it(file: &Packaged) -> Result<(PathBuf, Vec<u8>)> {
    let path = &file.path;
    if path.starts_with("share/man") {
        Ok((path.with_added_extension("gz"), gzip(&file.bytes)?))
    } else if path.ends_with("CHANGELOG.md") {
        Ok((path.with_file_name("changelog.gz"), gzip(&file.bytes)?))
    } else {
        Ok((path.clone(), file.bytes.clone()))
    }
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // Without a time, so that the same text gives the same file.
    let mut packed = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    packed.write_all(bytes)?;
    packed.finish().context("cannot compress")
}

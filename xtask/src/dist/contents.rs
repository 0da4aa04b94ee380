//! The contents of a package: the program, and the files it generates about itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::licences;
use crate::{output, root};

/// A file of a package.
pub(super) struct Packaged {
    /// Where it is installed, from `/usr`.
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// Its mode: 0755 for programs, 0644 for everything else.
    pub mode: u32,
}

/// Everything that a system's package installs.
pub(super) struct Contents {
    pub files: Vec<Packaged>,
    /// The licences of the code linked into the program.
    pub licences: String,
}

/// Documents beside the program.
const DOCUMENTS: [&str; 5] = [
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
];
/// The completion directories of the shells whose packages agree on one.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/fragscope"),
    ("fish", "share/fish/vendor_completions.d/fragscope.fish"),
    ("zsh", "share/zsh/vendor-completions/_fragscope"),
];

impl Contents {
    /// The contents for this program, which generates its manual pages and completions.
    ///
    /// # Errors
    /// A file that cannot be read, or a program that does not answer.
    pub(super) fn of(program: &Path) -> Result<Self> {
        let mut files = vec![Packaged {
            path: "bin/fragscope".into(),
            bytes: read(program)?,
            mode: 0o755,
        }];
        for (name, text) in manual_pages(program)? {
            let path = Path::new("share/man/man1").join(name);
            files.push(Packaged::document(path, text.into_bytes()));
        }
        for (shell, path) in COMPLETIONS {
            let script = output(Command::new(program).args(["completions", shell]))?;
            files.push(Packaged::document(path.into(), script.into_bytes()));
        }
        for name in DOCUMENTS {
            let path = Path::new("share/doc/fragscope").join(name);
            files.push(Packaged::document(path, read(&root().join(name))?));
        }
        let licences = licences::of_linked_crates()?;
        let path = Path::new("share/doc/fragscope").join(licences::NAME);
        files.push(Packaged::document(path, licences.clone().into_bytes()));
        let documents = Path::new("share/doc/fragscope");
        for (from, into) in [
            ("docs", documents.join("docs")),
            ("deploy", documents.join("deploy")),
        ] {
            packed_below(&root().join(from), &into, &mut files)?;
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Self { files, licences })
    }

    /// Puts the files below `folder`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write_below(&self, folder: &Path) -> Result<()> {
        for file in &self.files {
            write(&folder.join(&file.path), &file.bytes, file.mode)?;
        }
        Ok(())
    }
}

impl Packaged {
    fn document(path: PathBuf, bytes: Vec<u8>) -> Self {
        let mode = 0o644;
        Self { path, bytes, mode }
    }
}

/// Every file below a folder, to be installed below `into`.
fn packed_below(folder: &Path, into: &Path, files: &mut Vec<Packaged>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), into.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            packed_below(&from, &to, files)?;
        } else {
            files.push(Packaged::document(to, read(&from)?));
        }
    }
    Ok(())
}

/// fragscope(1), and each page that it refers to, with their file names.
fn manual_pages(program: &Path) -> Result<Vec<(String, String)>> {
    let first = output(Command::new(program).arg("man"))?;
    let commands = referred(&first);
    ensure!(!commands.is_empty(), "fragscope(1) refers to no other page");
    let mut pages = Vec::with_capacity(1 + commands.len());
    for command in commands {
        let page = output(Command::new(program).args(["man", &command]))?;
        pages.push((format!("fragscope-{command}.1"), page));
    }
    pages.push(("fragscope.1".to_owned(), first));
    Ok(pages)
}

/// The subcommands whose pages a page in roff refers to, as `fragscope\-attach(1)`.
fn referred(page: &str) -> Vec<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix(r"fragscope\-")?.strip_suffix("(1)"))
        .map(|command| command.replace(r"\-", "-"))
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file with this mode, whatever the user's umask is, and the directories above it with
/// 0755.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, bytes))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_referred_to_are_found() {
        let page = ".SH SUBCOMMANDS\n.TP\nfragscope\\-attach(1)\nWatch a live process\n\
                    .TP\nfragscope\\-probe\\-guard(1)\n.TP\nother(1)\n";
        assert_eq!(referred(page), ["attach", "probe-guard"]);
    }
}

//! The licences of everything linked into the program, which are shipped with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{output, root};

/// The file's name in packages.
pub(super) const NAME: &str = "LICENSES-THIRD-PARTY.txt";
/// How the files begin that hold a licence, in upper case.
const BEGIN: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];
/// How deep below a crate they are looked for: C libraries are in separate directories.
const DEPTH: usize = 2;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: String,
    license: Option<String>,
    /// `None` for the members of the workspace.
    source: Option<String>,
}

/// Each text once, preceded by the crates that it covers.
///
/// # Errors
/// A crate that names no licence, and cargo's.
pub(super) fn of_linked_crates() -> Result<String> {
    let linked = linked()?;
    let described = output(
        Command::new("cargo")
            .args(["metadata", "--format-version=1", "--locked"])
            .current_dir(root()),
    )?;
    let described: Metadata = serde_json::from_str(&described).context("cargo metadata's form")?;

    let mut summary = String::new();
    let mut texts = BTreeMap::<String, Vec<String>>::new();
    for package in described.packages {
        let name = format!("{} v{}", package.name, package.version);
        if package.source.is_none() || !linked.contains(&name) {
            continue;
        }
        let licence = package
            .license
            .with_context(|| format!("{name} names no licence"))?;
        summary += &format!("{name}: {licence}\n");
        let folder = Path::new(&package.manifest_path).parent();
        let folder = folder.context("a manifest lies in a folder")?;
        for text in texts_below(folder, DEPTH)? {
            let covered = texts.entry(text).or_default();
            if !covered.contains(&name) {
                covered.push(name.clone());
            }
        }
    }
    ensure!(!texts.is_empty(), "no text of a licence was found");
    let mut whole = format!("What is linked into fragscope, and its licences.\n\n{summary}");
    for (text, crates) in texts {
        let crates = crates.join(", ");
        whole += &format!("\n{}\n{crates}\n\n{}\n", "=".repeat(80), text.trim_end());
    }
    Ok(whole)
}

/// The crates that are linked into the program, as `name vVERSION`.
fn linked() -> Result<BTreeSet<String>> {
    let tree = output(
        Command::new("cargo")
            .args(["tree", "-p", "fragscope", "--locked", "--edges", "normal"])
            .args([
                "--target",
                super::TARGET,
                "--prefix",
                "none",
                "--format",
                "{p}",
            ])
            .current_dir(root()),
    )?;
    // After the version comes its source, or that it is a macro.
    let words = tree.lines().map(|line| line.split(' ').take(2));
    Ok(words.map(|two| two.collect::<Vec<_>>().join(" ")).collect())
}

/// The licence texts in `folder` and up to `depth` levels below it.
fn texts_below(folder: &Path, depth: usize) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let kind = entry.file_type()?;
        if kind.is_file() && BEGIN.iter().any(|start| name.starts_with(start)) {
            let bytes = fs::read(entry.path())?;
            texts.push(String::from_utf8_lossy(&bytes).into_owned());
        } else if kind.is_dir() && depth > 0 {
            texts.extend(texts_below(&entry.path(), depth - 1)?);
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licences_of_the_allocator_that_is_carried_are_there() -> Result<()> {
        let whole = of_linked_crates()?;
        let crates = whole
            .lines()
            .filter(|line| line.starts_with("tikv-jemalloc-sys v"));
        assert!(crates.count() >= 2, "in the list, and above its text");
        assert!(
            whole.contains("Jason Evans"),
            "jemalloc's own licence, which is in C"
        );
        Ok(())
    }
}

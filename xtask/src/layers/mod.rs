//! The layers of the workspace, and a check that fails where code crosses them.
//!
//! The invariants are those of `docs/architecture.md`. Tests may cross them. What that document and
//! `CONTRIBUTING.md` name must exist in the tree.

mod circles;
mod documents;
mod references;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::references::References;
use self::rules::{Source, Violation, violations};

/// The crates that are checked, by folder and by the name that paths use.
const CRATES: [(&str, &str); 12] = [
    ("profiler", "fragscope"),
    ("profiler-common", "profiler_common"),
    ("profiler-core", "profiler_core"),
    ("profiler-lab", "profiler_lab"),
    ("profiler-payload", "profiler_payload"),
    ("profiler-probe", "profiler_probe"),
    ("profiler-record", "profiler_record"),
    ("profiler-replay", "profiler_replay"),
    ("profiler-sampling", "profiler_sampling"),
    ("profiler-target", "profiler_target"),
    ("profiler-testing", "profiler_testing"),
    ("profiler-trace", "profiler_trace"),
];

/// The member of the workspace that is not checked: `xtask` is not shipped.
const NOT_CHECKED: &str = "xtask";

/// The folders of the workspace's members that [`CRATES`] does not have.
fn unlisted(manifest: &str) -> Vec<&str> {
    let members = manifest.split_once("members = [");
    let members = members.and_then(|(_, rest)| rest.split_once(']'));
    let members = members.map_or("", |(members, _)| members).split(',');
    let folders = members.map(|member| member.trim().trim_matches('"'));
    folders
        .filter(|folder| !folder.is_empty() && *folder != NOT_CHECKED)
        .filter(|folder| !CRATES.iter().any(|(listed, _)| listed == folder))
        .collect()
}

/// Fails, after printing each violation, when a layer is crossed.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut found = Vec::new();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    found.extend(unlisted(&manifest).into_iter().map(|folder| Violation {
        file: "Cargo.toml".to_owned(),
        line: 1,
        what: format!("{folder} is a member that the layers do not know: add it to CRATES"),
    }));
    let mut files = 0;
    for (folder, name) in CRATES {
        let sources = sources(root, folder, name)?;
        files += sources.len();
        found.extend(violations(name, &sources));
        found.extend(circles::circles(name, &sources));
    }
    let tree = documents::tree(root)?;
    let words = documents::words(root, &tree)?;
    for document in documents::WITH_IDENTIFIERS {
        let text = fs::read_to_string(root.join(document)).context(document)?;
        found.extend(documents::unknown(document, &text, &words));
    }
    for document in documents::documents(&tree) {
        let text = fs::read_to_string(root.join(document)).context(document.to_owned())?;
        found.extend(documents::missing(document, &text, &tree));
        if document == documents::MAP {
            found.extend(documents::not_in_map(&text, &tree));
        }
    }
    for violation in &found {
        eprintln!("{violation}");
    }
    if !found.is_empty() {
        bail!("{} violations of the layers", found.len());
    }
    println!("the layers hold in {files} files");
    Ok(())
}

/// All source files of one crate except its tests.
fn sources(root: &Path, folder: &str, name: &str) -> Result<Vec<Source>> {
    let base = root.join(folder).join("src");
    let mut paths = Vec::new();
    collect(&base, &mut paths)?;
    paths.sort();
    let mut sources = Vec::new();
    let mut test_files = Vec::new();
    for path in paths {
        let inside = path.strip_prefix(&base)?;
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let references = References::of(&text, &module_of(inside), name)
            .with_context(|| format!("{}", path.display()))?;
        let folder = path.parent().unwrap_or(&base);
        for module in &references.test_modules {
            test_files.push(match &module.path {
                Some(file) => folder.join(file),
                None => child_folder(&path).join(&module.name),
            });
        }
        sources.push((
            path.clone(),
            Source {
                file: path.strip_prefix(root)?.display().to_string(),
                module: module_of(inside),
                references,
            },
        ));
    }
    let is_test = |path: &Path| {
        test_files
            .iter()
            .any(|test| path == test || path.with_extension("") == *test || path.starts_with(test))
    };
    sources.retain(|(path, _)| !is_test(path));
    Ok(sources.into_iter().map(|(_, source)| source).collect())
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// The directory of the modules that `file` declares.
fn child_folder(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default();
    let folder = file.parent().unwrap_or(Path::new(""));
    match stem.to_str() {
        Some("mod" | "lib" | "main") => folder.to_path_buf(),
        _ => folder.join(stem),
    }
}

/// The module of a file, from its path below `src`: `a/mod.rs` and `a.rs` are `a`.
fn module_of(inside: &Path) -> Vec<String> {
    child_folder(inside)
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests;

//! Checks that the paths, modules and identifiers named in documents exist in the tree.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::rules::Violation;

/// The documents outside of `docs` that are checked.
const DOCUMENTS: [&str; 3] = ["CONTRIBUTING.md", "README.md", "SECURITY.md"];

/// The directories in which every document is checked.
const FOLDERS: [&str; 2] = ["docs", "docs/questions"];

/// The documents whose identifiers are checked: others contain those of the programs that they are
/// about.
pub(super) const WITH_IDENTIFIERS: [&str; 5] =
    ["CONTRIBUTING.md", "README.md", "SECURITY.md", MAP, STYLE];

/// The document whose paths are not checked: it has examples of them.
const STYLE: &str = "docs/style.md";

/// The document with the map of the crates.
pub(super) const MAP: &str = "docs/architecture.md";

/// The chapter of the map.
const MAP_CHAPTER: &str = "Where things are";

/// Directories whose modules are in the map, like those at the top of a crate.
const MAPPED_WITHIN: [&str; 1] = ["profiler/src/session"];

/// Crates whose modules are not in the map: the BPF programs are not in the workspace.
const UNMAPPED: [&str; 2] = ["profiler-ebpf", "xtask"];

/// Folders that are made, and in no commit.
const MADE: [&str; 2] = ["target", "fuzz/target"];

/// Endings of the names of files that documents name.
const ENDINGS: [&str; 6] = ["rs", "md", "toml", "c", "py", "txt"];

/// The file endings that only our own files have among those that documents name.
const OWN_ENDINGS: [&str; 2] = ["rs", "md"];

/// Everything in the workspace except generated files, as paths from its root.
pub(super) fn tree(root: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    collect(root, "", &mut all)?;
    Ok(all)
}

fn collect(folder: &Path, prefix: &str, all: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if name.starts_with('.') || MADE.contains(&&*path) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{path}/"), all)?;
        }
        all.push(path);
    }
    Ok(())
}

/// The documents whose paths are checked.
pub(super) fn documents(tree: &[String]) -> Vec<&str> {
    let of_folder = tree.iter().map(String::as_str).filter(|path| {
        let folder = path.rsplit_once('/').map(|(folder, _)| folder);
        folder.is_some_and(|folder| FOLDERS.contains(&folder))
            && path.ends_with(".md")
            && *path != STYLE
    });
    DOCUMENTS.into_iter().chain(of_folder).collect()
}

/// What a document names that does not exist in the tree.
pub(super) fn missing(document: &str, text: &str, tree: &[String]) -> Vec<Violation> {
    let named = Named {
        folder: document.rsplit_once('/').map_or("", |(folder, _)| folder),
        is_of_own_alone: document == MAP || DOCUMENTS.contains(&document),
        tree,
    };
    let mut found = Vec::new();
    let (mut section, mut package) = ("", "");
    for (index, line) in text.lines().enumerate() {
        let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        if line.starts_with('#') {
            section = line.trim_start_matches('#').trim();
        }
        if let [first, ..] = quoted[..]
            && line.starts_with("| `")
        {
            package = first;
        }
        let mut lacking: Vec<&str> = links(line).filter(|link| !named.has_link(link)).collect();
        lacking.extend(quoted.iter().filter(|word| !named.has_path(word)));
        if section == MAP_CHAPTER && line.starts_with("| — ") {
            // Modules of the crate above, up to their description.
            let modules = line.split('|').nth(1).unwrap_or_default();
            let modules = modules.split('`').skip(1).step_by(2);
            lacking.extend(modules.filter(|module| !named.has_module(package, module)));
        }
        found.extend(lacking.into_iter().map(|what| Violation {
            file: document.to_owned(),
            line: index + 1,
            what: format!("{what} is named, and not there"),
        }));
    }
    found
}

/// The words of all sources.
pub(super) fn words(root: &Path, tree: &[String]) -> Result<HashSet<String>> {
    let mut words = HashSet::new();
    let is_source = |path: &&String| {
        let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending);
        ending != "md" && ENDINGS.contains(&ending)
    };
    for path in tree.iter().filter(is_source) {
        let text = fs::read(root.join(path)).with_context(|| path.clone())?;
        let text = String::from_utf8_lossy(&text);
        words.extend(text.split(|c| !is_of_word(c)).map(str::to_owned));
    }
    Ok(words)
}

/// The quoted identifiers of a document that occur in no source: `snake_case` and `CamelCase`,
/// unless they are plain words.
pub(super) fn unknown(document: &str, text: &str, words: &HashSet<String>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        let paths = quoted.filter(|code| code.chars().all(|c| is_of_word(c) || c == ':'));
        let names = paths.flat_map(|path| path.split("::"));
        let lacking = names.filter(|name| is_identifier(name) && !words.contains(*name));
        found.extend(lacking.map(|name| Violation {
            file: document.to_owned(),
            line: index + 1,
            what: format!("{name} is named, and in no source"),
        }));
    }
    found
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_identifier(name: &str) -> bool {
    let is_snake = name.contains('_') && !name.contains(|c: char| c.is_ascii_uppercase());
    let capitals = name.matches(|c: char| c.is_ascii_uppercase()).count();
    let is_camel = name.starts_with(|c: char| c.is_ascii_uppercase())
        && !name.contains('_')
        && capitals > 1
        && capitals < name.len();
    is_snake || is_camel
}

/// Modules at the top of each crate, and of the folders in [`MAPPED_WITHIN`], that the map has no row for.
pub(super) fn not_in_map(text: &str, tree: &[String]) -> Vec<Violation> {
    let chapter = text
        .split("\n## ")
        .find(|chapter| chapter.starts_with(MAP_CHAPTER));
    let mut package = "";
    let mut named = Vec::new();
    for line in chapter.unwrap_or_default().lines() {
        let cell = line
            .strip_prefix("| ")
            .and_then(|line| line.split('|').next());
        let Some(cell) = cell else { continue };
        let mut quoted = cell.split('`').skip(1).step_by(2);
        if let Some(modules) = cell.strip_prefix("— ") {
            let modules = modules.split('`').skip(1).step_by(2);
            named.extend(
                modules.map(|module| format!("{package}/src/{}", module.trim_end_matches('/'))),
            );
        } else if let Some(first) = quoted.next() {
            package = first;
        }
    }
    let modules: BTreeSet<&str> = tree.iter().filter_map(|path| module(path, tree)).collect();
    let missing = modules.into_iter().filter(|module| {
        let below = format!("{module}/");
        !named
            .iter()
            .any(|name| name == module || name.starts_with(&below))
    });
    missing
        .map(|module| Violation {
            file: MAP.to_owned(),
            line: 1,
            what: format!("{module} is not in the map"),
        })
        .collect()
}

/// The module for a path, if the map must have it: a file without its ending, or a directory of
/// files.
fn module<'a>(path: &'a str, tree: &[String]) -> Option<&'a str> {
    let (package, inside) = path.split_once("/src/")?;
    let is_checked = !package.contains('/') && !UNMAPPED.contains(&package);
    let name = MAPPED_WITHIN
        .iter()
        .find_map(|folder| path.strip_prefix(folder)?.strip_prefix('/'))
        .unwrap_or(inside);
    if !is_checked || name.contains('/') {
        return None;
    }
    let below = format!("{path}/");
    match name.strip_suffix(".rs") {
        Some("lib" | "main" | "mod") => None,
        Some(_) => path.strip_suffix(".rs"),
        None => tree
            .iter()
            .any(|file| file.starts_with(&below) && file.ends_with(".rs"))
            .then_some(path),
    }
}

/// The targets of a line's links, without a place in them.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let ends = line.split("](").skip(1);
    ends.filter_map(|rest| rest.split([')', '#']).next())
}

/// The things that a document can name.
struct Named<'a> {
    /// The folder that the document is in.
    folder: &'a str,
    /// Whether it names only our own files: else a path is ours by its ending, or by its first
    /// directory.
    is_of_own_alone: bool,
    tree: &'a [String],
}

impl Named<'_> {
    fn has(&self, path: &str) -> bool {
        self.tree.iter().any(|there| there == path)
    }

    fn has_link(&self, link: &str) -> bool {
        let (mut folder, mut rest) = (self.folder, link);
        while let Some(below) = rest.strip_prefix("../") {
            folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
            rest = below;
        }
        let path = match folder {
            "" => rest.to_owned(),
            folder => format!("{folder}/{rest}"),
        };
        link.is_empty() || link.contains("://") || self.has(path.trim_end_matches('/'))
    }

    /// Whether a quoted word is not a path, or an existing one: in full, or from any directory on.
    /// `NAME` stands for any name.
    fn has_path(&self, word: &str) -> bool {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let ending = word.rsplit_once('.').map_or("", |(_, ending)| ending);
        let is_path = !word.starts_with(['/', '.', '-'])
            && MADE.iter().all(|made| !Path::new(word).starts_with(made))
            && word.chars().all(is_plain)
            && (word.contains('/') || ENDINGS.contains(&ending));
        let path = word.trim_end_matches('/');
        let root = word.split('/').next().unwrap_or_default();
        let is_own = self.is_of_own_alone || OWN_ENDINGS.contains(&ending) || self.has(root);
        !is_path || !is_own || self.tree.iter().any(|there| ends_with(there, path))
    }

    /// Whether a crate has a module: a file, or a folder.
    fn has_module(&self, package: &str, module: &str) -> bool {
        let path = format!("{package}/src/{}", module.trim_end_matches('/'));
        self.has(&path) || self.has(&format!("{path}.rs"))
    }
}

/// Whether `there` is `path`, or ends with it below some directory; modules are named without their
/// ending.
fn ends_with(there: &str, path: &str) -> bool {
    let mut parts = there.rsplit('/');
    path.rsplit('/').enumerate().all(|(number, wanted)| {
        parts.next().is_some_and(|part| {
            let is_module = number == 0 && part.strip_suffix(".rs") == Some(wanted);
            part == wanted || is_module || is_any(part, wanted)
        })
    })
}

/// Whether a name matches one with `NAME` in it.
fn is_any(part: &str, wanted: &str) -> bool {
    wanted
        .split_once("NAME")
        .is_some_and(|(before, after)| part.starts_with(before) && part.ends_with(after))
}

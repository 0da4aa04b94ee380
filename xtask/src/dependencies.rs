//! Checks the dependencies: only licences that may be shipped with fragscope, and no crate twice
//! without a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use spdx::{Expression, LicenseReq, ParseMode};

use crate::output;

/// Licences that allow shipping a binary under Apache-2.0 or MIT, by their SPDX names.
const ALLOWED: [&str; 7] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
];

/// Crates of which two versions are linked, and the crate that needs the older one.
const TWICE: [(&str, &str); 6] = [
    ("base64", "hdrhistogram"),
    ("getrandom", "ring"),
    ("object", "aya"),
    ("syn", "derive macros of several crates"),
    ("thiserror", "crossterm, through filedescriptor"),
    ("thiserror-impl", "crossterm, through filedescriptor"),
];

/// Fails when a crate that is built into the workspace's programs has a licence that is not allowed,
/// is there twice without being listed, or is listed and is not there twice any more.
pub(crate) fn check() -> Result<()> {
    let tree = output(Command::new("cargo").args([
        "tree",
        "--workspace",
        "--locked",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--no-dedupe",
        "--format",
        "{p}\t{l}",
    ]))?;
    let faults = faults(&tree)?;
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The faults of these crates, a sentence each: the input has lines of a package, a tab, and its
/// licence.
fn faults(tree: &str) -> Result<Vec<String>> {
    let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
    let mut faults = BTreeSet::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, licence) = line.split_once('\t').context("cargo tree's format")?;
        let mut words = package.split(' ');
        let (name, version) = (words.next(), words.next());
        let (name, version) = name.zip(version).context("cargo tree's format")?;
        versions.entry(name).or_default().insert(version);
        let parsed = Expression::parse_mode(licence, ParseMode::LAX);
        if !parsed.is_ok_and(|licence| licence.evaluate(is_allowed)) {
            faults.insert(format!(
                "{name} {version} has the licence '{licence}', which is not among those allowed"
            ));
        }
    }
    let twice = |name: &str| versions.get(name).is_some_and(|all| all.len() > 1);
    for (name, all) in &versions {
        if all.len() > 1 && !TWICE.iter().any(|(listed, _)| listed == name) {
            faults.insert(format!("{name} is there in several versions: {all:?}"));
        }
    }
    for (name, _) in TWICE.iter().filter(|(name, _)| !twice(name)) {
        faults.insert(format!("{name} is there once: take it off the list"));
    }
    Ok(faults.into_iter().collect())
}

fn is_allowed(required: &LicenseReq) -> bool {
    let name = required.license.id().map(|id| id.name);
    name.is_some_and(|name| ALLOWED.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "\
        aya v0.14.0\tMIT OR Apache-2.0\n\
        base64 v0.22.1\tMIT OR Apache-2.0\nbase64 v0.23.1\tMIT OR Apache-2.0\n\
        getrandom v0.2.1\tMIT OR Apache-2.0\ngetrandom v0.4.1\tMIT OR Apache-2.0\n\
        object v0.39.1\tApache-2.0 OR MIT\nobject v0.40.0\tApache-2.0 OR MIT\n\
        syn v2.0.1\tMIT/Apache-2.0\nsyn v3.0.0\tMIT OR Apache-2.0\n\
        thiserror v1.0.0\tMIT\nthiserror v2.0.0\tMIT\n\
        thiserror-impl v1.0.0\tMIT\nthiserror-impl v2.0.0\tMIT\n\
        zstd v0.13.0\tBSD-3-Clause AND BSD-2-Clause\n";

    #[test]
    fn what_is_allowed_and_listed_passes() {
        assert_eq!(faults(SOUND).expect("lines"), Vec::<String>::new());
    }

    #[test]
    fn a_licence_that_is_not_allowed_or_missing_fails() {
        for licence in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "WTFPL",
            "",
            "none such",
        ] {
            let tree = format!("{SOUND}bad v1.0.0\t{licence}\n");
            let found = faults(&tree).expect("lines");
            assert_eq!(found.len(), 1, "{licence}: {found:?}");
            assert!(
                found[0].starts_with("bad v1.0.0 has the licence"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_crate_that_is_there_twice_is_listed_and_only_then() {
        let twice = format!("{SOUND}aya v0.15.0\tMIT\n");
        assert!(faults(&twice).expect("lines")[0].starts_with("aya is there in several versions"));
        let once = SOUND.replace("object v0.39.1", "object v0.40.0");
        assert_eq!(
            faults(&once).expect("lines"),
            ["object is there once: take it off the list"]
        );
    }
}

//! Attacks that are tests of the product: the tests for each attack of the threat model are named
//! here, and each must exist and pass.

mod files;
mod recordings;
mod replays;
mod served;
mod targets;

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};

use super::stage::Stage;
use super::{Round, Tally};

/// One attack, and the tests of one binary that try it.
struct Attack {
    /// The attack, as described in SECURITY.md.
    what: &'static str,
    package: &'static str,
    /// An integration test, or "" for the library's own tests.
    binary: &'static str,
    tests: &'static [&'static str],
}

/// The attacks, by target.
const TOPICS: [&[Attack]; 5] = [
    recordings::ATTACKS,
    replays::ATTACKS,
    files::ATTACKS,
    targets::ATTACKS,
    served::ATTACKS,
];

/// All attacks.
fn all() -> impl Iterator<Item = &'static Attack> {
    TOPICS.into_iter().flatten()
}

/// The results of the tests that one binary ran: by name, whether they passed.
type Ran = BTreeMap<String, bool>;

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    tally.rounds = all().map(|attack| attack.tests.len().max(1) as u64).sum();
    for attack in all() {
        let (ran, said) = ran(attack)?;
        for test in attack.tests {
            let mut round = Round::new(tally.seed);
            round.what = format!(
                "{}: {} {} {test}",
                attack.what, attack.package, attack.binary
            );
            match ran.get(*test) {
                Some(true) => {}
                Some(false) => round.fault("a test fails", *test),
                None => round.fault("a test is missing", *test),
            }
            if round.has_failed() {
                round.hear(said.clone());
            }
            tally.add(round);
        }
        if attack.tests.is_empty() {
            let mut round = Round::new(tally.seed);
            round.what = attack.what.to_owned();
            round.fault("no test tries this attack", attack.what);
            tally.add(round);
        }
        stage.go_on()?;
    }
    Ok(())
}

/// Runs the tests. Also returns the output of the run, for a failure.
fn ran(attack: &Attack) -> Result<(Ran, String)> {
    if attack.tests.is_empty() {
        return Ok((Ran::new(), String::new()));
    }
    let mut command = Command::new("cargo");
    command.current_dir(crate::root());
    command.args(["test", "--package", attack.package]);
    match attack.binary {
        "" => command.arg("--lib"),
        binary => command.args(["--test", binary]),
    };
    // One after the other: probes and walks measure time.
    command.args(["--", "--exact", "--test-threads", "1", "--format", "pretty"]);
    command.args(attack.tests);
    let output = command.output().context("cargo")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    Ok((results(&printed), format!("{printed}\n{errors}")))
}

/// The results in libtest's output: `test NAME ... ok`, where a test that prints may come between.
fn results(printed: &str) -> Ran {
    let mut results = Ran::new();
    for line in printed.lines() {
        if let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            // Ignored and unknown words are no success.
            results.insert(name.to_owned(), result.trim() == "ok");
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Whether this function is in a file of Rust, or in one of a folder's.
    fn has(path: &Path, function: &str) -> bool {
        if path.is_dir() {
            let mut all = std::fs::read_dir(path).expect("a folder").flatten();
            return all.any(|entry| has(&entry.path(), function));
        }
        path.extension().is_some_and(|ending| ending == "rs")
            && std::fs::read_to_string(path)
                .expect("UTF-8")
                .contains(&format!("fn {function}()"))
    }

    #[test]
    fn every_test_that_is_named_is_there() {
        for attack in all() {
            let package = match attack.package {
                "fragscope" => "profiler",
                other => other,
            };
            let package = crate::root().join(package);
            for test in attack.tests {
                let mut parts: Vec<&str> = test.split("::").collect();
                let function = parts.pop().expect("a name");
                let tests = package.join("tests");
                let folder = tests.join(attack.binary);
                // A binary is a file, with its modules in a folder of its name, or a folder with `main.rs`.
                let place = match (attack.binary, parts.as_slice()) {
                    ("", _) => package.join("src"),
                    (binary, []) if folder.join("main.rs").exists() => {
                        tests.join(binary).join("main.rs")
                    }
                    (binary, []) => tests.join(format!("{binary}.rs")),
                    (_, modules) if folder.join("main.rs").exists() => {
                        folder.join(modules.join("/")).with_extension("rs")
                    }
                    (_, modules) => tests.join(modules.join("/")).with_extension("rs"),
                };
                let found = place.exists() && has(&place, function);
                assert!(found, "{} {}: {test}", attack.package, attack.binary);
            }
        }
    }

    /// All attacks with their tests, as the document has them.
    fn table() -> String {
        let mut table = String::from("| attack | tests |\n| --- | --- |\n");
        for attack in all() {
            let place = match attack.binary {
                "" => attack.package.to_owned(),
                binary => format!("{} `{binary}`", attack.package),
            };
            let tests: Vec<_> = attack
                .tests
                .iter()
                .map(|test| format!("`{test}`"))
                .collect();
            table += &format!("| {} | {place}: {} |\n", attack.what, tests.join(", "));
        }
        table
    }

    /// With `UPDATE_GOLDEN` set it is written anew.
    #[test]
    fn the_document_names_the_tests_of_each_attack() {
        const BEGINS: &str = "## Attacks and their tests\n\n";
        let path = crate::root().join("docs/reliability.md");
        let document = std::fs::read_to_string(&path).expect("the document");
        let (before, rest) = document.split_once(BEGINS).expect("its heading");
        let (found, after) = rest.split_once("\n\n").expect("what follows");
        let table = table();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let document = format!("{before}{BEGINS}{table}\n{after}");
            return std::fs::write(&path, document).expect("ours");
        }
        assert_eq!(format!("{found}\n"), table);
    }

    #[test]
    fn only_tests_that_ran_and_passed_count() {
        let printed =
            "\nrunning 3 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored\n";
        let results = results(printed);
        assert_eq!(results.get("a::b"), Some(&true));
        assert_eq!(results.get("c"), Some(&false));
        assert_eq!(results.get("d"), Some(&false));
        assert_eq!(results.get("e"), None);
    }
}

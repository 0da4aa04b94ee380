//! Attacks that are tests of the product: each point of the threat model has some, named here, and
//! each must be there and pass.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};

use super::stage::Stage;
use super::{Round, Tally};

/// Tests of one binary that hold one point.
struct Held {
    /// The attack, as SECURITY.md names it.
    point: &'static str,
    package: &'static str,
    /// An integration test, or "" for the library's own tests.
    binary: &'static str,
    tests: &'static [&'static str],
}

const HELD: &[Held] = &[Held {
    point: "forged and damaged traces",
    package: "profiler-trace",
    binary: "trace",
    tests: &[],
}];

/// What one binary says of the tests that it ran: by name, whether it passed.
type Ran = BTreeMap<String, bool>;

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    tally.rounds = HELD.iter().map(|held| held.tests.len().max(1) as u64).sum();
    for held in HELD {
        let (ran, said) = ran(held)?;
        for test in held.tests {
            let mut round = Round::new(tally.seed);
            round.what = format!("{}: {} {} {test}", held.point, held.package, held.binary);
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
        if held.tests.is_empty() {
            let mut round = Round::new(tally.seed);
            round.what = held.point.to_owned();
            round.fault("no test holds this point", held.point);
            tally.add(round);
        }
        stage.go_on()?;
    }
    Ok(())
}

/// Runs the tests; gives also what the run said, for a failure.
fn ran(held: &Held) -> Result<(Ran, String)> {
    if held.tests.is_empty() {
        return Ok((Ran::new(), String::new()));
    }
    let mut command = Command::new("cargo");
    command.current_dir(crate::root());
    command.args(["test", "--quiet", "--package", held.package]);
    match held.binary {
        "" => command.arg("--lib"),
        binary => command.args(["--test", binary]),
    };
    // One after the other: probes and walks measure time.
    command.args(["--", "--exact", "--test-threads", "1", "--format", "pretty"]);
    command.args(held.tests);
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
    use super::*;

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

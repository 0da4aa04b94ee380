//! The results on each kernel: printed, and in `docs/kernels.md`.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::packages::Kernel;
use super::plan::ROWS;
use crate::root;

/// The tables are put between these lines.
const BEGIN: &str = "<!-- written by cargo xtask kernels -->\n";
const END: &str = "<!-- end of what it writes -->\n";

/// The results on one kernel.
pub(super) struct Seen {
    version: String,
    release: String,
    tests: Vec<Test>,
    doctor: Vec<DoctorRow>,
    settings: Vec<Setting>,
}

struct Test {
    row: String,
    name: String,
    /// Why it failed.
    failed: Option<String>,
}

/// A row of `fragscope doctor`.
#[derive(Clone, PartialEq)]
struct DoctorRow {
    grade: String,
    name: String,
    found: String,
}

/// What fragscope did under one setting of the kernel's.
struct Setting {
    name: String,
    snapshot: bool,
    counted: Option<u64>,
    python_sites: Option<u64>,
    growth: Option<String>,
    said: String,
}

impl Seen {
    /// From the guest's reports.
    pub(super) fn of(kernel: &Kernel, reports: &[Value]) -> Self {
        let of = |kind: &'static str| reports.iter().filter(move |one| one["kind"] == kind);
        let doctor = of("doctor").next().map(|report| text(&report["output"]));
        let doctor = doctor.unwrap_or_default();
        Self {
            version: kernel.version(),
            release: kernel.release.clone(),
            tests: of("test").map(Test::of).collect(),
            doctor: doctor.lines().filter_map(DoctorRow::of).collect(),
            settings: of("setting").map(Setting::of).collect(),
        }
    }

    /// How many tests failed.
    pub(super) fn failures(&self) -> usize {
        let failed = self.tests.iter().filter(|test| test.failed.is_some());
        failed.count()
    }

    /// Prints a summary, and each failure.
    pub(super) fn print(&self) {
        for row in &ROWS {
            println!("{:<50} {}", row.title, self.passed(row.title));
        }
        for test in &self.tests {
            if let Some(why) = &test.failed {
                println!("\nFAILED {} ({}):\n{why}", test.name, test.row);
            }
        }
        for row in &self.doctor {
            println!("{:<8} {:<12} {}", row.grade, row.name, row.found);
        }
        for setting in &self.settings {
            println!(
                "\n{}: {}\n{}",
                setting.name,
                setting.outcome(),
                setting.said
            );
        }
    }

    /// As "12 of 12".
    fn passed(&self, row: &str) -> String {
        let all: Vec<_> = self.tests.iter().filter(|test| test.row == row).collect();
        let passed = all.iter().filter(|test| test.failed.is_none()).count();
        match all.len() {
            0 => "not run".into(),
            count => format!("{passed} of {count}"),
        }
    }
}

impl Test {
    fn of(report: &Value) -> Self {
        Self {
            row: text(&report["row"]),
            name: text(&report["test"]),
            failed: (report["passed"] != true).then(|| text(&report["said"])),
        }
    }
}

impl DoctorRow {
    /// `None` for a line that corrects the row above it.
    fn of(line: &str) -> Option<Self> {
        let (grade, rest) = line.split_once(' ')?;
        let rest = rest.trim_start();
        if !["ok", "limited", "missing"].contains(&grade) {
            return None;
        }
        let (name, found) = rest.split_once("  ")?;
        Some(Self {
            grade: grade.into(),
            name: name.trim().into(),
            found: found.trim().into(),
        })
    }
}

impl Setting {
    fn of(report: &Value) -> Self {
        let sampling = &report["sampling"];
        let missing = sampling["growth"]["missing"].as_array();
        let growth = missing.map(|missing| match missing.len() {
            0 => "yes".to_owned(),
            _ => "in part".to_owned(),
        });
        let mut said = [&report["snapshot_said"], &report["session_said"]].map(text);
        if said[0] == said[1] {
            said[1].clear();
        }
        let mut said: Vec<String> = said.into();
        said.push(text(&sampling["no_stacks"]));
        let missing = missing.into_iter().flatten();
        said.extend(missing.map(|what| format!("growth that is not watched: {}", text(what))));
        said.retain(|one| !one.is_empty());
        Self {
            name: text(&report["name"]),
            snapshot: report["snapshot_code"] == 0,
            counted: report["counted"].as_u64(),
            python_sites: report["python"].as_u64(),
            growth,
            said: said.join("\n"),
        }
    }

    /// In a few words.
    fn outcome(&self) -> String {
        format!(
            "snapshot {}, probes {}, Python's stacks {}, growth {}",
            yes(self.snapshot),
            yes(self.counted > Some(0)),
            yes(self.python_sites > Some(0)),
            self.growth.as_deref().unwrap_or("no"),
        )
    }
}

const fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// A text, or nothing.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Puts the tables into `docs/kernels.md`.
pub(super) fn write(all: &[Seen]) -> Result<()> {
    let path = root().join("docs/kernels.md");
    let text = fs::read_to_string(&path)?;
    let begin = text
        .find(BEGIN)
        .context("docs/kernels.md has no place for the tables")?;
    let end = text
        .find(END)
        .context("docs/kernels.md has no end of the tables")?;
    let tables = tables(all)?;
    let new = format!("{}{BEGIN}\n{tables}\n{}", &text[..begin], &text[end..]);
    Ok(fs::write(path, new)?)
}

fn tables(all: &[Seen]) -> Result<String> {
    let mut to = String::new();
    header(&mut to, "tests", all)?;
    for row in &ROWS {
        write!(to, "| {} |", row.title)?;
        for seen in all {
            write!(to, " {} |", seen.passed(row.title))?;
        }
        writeln!(to)?;
    }
    for seen in all {
        for test in seen.tests.iter().filter(|test| test.failed.is_some()) {
            let why = test.failed.as_deref().unwrap_or_default();
            let why = why.lines().next().unwrap_or_default();
            writeln!(
                to,
                "\nLinux {}: `{}` fails: {}",
                seen.version,
                test.name,
                cell(why)
            )?;
        }
    }
    writeln!(to, "\n## What `fragscope doctor` says there\n")?;
    header(&mut to, "doctor", all)?;
    let names = all.iter().flat_map(|seen| &seen.doctor);
    let mut known: Vec<&str> = Vec::new();
    for row in names {
        if !known.contains(&row.name.as_str()) {
            known.push(&row.name);
        }
    }
    for name in known {
        write!(to, "| {name} |")?;
        for seen in all {
            let row = seen.doctor.iter().find(|row| row.name == name);
            let said = row.map_or("-".to_owned(), |row| match row.grade.as_str() {
                "ok" => cell(&row.found),
                grade => format!("**{grade}**: {}", cell(&row.found)),
            });
            write!(to, " {said} |")?;
        }
        writeln!(to)?;
    }
    writeln!(to, "\n## What settings of the kernel take away\n")?;
    settings(&mut to, all)?;
    Ok(to)
}

fn header(to: &mut String, what: &str, all: &[Seen]) -> Result<()> {
    write!(to, "| {what} |")?;
    for seen in all {
        write!(to, " {} |", seen.release)?;
    }
    writeln!(to, "\n| --- |{}", " --- |".repeat(all.len()))?;
    Ok(())
}

fn settings(to: &mut String, all: &[Seen]) -> Result<()> {
    writeln!(
        to,
        "| setting | Linux | snapshot | probes | Python's stacks | growth | said |"
    )?;
    writeln!(to, "| --- | --- | --- | --- | --- | --- | --- |")?;
    for seen in all {
        for setting in &seen.settings {
            writeln!(
                to,
                "| {} | {} | {} | {} | {} | {} | {} |",
                setting.name,
                seen.version,
                yes(setting.snapshot),
                yes(setting.counted > Some(0)),
                yes(setting.python_sites > Some(0)),
                setting.growth.as_deref().unwrap_or("no"),
                cell(&setting.said),
            )?;
        }
    }
    Ok(())
}

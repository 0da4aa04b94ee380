//! What one walk predicts, compared with really running the programs: `docs/prediction.md`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::programs::{Program, Start, Tools};
use super::settings::{SETTINGS, Setting};
use super::{Options, moments, truth};

/// The tables are put between these lines.
const BEGIN: &str = "<!-- written by cargo xtask accuracy --one-walk -->\n";
const END: &str = "<!-- end of what it writes -->\n";
/// A saving is large from this share and this many bytes on; only then its sign counts.
const LARGE_SHARE: f64 = 0.1;
const LARGE_BYTES: f64 = 8e6;

/// The moments of each program that are looked at: after most was freed, and at its end.
fn moments_of(program: &Program) -> &'static str {
    match program.name {
        "json_tasks" => "expired,final",
        "orm" => "deleted,final",
        "xml_trees" | "images" | "sockets" => "dropped,final",
        "frames" | "thumbnails" | "arrays" => "cleared,final",
        "threads" => "few,final",
        "sparse" => "grids gone,final",
        "grow_shrink" => "shrunk,final",
        "survivors" | "spike" | "parts" => "full,final",
        _ => "final",
    }
}

/// One predicted figure, in bytes, and the real one.
struct Row {
    program: &'static str,
    setting: &'static str,
    moment: String,
    now: f64,
    predicted: f64,
    low: f64,
    high: f64,
    effect: String,
    truth: Vec<f64>,
}

impl Row {
    fn median(&self) -> f64 {
        let mut all = self.truth.clone();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        match all.len() % 2 {
            0 => (all[middle - 1] + all[middle]) / 2.0,
            _ => all[middle],
        }
    }

    fn error(&self) -> f64 {
        self.predicted / self.median() - 1.0
    }

    /// Whether the real need is within the band.
    fn is_within(&self) -> bool {
        (self.low..=self.high).contains(&self.median())
    }

    /// Whether a saving or cost was predicted, and the opposite is true by a large amount.
    fn has_wrong_sign(&self) -> bool {
        let saved = self.now - self.median();
        let is_large = saved.abs() > LARGE_BYTES && saved.abs() > self.now * LARGE_SHARE;
        is_large
            && match &*self.effect {
                "saves" => saved < 0.0,
                "costs" | "no_less" => saved > 0.0,
                "same" => true,
                _ => false,
            }
    }
}

/// Compares, and writes the tables when everything is compared.
pub(super) fn run(tools: &Tools, fragscope: &Path, options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    let programs = options.programs.iter();
    // Others cannot go on by themselves until allocators have purged.
    let programs: Vec<_> = programs.filter(|p| p.start == Start::Python).collect();
    for program in &programs {
        let names = moments_of(program);
        let looks = look(tools, fragscope, program, names)?;
        let predicted = |setting: &&'static Setting| Some((*setting, setting.candidate()?));
        for (setting, candidate) in options.settings.iter().filter_map(predicted) {
            let runs = truth::settled(tools, fragscope, program, setting, names, options.runs)?;
            for (moment, seen) in &looks {
                let at = |run: &truth::Run| {
                    let found = run.iter().find(|at| at.name == *moment);
                    found.map(|at| at.bytes as f64)
                };
                let truth: Vec<f64> = runs.iter().filter_map(at).collect();
                if let Some(row) = row(
                    (program.name, setting.name),
                    &candidate,
                    moment,
                    seen,
                    truth,
                ) {
                    print(&row);
                    rows.push(row);
                }
            }
        }
    }
    let summary = summary(&rows);
    println!("\n{summary}");
    if options.settings.len() == SETTINGS.len() && options.programs.len() > super::PROGRAMS.len() {
        write(&summary, &rows)?;
    }
    Ok(())
}

/// The predictions at each moment of one run under glibc with its defaults.
fn look(
    tools: &Tools,
    fragscope: &Path,
    program: &Program,
    names: &str,
) -> Result<Vec<(String, Value)>> {
    eprintln!("looking at {}", program.name);
    let words = tools.command(program)?;
    let (first, rest) = words.split_first().context("an empty command")?;
    let mut command = Command::new(first);
    command.args(rest).env(moments::SETTLE, names);
    let mut looks = Vec::new();
    moments::run(tools, program, command, |name, pid| {
        if names.split(',').any(|wanted| wanted == name) {
            let mut snapshot = Command::new(fragscope);
            snapshot.args(["snapshot", "--predict", "--json", "--pid", &pid.to_string()]);
            let seen = serde_json::from_str(&crate::output(&mut snapshot)?)?;
            looks.push((name.to_owned(), seen));
        }
        Ok(())
    })?;
    Ok(looks)
}

/// Of a program under a setting, which is this candidate.
fn row(
    (program, setting): (&'static str, &'static str),
    candidate: &str,
    moment: &str,
    seen: &Value,
    truth: Vec<f64>,
) -> Option<Row> {
    let all = seen["predictions"].as_array()?;
    let prediction = all.iter().find(|one| one["candidate"] == candidate)?;
    let measured = seen["self_check"]["measured_bytes"].as_f64()?;
    // What a program maps by itself is the same under all of them.
    let malloc = seen["metrics"]["malloc_resident_bytes"].as_f64()?;
    let figure = |key: &str| Some(prediction[key].as_f64()? + malloc - measured);
    (!truth.is_empty()).then_some(Row {
        program,
        setting,
        moment: moment.to_owned(),
        now: malloc,
        predicted: figure("rest_bytes")?,
        low: figure("low_bytes")?,
        high: figure("high_bytes")?,
        effect: prediction["effect"].as_str().unwrap_or_default().to_owned(),
        truth,
    })
}

fn print(row: &Row) {
    println!("{}", cells(row));
}

fn cells(row: &Row) -> String {
    let mb = |bytes: f64| format!("{:.1}", bytes / 1e6);
    let truth: Vec<String> = row.truth.iter().map(|bytes| mb(*bytes)).collect();
    format!(
        "| {} | {} | {} | {} | {} ({} to {}) | {} | {} | {:+.1} %{} |",
        row.program,
        row.setting,
        row.moment,
        mb(row.now),
        mb(row.predicted),
        mb(row.low),
        mb(row.high),
        row.effect,
        truth.join(", "),
        row.error() * 100.0,
        if row.is_within() { "" } else { ", outside" }
    )
}

fn summary(rows: &[Row]) -> String {
    let mut text = String::from(
        "| | median error | 90th percentile | truth within the band | wrong signs |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    let mut line = |name: &str, rows: &[&Row]| {
        if rows.is_empty() {
            return;
        }
        let mut errors: Vec<f64> = rows.iter().map(|row| row.error().abs()).collect();
        errors.sort_by(f64::total_cmp);
        let at = |share: f64| errors[((errors.len() - 1) as f64 * share).round() as usize];
        let within = rows.iter().filter(|row| row.is_within()).count();
        let wrong = rows.iter().filter(|row| row.has_wrong_sign()).count();
        let _ = writeln!(
            text,
            "| {name} | {:.1} % | {:.1} % | {within} of {} | {wrong} |",
            at(0.5) * 100.0,
            at(0.9) * 100.0,
            rows.len()
        );
    };
    for setting in &SETTINGS {
        let own: Vec<&Row> = rows.iter().filter(|r| r.setting == setting.name).collect();
        line(setting.name, &own);
    }
    line("all", &rows.iter().collect::<Vec<_>>());
    text
}

/// Puts the tables into the document.
fn write(summary: &str, rows: &[Row]) -> Result<()> {
    let path = crate::root().join("docs/prediction.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).context("no place for the tables")?;
    let (_, after) = rest.split_once(END).context("no end of the tables")?;
    let all: Vec<String> = rows.iter().map(cells).collect();
    let tables = format!(
        "{summary}\nMegabytes (10^6 bytes) of malloc's memory.\n\n| program | setting | moment | now, \
         under glibc | predicted, and its band | said | really | error |\n| --- | --- | --- | --- | --- \
         | --- | --- | --- |\n{}\n",
        all.join("\n")
    );
    fs::write(&path, format!("{before}{BEGIN}\n{tables}\n{END}{after}"))?;
    Ok(())
}

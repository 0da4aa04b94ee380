//! The tables, printed and in `docs/accuracy.md`.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use profiler_core::columns::TextColumn;

use super::Basis;
use super::compare::{FINAL, PEAK, Row, Spread, Summary};
use super::programs::Program;
use super::settings::{BASELINE, Setting};

/// The tables are put between a line of their basis and this one.
const END: &str = "<!-- end of what it writes -->\n";
/// Errors above are listed one by one.
const MISS: f64 = 0.05;

/// Of a row on the terminal; ranges are of the runs, and of the predictions.
const PROGRAM: TextColumn = TextColumn::left("", 12);
const SETTING: TextColumn = TextColumn::left("", 21);
const MOMENT: TextColumn = TextColumn::left("", 12);
const RANGE: TextColumn = TextColumn::right("", 22);
const ERROR: TextColumn = TextColumn::right("", 8);

/// Prints a row.
pub(super) fn print(row: &Row) {
    let cells = [
        PROGRAM.cell(row.program),
        SETTING.cell(row.setting),
        MOMENT.cell(&row.moment),
        RANGE.cell(&range(&row.truth)),
        RANGE.cell(&range(&row.predicted)),
        ERROR.cell(&format!("{:+.1} %", row.error() * 100.0)),
    ];
    println!("{}", cells.join(" "));
}

/// Prints the summary.
pub(super) fn print_summary(settings: &[&Setting], rows: &[Row]) {
    println!("\n{}", summary(settings, rows));
}

/// Megabytes: the median, with the range when there is one.
fn range(spread: &Spread) -> String {
    let mb = |bytes: f64| format!("{:.1}", bytes / 1e6);
    let (low, median, high) = (mb(spread.low), mb(spread.median), mb(spread.high));
    if low == high {
        return median;
    }
    format!("{median} ({low} to {high})")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn of<'a>(rows: &'a [Row], setting: &'a Setting) -> impl Iterator<Item = &'a Row> + Clone {
    rows.iter().filter(|row| row.setting == setting.name)
}

/// One line for each setting, and one for all.
fn summary(settings: &[&Setting], rows: &[Row]) -> String {
    let mut text = String::from(
        "| | median error | 90th percentile | largest | in the range of the runs, or within 1 % | \
         truth within the band | runs among themselves, 90th percentile | wrong signs |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut line = |name: &str, summary: &Summary, wrong: &str| {
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} of {} | {} | {} | {wrong} |",
            percent(summary.median),
            percent(summary.p90),
            percent(summary.most),
            summary.within,
            summary.rows,
            summary.in_band,
            percent(summary.own_p90),
        );
    };
    let (mut wrong, mut signs) = (0, 0);
    for setting in settings {
        let (off, all) = wrong_signs(rows, setting);
        (wrong, signs) = (wrong + off, signs + all);
        let said = match all {
            0 => "-".to_owned(),
            _ => format!("{off} of {all}"),
        };
        line(setting.name, &Summary::of(of(rows, setting)), &said);
    }
    line(
        "all",
        &Summary::of(rows.iter()),
        &format!("{wrong} of {signs}"),
    );
    text
}

/// Savings against glibc with the wrong sign, and all that are large enough to have one.
fn wrong_signs(rows: &[Row], setting: &Setting) -> (usize, usize) {
    let base = |row: &Row| {
        let same = |other: &&Row| {
            other.setting == BASELINE
                && (other.program, &other.moment) == (row.program, &row.moment)
        };
        rows.iter().find(same)
    };
    let others = of(rows, setting).filter(|row| row.setting != BASELINE);
    let pairs: Vec<_> = others.filter_map(|row| Some((row, base(row)?))).collect();
    let wrong = pairs.iter().filter(|(row, base)| row.has_wrong_sign(base));
    let large = pairs.iter().filter(|(row, base)| row.saves(base));
    (wrong.count(), large.count())
}

/// The line before the tables in the document.
fn begin(basis: Basis) -> &'static str {
    match basis {
        Basis::Attached => "<!-- written by cargo xtask accuracy --attached -->\n",
        Basis::Launch | Basis::OneWalk => "<!-- written by cargo xtask accuracy -->\n",
    }
}

/// Puts the tables into the document.
pub(super) fn write(
    basis: Basis,
    settings: &[&Setting],
    programs: &[&Program],
    rows: &[Row],
    runs: usize,
) -> Result<()> {
    let path = crate::root().join("docs/accuracy.md");
    let text = fs::read_to_string(&path)?;
    let begin = begin(basis);
    let (before, rest) = text.split_once(begin).context("no place for the table")?;
    let (_, after) = rest.split_once(END).context("no end of the table")?;
    let tables = tables(settings, programs, rows, runs)?;
    fs::write(&path, format!("{before}{begin}\n{tables}\n{END}{after}"))?;
    Ok(())
}

fn tables(
    settings: &[&Setting],
    programs: &[&Program],
    rows: &[Row],
    runs: usize,
) -> Result<String> {
    let mut text = format!(
        "{}. {runs} runs of each program under each setting, and {runs} recordings under glibc, each \
         replayed under each setting.\n\n",
        machine()?
    );
    text += &summary(settings, rows);
    text += "\nMegabytes (10^6 bytes), peak and final: the median of the runs, the median of \
             the predictions, the error.\n\n| program | setting | peak | predicted | | final | \
             predicted | |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for program in programs {
        for setting in settings {
            let all = of(rows, setting).filter(|row| row.program == program.name);
            let cells = |moment: &str| {
                let row = all.clone().find(|row| row.moment == moment);
                row.map_or("| | |".to_owned(), |row| {
                    format!(
                        "{:.1} | {:.1} | {:+.1} %",
                        row.truth.median / 1e6,
                        row.predicted.median / 1e6,
                        row.error() * 100.0
                    )
                })
            };
            let (peak, last) = (cells(PEAK), cells(FINAL));
            let _ = writeln!(
                text,
                "| {} | {} | {peak} | {last} |",
                program.kind, setting.name
            );
        }
    }
    let _ = writeln!(
        text,
        "\nAll errors above {}:\n\n| program | setting | moment | runs, MB | predictions, MB | error |\n\
         | --- | --- | --- | --- | --- | --- |",
        percent(MISS)
    );
    for row in rows.iter().filter(|row| row.error().abs() > MISS) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:+.1} % |",
            row.program,
            row.setting,
            row.moment,
            range(&row.truth),
            range(&row.predicted),
            row.error() * 100.0
        );
    }
    Ok(text)
}

/// The date and the kind of machine.
fn machine() -> Result<String> {
    let date = crate::output(Command::new("date").args(["-u", "+%F"]))?;
    let cores = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    let gib = kib.context("no MemTotal")?.div_ceil(1 << 20);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.split(['-', '\n']).next().unwrap_or_default();
    let libc = crate::output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    Ok(format!(
        "{}: {cores} cores ({}), {gib} GiB, Linux {kernel}, {}",
        date.trim(),
        std::env::consts::ARCH,
        libc.trim()
    ))
}

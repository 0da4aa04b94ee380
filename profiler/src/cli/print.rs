//! What commands print on stdout.

use std::io::{self, IsTerminal, Write};

use profiler_core::view::View;

use crate::export;
use crate::lab::report::Report;
use crate::session::doctor::{Check, Grade};

/// A snapshot, as text or JSON.
pub(super) fn snapshot(view: &View, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", export::json(view))?;
    } else {
        write!(out, "{}", export::text(view))?;
    }
    out.flush()
}

/// The verdict in prose.
pub(super) fn explanation(view: &View) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{}", export::explanation(view))?;
    out.flush()
}

/// What a replay came to, as text or JSON.
pub(super) fn replay(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", export::replay::json(report))?;
    } else {
        let colours = has_colours(&out);
        write!(out, "{}", export::replay::text(report, colours))?;
    }
    out.flush()
}

/// Whether colours are shown and wanted.
fn has_colours(out: &impl IsTerminal) -> bool {
    out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What `doctor` found, aligned, with its fixes; or as JSON.
pub(super) fn doctor(checks: &[Check], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(
            out,
            "{}",
            export::checks(checks.iter().map(|c| (
                c.name,
                grade(c.ok),
                &*c.found,
                c.fix.as_deref()
            )))
        )?;
        return out.flush();
    }
    let colour = has_colours(&out);
    let width = checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    for check in checks {
        let mark = match (check.ok, colour) {
            (Grade::Ok, true) => "\x1b[32mok     \x1b[0m",
            (Grade::Limited, true) => "\x1b[33mlimited\x1b[0m",
            (Grade::Missing, true) => "\x1b[31mmissing\x1b[0m",
            (Grade::Ok, false) => "ok     ",
            (Grade::Limited, false) => "limited",
            (Grade::Missing, false) => "missing",
        };
        writeln!(out, "{mark}  {:<width$}  {}", check.name, check.found)?;
        if let Some(fix) = &check.fix {
            writeln!(out, "         {:<width$}  fix: {fix}", "")?;
        }
    }
    out.flush()
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Ok => "ok",
        Grade::Limited => "limited",
        Grade::Missing => "missing",
    }
}

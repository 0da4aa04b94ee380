//! What commands print to stdout.

use std::fmt::Write as _;
use std::io;

use profiler_core::host::HostView;
use profiler_core::text::visible;
use profiler_core::view::View;
use profiler_lab::report::Report;

use super::advice::Advice;
use crate::export;
use crate::say;
use crate::session::check::CheckOutcome;
use crate::session::diff::Compared;
use crate::session::doctor::{Check, Grade};
use crate::session::top::{TopOptions, TreeSeen};
use crate::tui;

/// A snapshot, as text or JSON.
pub(super) fn snapshot(view: &View, json: bool) -> io::Result<()> {
    if json {
        say::document(&export::json(view))
    } else {
        say::print(&export::text(view))
    }
}

/// The processes of the host, as a table or JSON.
pub(super) fn host(view: &HostView, options: &TopOptions) -> io::Result<()> {
    if options.json {
        return say::document(&export::host(view));
    }
    say::print(&export::top::text(view, &options.arrangement, width()))
}

/// A tree as text or JSON; if requested, the worst of its processes is explained after the text.
pub(super) fn tree(seen: &TreeSeen, json: bool) -> io::Result<()> {
    if json {
        return say::document(&export::tree(&seen.view));
    }
    let mut text = export::top::tree(&seen.view, width());
    if let Some(worst) = &seen.worst {
        text += &format!("\n{}", export::explanation(worst));
    }
    say::print(&text)
}

/// Columns for a table.
fn width() -> usize {
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    tui::width().or(columns).unwrap_or(WIDTH).max(LEAST_WIDTH)
}

/// The width of a table, in columns, without a terminal, and the minimum with one.
const WIDTH: usize = 120;
const LEAST_WIDTH: usize = 40;

/// The verdict in prose.
pub(super) fn explanation(view: &View) -> io::Result<()> {
    say::print(&export::explanation(view))
}

/// The result of a check, in one line of JSON.
pub(super) fn checked(outcome: &CheckOutcome) -> io::Result<()> {
    say::document(&export::checked(&outcome.report, &outcome.checked))
}

/// What changed, as text or JSON.
pub(super) fn difference(compared: &Compared, json: bool) -> io::Result<()> {
    let (before, after) = (&compared.before.view.report, &compared.after.view.report);
    if json {
        say::document(&export::diff::json(before, after, &compared.difference))
    } else {
        say::print(&export::diff::text(before, after, &compared.difference))
    }
}

/// The result of a replay, as text or JSON.
pub(super) fn replay(report: &Report, json: bool) -> io::Result<()> {
    if json {
        say::document(&export::replay::json(report))
    } else {
        say::print_coloured(&export::replay::text(report, say::has_colours()))
    }
}

/// The results of `doctor`, aligned, with fixes; or as JSON.
pub(super) fn doctor(checks: &[Check], advice: &Advice, json: bool) -> io::Result<()> {
    let fixes = checks.iter();
    let fixes = fixes.map(|check| advice.fix(check.fix.as_ref()?));
    let fixes: Vec<_> = fixes.collect();
    let checks: Vec<_> = checks.iter().zip(&fixes).collect();
    if json {
        let checks = checks.iter();
        return say::document(&export::checks(checks.map(|(check, fix)| {
            let fix = fix.as_deref();
            (check.name, grade(check.ok), &*check.found, fix)
        })));
    }
    say::print_coloured(&checks_as_text(&checks, say::has_colours()))
}

fn checks_as_text(checks: &[(&Check, &Option<String>)], colour: bool) -> String {
    let widths = checks.iter().map(|(check, _)| check.name.len());
    let width = widths.max().unwrap_or(0);
    let mut text = String::new();
    for (check, fix) in checks {
        let mark = match (check.ok, colour) {
            (Grade::Ok, true) => "\x1b[32mok     \x1b[0m",
            (Grade::Limited, true) => "\x1b[33mlimited\x1b[0m",
            (Grade::Missing, true) => "\x1b[31mmissing\x1b[0m",
            (Grade::Ok, false) => "ok     ",
            (Grade::Limited, false) => "limited",
            (Grade::Missing, false) => "missing",
        };
        let found = visible(&check.found);
        // Writing into a string does not fail.
        let _ = writeln!(text, "{mark}  {:<width$}  {found}", check.name);
        if let Some(fix) = fix {
            let _ = writeln!(text, "         {:<width$}  fix: {}", "", visible(fix));
        }
    }
    text
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Ok => "ok",
        Grade::Limited => "limited",
        Grade::Missing => "missing",
    }
}

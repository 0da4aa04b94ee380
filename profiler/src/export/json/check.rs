//! The result of `check`: `fragscope.check/1`.

use profiler_core::report::FragReport;
use profiler_core::thresholds::Checked;
use serde::Serialize;

use super::{Number, text};
use crate::export::names::rfc3339;

#[derive(Serialize)]
struct Check<'a> {
    schema: &'static str,
    taken_at: String,
    pid: i32,
    comm: &'a str,
    exceeded: Vec<&'static str>,
    checks: Vec<Row>,
    verdict: &'a str,
}

#[derive(Serialize)]
struct Row {
    key: &'static str,
    value: Option<Number>,
    most: Number,
    exceeded: bool,
}

/// Each limit with the measured value, as one line of `fragscope.check/1`.
pub fn checked(report: &FragReport, checked: &[Checked]) -> String {
    let exceeded = checked.iter().filter(|one| one.is_exceeded());
    text(serde_json::to_string(&Check {
        schema: "fragscope.check/1",
        taken_at: rfc3339(report.taken_at_ns),
        pid: report.target.pid,
        comm: &report.target.comm,
        exceeded: exceeded.map(|one| one.key).collect(),
        checks: checked.iter().map(row).collect(),
        verdict: &report.verdict,
    }))
}

fn row(one: &Checked) -> Row {
    Row {
        key: one.key,
        value: one.value.map(Number::from),
        most: Number::from(one.most),
        exceeded: one.is_exceeded(),
    }
}

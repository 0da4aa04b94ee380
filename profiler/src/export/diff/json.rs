//! `fragscope.diff/1`.

use profiler_core::difference::{Change, Difference, Fact};
use profiler_core::report::FragReport;
use serde::Serialize;

use crate::export::json::{Number, text};
use crate::export::names::rfc3339;

#[derive(Serialize)]
struct Diff<'a> {
    schema: &'static str,
    before: Side<'a>,
    after: Side<'a>,
    sentence: &'a str,
    rss_bytes: Figures,
    swap_bytes: Figures,
    facts: Vec<Sides<'a>>,
    ledger: Vec<Row<'a>>,
    metrics: Vec<Row<'a>>,
    live_size_classes: Vec<Row<'a>>,
    free_size_classes: Vec<Row<'a>>,
    types: Vec<Row<'a>>,
    holders: Vec<Row<'a>>,
}

/// One of the two walks.
#[derive(Serialize)]
struct Side<'a> {
    taken_at: String,
    pid: i32,
    comm: &'a str,
    cmdline: &'a [String],
    malloc: Option<String>,
    verdict: &'a str,
    objects_taken_at: Option<String>,
}

#[derive(Serialize)]
struct Sides<'a> {
    name: &'a str,
    before: Option<&'a str>,
    after: Option<&'a str>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    unit: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct Figures {
    before: Option<Number>,
    after: Option<Number>,
    change: Option<f64>,
}

impl Figures {
    fn of(change: &Change) -> Self {
        Self {
            before: change.before.map(Number::from),
            after: change.after.map(Number::from),
            change: change.by(),
        }
    }
}

impl<'a> From<&'a Change> for Row<'a> {
    fn from(change: &'a Change) -> Self {
        Self {
            name: &change.name,
            unit: change.unit.name(),
            figures: Figures::of(change),
        }
    }
}

impl<'a> From<&'a Fact> for Sides<'a> {
    fn from(fact: &'a Fact) -> Self {
        Self {
            name: &fact.name,
            before: fact.before.as_deref(),
            after: fact.after.as_deref(),
        }
    }
}

fn rows(changes: &[Change]) -> Vec<Row<'_>> {
    changes.iter().map(Row::from).collect()
}

fn side(report: &FragReport) -> Side<'_> {
    Side {
        taken_at: rfc3339(report.taken_at_ns),
        pid: report.target.pid,
        comm: &report.target.comm,
        cmdline: &report.target.cmdline,
        malloc: report.target.malloc.as_ref().map(ToString::to_string),
        verdict: &report.verdict,
        objects_taken_at: report.objects.as_ref().map(|of| rfc3339(of.taken_at_ns)),
    }
}

/// The differences as one indented document, with its keys in a fixed order.
pub fn json(before: &FragReport, after: &FragReport, difference: &Difference) -> String {
    text(serde_json::to_string_pretty(&Diff {
        schema: "fragscope.diff/1",
        before: side(before),
        after: side(after),
        sentence: &difference.sentence,
        rss_bytes: Figures::of(&difference.rss),
        swap_bytes: Figures::of(&difference.swap),
        facts: difference.facts.iter().map(Sides::from).collect(),
        ledger: rows(&difference.ledger),
        metrics: rows(&difference.metrics),
        live_size_classes: rows(&difference.live_classes),
        free_size_classes: rows(&difference.free_classes),
        types: rows(&difference.types),
        holders: rows(&difference.holders),
    }))
}

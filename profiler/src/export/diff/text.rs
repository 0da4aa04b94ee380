//! What changed, for people.

use profiler_core::difference::{Change, Difference};
use profiler_core::report::FragReport;
use profiler_core::text::visible;

use crate::export::names::rfc3339;
use crate::export::text::Text;

/// Rows of a table that are shown before the rest is only counted.
const ROWS: usize = 12;
/// What the name of a fact may take, in columns.
const FACT: usize = 28;

/// What changed, at most 100 columns wide.
pub fn text(before: &FragReport, after: &FragReport, difference: &Difference) -> String {
    let mut text = Text::default();
    for (side, report) in [("before", before), ("after", after)] {
        let target = &report.target;
        text.line(&format!(
            "{side:<6}  process {} ({}) at {}",
            target.pid,
            visible(&target.comm),
            rfc3339(report.taken_at_ns)
        ));
    }
    text.blank();
    text.paragraph("", &difference.sentence);
    facts(&mut text, difference);
    let kernel = [&difference.rss, &difference.swap];
    let kernel = kernel
        .into_iter()
        .filter(|change| change.before != change.after);
    let ledger: Vec<Change> = kernel.chain(&difference.ledger).cloned().collect();
    table(&mut text, "WHERE RSS IS", &ledger);
    table(&mut text, "METRICS", &difference.metrics);
    table(&mut text, "LIVE, BY SIZE CLASS", &difference.live_classes);
    table(&mut text, "FREE, BY SIZE CLASS", &difference.free_classes);
    table(&mut text, "TYPES OF PYTHON'S OBJECTS", &difference.types);
    table(&mut text, "WHO HOLDS THEM", &difference.holders);
    text.into_string()
}

fn facts(text: &mut Text, difference: &Difference) {
    if difference.facts.is_empty() {
        return;
    }
    text.blank();
    text.title("WHAT IS DIFFERENT");
    for fact in &difference.facts {
        let side = |side: &Option<String>| match side {
            Some(value) => visible(value).to_string(),
            None => "-".to_owned(),
        };
        let (name, before, after) = (visible(&fact.name), side(&fact.before), side(&fact.after));
        text.line(&format!("  {:<FACT$}  {after}", name.to_string()));
        text.line(&format!("  {:<FACT$}  {before}", "  before"));
    }
}

fn table(text: &mut Text, title: &str, changes: &[Change]) {
    if changes.is_empty() {
        return;
    }
    text.blank();
    text.title(&format!(
        "{title}\n  {:>12}  {:>12}  {:>12}",
        "before", "after", "change"
    ));
    for change in changes.iter().take(ROWS) {
        let value = |side| match side {
            Some(value) => change.unit.text(value),
            None => "-".to_owned(),
        };
        text.line(&format!(
            "  {:>12}  {:>12}  {:>12}  {}",
            value(change.before),
            value(change.after),
            change.by_text(),
            visible(&change.name)
        ));
    }
    if let Some(rest) = changes.len().checked_sub(ROWS).filter(|rest| *rest > 0) {
        text.line(&format!("  and {rest} more (--json)"));
    }
}

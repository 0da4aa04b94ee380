//! Differences, for people.

use profiler_core::columns::TextColumn;
use profiler_core::difference::{Change, Difference};
use profiler_core::report::FragReport;
use profiler_core::text::visible;
use profiler_core::units::{Unit, Value};

use crate::export::names::rfc3339;
use crate::export::text::Text;
use crate::hints::Hint;

/// Rows of a table that are shown before the rest is only counted.
const ROWS: usize = 12;

/// Which of the two walks.
const SIDE: TextColumn = TextColumn::left("", 6);
/// Columns of a change; the name takes the remaining width.
const BEFORE: TextColumn = TextColumn::right("before", 12);
const AFTER: TextColumn = TextColumn::right("after", 12);
const CHANGE: TextColumn = TextColumn::right("change", 12);

/// What changed, at most 100 columns wide.
pub fn text(before: &FragReport, after: &FragReport, difference: &Difference) -> String {
    let mut text = Text::default();
    for (side, report) in [(BEFORE.title, before), (AFTER.title, after)] {
        let target = &report.target;
        text.line(&format!(
            "{}  process {} ({}) at {}",
            SIDE.cell(side),
            target.pid,
            visible(&target.comm),
            rfc3339(report.taken_at_ns)
        ));
    }
    for (side, report) in [(BEFORE.title, before), (AFTER.title, after)] {
        if let Some(age) = report.objects_age() {
            text.line(&format!("{}  its objects are {age}", SIDE.cell(side)));
        }
    }
    text.blank();
    text.paragraph("", &difference.sentence);
    facts(&mut text, difference);
    let kernel = [&difference.rss, &difference.swap];
    let kernel = kernel
        .into_iter()
        .filter(|change| change.before != change.after);
    let ledger: Vec<Change> = kernel.chain(&difference.ledger).cloned().collect();
    table(&mut text, "WHERE RSS IS", &ledger, &difference.rss);
    table(&mut text, "METRICS", &difference.metrics, &difference.rss);
    table(
        &mut text,
        "LIVE, BY SIZE CLASS",
        &difference.live_classes,
        &difference.rss,
    );
    table(
        &mut text,
        "FREE, BY SIZE CLASS",
        &difference.free_classes,
        &difference.rss,
    );
    table(
        &mut text,
        "TYPES OF PYTHON'S OBJECTS",
        &difference.types,
        &difference.rss,
    );
    table(&mut text, "HOLDERS", &difference.holders, &difference.rss);
    text.into_string()
}

/// Changes of fewer bytes than this part of RSS are only counted.
const LEAST_PART: f64 = 1e-3;

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
        let (before, after) = (side(&fact.before), side(&fact.after));
        text.line(&format!("  {}", visible(&fact.name)));
        for (side, value) in [(BEFORE.title, before), (AFTER.title, after)] {
            text.line(&format!("    {}  {value}", SIDE.cell(side)));
        }
    }
}

fn table(text: &mut Text, title: &str, changes: &[Change], rss: &Change) {
    let of = [rss.before, rss.after].into_iter().flatten();
    let rss = of.map(Value::as_f64).fold(0.0, f64::max);
    let is_much = |change: &&Change| {
        change.unit != Unit::Bytes || change.by().is_none_or(|by| by.abs() >= rss * LEAST_PART)
    };
    let shown: Vec<&Change> = changes.iter().filter(is_much).take(ROWS).collect();
    if shown.is_empty() {
        return;
    }
    text.blank();
    text.title(title);
    let row = |before: &str, after: &str, change: &str| {
        let (before, after) = (BEFORE.cell(before), AFTER.cell(after));
        format!("  {before}  {after}  {}", CHANGE.cell(change))
    };
    text.line(&row(BEFORE.title, AFTER.title, CHANGE.title));
    for change in &shown {
        let value = |side| match side {
            Some(value) => change.unit.text(value),
            None => "-".to_owned(),
        };
        let (before, after) = (value(change.before), value(change.after));
        let figures = row(&before, &after, &change.by_text());
        text.line(&format!("{figures}  {}", visible(&change.name)));
    }
    match changes.len() - shown.len() {
        0 => {}
        rest => text.line(&format!("  and {rest} more ({})", Hint::AllRows.words())),
    }
}

//! A view as a report for people, at most [`WIDTH`] columns wide and without colour.

mod heap;
mod objects;
mod sites;

use profiler_core::columns::{self, TextColumn};
use profiler_core::host::container_of;
use profiler_core::prediction::{Effect, NeedsRow, Predictions};
use profiler_core::report::{FragReport, LedgerRow};
use profiler_core::text::visible;
use profiler_core::units::{bytes, count, nanoseconds, percent};
use profiler_core::view::{ActivitySource, View};

use super::names::{cut, rfc3339};
use super::sentences::{self, python};

/// Columns at most.
const WIDTH: usize = 100;
/// Arenas shown before the rest is only counted.
const TOP_ROWS: usize = 12;
/// A bar.
const BAR: TextColumn = TextColumn::left("", 24);
/// Of a metric.
const LABEL: TextColumn = TextColumn::left("", 40);
const FIGURE: TextColumn = TextColumn::right("", 14);
/// The candidate, before the columns of its row. All of it is 80 characters wide.
const CANDIDATE: TextColumn = TextColumn::left("PREDICTED", 27);
/// The same, below the title.
const PLAYED: TextColumn = TextColumn::left("", CANDIDATE.width - 2);

/// A view as a readable report.
pub fn text(view: &View) -> String {
    let report = &*view.report;
    let mut text = Text::default();
    target(&mut text, report);
    ended(&mut text, view);
    text.paragraph("", &report.verdict);
    text.blank();
    ledger(&mut text, report);
    findings(&mut text, report);
    predictions(&mut text, report);
    if let Some(census) = &report.objects {
        objects::objects(&mut text, report, census, &objects::WHOLE);
    }
    for heap in &report.heaps {
        heap::heap(&mut text, heap);
        heap::size_classes(&mut text, report, heap);
        heap::occupancy(&mut text, report, heap);
    }
    metrics(&mut text, view);
    activity(&mut text, view);
    if let Some(sites) = &view.sites {
        sites::sites(&mut text, sites);
    }
    completeness(&mut text, view);
    text.0
}

/// The explanation of a view, wrapped.
pub fn explanation(view: &View) -> String {
    let report = &*view.report;
    let mut text = Text::default();
    target(&mut text, report);
    ended(&mut text, view);
    text.paragraph("", &report.verdict);
    text.blank();
    for paragraph in report.explanation.split("\n\n") {
        text.paragraph("", paragraph);
        text.blank();
    }
    let played = report.predictions.as_ref();
    if let Some(played) = played.filter(|all| all.self_check.is_some()) {
        // What was not predicted, and why, is in the explanation.
        table(&mut text, report, played);
        text.blank();
    }
    if let Some(census) = &report.objects {
        objects::objects(&mut text, report, census, &objects::SHORT);
    }
    if let Some(sites) = &view.sites {
        sites::sites(&mut text, sites);
    }
    completeness(&mut text, view);
    text.0
}

/// How the target ended, before all else.
fn ended(text: &mut Text, view: &View) {
    if let Some(how) = &view.ended {
        let mut letters = how.chars();
        let first = letters.next().into_iter().flat_map(char::to_uppercase);
        let how: String = first.chain(letters).collect();
        let before = view.history.last().map(|last| last.time_ns);
        let before = before.and_then(|last| last.checked_sub(view.report.taken_at_ns));
        let age = before
            .filter(|age| *age > 0)
            .map_or_else(String::new, |age| {
                format!(
                    " This is what was seen at least {} before.",
                    nanoseconds(age)
                )
            });
        text.paragraph("", &format!("{how}.{age}"));
        text.blank();
    }
}

/// Lines for people.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// One line, cut at the width.
    pub(super) fn line(&mut self, line: &str) {
        self.0.push_str(&cut(line, WIDTH));
        self.0.push('\n');
    }

    pub(super) fn blank(&mut self) {
        self.0.push('\n');
    }

    pub(super) fn title(&mut self, title: &str) {
        self.line(title);
    }

    /// Words wrapped at the width, each line after `indent`.
    pub(super) fn paragraph(&mut self, indent: &str, words: &str) {
        let wrapping = textwrap::Options::new(WIDTH)
            .initial_indent(indent)
            .subsequent_indent(indent);
        // A newline in it would come from untrusted text.
        for line in textwrap::wrap(&visible(words).to_string(), wrapping) {
            self.line(&line);
        }
    }
}

/// `part` of `whole` as a bar of at most `width` columns.
fn bar(part: u64, whole: u64, width: usize) -> String {
    let filled = match whole {
        0 => 0,
        _ => (u128::from(part) * width as u128).div_ceil(u128::from(whole)) as usize,
    };
    "#".repeat(filled.min(width))
}

fn target(text: &mut Text, report: &FragReport) {
    let target = &report.target;
    let known = |name: &Option<String>| name.clone().unwrap_or_else(|| "unknown".into());
    text.line(&format!(
        "process {} ({}) at {}",
        target.pid,
        target.comm,
        rfc3339(report.taken_at_ns)
    ));
    if !target.cmdline.is_empty() {
        text.line(&format!("  {}", target.cmdline.join(" ")));
    }
    text.line(&format!(
        "  {}, C library {}, malloc from {}, {}",
        python(target),
        known(&target.libc),
        known(&target.malloc.as_ref().map(ToString::to_string)),
        match target.threads {
            1 => "1 thread".to_owned(),
            threads => format!("{threads} threads"),
        }
    ));
    let group = report.group.as_ref();
    if let Some(container) = group.and_then(|group| container_of(&group.path)) {
        text.line(&format!("  in the container {container}"));
    }
    if report.kernel.is_core {
        text.line(&format!(
            "  from a core file, which holds {}; RSS, its peak and swap are unknown",
            bytes(report.kernel.rss_bytes)
        ));
        text.blank();
        return;
    }
    let pss = report.kernel.pss_bytes;
    let pss = pss.map_or_else(String::new, |pss| format!(", PSS {}", bytes(pss)));
    text.line(&format!(
        "  RSS {} (peak {}{}), swap {}",
        bytes(report.kernel.rss_bytes),
        bytes(report.kernel.peak_rss_bytes),
        pss,
        bytes(report.kernel.swap_bytes)
    ));
    text.blank();
}

fn ledger(text: &mut Text, report: &FragReport) {
    let rss = report.kernel.rss_bytes;
    let [in_memory, shared, swapped] = LedgerRow::COLUMNS;
    let (class, share) = (LedgerRow::CLASS, LedgerRow::SHARE);
    let (title, share_title) = if report.kernel.is_core {
        let in_core = TextColumn::right("in core", in_memory.width);
        (in_core.heading(), share.cell("of core"))
    } else {
        (in_memory.heading(""), share.heading())
    };
    // It begins at the indentation of the rows.
    text.title(&format!(
        "{}   {title} {share_title}  {} {} {}",
        class.heading().to_uppercase(),
        BAR.heading(),
        shared.heading(""),
        swapped.heading("")
    ));
    let mut line = |name: &str, bar: &str, row: &LedgerRow| {
        text.line(&format!(
            "  {} {} {}  {} {} {}",
            class.cell(name),
            in_memory.cell(row),
            share.cell(&percent(row.resident_bytes, rss)),
            BAR.cell(bar),
            shared.cell(row),
            swapped.cell(row)
        ));
    };
    for row in report.shown_ledger() {
        line(
            row.class.name(),
            &bar(row.resident_bytes, rss, BAR.width),
            row,
        );
    }
    line("sum", "", &report.ledger_sum());
    for sentence in sentences::of_ledger(report) {
        text.paragraph("  ", &sentence);
    }
    text.blank();
}

fn metrics(text: &mut Text, view: &View) {
    text.title("METRICS");
    for metric in view.metrics() {
        let label = LABEL.cell(metric.id.label());
        text.line(&format!("  {label} {}", FIGURE.cell(&metric.text())));
    }
    text.blank();
}

fn findings(text: &mut Text, report: &FragReport) {
    if report.findings.is_empty() {
        return;
    }
    text.title("WHY");
    for finding in &report.findings {
        text.line(&format!(
            "  {} (confidence {})",
            finding.heading(),
            finding.confidence.name()
        ));
        text.paragraph("    ", &finding.claim);
        text.paragraph("    ", &finding.advice());
    }
    if let Some(packing) = &report.packing {
        text.paragraph(
            "  ",
            &format!(
                "jemalloc: the same {} live blocks, packed into its size classes and full slabs, \
                 fill {}; now they take {}. A lower bound, not a prediction.",
                count(packing.blocks),
                bytes(packing.packed_bytes),
                bytes(packing.present_bytes)
            ),
        );
    }
    text.blank();
}

/// The predictions, and what was not predicted.
fn predictions(text: &mut Text, report: &FragReport) {
    let Some(predictions) = &report.predictions else {
        return;
    };
    table(text, report, predictions);
    for sentence in predictions.sentences() {
        text.paragraph("  ", &sentence);
    }
    text.blank();
}

/// What other allocators and settings would need, one per row, and how to get those that save.
fn table(text: &mut Text, report: &FragReport, predictions: &Predictions) {
    let line = |name: &str, row: &NeedsRow, rest: &str| {
        let figures = columns::cells(&NeedsRow::SHOWN, row, "");
        format!("  {}{figures} {rest}", PLAYED.cell(name))
    };
    text.title(&(CANDIDATE.heading() + &columns::headings(&NeedsRow::SHOWN, "")));
    if let Some(check) = &predictions.self_check {
        let when = report.measured_when(predictions);
        text.line(line(&when, &predictions.measured(check), "").trim_end());
        let error = format!("{:+.1} %", check.error() * 100.0);
        text.line(&line(
            "replayed as it is",
            &predictions.replayed(check),
            &error,
        ));
    }
    for (prediction, _, effect) in predictions.ranked() {
        let row = predictions.row(prediction);
        text.line(&line(&prediction.title(), &row, effect.words()));
        for how in prediction.how().iter().filter(|_| effect == Effect::Saves) {
            text.paragraph("      ", how);
        }
    }
}

fn activity(text: &mut Text, view: &View) {
    let activity = match view.activity_source() {
        ActivitySource::NotRequested | ActivitySource::Attaching | ActivitySource::NoProbes => {
            return;
        }
        ActivitySource::Recorded(what_if) => {
            text.title("ACTIVITY");
            text.paragraph("  ", &sentences::of_recording(what_if));
            text.blank();
            return;
        }
        ActivitySource::Sampled(activity) => activity,
    };
    text.title("ACTIVITY");
    for sentence in sentences::of_activity(activity) {
        text.paragraph("  ", &sentence);
    }
    text.blank();
}

fn completeness(text: &mut Text, view: &View) {
    text.title("HOW RELIABLE");
    for sentence in sentences::of_reliability(view) {
        text.paragraph("  ", &sentence);
    }
    for sentence in sentences::of_defects(&view.report.completeness) {
        text.paragraph("  ", &sentence);
    }
    for notice in &view.notices {
        text.paragraph("  ", notice);
    }
}

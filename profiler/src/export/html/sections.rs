//! The parts of the page that are not separate drawings.

use maud::{Markup, html};
use profiler_core::prediction::{Effect, Needs, NeedsRow, Predictions, SelfCheck};
use profiler_core::report::{FragReport, LedgerPart, LedgerRow};
use profiler_core::text::visible;
use profiler_core::units::{bytes, count, percent};
use profiler_core::view::{ActivitySource, View};

use super::Section;
use super::table::{Row, heading, share, table};
use crate::export::names::{gaps, latest};
use crate::export::sentences;
use crate::hints::{self, SAVED_COMMANDS};

/// The facts at the top: the target and its size.
pub(super) fn facts(view: &View) -> Markup {
    let report = &*view.report;
    let target = &report.target;
    let latest = latest(view);
    let known = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    let malloc = target.malloc.as_ref().map(ToString::to_string);
    let facts = [
        (report.kernel.name(), bytes(latest.rss_bytes)),
        ("swap", bytes(latest.swap_bytes)),
        (
            "live in heaps",
            known(report.live_resident_bytes().map(bytes)),
        ),
        ("Python", sentences::python(target)),
        ("malloc", known(malloc)),
        ("C library", known(target.libc.clone())),
        ("threads", count(u64::from(target.threads))),
        (
            "trust",
            report
                .completeness
                .layout_confidence
                .heap_state()
                .to_owned(),
        ),
    ];
    html! {
        dl.facts {
            @for (name, value) in facts {
                div { dt { (name) } dd { (visible(&value)) } }
            }
        }
        @if !target.cmdline.is_empty() {
            p.quiet { code { (visible(target.cmdline.join(" "))) } }
        }
    }
}

/// The ledger: every resident byte in one class.
pub(super) fn ledger(report: &FragReport) -> Option<Section> {
    let rss = report.kernel.rss_bytes;
    let shown: Vec<&LedgerRow> = report.shown_ledger().collect();
    let part = |part: LedgerPart| -> u64 {
        let rows = shown.iter().filter(|row| row.class.part() == part);
        rows.map(|row| row.resident_bytes).sum()
    };
    let rows: Vec<_> = shown
        .iter()
        .map(|row| {
            let mut shown = Row::new(row.class.name(), row.resident_bytes, rss, *row);
            shown.below.push(row.class.help().to_owned());
            shown
        })
        .collect();
    let columns: Vec<_> = LedgerRow::COLUMNS.iter().collect();
    let body = html! {
        div.stack role="img" aria-label=(parts_label(&part, rss)) {
            @for of in LedgerPart::ALL {
                @if part(of) > 0 {
                    span class=(class_of(of)) style=(format!("width:{:.2}%", 100.0 * share(part(of), rss))) { }
                }
            }
        }
        p {
            @for of in LedgerPart::ALL {
                @if part(of) > 0 {
                    span.key {
                        span class=(format!("swatch {}", class_of(of))) { }
                        (bytes(part(of))) " " (of.words()) " (" (percent(part(of), rss)) ")"
                    }
                }
            }
        }
        (table("class", &columns, &rows))
        @for sentence in sentences::of_ledger(report) {
            p.quiet { (visible(&sentence)) }
        }
    };
    Some(Section {
        id: "ledger",
        title: "Where memory is",
        body,
    })
}

fn parts_label(part: &dyn Fn(LedgerPart) -> u64, rss: u64) -> String {
    let parts = LedgerPart::ALL.map(|of| format!("{} {}", percent(part(of), rss), of.words()));
    parts.join(", ")
}

const fn class_of(part: LedgerPart) -> &'static str {
    match part {
        LedgerPart::InUse => "in-use",
        LedgerPart::Fragmentation => "fragmentation",
        LedgerPart::Libraries => "libraries",
        LedgerPart::Rest => "other",
    }
}

/// The findings, the most bytes first.
pub(super) fn findings(report: &FragReport) -> Option<Section> {
    if report.findings.is_empty() {
        return None;
    }
    let most = report.findings.iter().map(|finding| finding.held_bytes);
    let most = most.max().unwrap_or(0);
    let body = html! {
        @for finding in &report.findings {
            article {
                h3 title=(finding.mechanism.help()) { (finding.heading()) }
                p.bar aria-hidden="true" {
                    span style=(format!("width:{:.2}%", 100.0 * share(finding.held_bytes, most))) { }
                }
                p { (visible(&finding.claim)) }
                p { (visible(finding.advice())) }
                p.quiet { "Confidence: " (finding.confidence.name()) "." }
            }
        }
    };
    Some(Section {
        id: "why",
        title: "Why",
        body,
    })
}

/// What other allocators and settings would need.
pub(super) fn predictions(report: &FragReport) -> Option<Section> {
    let predictions = report.predictions.as_ref()?;
    let unknown = predictions.sentences();
    if predictions.self_check.is_none() && unknown.is_empty() {
        return None;
    }
    let body = html! {
        @if let Some(check) = &predictions.self_check {
            (played(report, predictions, check))
        }
        @for sentence in unknown {
            p.quiet { (visible(&sentence)) }
        }
    };
    Some(Section {
        id: "predicted",
        title: "Other allocators and settings",
        body,
    })
}

/// The replayed values next to the measured one.
fn played(report: &FragReport, predictions: &Predictions, check: &SelfCheck) -> Markup {
    let effects: Vec<_> = predictions.ranked();
    let most = effects.iter().map(|(_, needs, _)| needs.high_bytes);
    let most = most.max().unwrap_or(0).max(check.measured_bytes).max(1);
    html! {
        p {
            "Malloc's heap"
            @if let Some(before) = predictions.before(report.taken_at_ns) {
                ", as walked " (before) " before the walk of the other figures on this page,"
            }
            " was replayed in real allocators; RSS in this table is of the same moment. Check: in its own it takes "
            (bytes(check.predicted_bytes)) "; measured were " (bytes(check.measured_bytes))
            (format!(" ({:+.1} %)", check.error() * 100.0)) "."
            @if !check.holds() { " That is too far off to judge the others by it." }
        }
        div.wide { table {
            thead { tr {
                th scope="col" { (NeedsRow::NAME.title) }
                (heading("from 0", "the band that is plausible, with the middle; the line is what malloc has"))
                @for column in NeedsRow::SHOWN.iter().chain([&NeedsRow::EFFECT]) {
                    (heading(column.title, column.help))
                }
            } }
            tbody {
                tr {
                    th scope="row" { (report.measured_when(predictions)) }
                    td.band aria-hidden="true" { (band(None, check.measured_bytes, most)) }
                    (figures(&predictions.measured(check)))
                }
                @for (prediction, needs, effect) in &effects {
                    tr {
                        th scope="row" {
                            (visible(prediction.title()))
                            @for how in prediction.how().iter().filter(|_| *effect == Effect::Saves) {
                                div.below { code { (visible(how)) } }
                            }
                        }
                        td.band aria-hidden="true" { (band(Some(*needs), check.measured_bytes, most)) }
                        (figures(&predictions.row(prediction)))
                    }
                }
            }
        } }
    }
}

/// A band on a scale from 0 to `most`, with a mark at malloc's present size.
fn band(needs: Option<Needs>, now: u64, most: u64) -> Markup {
    let at = |bytes: u64| 100.0 * share(bytes, most);
    html! {
        @if let Some(needs) = needs {
            span.range style=(format!(
                "left:{:.2}%;width:{:.2}%",
                at(needs.low_bytes),
                (at(needs.high_bytes) - at(needs.low_bytes)).max(0.5)
            )) { }
            span.middle style=(format!("left:{:.2}%", at(needs.bytes))) { }
        }
        span.now style=(format!("left:{:.2}%", at(now))) { }
    }
}

/// The figures of a row, and their meaning.
fn figures(row: &NeedsRow) -> Markup {
    html! {
        @for column in &NeedsRow::SHOWN {
            td { (column.text(row).unwrap_or_else(|| "unknown".to_owned())) }
        }
        td { (NeedsRow::EFFECT.text(row).unwrap_or_default()) }
    }
}

/// Activity seen by the probes.
pub(super) fn activity(view: &View) -> Option<Section> {
    let activity = match view.activity_source() {
        ActivitySource::NotRequested | ActivitySource::Attaching | ActivitySource::NoProbes => {
            return None;
        }
        ActivitySource::Recorded(what_if) => {
            return Some(Section {
                id: "activity",
                title: "Allocations",
                body: html! { p { (visible(&sentences::of_recording(what_if))) } },
            });
        }
        ActivitySource::Sampled(activity) => activity,
    };
    let most = activity.classes.iter().map(|class| class.alloc_bytes).max();
    let most = most.unwrap_or(0);
    let mut classes: Vec<_> = activity.classes.iter().collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.alloc_bytes));
    let rows: Vec<_> = classes
        .iter()
        .take(24)
        .map(|class| {
            let name = format!("up to {}", bytes(class.class.upper_bytes()));
            Row::new(name, class.alloc_bytes, most, *class)
        })
        .collect();
    let columns: Vec<_> = profiler_core::activity::ClassActivity::SHOWN
        .iter()
        .collect();
    let body = html! {
        @for sentence in sentences::of_activity(activity) {
            p { (sentence) }
        }
        (table("size class", &columns, &rows))
    };
    Some(Section {
        id: "activity",
        title: "Allocations while sampled",
        body,
    })
}

/// Every metric with its meaning.
pub(super) fn metrics(view: &View) -> Option<Section> {
    let body = html! {
        div.wide { table {
            thead { tr { th scope="col" { "metric" } th scope="col" { "value" } th scope="col" { "what it is" } } }
            tbody {
                @for metric in view.metrics() {
                    tr {
                        th scope="row" title=(metric.id.key()) { (metric.id.label()) }
                        td { (metric.text()) }
                        td.words { (metric.id.help()) }
                    }
                }
            }
        } }
    };
    Some(Section {
        id: "metrics",
        title: "Metrics",
        body,
    })
}

/// How far all this can be trusted.
pub(super) fn reliability(view: &View) -> Option<Section> {
    let gaps: Vec<_> = gaps(view).map(|gap| gap.word).collect();
    let ended = view.ended.iter();
    let body = html! {
        ul {
            @for sentence in sentences::of_reliability(view) {
                li { (visible(&sentence)) }
            }
            @if !gaps.is_empty() {
                li { "Status: " (gaps.join(", ")) }
            }
            @for notice in view.notices.iter().chain(ended) {
                li { (visible(notice)) }
            }
            @for sentence in sentences::of_defects(&view.report.completeness) {
                li { (visible(&sentence)) }
            }
        }
    };
    Some(Section {
        id: "reliable",
        title: "How reliable this is",
        body,
    })
}

/// Commands that show the same again.
pub(super) fn commands(report: &FragReport) -> Option<Section> {
    let live = hints::live_commands(report.target.pid);
    let body = html! {
        p { "The process, while it runs:" }
        pre { @for command in &live { (command) "\n" } }
        p { "A saved session:" }
        pre { @for command in &SAVED_COMMANDS { (command) "\n" } }
        p.quiet {
            "Taken on Linux " (visible(&report.host.kernel)) " (" (visible(&report.host.arch)) "), by fragscope " (env!("CARGO_PKG_VERSION")) "."
        }
    };
    Some(Section {
        id: "commands",
        title: "Commands",
        body,
    })
}

//! A view as one HTML file that loads nothing, so that it can be passed on. It is readable without
//! scripts, in print and on a dark screen. All untrusted text is cleaned ([`visible`]) and escaped.

mod chart;
mod heaps;
mod held;
mod map;
mod objects;
mod sections;
mod sites;
mod table;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use profiler_core::text::visible;
use profiler_core::view::View;

use super::names::rfc3339;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");
/// Nothing may be loaded from elsewhere, whatever names the report contains.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// A part of the page, with the anchor for the contents.
struct Section {
    id: &'static str,
    title: &'static str,
    body: Markup,
}

/// A view as an HTML page.
pub(super) fn page(view: &View) -> String {
    let report = &*view.report;
    let process = format!("{} {}", visible(&report.target.comm), report.target.pid);
    let sections: Vec<Section> = [
        chart::section(view),
        sections::ledger(report),
        sections::findings(report),
        sections::predictions(report),
        map::section(report),
        objects::section(report),
        sites::section(view),
        heaps::section(report),
        sections::activity(view),
        sections::metrics(view),
        sections::reliability(view),
        sections::commands(report),
    ]
    .into_iter()
    .flatten()
    .collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(concat!("fragscope ", env!("CARGO_PKG_VERSION")));
                title { (process) ": memory at " (rfc3339(report.taken_at_ns)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.what { "Memory of " strong { (process) } ", " (rfc3339(report.taken_at_ns)) }
                    h1 { (visible(&report.verdict)) }
                    (sections::facts(view))
                    @for paragraph in report.explanation.split("\n\n").filter(|text| !text.is_empty()) {
                        p { (visible(paragraph)) }
                    }
                    nav aria-label="Contents" {
                        @for section in &sections {
                            a href=(format!("#{}", section.id)) { (section.title) }
                        }
                    }
                }
                main {
                    @for section in sections {
                        section id=(section.id) aria-labelledby=(format!("{}-title", section.id)) {
                            h2 id=(format!("{}-title", section.id)) { (section.title) }
                            (section.body)
                        }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

#[cfg(test)]
mod tests;

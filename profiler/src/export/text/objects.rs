//! Python objects in the report for people: their types and holders.

use std::cmp::Reverse;

use profiler_core::columns::{TextColumn, cells, headings};
use profiler_core::objects::{Census, Growth, Holder, HolderGain, NativeRow, TypeRow};
use profiler_core::report::FragReport;
use profiler_core::units::{bytes, growth, nanoseconds, percent};

use super::{Text, bar};
use crate::export::sentences;
use crate::hints::Hint;

/// How many rows are shown before the rest is only counted.
pub(super) struct Detail {
    types: usize,
    holders: usize,
    classes: usize,
}

/// The detail of a report.
pub(super) const WHOLE: Detail = Detail {
    types: 16,
    holders: 16,
    classes: 4,
};
/// The detail next to an explanation.
pub(super) const SHORT: Detail = Detail {
    types: 8,
    holders: 8,
    classes: 3,
};

/// The number of holders for which the effect of freeing them is shown.
const TOP_FREED: usize = 3;
/// From this many bytes on, the report says whether blocks without a known root are cycles.
const LEAST_UNREACHED: u64 = 256 << 10;
/// A bar.
const BAR: TextColumn = TextColumn::left("", 12);
/// The gain per second.
const RATE: TextColumn = TextColumn::right("growth", 13);

pub(super) fn objects(text: &mut Text, report: &FragReport, census: &Census, detail: &Detail) {
    let growth = report.growth.as_ref();
    let age = report.objects_age();
    let age = age.map_or_else(String::new, |age| format!(", {age}"));
    text.title(&format!(
        "PYTHON OBJECTS{age}: {} of {} in live blocks identified ({})",
        bytes(census.typed_bytes()),
        bytes(census.live.bytes),
        percent(census.typed_bytes(), census.live.bytes)
    ));
    if let Some(growth) = growth {
        text.line(&format!(
            "  in {}: live blocks {}, identified objects {}",
            nanoseconds(growth.elapsed_ns),
            rate_or_unchanged(growth.live.bytes),
            rate_or_unchanged(growth.typed.bytes)
        ));
    }
    let titles = headings(&TypeRow::SHOWN, " ");
    let (rate, bars) = (heading(growth), BAR.heading());
    text.line(&format!("  {titles}{rate} {bars} type"));
    let mut types: Vec<&TypeRow> = census.types.iter().collect();
    if let Some(growth) = growth {
        types.sort_by_key(|row| Reverse(growth.rank(growth.of_type(&row.name).bytes)));
    }
    for row in types.into_iter().take(detail.types) {
        let rate = growth.map(|growth| growth.of_type(&row.name).bytes);
        let sum = row.objects.bytes.saturating_add(row.storage.bytes);
        text.line(&format!(
            "  {}{} {} {}",
            cells(&TypeRow::SHOWN, row, " "),
            gained(rate),
            BAR.cell(&bar(sum, census.live.bytes, BAR.width)),
            row.name
        ));
    }
    if let Some(rest) = census.types.len().checked_sub(detail.types + 1) {
        text.line(&format!(
            "  and {} more types ({})",
            rest + 1,
            Hint::AllRows.words()
        ));
    }
    native(text, census, growth, detail);
    text.blank();
    holders(text, report, census, detail);
    for sentence in sentences::of_census(census) {
        text.paragraph("  ", &sentence);
    }
    text.blank();
}

/// A row's gain per second, in a separate column; no column without an earlier census.
fn gained(rate: Option<f64>) -> String {
    rate.map_or_else(String::new, |rate| cell(&growth(rate)))
}

fn cell(gain: &str) -> String {
    format!(" {}", RATE.cell(gain))
}

fn heading(of: Option<&Growth>) -> String {
    of.map_or_else(String::new, |_| format!(" {}", RATE.heading()))
}

fn rate_or_unchanged(rate: f64) -> String {
    match growth(rate) {
        nothing if nothing.is_empty() => "unchanged".to_owned(),
        rate => rate,
    }
}

fn native(text: &mut Text, census: &Census, growth: Option<&Growth>, detail: &Detail) {
    if census.native.is_empty() {
        return;
    }
    let titles = headings(&NativeRow::COLUMNS, " ");
    let up_to = NativeRow::UP_TO.heading("");
    text.line(&format!(
        "  {titles} {up_to}{} {} native blocks, by allocator",
        heading(growth),
        BAR.heading()
    ));
    let rate = |row: &NativeRow| growth.map(|of| of.of_native(row.allocator, row.class).bytes);
    let mut rows: Vec<&NativeRow> = census.native.iter().collect();
    if let Some(growth) = growth {
        let rate = |row: &NativeRow| growth.of_native(row.allocator, row.class).bytes;
        rows.sort_by_key(|row| Reverse(growth.rank(rate(row))));
    }
    for row in rows.into_iter().take(detail.classes) {
        text.line(&format!(
            "  {} {}{} {} {}",
            cells(&NativeRow::COLUMNS, row, " "),
            NativeRow::UP_TO.cell(row),
            gained(rate(row)),
            BAR.cell(&bar(row.native.bytes, census.live.bytes, BAR.width)),
            row.allocator.name()
        ));
    }
}

fn holders(text: &mut Text, report: &FragReport, census: &Census, detail: &Detail) {
    let growth = report.growth.as_ref();
    let gain = sentences::gains_of_holders(report);
    text.title("TOP HOLDERS");
    if let Some(unsteadiness) = sentences::unsteadiness(census) {
        text.paragraph("  ", &unsteadiness);
    }
    let titles = Holder::HELD.heading("");
    let (rate, bars) = (heading(growth), BAR.heading());
    text.line(&format!("  {titles}{rate} {bars} name"));
    let mut shown = census.shown(growth);
    if let Some(growth) = growth {
        let rate = |at: usize| gain(at).map_or(0.0, HolderGain::bytes);
        shown.sort_by_key(|(at, _)| Reverse(growth.rank(rate(*at))));
    }
    let mut explained = 0;
    for (at, holder) in shown.into_iter().take(detail.holders) {
        let gained = gain(at).map_or_else(String::new, |gain| cell(&gain.text()));
        let row = format!(
            "  {}{} {} ",
            Holder::HELD.cell(holder),
            gained,
            BAR.cell(&bar(holder.retained_bytes, census.live.bytes, BAR.width))
        );
        text.line(&format!("{row}{}", sentences::names(holder)));
        let indent = " ".repeat(row.chars().count());
        let way = sentences::way(at, holder, growth);
        if !way.is_empty() {
            text.paragraph(&indent, &way);
        }
        if let Some(inner) = holder
            .inner_bytes
            .filter(|inner| *inner > 0 && *inner >= holder.held_bytes() / 10)
        {
            let inner = bytes(inner);
            text.paragraph(
                &indent,
                &format!("{inner} of it are in rows of names within it"),
            );
        }
        if let Some(sentence) = holder.if_freed().filter(|_| explained < TOP_FREED) {
            text.paragraph(&indent, &sentence);
            explained += 1;
        }
    }
    let unreached = match census.cycles.bytes.max(census.held_unseen.bytes) >= LEAST_UNREACHED {
        true => format!(
            " ({} in cycles, {} held from where nothing was read)",
            bytes(census.cycles.bytes),
            bytes(census.held_unseen.bytes)
        ),
        false => String::new(),
    };
    text.line(&format!(
        "  {} are held by names of the program, {} are reached from no known root{unreached}",
        bytes(census.held_by_names.bytes),
        bytes(census.unreached.bytes)
    ));
    for sentence in sentences::below_holders(census) {
        text.paragraph("  ", &sentence);
    }
}

//! Python objects: who holds them, and their types.

use std::cmp::Reverse;

use maud::{Markup, html};
use profiler_core::objects::{Census, Growth, Holder, HolderGain, NativeRow, TypeRow};
use profiler_core::report::FragReport;
use profiler_core::text::visible;
use profiler_core::units::{bytes, growth, percent};

use super::Section;
use super::table::{Row, rest, table};
use crate::export::sentences;

/// Rows of a table at most.
const ROWS: usize = 40;
/// A type or holder has a row if it has at least this share of the live bytes, or grows.
const LEAST_SHARE: f64 = 0.001;
/// The number of holders for which the effect of freeing them is shown.
const TOP_FREED: usize = 8;

/// The objects; `None` if they were not read.
pub(super) fn section(report: &FragReport) -> Option<Section> {
    let census = report.objects.as_deref()?;
    let growth = report.growth.as_ref();
    let body = html! {
        p {
            (bytes(census.typed_bytes())) " of " (bytes(census.live.bytes)) " in live blocks named ("
            (percent(census.typed_bytes(), census.live.bytes)) "). "
            (bytes(census.held_by_names.bytes)) " are held by names of the program."
            @if let Some(age) = report.objects_age() {
                " All this is " (age) " the walk."
            }
        }
        @if let Some(unsteadiness) = sentences::unsteadiness(census) {
            p { (unsteadiness) }
        }
        (holders(report, census))
        @for sentence in sentences::below_holders(census) {
            p { (visible(&sentence)) }
        }
        (types(census, growth))
        (native(census))
        @for sentence in sentences::of_census(census) {
            p.quiet { (visible(&sentence)) }
        }
    };
    Some(Section {
        id: "objects",
        title: "Python's objects",
        body,
    })
}

/// The rate at which something grows or shrinks, if known and not zero.
fn grows(rate: Option<f64>) -> Option<String> {
    Some(growth(rate?)).filter(|rate| !rate.is_empty())
}

fn holders(report: &FragReport, census: &Census) -> Markup {
    let growth = report.growth.as_ref();
    let gain = sentences::gains_of_holders(report);
    let rate = |at: usize| gain(at).map(HolderGain::bytes);
    let mut shown = census.shown(growth);
    if let Some(growth) = growth {
        shown.sort_by_key(|(at, _)| Reverse(growth.rank(rate(*at).unwrap_or(0.0))));
    }
    let all = shown.len();
    let is_worth_a_row =
        |(at, holder): &(usize, &Holder)| is_worth_a_row(census, holder.held_bytes(), rate(*at));
    let rows: Vec<_> = shown
        .into_iter()
        .filter(is_worth_a_row)
        .take(ROWS)
        .enumerate()
        .map(|(number, (at, holder))| {
            let name = visible(sentences::names(holder)).to_string();
            let mut row = Row::new(name, holder.retained_bytes, census.live.bytes, holder);
            let way = Some(sentences::way(at, holder, growth)).filter(|way| !way.is_empty());
            let freed = holder.if_freed().filter(|_| number < TOP_FREED);
            let gained = gain(at).map(HolderGain::text);
            let gained = gained.filter(|text| !text.is_empty());
            let below = [gained, way, freed];
            let below = below.into_iter().flatten();
            row.below = below.map(|line| visible(line).to_string()).collect();
            row
        })
        .collect();
    html! {
        h3 { "Who holds them" }
        (table("name", &[&Holder::HELD], &rows))
        (rest(all, rows.len(), "names"))
    }
}

fn is_worth_a_row(census: &Census, bytes: u64, rate: Option<f64>) -> bool {
    bytes as f64 >= census.live.bytes as f64 * LEAST_SHARE || rate.is_some_and(|rate| rate > 0.0)
}

fn types(census: &Census, growth: Option<&Growth>) -> Markup {
    let rate = |row: &TypeRow| Some(growth?.of_type(&row.name).bytes);
    let mut shown: Vec<&TypeRow> = census.types.iter().collect();
    if let Some(growth) = growth {
        shown.sort_by_key(|row| Reverse(growth.rank(rate(row).unwrap_or(0.0))));
    }
    let sum = |row: &TypeRow| row.objects.bytes.saturating_add(row.storage.bytes);
    let rows: Vec<_> = shown
        .iter()
        .filter(|row| is_worth_a_row(census, sum(row), rate(row)))
        .take(ROWS)
        .map(|row| {
            let sum = sum(row);
            let mut shown = Row::new(visible(&row.name).to_string(), sum, census.live.bytes, *row);
            shown.below.extend(grows(rate(row)));
            shown
        })
        .collect();
    let columns: Vec<_> = TypeRow::SHOWN.iter().collect();
    html! {
        h3 { "What they are" }
        (table("type", &columns, &rows))
        (rest(census.types.len(), rows.len(), "types"))
    }
}

fn native(census: &Census) -> Markup {
    let rows: Vec<_> = census
        .native
        .iter()
        .filter(|row| is_worth_a_row(census, row.native.bytes, None))
        .take(ROWS)
        .map(|row| {
            let size = bytes(row.class.upper_bytes());
            let name = format!("{}, up to {size}", row.allocator.name());
            Row::new(name, row.native.bytes, census.live.bytes, row)
        })
        .collect();
    let columns: Vec<_> = NativeRow::COLUMNS.iter().collect();
    html! {
        @if !rows.is_empty() {
            h3 { "Blocks that no object owns" }
            (table("size class", &columns, &rows))
            (rest(census.native.len(), rows.len(), "size classes"))
        }
    }
}

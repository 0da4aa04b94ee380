//! Call sites: the functions that requested memory during sampling, and their callers.

use maud::{Markup, html};
use profiler_core::sites::{Direction, Site, SiteFigures, SiteRow, Sites, StackStep};
use profiler_core::text::visible;
use profiler_core::units::{bytes, count, percent};
use profiler_core::view::View;

use super::Section;
use super::table::{Row, rest, table};
use crate::export::sentences;

/// Functions in the table at most.
const ROWS: usize = 20;
/// Callers named of each.
const CALLERS: usize = 3;
/// A function is drawn if it has at least this share of the total.
const LEAST_SHARE: f64 = 0.002;
/// Functions below one another in the picture at most; stacks are cut at about as many.
const MAX_DEPTH: usize = 128;

/// What a flame graph shows for each site.
struct Weight {
    title: &'static str,
    of: fn(&SiteFigures) -> f64,
}

const ALLOCATED: Weight = Weight {
    title: "Bytes allocated while sampled",
    of: |figures| figures.bytes.value,
};
const STAYS: Weight = Weight {
    title: "Of these, bytes that the last walk found live",
    of: |figures| figures.at_walk.bytes.value,
};
const GROWN: Weight = Weight {
    title: "Bytes that the process got from the kernel",
    of: |figures| figures.growth.grown.value,
};

/// The sites; `None` if nothing was sampled.
pub(super) fn section(view: &View) -> Option<Section> {
    let sites = view.sites.as_deref()?;
    if !sites.has_samples() {
        return None;
    }
    let walked = sites.walk.as_ref().map(|_| STAYS);
    let grown = sites.growth.as_ref().map(|_| GROWN);
    let threshold = sentences::mmap_threshold(sites, Sites::label);
    let sentences = sentences::what_stays(sites)
        .into_iter()
        .chain(threshold.map(|sentence| format!("{sentence}.")))
        .chain(sentences::growth(sites, Sites::label))
        .chain(
            sites
                .no_stacks
                .iter()
                .map(|why| format!("No stacks: {why}.")),
        )
        .chain(lost(sites));
    let body = html! {
        p {
            @if sites.samples > 0 {
                (bytes(sites.bytes().rounded())) " allocated by malloc while it was sampled, by "
                (count(sites.samples)) " samples, one in " (bytes(sites.mean_bytes))
                ". Figures are estimates, each with its error."
            } @else {
                "No allocation was sampled. What grew is estimated, each figure with its error."
            }
        }
        (functions(sites))
        @for weight in [Some(ALLOCATED), walked, grown].into_iter().flatten() {
            (picture(sites, &weight))
        }
        @for sentence in sentences {
            p.quiet { (visible(&sentence)) }
        }
    };
    Some(Section {
        id: "sites",
        title: "Call sites",
        body,
    })
}

fn lost(sites: &Sites) -> Option<String> {
    let lost = count(sites.samples_lost);
    (sites.samples_lost > 0)
        .then(|| format!("{lost} samples are missing: the ring buffer was full."))
}

/// The functions that asked for most.
fn functions(sites: &Sites) -> Markup {
    let sums = sites.by_innermost();
    let whole = sites.bytes().rounded();
    let rows: Vec<_> = sums
        .iter()
        .take(ROWS)
        .map(|sum| {
            let name = visible(&sites.label(sum.step)).to_string();
            let mut row = Row::new(name, sum.figures.bytes.rounded(), whole, sum);
            row.below.extend(callers(sites, sum.step));
            row
        })
        .collect();
    let columns: Vec<_> = SiteRow::SHOWN.iter().collect();
    html! {
        (table("function", &columns, &rows))
        (rest(sums.len(), rows.len(), "functions"))
    }
}

/// The callers of a function in the stack that requested most there.
fn callers(sites: &Sites, step: StackStep) -> Option<String> {
    let of_it = sites
        .sites
        .iter()
        .filter(|site| site.step(sites, Direction::Outwards, 0) == Some(step));
    let most = of_it.max_by(|a, b| a.figures.bytes.value.total_cmp(&b.figures.bytes.value))?;
    let steps = most.steps(sites, Direction::Outwards).skip(1).take(CALLERS);
    let callers: Vec<String> = steps.map(|step| sites.short_label(step)).collect();
    (!callers.is_empty()).then(|| visible(&format!("called by {}", callers.join(", "))).to_string())
}

/// Stacks from the outermost function at the top to the one that allocated; widths are shares of
/// the sum.
fn picture(sites: &Sites, weight: &Weight) -> Markup {
    let all: Vec<&Site> = sites.sites.iter().collect();
    let whole: f64 = all.iter().map(|site| (weight.of)(&site.figures)).sum();
    html! {
        @if whole >= 1.0 {
            h3 { (weight.title) ": " (bytes(whole.round() as u64)) }
            div.flame role="img" aria-label="Stacks; the same functions are in the table above" {
                (level(sites, weight, (whole, whole), 0, &all))
            }
        }
    }
}

/// The functions at one depth, each with its callees below it. `sums` are those of all sites and of
/// the function above.
fn level(
    sites: &Sites,
    weight: &Weight,
    (whole, above): (f64, f64),
    depth: usize,
    of: &[&Site],
) -> Markup {
    let mut rows = Vec::new();
    if depth < MAX_DEPTH {
        rows = sites.rows(Direction::Inwards, depth, of);
    }
    rows.retain(|row| (weight.of)(&row.figures) >= whole * LEAST_SHARE);
    rows.sort_by(|a, b| (weight.of)(&b.figures).total_cmp(&(weight.of)(&a.figures)));
    html! {
        @if !rows.is_empty() {
            div.level {
                @for row in &rows {
                    @let sum = (weight.of)(&row.figures);
                    @let within: Vec<&Site> = of.iter().copied()
                        .filter(|site| site.step(sites, Direction::Inwards, depth) == Some(row.step))
                        .collect();
                    div style=(format!("width:{:.3}%", 100.0 * (sum / above).min(1.0))) {
                        span title=(hover(sites, row.step, sum, whole)) { (name(sites, row.step)) }
                        (level(sites, weight, (whole, sum), depth + 1, &within))
                    }
                }
            }
        }
    }
}

/// A function's name alone, as there is little room.
fn name(sites: &Sites, step: StackStep) -> String {
    let name = match sites.function(step) {
        Some(frame) => frame.function.to_string(),
        None => sites.label(step),
    };
    visible(&name).to_string()
}

fn hover(sites: &Sites, step: StackStep, sum: f64, whole: f64) -> String {
    let (sum, whole) = (sum.round() as u64, whole.round() as u64);
    let label = sites.label(step);
    visible(&format!("{label}: {}, {}", bytes(sum), percent(sum, whole))).to_string()
}

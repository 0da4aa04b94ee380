//! Call sites of allocations in the report for people: a table by function.

use profiler_core::sites::{FunctionSum, Sites};
use profiler_core::units::{bytes, count, percent};

use super::Text;
use crate::export::sites::label;

/// Functions shown before the rest is only counted.
const TOP: usize = 12;

pub(super) fn sites(text: &mut Text, sites: &Sites) {
    if sites.samples == 0 {
        return;
    }
    let whole = sites.bytes();
    text.title(&format!(
        "CALL SITES of malloc: {} allocated while sampled, {} samples, one in {} bytes",
        bytes(whole.rounded()),
        count(sites.samples),
        count(sites.mean_bytes)
    ));
    text.line("   allocated  ± error  share  not freed  function");
    let sums = sites.by_innermost();
    for sum in sums.iter().take(TOP) {
        text.line(&row(sum, whole.rounded()));
    }
    if let Some(rest) = sums.len().checked_sub(TOP + 1) {
        text.line(&format!(
            "  and {} more (--json, -o FILE.speedscope.json)",
            rest + 1
        ));
    }
    if !sites.frees_complete {
        text.paragraph(
            "  ",
            "\"not freed\": no free was recorded of it; some of it was freed while the probes were not attached.",
        );
    }
    if sites.samples_lost > 0 {
        let lost = count(sites.samples_lost);
        text.paragraph(
            "  ",
            &format!("{lost} samples are missing: the ring buffer was full."),
        );
    }
    if let Some(why) = &sites.no_stacks {
        text.paragraph("  ", &format!("no stacks: {why}"));
    }
    text.blank();
}

fn row(sum: &FunctionSum<'_>, whole: u64) -> String {
    let name = sum
        .frame
        .map_or_else(|| "(no Python function)".to_owned(), label);
    format!(
        "  {:>10} {:>8} {:>6} {:>10}  {name}",
        bytes(sum.bytes.rounded()),
        bytes(sum.bytes.error().round() as u64),
        percent(sum.bytes.rounded(), whole),
        bytes(sum.live_bytes.rounded())
    )
}

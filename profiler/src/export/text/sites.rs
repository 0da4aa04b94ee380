//! Call sites of allocations in the report for people: a table by function.

use profiler_core::columns::{cells, headings};
use profiler_core::sites::{Frame, SiteRow, Sites};
use profiler_core::units::{bytes, count};

use super::Text;
use crate::export::sentences;

/// Functions shown before the rest is only counted.
const TOP: usize = 12;

pub(super) fn sites(text: &mut Text, sites: &Sites) {
    if !sites.has_samples() {
        return;
    }
    let whole = sites.bytes();
    text.title(&format!(
        "CALL SITES of malloc: {} allocated while sampled, {} samples, one in {} bytes",
        bytes(whole.rounded()),
        count(sites.samples),
        count(sites.mean_bytes)
    ));
    text.line(&format!("  {}  function", headings(&SiteRow::SHOWN, " ")));
    let sums = sites.by_innermost();
    for sum in sums.iter().take(TOP) {
        let figures = cells(&SiteRow::SHOWN, sum, " ");
        text.line(&format!("  {figures}  {}", sites.label(sum.step)));
    }
    if let Some(rest) = sums.len().checked_sub(TOP + 1) {
        text.line(&format!(
            "  and {} more (--json, -o FILE.speedscope.json)",
            rest + 1
        ));
    }
    let threshold = sentences::mmap_threshold(sites, Frame::label);
    let threshold = threshold.map(|sentence| format!("{sentence}."));
    let growth = sentences::growth(sites, Sites::label);
    let stays = sentences::what_stays(sites).into_iter();
    for sentence in stays.chain(threshold).chain(growth) {
        text.paragraph("  ", &sentence);
    }
    if sites.samples_lost > 0 {
        let lost = count(sites.samples_lost);
        text.paragraph(
            "  ",
            &format!("{lost} samples are missing: the ring buffer was full."),
        );
    }
    if let Some(why) = &sites.no_stacks {
        text.paragraph("  ", &format!("no functions of Python: {why}"));
    }
    if let Some(native) = sentences::native(sites) {
        text.paragraph("  ", &format!("{native}."));
    }
    text.blank();
}

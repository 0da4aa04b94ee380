//! Call sites of allocations in the report for people: a table by function.

use profiler_core::columns::{cells, headings};
use profiler_core::sites::{SiteRow, Sites};
use profiler_core::units::{bytes, count};

use super::Text;
use crate::export::names::cut;
use crate::export::sentences;
use crate::hints::Hint;

/// Functions shown before the rest is only counted.
const TOP: usize = 12;
/// The width, in columns, of a native function and of the Python function that called it, which is
/// on the next line.
const NARROW: usize = 80;

pub(super) fn sites(text: &mut Text, sites: &Sites) {
    if !sites.has_samples() {
        return;
    }
    let whole = sites.bytes();
    match sites.samples {
        0 => text.title("CALL SITES: no allocation was sampled; sites where memory grew"),
        samples => text.title(&format!(
            "CALL SITES of malloc: {} allocated while sampled, {} samples, one in {} bytes",
            bytes(whole.rounded()),
            count(samples),
            count(sites.mean_bytes)
        )),
    }
    text.line(&format!("  {}  function", headings(&SiteRow::SHOWN, " ")));
    let sums = sites.by_innermost();
    for sum in sums.iter().take(TOP) {
        let figures = cells(&SiteRow::SHOWN, sum, " ");
        let Some(from) = sites.called_from(sum.step) else {
            text.line(&format!("  {figures}  {}", sites.label(sum.step)));
            continue;
        };
        let function = sites.function(sum.step).map(|of| &of.function);
        let function = function.map_or("", |function| function);
        text.line(&cut(&format!("  {figures}  {function}"), NARROW));
        let from = format!("      called from {}", from.short_label());
        text.line(&cut(&from, NARROW));
    }
    if let Some(rest) = sums.len().checked_sub(TOP + 1) {
        text.line(&format!(
            "  and {} more ({})",
            rest + 1,
            Hint::AllSites.words()
        ));
    }
    let threshold = sentences::mmap_threshold(sites, Sites::label);
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

#[cfg(test)]
mod tests {
    use profiler_core::addr::RemoteAddr;
    use profiler_core::sites::{
        Allocation, Frame, GrowthKind, GrowthSampling, Language, NativeSampling, SiteTable,
        SitesWalk, StackEnd,
    };

    use super::*;

    /// Python's functions far down a path, called through a native one of a long name.
    fn stack(function: &str) -> Vec<Frame> {
        let library = "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0";
        let python = Frame {
            language: Language::Python,
            function: function.into(),
            file: "/srv/app/releases/current/jobs/a_module_of_a_long_name.py".into(),
            line: Some(210),
        };
        let native = Frame::native("_PyList_AppendTakeRefListResize".into(), library.into());
        vec![native, python]
    }

    fn report(sites: &Sites) -> String {
        let mut text = Text::default();
        super::sites(&mut text, sites);
        text.0
    }

    fn walked(looked_up: u64, sites: Sites) -> Sites {
        let walk = SitesWalk {
            looked_up,
            ..SitesWalk::default()
        };
        Sites {
            walk: Some(walk),
            growth: Some(GrowthSampling::default()),
            native: Some(NativeSampling::default()),
            ..sites
        }
    }

    #[test]
    fn a_native_function_has_the_python_function_that_called_it_below_it_in_80_columns() {
        let mut table = SiteTable::default();
        let allocation = |block| Allocation {
            block: RemoteAddr::new(block),
            bytes: 4096,
            mean_bytes: 1,
            ..Allocation::default()
        };
        table.sampled(allocation(1), stack("load"), StackEnd::Whole);
        table.sampled(allocation(2), stack("dump"), StackEnd::Whole);
        let text = report(&table.sites());
        let lines: Vec<&str> = text.lines().collect();
        let at = |name: &str| lines.iter().position(|line| line.contains(name));
        for name in ["load", "dump"] {
            let from = format!("called from {name} (jobs/a_module_of_a_long_name.py:210)");
            let below = at(&from).unwrap_or_else(|| panic!("{text}"));
            assert!(lines[below - 1].contains("_PyList_AppendTakeRef"), "{text}");
            for line in &lines[below - 1..=below] {
                assert!(line.chars().count() <= NARROW, "{line}");
            }
        }
    }

    #[test]
    fn of_no_samples_nothing_is_said_that_would_need_some() {
        let mut table = SiteTable::default();
        table.grew(
            GrowthKind::Grown,
            1 << 20,
            4096,
            stack("load"),
            StackEnd::Whole,
        );
        let text = report(&walked(0, table.sites()));
        assert!(text.contains("no allocation was sampled"), "{text}");
        for wrong in [
            "0 samples",
            "of 0 ",
            "found 0",
            "one in",
            "functions of 0",
            "unfreed:",
        ] {
            assert!(!text.contains(wrong), "{wrong}: {text}");
        }
        let allocation = Allocation {
            block: RemoteAddr::new(1),
            bytes: 4096,
            mean_bytes: 1,
            ..Allocation::default()
        };
        table.sampled(allocation, stack("load"), StackEnd::Whole);
        table.gone(RemoteAddr::new(1), 1);
        let text = report(&walked(0, table.sites()));
        assert!(text.contains("had nothing to look up"), "{text}");
        assert!(!text.contains("of 0 "), "{text}");
        let text = report(&walked(1, table.sites()));
        assert!(text.contains("of 1 sampled blocks"), "{text}");
    }
}

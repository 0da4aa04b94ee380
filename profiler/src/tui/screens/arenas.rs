//! Arenas of each heap, settings in force, and the walk compared with the allocator's own account.

use profiler_core::columns::{TextColumn, cells, headings};
use profiler_core::report::{ArenaReport, Setting};
use profiler_core::units::{bytes, count};
use profiler_core::view::View;
use ratatui::text::{Line, Span};

use super::wrapped;
use crate::export::sentences;
use crate::tui::app::App;

const ARENA: TextColumn = TextColumn::left("arena", 10);

/// The screen's lines.
pub(in crate::tui) fn lines(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    let theme = app.theme;
    let mut lines = Vec::new();
    for heap in &view.report.heaps {
        lines.push(Line::from(vec![
            Span::styled(heap.title(), theme.title()),
            Span::raw("  "),
            Span::styled(
                heap.confidence.heap_state(),
                theme.confidence(heap.confidence),
            ),
            Span::raw(format!(
                "  {} large mapped: {}, resident {}",
                count(heap.mapped_large_blocks),
                bytes(heap.mapped_large_bytes),
                bytes(heap.mapped_large_resident_bytes)
            )),
        ]));
        let titles = headings(&ArenaReport::SHOWN, "");
        let heading = ARENA.heading() + &titles;
        lines.push(Line::styled(heading, theme.quiet()));
        for of in &heap.arenas {
            let arena = format!("{} {}", of.arena.kind.name(), of.arena.id);
            let figures = cells(&ArenaReport::SHOWN, of, "");
            lines.push(Line::raw(ARENA.cell(&arena) + &figures));
        }
        let (hold, broken): (Vec<_>, Vec<_>) = heap.checks.iter().partition(|c| c.holds());
        lines.push(Line::raw(format!(
            "{} of {} checks against the allocator's own counters hold",
            hold.len(),
            heap.checks.len()
        )));
        for check in broken {
            let text = format!(
                "  {}: {} by its counters, {} by the walk",
                check.name, check.expected, check.found
            );
            lines.push(Line::styled(text, theme.bad()));
        }
        for (title, are_counters) in [("settings in effect", false), ("counted", true)] {
            let listed = heap.settings.iter();
            let listed = listed.filter(|listed| listed.is_counter == are_counters);
            let listed: Vec<_> = listed.map(Setting::text).collect();
            if !listed.is_empty() {
                let text = format!("{title}: {}", listed.join("  "));
                lines.extend(wrapped(&text, width, theme.quiet()));
            }
        }
        if let Some(unknown) = sentences::unknown_requests(heap) {
            lines.extend(wrapped(&unknown, width, theme.warn()));
        }
        for requested in heap.requested.iter().flatten() {
            let (word, style) = match requested.in_force {
                Some(true) => ("in effect", theme.quiet()),
                Some(false) => ("NOT in effect", theme.warn()),
                None => ("not known to be in effect", theme.quiet()),
            };
            let text = format!("{} is {word}: {}", requested.request, requested.note);
            lines.extend(wrapped(&text, width, style));
        }
        lines.push(Line::default());
    }
    if lines.is_empty() {
        lines.push(Line::raw("No heap was walked:"));
    }
    for defect in &view.report.completeness.defects {
        lines.extend(wrapped(&defect.what, width, theme.warn()));
    }
    let more = sentences::file_limit(&view.report.completeness);
    lines.extend(
        more.into_iter()
            .flat_map(|more| wrapped(more, width, theme.warn())),
    );
    lines
}

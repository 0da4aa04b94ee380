//! Help: keys, and what each number means.

use profiler_core::columns::TextColumn;
use profiler_core::metrics::MetricId;
use profiler_core::report::LedgerClass;
use profiler_core::sites::SiteRow;
use profiler_core::view::View;
use ratatui::text::Line;

use super::wrapped;
use crate::hints::Hint;
use crate::tui::app::App;

/// A key, or another explained item.
const NAME: TextColumn = TextColumn::left("", 24);

/// The keys of every session.
const KEYS: [(&str, &str); 8] = [
    ("1 to 8, Tab, Shift-Tab", "choose a screen"),
    (
        "↑ ↓ PgUp PgDn Home End",
        "scroll; on Pages with ← → move over the map",
    ),
    ("+ - 0", "on Pages: zoom in, out, fit the whole heap"),
    (
        "t",
        "on Pages: count aligned ranges of 2 MiB by their live share, and back to pages",
    ),
    (
        "s S",
        "on Sizes, Objects and Sites: sort by the next column, reverse",
    ),
    (
        "t, ↑ ↓, Enter",
        "on Objects: holders, types or native blocks; choose a row; open it to see the way to what it holds",
    ),
    (
        "t, ↑ ↓, Enter",
        "on Sites: functions and who calls them, or stacks from outside; choose a row; open or close it",
    ),
    (
        "/",
        "on Objects and Sites: only rows with this text in their name; Enter keeps it, Esc clears it",
    ),
];

const HELP: (&str, &str) = ("?, h, F1", "this help; Esc leaves it");
const INTERRUPT: (&str, &str) = ("Ctrl-C", "quit as q does, but with exit code 130");

/// The keys of a live session.
const LIVE_KEYS: [(&str, &str); 7] = [
    ("p, space", "pause or resume walks; rates and RSS continue"),
    ("w", "walk now, without waiting for the next planned walk"),
    (
        "o",
        "read Python's objects now, without waiting for the budget to allow it",
    ),
    ("e", "export: the -o files, else JSON, CSV and hlog here"),
    HELP,
    ("q, F10", "quit; the -o files are written"),
    INTERRUPT,
];

/// The keys of a saved session.
const SAVED_KEYS: [(&str, &str); 7] = [
    ("[ ]", "previous walk, next walk"),
    ("{ }", "first walk, last walk"),
    (
        "← → Home End",
        "the same; on Pages they move over the map, and in this help they scroll",
    ),
    ("e", "export this walk: JSON, CSV and hlog here"),
    HELP,
    ("q, F10", "quit"),
    INTERRUPT,
];

const WORDS: [(&str, &str); 9] = [
    (
        "walked",
        "how long ago the heap was walked; the walk and the page residency shown are of that moment",
    ),
    (
        "stopped",
        "how long all threads of the target were stopped for that walk",
    ),
    (
        "heap verified",
        "the walk equals the allocator's own counters in every check; partly verified: in part of \
         them; not verified: a check failed or none was possible",
    ),
    (
        "unreadable",
        "bytes of the heap that are in swap, or were unmapped while they were read",
    ),
    (
        "events lost",
        "allocation events that the ring buffer had no room for",
    ),
    ("probe cost", Hint::ProbeCost.words()),
    (
        "live",
        "blocks that the program allocated and did not free, at their usable size: a walk does not \
         know the size that was requested",
    ),
    (
        "lifetimes",
        "from allocation to free, of blocks that were allocated and freed while the probes were \
         active; longer ones are not known",
    ),
    (
        "firing, silent, failed",
        "a probe that was hit, one that was not hit yet, one that could not be attached",
    ),
];

/// The screen's lines.
pub(in crate::tui) fn lines(app: &App, view: &View, width: u16) -> Vec<Line<'static>> {
    let theme = app.theme;
    let mut lines = Vec::new();
    if !view.notices.is_empty() {
        lines.push(Line::styled("Notices", theme.title()));
        for notice in &view.notices {
            lines.extend(wrapped(notice, width, theme.warn()));
        }
        lines.push(Line::default());
    }
    lines.push(Line::styled("Keys", theme.title()));
    let entry = |lines: &mut Vec<Line<'static>>, name: &str, text: &str| {
        let name = NAME.cell(name) + " ";
        let text = format!("{name}{text}");
        let indent = " ".repeat(NAME.width + 1);
        let options = textwrap::Options::new(usize::from(width.max(40))).subsequent_indent(&indent);
        let wrapped = textwrap::wrap(&text, options);
        lines.extend(wrapped.into_iter().map(|line| Line::raw(line.into_owned())));
    };
    let own = match app.saved {
        None => LIVE_KEYS.as_slice(),
        Some(_) => SAVED_KEYS.as_slice(),
    };
    for (key, text) in KEYS.iter().chain(own) {
        entry(&mut lines, key, text);
    }
    for (title, words) in [("Words", WORDS.as_slice())] {
        lines.push(Line::default());
        lines.push(Line::styled(title, theme.title()));
        for (word, text) in words {
            entry(&mut lines, word, text);
        }
    }
    lines.push(Line::default());
    lines.push(Line::styled("Call sites", theme.title()));
    for column in &SiteRow::SHOWN {
        entry(&mut lines, column.title, column.help);
    }
    lines.push(Line::default());
    lines.push(Line::styled(
        "The ledger: every resident byte in one class",
        theme.title(),
    ));
    for class in LedgerClass::ALL {
        entry(&mut lines, class.name(), class.help());
    }
    lines.push(Line::default());
    lines.push(Line::styled("Metrics", theme.title()));
    for id in MetricId::ALL {
        let text = format!("{} ({})", id.help(), id.key());
        entry(&mut lines, id.label(), &text);
    }
    lines.push(Line::default());
    lines.extend(wrapped(
        "docs/metrics.md has the formulas.",
        width,
        theme.quiet(),
    ));
    lines
}

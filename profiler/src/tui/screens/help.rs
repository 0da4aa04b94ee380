//! Help: keys, and what each number means.

use profiler_core::metrics::MetricId;
use profiler_core::report::LedgerClass;
use profiler_core::view::View;
use ratatui::text::Line;

use super::wrapped;
use crate::tui::app::App;

/// The keys of every session.
const KEYS: [(&str, &str); 5] = [
    ("1 to 7, Tab, Shift-Tab", "choose a screen"),
    (
        "↑ ↓ PgUp PgDn Home End",
        "scroll; on Pages with ← → move over the map",
    ),
    ("+ - 0", "on Pages: zoom in, out, fit the whole heap"),
    (
        "t",
        "on Pages: count aligned ranges of 2 MiB by their live share, and back to pages",
    ),
    ("s S", "on Sizes: sort by the next column, reverse"),
];

const HELP: (&str, &str) = ("?, h, F1", "this help; Esc leaves it");
const INTERRUPT: (&str, &str) = ("Ctrl-C", "quit likewise, with exit code 130");

/// Those of a live one.
const LIVE_KEYS: [(&str, &str); 6] = [
    ("p, space", "pause: no more walks; rates and RSS go on"),
    ("w", "walk now, whatever the schedule"),
    ("e", "export: the -o files, or JSON, CSV and hlog here"),
    HELP,
    ("q, F10", "quit; the -o files are written"),
    INTERRUPT,
];

/// Those of a saved one.
const SAVED_KEYS: [(&str, &str); 7] = [
    ("[ ]", "the walk before, the walk after"),
    ("{ }", "the first walk, the last"),
    (
        "← → Home End",
        "the same, but on Pages and here, where they move over what is shown",
    ),
    ("e", "export this walk: JSON, CSV and hlog here"),
    HELP,
    ("q, F10", "quit"),
    INTERRUPT,
];

const WORDS: [(&str, &str); 9] = [
    (
        "sample",
        "one walk of the heap with the residency of the same moment; its age is in the header",
    ),
    (
        "stopped",
        "how long all threads of the target stood still for the last sample",
    ),
    (
        "layout",
        "how sure it is that the allocator was read right: high when the walk equals the \
         allocator's own account",
    ),
    (
        "unreadable",
        "bytes of the heap that are in swap, or went away while reading",
    ),
    (
        "lost",
        "allocation events that the ring buffer had no room for",
    ),
    (
        "probes",
        "share of one core's time that the traps took over the last interval, and the share \
         allowed (--budget, less what stops may take)",
    ),
    (
        "live",
        "blocks in the program's hands; what it asked for within them is not known to a walk",
    ),
    (
        "lifetimes",
        "from allocation to free, of blocks that were allocated and freed while the probes were \
         armed; longer ones cannot be seen",
    ),
    (
        "firing, silent, failed",
        "a probe that was hit, that no call has hit yet, that is not there",
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
        let text = format!("{name:<24} {text}");
        let options = textwrap::Options::new(usize::from(width.max(40)))
            .subsequent_indent("                         ");
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
        let text = format!("{}: {}", id.label(), id.help());
        entry(&mut lines, id.key(), &text);
    }
    lines.push(Line::default());
    lines.extend(wrapped(
        "docs/metrics.md has the formulas.",
        width,
        theme.quiet(),
    ));
    lines
}

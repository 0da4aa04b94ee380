//! One frame of all processes. Changes nothing.

use std::collections::BTreeSet;

use profiler_core::columns::TextColumn;
use profiler_core::host::{
    COLUMNS, GROWTH, HostView, ProcessColumn, ProcessRow, TableOf, Totals, TreeView, VERDICT,
    command, fitting,
};
use profiler_core::text::visible;
use profiler_core::units::{bytes, percent};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::app::App;
use crate::hints::Hint;
use crate::tui::draw::{clean, too_small};
use crate::tui::header::fitted;
use crate::tui::screens::wrapped;

/// Lines above the table: sums, cost, headings; and below it: two lines of details, the notice, the
/// keys.
const ABOVE: u16 = 3;
const BELOW: u16 = 4;

/// Lines of a tree's verdict above its table.
const VERDICT_LINES: u16 = 6;

/// Lines that the table has.
pub(super) fn room(app: &App) -> usize {
    let verdict = if app.tree_of.is_some() {
        VERDICT_LINES
    } else {
        0
    };
    usize::from(app.size.1.saturating_sub(ABOVE + BELOW + verdict))
}

/// The verdict on a tree, in as many lines as fit.
fn verdict(app: &App, view: &HostView, width: u16) -> Vec<Line<'static>> {
    let Some(master) = app.tree_of else {
        return Vec::new();
    };
    let tree = TreeView {
        master,
        processes: view.clone(),
        objects: None,
    };
    let text = tree.verdict().join(" ");
    let mut lines = wrapped(&visible(&text).to_string(), width, app.theme.title());
    let room = usize::from(VERDICT_LINES);
    if lines.len() > room {
        lines.truncate(room - 1);
        let rest = format!("… ({})", Hint::AllOfVerdict.words());
        lines.push(Line::styled(rest, app.theme.quiet()));
    }
    lines.resize(room, Line::default());
    lines
}

/// Draws the app.
pub(super) fn draw(app: &App, frame: &mut Frame) {
    if !too_small(frame) {
        let area = frame.area();
        let mut lines = match app.help {
            true => help(app, area.width),
            false => table(app, area.width),
        };
        let room = usize::from(area.height.saturating_sub(BELOW));
        lines.truncate(room);
        lines.resize(room, Line::default());
        lines.extend(details(app, area.width));
        lines.extend([notice(app, area.width), keys(app)]);
        frame.render_widget(Paragraph::new(lines), Rect { ..area });
    }
    clean(frame);
}

fn table(app: &App, width: u16) -> Vec<Line<'static>> {
    let Some(view) = &app.view else {
        return vec![Line::raw("Looking for Python processes…")];
    };
    let is_python = view.rows.iter().all(|row| row.process.python.is_some());
    let totals = Totals::of(view.rows.iter());
    let what = if is_python { "Python " } else { "" };
    let of = match app.tree_of {
        Some(_) => TableOf::Tree,
        None => TableOf::Host,
    };
    let columns = fitting(usize::from(width), of);
    // Why rows have no figures comes before the cost, for which there may be no space.
    let costs = view.waiting().into_iter().chain(view.cost.phrases());
    let costs: Vec<String> = costs.collect();
    let costs = fitted(&costs.join(" │ "), usize::from(width));
    let mut lines = vec![
        Line::styled(totals.phrases(what).join(" │ "), app.theme.strong()),
        Line::styled(costs, app.theme.quiet()),
    ];
    lines.extend(verdict(app, view, width));
    lines.push(headings(app, &columns));
    let shown = app.lines.iter().enumerate().skip(app.first).take(room(app));
    lines.extend(shown.map(|(at, line)| {
        let row = &view.rows[line.row];
        let fold = match line.is_folded {
            true => format!("[+{}] ", line.descendants),
            false => String::new(),
        };
        let name = format!("{}{fold}{}", line.guide, command(&row.process));
        let chosen = (at == app.at).then(|| app.theme.chosen());
        let mut spans: Vec<_> = columns
            .iter()
            .map(|column| {
                let style = chosen.unwrap_or_else(|| style(app, column, row));
                Span::styled(format!("{} ", column.cell(row)), style)
            })
            .collect();
        spans.push(Span::styled(name, chosen.unwrap_or_default()));
        Line::from(spans)
    }));
    if view.rows.is_empty() {
        let others = Hint::OtherProcesses.words();
        lines.push(Line::raw(format!("No Python process was found; {others}")));
    } else if app.lines.is_empty() {
        lines.push(Line::raw(
            "No process has the text of the filter; Esc clears it.",
        ));
    }
    lines
}

/// The titles; the sort column stands out.
fn headings(app: &App, columns: &[&ProcessColumn]) -> Line<'static> {
    let sorted = &COLUMNS[app.arrangement.sort];
    let title = |column: &&ProcessColumn| {
        let style = match column.key == sorted.key {
            true => app.theme.chosen(),
            false => app.theme.title(),
        };
        [Span::styled(column.heading(""), style), Span::raw(" ")]
    };
    let titles = columns.iter().flat_map(title);
    titles
        .chain([Span::styled("COMMAND", app.theme.title())])
        .collect()
}

fn style(app: &App, column: &ProcessColumn, row: &ProcessRow) -> Style {
    let fragmented = row
        .walk
        .as_ref()
        .is_some_and(|walk| walk.verdict.is_fragmentation());
    let is = |of: &[ProcessColumn]| of.iter().any(|of| of.key == column.key);
    if fragmented && is(&[VERDICT]) {
        app.theme.warn()
    } else if row.is_growing && is(&[GROWTH, VERDICT]) {
        app.theme.bad()
    } else if column.datum(row).is_none() {
        app.theme.quiet()
    } else {
        Style::default()
    }
}

/// What the columns have no space for, for the selected process.
fn details(app: &App, width: u16) -> [Line<'static>; 2] {
    let Some(row) = app.row().filter(|_| !app.help) else {
        return [Line::default(), Line::default()];
    };
    let mut phrases = vec![format!("{}", row.process.id.pid)];
    phrases.extend(
        row.process
            .python
            .as_ref()
            .map(|python| visible(python).to_string()),
    );
    if let Some(walk) = &row.walk {
        phrases.extend(
            walk.malloc
                .as_ref()
                .map(|malloc| visible(&malloc.to_string()).to_string()),
        );
        if let Some(free) = walk.fragmentation_bytes {
            phrases.push(format!("fragmentation {}", bytes(free)));
        }
        phrases.push(walk.confidence.heap_state().to_owned());
    }
    match &row.not_walked {
        Some(why) => phrases.push(format!("not walked: {}", visible(why))),
        None if row.walk.is_none() => phrases.push("not walked yet".into()),
        None => {}
    }
    if let Some(group) = &row.process.group {
        let limit = match (group.current_bytes, group.max_bytes) {
            (Some(current), Some(max)) => {
                format!(" {} of {}", percent(current, max), bytes(max))
            }
            (Some(current), None) => format!(" {}", bytes(current)),
            (None, _) => String::new(),
        };
        phrases.push(format!("{}{limit}", visible(&group.path)));
    }
    let whole = tree(app).unwrap_or_else(|| command(&row.process));
    [phrases.join(" │ "), whole]
        .map(|text| Line::styled(fitted(&text, usize::from(width)), app.theme.quiet()))
}

/// The sums of the chosen tree.
fn tree(app: &App) -> Option<String> {
    let line = app.lines.get(app.at).filter(|line| line.descendants > 0)?;
    let mut pids = BTreeSet::from([app.row()?.process.id.pid]);
    let mut all = Vec::new();
    // By parents, if there are any: a folded tree has no lines.
    let mut rows: Vec<&ProcessRow> = app.rows().iter().collect();
    while all.len() < line.descendants {
        let before = pids.len();
        let (children, rest): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|row| pids.contains(&row.process.parent));
        rows = rest;
        pids.extend(children.iter().map(|row| row.process.id.pid));
        all.extend(children);
        if pids.len() == before {
            break;
        }
    }
    let totals = Totals::of(all.into_iter().chain(app.row()));
    Some(format!("tree: {}", totals.phrases("").join(", ")))
}

fn notice(app: &App, width: u16) -> Line<'static> {
    if app.is_typing || !app.arrangement.filter.is_empty() {
        let mark = if app.is_typing { "▏" } else { "" };
        let text = format!("filter: {}{mark}", app.arrangement.filter);
        return Line::styled(text, app.theme.title());
    }
    let first = app.view.as_ref().and_then(|view| view.notices.first());
    match app.note.as_ref().or(first) {
        Some(note) => {
            let text = fitted(&visible(note).to_string(), usize::from(width));
            Line::styled(text, app.theme.warn())
        }
        None => Line::default(),
    }
}

fn keys(app: &App) -> Line<'static> {
    let text = match (app.help, app.is_typing) {
        (true, _) => "Esc back",
        (_, true) => "Enter keep  Esc clear",
        _ => "q quit  ? help  Enter attach  w walk  Space fold  t tree  s sort  / filter",
    };
    Line::styled(text, app.theme.quiet())
}

const KEYS: [(&str, &str); 9] = [
    ("↑ ↓ PgUp PgDn Home End", "choose a process"),
    ("Enter", "attach to it; q there comes back"),
    ("w", "walk its heap now, whatever the budget"),
    ("Space, + -, ← →", "fold its children away, and back"),
    ("t, F5", "as a tree, or as a list"),
    ("s, > <, F6", "sort by the next column, or the one before"),
    ("S, I", "the other way round"),
    (
        "/, F4",
        "only rows with this text; Enter keeps it, Esc clears it",
    ),
    ("q, F10, Ctrl-C", "quit"),
];

/// Of the help: a key, and the title of a column.
const KEY: TextColumn = TextColumn::left("", 24);
const TITLE: TextColumn = TextColumn::left("", 8);

fn help(app: &App, width: u16) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled("Keys", app.theme.title())];
    let entry =
        |(name, text): (&str, &str)| wrapped(&(KEY.cell(name) + text), width, Style::default());
    lines.extend(KEYS.into_iter().flat_map(entry));
    lines.push(Line::styled(
        "Columns (- is not known yet)",
        app.theme.title(),
    ));
    let columns = COLUMNS.iter().map(|column| (column.title, column.help));
    lines.extend(
        columns
            .flat_map(|(name, text)| wrapped(&(TITLE.cell(name) + text), width, Style::default())),
    );
    for notice in app.view.iter().flat_map(|view| &view.notices) {
        lines.extend(wrapped(
            &visible(notice).to_string(),
            width,
            app.theme.warn(),
        ));
    }
    lines
}

//! Call sites: which functions allocate, how much of it stays, and the stacks that lead there.

use std::cmp::Ordering;

use crossterm::event::KeyCode;
use profiler_core::columns::Column;
use profiler_core::sites::{self, Direction, Site, SiteFigures, SiteRow, Sites, StackStep};
use profiler_core::units::{bytes, count, nanoseconds};
use profiler_core::view::{ActivitySource, View};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::filter::Filter;
use super::{after, around, bar, wrapped};
use crate::export::sentences;
use crate::hints::Hint;
use crate::tui::app::App;
use crate::tui::header::fitted;

/// Rows that PgUp and PgDn move.
const PAGE_ROWS: usize = 10;
/// The most rows of an opened tree.
const MAX_ROWS: usize = 10_000;
/// Columns of each step into a tree, and of an opened row's details.
const INDENT: usize = 2;
/// From how many columns on there is room for bars, and how long these are.
const WIDE: usize = 110;
const BAR: usize = 16;

/// The figures of a row.
const COLUMNS: [Column<SiteRow>; 7] = SiteRow::SHOWN;
/// Sorted by name rather than by one of them.
const BY_NAME: usize = COLUMNS.len();

const DIRECTIONS: [Direction; 2] = [Direction::Outwards, Direction::Inwards];

/// The name of the rows from which stacks are opened.
const fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Outwards => "functions and their callers",
        Direction::Inwards => "stacks from outside",
    }
}

/// The user's choices.
#[derive(Clone, Debug)]
pub(in crate::tui) struct SitesView {
    direction: Direction,
    /// The column that rows are sorted by, or [`BY_NAME`].
    order: usize,
    reversed: bool,
    filter: Filter,
    /// The steps to the selected row; the first row if there are none.
    selected: Vec<StackStep>,
    /// The steps to the rows that are open.
    open: Vec<Vec<StackStep>>,
}

impl Default for SitesView {
    fn default() -> Self {
        Self {
            direction: Direction::Outwards,
            order: 0,
            reversed: false,
            filter: Filter::default(),
            selected: Vec::new(),
            open: Vec::new(),
        }
    }
}

impl SitesView {
    /// Whether all keys are letters of the filter.
    pub(in crate::tui) fn is_typing(&self) -> bool {
        self.filter.is_typing()
    }

    fn first(&mut self) {
        self.selected.clear();
        self.open.clear();
    }

    fn compare(&self, sites: &Sites, a: &SiteRow, b: &SiteRow) -> Ordering {
        let by_name = || sites.label(a.step).cmp(&sites.label(b.step));
        let value = |row: &SiteRow| {
            let value = COLUMNS.get(self.order).and_then(|column| column.value(row));
            value.map_or(0.0, |value| value.as_f64())
        };
        let order = match self.order {
            BY_NAME => by_name(),
            _ => value(b).total_cmp(&value(a)),
        };
        match self.reversed {
            true => order.reverse().then_with(by_name),
            false => order.then_with(by_name),
        }
    }

    /// Whether a stack matches: by its innermost function if stacks begin there, else by any.
    fn passes(&self, sites: &Sites, site: &Site) -> bool {
        let mut steps = site.steps(sites, Direction::Outwards);
        let passes = |step| self.filter.passes(&sites.label(step));
        match self.direction {
            Direction::Outwards => steps.next().is_none_or(passes),
            Direction::Inwards => steps.any(passes),
        }
    }

    /// Adds the rows below these steps in those sites, and below everything that is open there.
    fn below(&self, sites: &Sites, of: &[&Site], path: &[StackStep], rows: &mut Vec<Row>) {
        let (direction, depth) = (self.direction, path.len());
        let mut next = sites.rows(direction, depth, of);
        next.sort_by(|a, b| self.compare(sites, a, b));
        for row in next {
            if rows.len() >= MAX_ROWS {
                return;
            }
            let path: Vec<StackStep> = path.iter().copied().chain([row.step]).collect();
            let is_open = self.open.contains(&path);
            let goes_on = |site: &&&Site| site.step(sites, direction, depth) == Some(row.step);
            let inner: Vec<&Site> = match is_open {
                true => of.iter().filter(goes_on).copied().collect(),
                false => Vec::new(),
            };
            rows.push(Row {
                path: path.clone(),
                row,
                is_open,
            });
            self.below(sites, &inner, &path, rows);
        }
    }

    /// Opens a row, and the rows below as long as there is only one function; or closes it with
    /// everything below.
    fn open_or_close(&mut self, sites: &Sites, row: &Row) {
        self.selected.clone_from(&row.path);
        if row.is_open {
            self.open.retain(|path| !path.starts_with(&row.path));
            return;
        }
        let mut path = row.path.clone();
        loop {
            self.open.push(path.clone());
            let rows = rows(self, sites);
            let mut below = rows
                .iter()
                .filter(|row| row.path.len() == path.len() + 1 && row.path.starts_with(&path));
            match (below.next(), below.next()) {
                (Some(only), None) if only.row.leads_on => path.clone_from(&only.path),
                _ => return,
            }
        }
    }

    /// The place of the selected row.
    fn place(&self, rows: &[Row]) -> usize {
        let found = rows.iter().position(|row| row.path == self.selected);
        found.unwrap_or(0)
    }
}

/// A row of the tree.
struct Row {
    /// The steps to it, including itself as the last.
    path: Vec<StackStep>,
    row: SiteRow,
    is_open: bool,
}

fn rows(of: &SitesView, sites: &Sites) -> Vec<Row> {
    let passing: Vec<&Site> = (sites.sites.iter())
        .filter(|site| of.passes(sites, site))
        .collect();
    let mut rows = Vec::new();
    of.below(sites, &passing, &[], &mut rows);
    rows
}

/// Takes a key.
pub(in crate::tui) fn press(app: &mut App, code: KeyCode) {
    let sites = app.view.as_ref().and_then(|view| view.sites.clone());
    let rows = (sites.as_ref()).map_or_else(Vec::new, |sites| rows(&app.sites, sites));
    let of = &mut app.sites;
    if of.filter.is_typing() {
        if of.filter.type_in(code) {
            of.first();
        }
        return;
    }
    let last = rows.len().saturating_sub(1);
    let at = of.place(&rows);
    let to = match code {
        KeyCode::Down | KeyCode::Char('j') => at + 1,
        KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::PageDown => at + PAGE_ROWS,
        KeyCode::PageUp => at.saturating_sub(PAGE_ROWS),
        KeyCode::Home => 0,
        KeyCode::End => last,
        KeyCode::Enter => {
            if let (Some(sites), Some(row)) = (&sites, rows.get(at)) {
                of.open_or_close(sites, row);
            }
            return;
        }
        other => return choose(of, other),
    };
    of.selected = rows
        .into_iter()
        .nth(to.min(last))
        .map_or_else(Vec::new, |row| row.path);
}

/// Takes a key that changes which rows there are.
fn choose(of: &mut SitesView, code: KeyCode) {
    match code {
        KeyCode::Char('t') => {
            of.direction = after(&DIRECTIONS, of.direction);
            of.first();
        }
        KeyCode::Char('s') => {
            of.order = (of.order + 1) % (BY_NAME + 1);
            of.reversed = false;
            of.selected.clear();
        }
        KeyCode::Char('S') => of.reversed = !of.reversed,
        KeyCode::Char('/') => of.filter.begin(),
        KeyCode::Esc => {
            of.filter.clear();
            of.first();
        }
        _ => {}
    }
}

/// Draws the screen.
pub(in crate::tui) fn draw(app: &App, view: &View, frame: &mut Frame, area: Rect) {
    let title = |text: &str| wrapped(text, area.width, app.theme.title());
    let sampled = view.sites.as_deref().filter(|sites| sites.has_samples());
    let Some(sites) = sampled else {
        let why = nothing(app, view);
        frame.render_widget(Paragraph::new(title(&why)), area);
        return;
    };
    let mut lines = title(&state(sites));
    if let Some(why) = &sites.no_stacks {
        let text = format!("no functions of Python: {why}");
        lines.extend(wrapped(&text, area.width, app.theme.warn()));
    }
    if let Some(raised) = sentences::mmap_threshold(sites, Sites::short_label) {
        lines.extend(wrapped(&raised, area.width, app.theme.quiet()));
    }
    lines.push(choices(app));
    lines.push(heading(app));
    let room = usize::from(area.height).saturating_sub(lines.len());
    let rows = rows(&app.sites, sites);
    if rows.is_empty() {
        lines.push(Line::raw("none of that name"));
    }
    lines.extend(list(app, sites, &rows, area.width, room));
    frame.render_widget(Paragraph::new(lines), area);
}

/// Why there is nothing to show.
fn nothing(app: &App, view: &View) -> String {
    let Some(sites) = &view.sites else {
        return match (view.activity_source(), app.saved) {
            (ActivitySource::Recorded(_), _) => Hint::RecordsNoSites.words(),
            (ActivitySource::NotRequested, _) => {
                "Call sites come from probes, and none were requested."
            }
            (ActivitySource::Attaching, Some(_)) => {
                "No call sites were saved with this walk: no probes had been attached yet."
            }
            (ActivitySource::Attaching, None) => {
                "Call sites come from probes, which are being attached."
            }
            (ActivitySource::NoProbes, Some(_)) => {
                "No call sites were saved with this walk: no probes were attached."
            }
            (ActivitySource::NoProbes, None) => {
                "Call sites come from probes, and none are attached. What stands in the way is said \
                 below, and in the help (?)."
            }
            // Of a session that an older fragscope has saved.
            (ActivitySource::Sampled(_), _) => "No call sites were saved with this walk.",
        }
        .to_owned();
    };
    let mut why = format!(
        "No allocation was sampled in the {} that the probes were armed: {} were allocated by malloc. \
         What Python takes from its own arenas (up to 512 bytes) never reaches malloc.",
        nanoseconds(sites.armed_ns),
        bytes(sites.counted_bytes)
    );
    if sites.samples_lost > 0 {
        let lost = count(sites.samples_lost);
        why.push_str(&format!(
            " {lost} samples are lost: the ring buffer was full."
        ));
    }
    why
}

/// What the figures are based on.
fn state(sites: &Sites) -> String {
    let whole = sites.bytes();
    let armed = nanoseconds(sites.armed_ns);
    let mut parts = match sites.samples {
        0 => vec![format!("malloc: no allocation was sampled in {armed}")],
        samples => vec![
            format!(
                "malloc: {} ± {} in {armed}",
                bytes(whole.rounded()),
                bytes(whole.rounded_error())
            ),
            format!("{} samples", count(samples)),
        ],
    };
    if sites.samples_lost > 0 {
        parts.push(format!("{} lost", count(sites.samples_lost)));
    }
    parts.extend(match (&sites.walk, sites.frees_complete) {
        (None, _) => Some("live: not walked yet".to_owned()),
        (Some(_), false) => Some("live: upper bound".to_owned()),
        (Some(_), true) => None,
    });
    if let Some(native) = sentences::native(sites) {
        parts.push(native);
    }
    if let Some(growth) = &sites.growth {
        parts.push(format!(
            "grew {} in {}, gave back {}",
            bytes(growth.grown_bytes),
            nanoseconds(growth.watched_ns),
            bytes(growth.returned_bytes)
        ));
        if !growth.missing.is_empty() {
            parts.push(format!("not watched: {}", growth.missing.join("; ")));
        }
        parts.extend(sentences::growth_budget(growth).map(str::to_owned));
    }
    parts.join(" │ ")
}

/// The end from which stacks are opened, and the filter.
fn choices(app: &App) -> Line<'static> {
    let of = &app.sites;
    let names = DIRECTIONS.into_iter().map(|direction| {
        let style = match direction == of.direction {
            true => app.theme.chosen(),
            false => app.theme.quiet(),
        };
        Span::styled(format!(" {} ", name(direction)), style)
    });
    names.chain(of.filter.shown(app.theme)).collect()
}

fn heading(app: &App) -> Line<'static> {
    let of = &app.sites;
    let mark = |order| match (of.order == order, of.reversed) {
        (false, _) => "",
        (true, false) => "↓",
        (true, true) => "↑",
    };
    let figures = COLUMNS.iter().enumerate();
    let figures: String = figures
        .map(|(at, column)| format!(" {}", column.heading(mark(at))))
        .collect();
    let text = format!(" {figures}    function{}", mark(BY_NAME));
    Line::styled(text, app.theme.title())
}

/// The rows around the selected one.
fn list(app: &App, sites: &Sites, rows: &[Row], width: u16, room: usize) -> Vec<Line<'static>> {
    let selected = app.sites.place(rows);
    let mut lines = Vec::new();
    let mut of_selected = 0..0;
    for (at, row) in rows.iter().enumerate() {
        let first = lines.len();
        lines.push(line(app, sites, row, at == selected, usize::from(width)));
        if at == selected {
            if row.is_open {
                lines.extend(details(app, sites, row, width));
            }
            of_selected = first..lines.len();
        }
    }
    around(lines, of_selected, room)
}

fn line(app: &App, sites: &Sites, row: &Row, is_selected: bool, width: usize) -> Line<'static> {
    let style = match is_selected {
        true => app.theme.strong(),
        false => Style::new(),
    };
    let figures: String = COLUMNS
        .iter()
        .map(|column| format!(" {}", column.cell(&row.row)))
        .collect();
    let mut spans = vec![Span::styled(
        format!("{}{figures} ", if is_selected { '▸' } else { ' ' }),
        style,
    )];
    if width >= WIDE {
        let bytes = row.row.figures.bytes.rounded();
        let drawn = bar(bytes, row.row.whole_bytes as u64, BAR);
        spans.push(Span::styled(
            format!("{drawn:<BAR$} "),
            app.theme.fullness(1.0),
        ));
    }
    let used: usize = spans.iter().map(Span::width).sum();
    let room = width.saturating_sub(used);
    // However deep a stack is, half of the room is left for names.
    let indent = (INDENT * (row.path.len() - 1)).min(room / 2);
    let mark = match (row.row.leads_on, row.is_open) {
        (false, _) => ' ',
        (true, false) => '+',
        (true, true) => '-',
    };
    let name = name_within(sites, row.row.step, room.saturating_sub(indent + 2));
    let name = format!("{:indent$}{mark} {name}", "");
    spans.push(Span::styled(fitted(&name, room), style));
    Line::from(spans)
}

/// The name of a row. A native function and the Python function that called it each get a part of
/// the width; what one does not need goes to the other.
fn name_within(sites: &Sites, step: StackStep, room: usize) -> String {
    const BETWEEN: &str = " ← ";
    let functions = sites.function(step).zip(sites.called_from(step));
    let Some((function, from)) = functions else {
        return sites.short_label(step);
    };
    let room = room.saturating_sub(Span::raw(BETWEEN).width());
    let of_native = function.function.chars().count().min(room - room / 2);
    let from = caller_within(from, room - of_native);
    let of_from = from.chars().count();
    let function = fitted(&function.function, room.saturating_sub(of_from));
    format!("{function}{BETWEEN}{from}")
}

/// A Python function with its file or, if there is no space, only with its line, which
/// distinguishes two calls.
fn caller_within(from: &sites::Frame, room: usize) -> String {
    let whole = from.short_label();
    if whole.chars().count() <= room {
        return whole;
    }
    let line = from
        .line
        .map_or_else(String::new, |line| format!(":{line}"));
    let name = fitted(&from.function, room.saturating_sub(line.len()));
    fitted(&format!("{name}{line}"), room)
}

/// How memory grew at a row.
fn growth_of(figures: &SiteFigures) -> String {
    let of = &figures.growth;
    format!(
        "grew {} ± {}, gave back {}, touched {} of pages first",
        bytes(of.grown.rounded()),
        bytes(of.grown.rounded_error()),
        bytes(of.returned.rounded()),
        bytes(of.touched.rounded())
    )
}

/// The details of an open row.
fn details(app: &App, sites: &Sites, row: &Row, width: u16) -> Vec<Line<'static>> {
    let figures = &row.row.figures;
    let whole = sites.label(row.row.step);
    let calls = count(figures.allocations.rounded());
    let error = count(figures.allocations.rounded_error());
    let samples = count(figures.samples);
    let ages = row
        .row
        .is_known_of_walk()
        .then(|| sentences::ages(figures))
        .flatten();
    let said = [
        Some(whole),
        Some(format!("{calls} ± {error} allocations, {samples} samples")),
        ages.map(|ages| format!("age of what is live: {ages}")),
        row.row.is_growth_watched.then(|| growth_of(figures)),
    ];
    let inner = width.saturating_sub(2 * INDENT as u16);
    let lines = said.into_iter().flatten();
    lines
        .flat_map(|text| wrapped(&text, inner, app.theme.quiet()))
        .map(|line| {
            let indent = Span::raw(" ".repeat(2 * INDENT));
            let quiet = line
                .spans
                .into_iter()
                .map(|span| span.style(app.theme.quiet()));
            [indent].into_iter().chain(quiet).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use profiler_core::addr::RemoteAddr;
    use profiler_core::sites::{Allocation, Frame, Language, SiteTable, StackEnd};

    use super::*;

    #[test]
    fn a_native_function_and_its_caller_share_the_room_and_calls_are_told_apart_by_their_lines() {
        let native = Frame::native("_PyList_AppendTakeRefListResize".into(), "/lib/a.so".into());
        let python = Frame {
            language: Language::Python,
            function: "factorize_array".into(),
            file: "/srv/core/algorithms.py".into(),
            line: Some(773),
        };
        let mut table = SiteTable::default();
        let allocation = Allocation {
            block: RemoteAddr::new(1),
            bytes: 4096,
            mean_bytes: 1,
            ..Allocation::default()
        };
        table.sampled(allocation, vec![native, python], StackEnd::Whole);
        let sites = table.sites();
        let step = sites.by_innermost()[0].step;
        for room in 8..80 {
            let found = name_within(&sites, step, room);
            assert!(found.chars().count() <= room, "{room}: {found}");
        }
        let found = name_within(&sites, step, 24);
        assert!(
            found.starts_with("_PyList") && found.ends_with(":773"),
            "{found}"
        );
        let wide = name_within(&sites, step, 80);
        assert_eq!(
            wide,
            "_PyList_AppendTakeRefListResize ← factorize_array (core/algorithms.py:773)"
        );
    }
}

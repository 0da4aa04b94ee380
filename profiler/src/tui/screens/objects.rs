//! Python objects: who holds them, their types, and what grows.

use std::cmp::Ordering;

use crossterm::event::KeyCode;
use profiler_core::columns::TextColumn;
use profiler_core::objects::{Branch, Census, Growth, Holder, HolderGain, NativeRow, TypeRow};
use profiler_core::report::FragReport;
use profiler_core::units::{bytes, count, growth, nanoseconds, percent};
use profiler_core::view::{ObjectsState, View};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::filter::Filter;
use super::{after, around, bar, cut, wrapped};
use crate::export::sentences;
use crate::hints::Hint;
use crate::tui::app::App;

/// Rows that PgUp and PgDn move.
const PAGE_ROWS: usize = 10;
/// Columns of an opened row's indent.
const INDENT: usize = 4;
const GROWTH: TextColumn = TextColumn::right("growth", 13);
/// Between the figures and the bar or the name.
const GAP: &str = "  ";

/// The kind of the rows.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
enum Table {
    #[default]
    Holders,
    Types,
    Native,
}

impl Table {
    const ALL: [Self; 3] = [Self::Holders, Self::Types, Self::Native];

    const fn name(self) -> &'static str {
        match self {
            Self::Holders => "holders",
            Self::Types => "types",
            Self::Native => "native",
        }
    }

    /// The column of a row's bytes.
    const fn size(self) -> TextColumn {
        let title = match self {
            Self::Holders => "retained",
            Self::Types | Self::Native => "bytes",
        };
        TextColumn::right(title, 10)
    }

    /// The column of how many there are.
    const fn number(self) -> TextColumn {
        let title = match self {
            Self::Holders | Self::Native => "blocks",
            Self::Types => "objects",
        };
        TextColumn::right(title, 10)
    }

    /// The figures of a row, or their titles, after a mark of one column.
    fn figures(mark: char, [size, growth, number]: [String; 3]) -> String {
        format!("{mark} {size} {growth} {number}{GAP}")
    }
}

/// The sort key of the rows.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
enum Order {
    #[default]
    Bytes,
    Growth,
    Count,
    Name,
}

impl Order {
    const ALL: [Self; 4] = [Self::Bytes, Self::Growth, Self::Count, Self::Name];
}

/// The user's choices.
#[derive(Clone, Debug, Default)]
pub(in crate::tui) struct ObjectsView {
    table: Table,
    order: Order,
    reversed: bool,
    /// Rows without this text in their name are left out.
    filter: Filter,
    selected: usize,
    is_open: bool,
}

impl ObjectsView {
    /// Whether all keys are letters of the filter.
    pub(in crate::tui) fn is_typing(&self) -> bool {
        self.filter.is_typing()
    }

    /// Takes a key, of `rows` that there are.
    pub(in crate::tui) fn press(&mut self, code: KeyCode, rows: usize) {
        if self.filter.is_typing() {
            if self.filter.type_in(code) {
                self.selected = 0;
            }
            return;
        }
        let last = rows.saturating_sub(1);
        let at = self.selected.min(last);
        match code {
            KeyCode::Char('t') => {
                self.table = after(&Table::ALL, self.table);
                self.filter.clear();
                self.first();
            }
            KeyCode::Char('s') => {
                self.order = after(&Order::ALL, self.order);
                self.reversed = false;
                self.first();
            }
            KeyCode::Char('S') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.filter.begin(),
            KeyCode::Esc => {
                self.filter.clear();
                self.first();
            }
            KeyCode::Enter => self.is_open = !self.is_open,
            KeyCode::Down | KeyCode::Char('j') => self.selected = last.min(at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.selected = at.saturating_sub(1),
            KeyCode::PageDown => self.selected = last.min(at + PAGE_ROWS),
            KeyCode::PageUp => self.selected = at.saturating_sub(PAGE_ROWS),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            _ => {}
        }
    }

    fn first(&mut self) {
        self.selected = 0;
        self.is_open = false;
    }

    fn compare(&self, a: &Row, b: &Row) -> Ordering {
        let by_name = || a.name.cmp(&b.name);
        let order = match self.order {
            Order::Bytes => b.bytes.cmp(&a.bytes),
            Order::Growth => {
                let rate = |row: &Row| row.growth.map_or(0.0, HolderGain::bytes);
                rate(b).total_cmp(&rate(a))
            }
            Order::Count => b.count.cmp(&a.count),
            Order::Name => by_name(),
        };
        match self.reversed {
            true => order.reverse().then_with(by_name),
            false => order.then_with(by_name),
        }
    }
}

/// One row of a table.
struct Row {
    name: String,
    bytes: u64,
    growth: Option<HolderGain>,
    count: u64,
    /// Its details when it is opened.
    details: Vec<String>,
}

/// How many rows the table has that the user chose.
pub(in crate::tui) fn row_count(app: &App, view: &View) -> usize {
    rows(app, &view.report).len()
}

fn rows(app: &App, report: &FragReport) -> Vec<Row> {
    let Some(census) = &report.objects else {
        return Vec::new();
    };
    let of = &app.objects;
    let growth = report.growth.as_ref();
    let mut rows = match of.table {
        Table::Holders => holders(report, census),
        Table::Types => types(census, growth),
        Table::Native => native(census, growth),
    };
    rows.retain(|row| of.filter.passes(&row.name));
    rows.sort_by(|a, b| of.compare(a, b));
    rows
}

fn holders(report: &FragReport, census: &Census) -> Vec<Row> {
    let growth = report.growth.as_ref();
    let gain = sentences::gains_of_holders(report);
    let holders = census.holders.iter().enumerate();
    let row = |(at, holder): (usize, &Holder)| Row {
        name: match holder.shared_with.len() {
            0 => match holder.calls.count {
                1 => holder.name.clone(),
                calls => format!("{} (x{calls})", holder.name),
            },
            others => format!("{} (+{others})", holder.name),
        },
        bytes: holder.held_bytes(),
        growth: gain(at),
        count: holder.retained_blocks,
        details: holder_details(
            holder,
            growth.and_then(|growth| growth.branch_of(at, holder)),
        ),
    };
    holders.map(row).collect()
}

fn holder_details(holder: &Holder, growing: Option<&Branch>) -> Vec<String> {
    let mut details = vec![match holder.calls.text() {
        Some(calls) => format!("{}, {calls}", holder.name),
        None => holder.name.clone(),
    }];
    if !holder.shared_with.is_empty() {
        details.push(format!("shared with {}", holder.shared_with.join(", ")));
    }
    let steps = |steps: Vec<String>| steps.into_iter().map(|step| format!("→ {step}"));
    if let Some(branch) = growing {
        details.push("What grows:".to_owned());
        details.extend(steps(branch.steps()));
        details.push("What is largest:".to_owned());
    }
    details.extend(steps(holder.steps()));
    details.extend(holder.if_freed());
    details.push(format!(
        "Its blocks pin {} of free memory on their pages.",
        bytes(holder.pinned_free_bytes)
    ));
    details
}

fn types(census: &Census, growth: Option<&Growth>) -> Vec<Row> {
    let row = |row: &TypeRow| Row {
        name: row.name.clone(),
        bytes: row.objects.bytes.saturating_add(row.storage.bytes),
        growth: growth.map(|growth| HolderGain::Bytes(growth.of_type(&row.name).bytes)),
        count: row.objects.blocks,
        details: vec![
            row.name.clone(),
            format!(
                "{} in {} objects, {} of them tracked by the garbage collector; storage {} in {} blocks",
                bytes(row.objects.bytes),
                count(row.objects.blocks),
                count(row.tracked),
                bytes(row.storage.bytes),
                count(row.storage.blocks)
            ),
            format!(
                "They pin {} of free memory on their pages.",
                bytes(row.pinned_free_bytes)
            ),
        ],
    };
    census.types.iter().map(row).collect()
}

fn native(census: &Census, growth: Option<&Growth>) -> Vec<Row> {
    let row = |row: &NativeRow| {
        let rate = growth.map(|growth| growth.of_native(row.allocator, row.class));
        let more = rate.map_or_else(String::new, |rate| {
            format!("{:+.0} blocks a second", rate.blocks)
        });
        Row {
            name: format!(
                "up to {} in {}",
                bytes(row.class.upper_bytes()),
                row.allocator.name()
            ),
            bytes: row.native.bytes,
            growth: rate.map(|rate| HolderGain::Bytes(rate.bytes)),
            count: row.native.blocks,
            details: vec![format!("no object of Python's owns them; {more}")],
        }
    };
    census.native.iter().map(row).collect()
}

/// Draws the screen.
pub(in crate::tui) fn draw(app: &App, view: &View, frame: &mut Frame, area: Rect) {
    let report = &*view.report;
    let mut lines = vec![Line::styled(state(app, view), app.theme.title())];
    let Some(census) = &report.objects else {
        frame.render_widget(Paragraph::new(lines), area);
        return;
    };
    for caveat in (sentences::unsteadiness(census).into_iter()).chain(sentences::missing(census)) {
        lines.extend(wrapped(&caveat, area.width, app.theme.warn()));
    }
    lines.push(choices(app));
    lines.push(heading(app));
    let room = usize::from(area.height).saturating_sub(lines.len());
    let rows = rows(app, report);
    if rows.is_empty() {
        lines.push(Line::raw("none of that name"));
    }
    lines.extend(list(app, census, &rows, area.width, room));
    frame.render_widget(Paragraph::new(lines), area);
}

/// What the figures are based on, and the state of reading.
fn state(app: &App, view: &View) -> String {
    let report = &view.report;
    let mut parts = Vec::new();
    match &view.objects {
        ObjectsState::Reading { blocks, elapsed_ns } => parts.push(format!(
            "reading {} blocks, {:.0} s",
            count(*blocks),
            *elapsed_ns as f64 / 1e9
        )),
        ObjectsState::Failed(why) => parts.push(format!("not read: {why}")),
        ObjectsState::Off if report.objects.is_none() => parts.push(match app.saved {
            Some(_) => "Python's objects had not been read when this walk was taken.".to_owned(),
            None => Hint::ObjectsOff.words().to_owned(),
        }),
        ObjectsState::Planned if !report.target.is_python() => {
            parts.push("This is not a Python process: it has no objects to read.".to_owned());
        }
        ObjectsState::Planned if report.objects.is_none() => {
            parts.push(
                "Python's objects are read after the next walk; o reads them now.".to_owned(),
            );
        }
        ObjectsState::Planned | ObjectsState::Off => {}
    }
    if let Some(growth_of) = &report.growth {
        let over = nanoseconds(growth_of.elapsed_ns);
        // As in the verdict: data held by running functions does not count as growth.
        parts.push(match report.growing().unwrap_or_default() {
            by if by.bytes_per_second() > 0.0 => {
                format!("growing {} in {over}", growth(by.bytes_per_second()))
            }
            by if by.is_unclear => format!("too short to show growth ({over})"),
            _ => format!("not growing in {over}"),
        });
    }
    if let Some(census) = &report.objects {
        let now = view
            .history
            .last()
            .map_or(report.taken_at_ns, |p| p.time_ns);
        let age = now.saturating_sub(census.taken_at_ns);
        parts.push(format!("objects of {:.0} s ago", age as f64 / 1e9));
        parts.push(format!(
            "{} of {} named",
            percent(census.typed_bytes(), census.live.bytes),
            bytes(census.live.bytes)
        ));
    }
    parts.join(" │ ")
}

/// The tables, and the filter.
fn choices(app: &App) -> Line<'static> {
    let of = &app.objects;
    let tables = Table::ALL.into_iter().map(|table| {
        let style = match table == of.table {
            true => app.theme.chosen(),
            false => app.theme.quiet(),
        };
        Span::styled(format!(" {} ", table.name()), style)
    });
    let mut line: Line<'static> = tables.collect();
    line.extend(of.filter.shown(app.theme));
    line
}

fn heading(app: &App) -> Line<'static> {
    let of = &app.objects;
    let mark = |order| match (of.order == order, of.reversed) {
        (false, _) => "",
        (true, false) => "↓",
        (true, true) => "↑",
    };
    let titles = [
        of.table.size().marked(mark(Order::Bytes)),
        GROWTH.marked(mark(Order::Growth)),
        of.table.number().marked(mark(Order::Count)),
    ];
    let text = format!("{}name{}", Table::figures(' ', titles), mark(Order::Name));
    Line::styled(text, app.theme.title())
}

/// The rows around the selected one.
fn list(app: &App, census: &Census, rows: &[Row], width: u16, room: usize) -> Vec<Line<'static>> {
    let selected = app.objects.selected.min(rows.len().saturating_sub(1));
    let width = usize::from(width);
    let of = app.objects.table;
    let (size, number) = (of.size(), of.number());
    let mut lines = Vec::new();
    let mut of_selected = 0..0;
    for (at, row) in rows.iter().enumerate() {
        let is_selected = at == selected;
        let first = lines.len();
        let figures = [
            size.cell(&bytes(row.bytes)),
            GROWTH.cell(&row.growth.map_or_else(String::new, HolderGain::text)),
            number.cell(&count(row.count)),
        ];
        let figures = Table::figures(if is_selected { '▸' } else { ' ' }, figures);
        let room = width.saturating_sub(figures.chars().count());
        let cells = (room / 5).clamp(6, 24);
        let style = match is_selected {
            true => app.theme.strong(),
            false => Style::new(),
        };
        let drawn = bar(row.bytes, census.live.bytes, cells);
        lines.push(Line::from(vec![
            Span::styled(figures, style),
            Span::styled(format!("{drawn:<cells$} "), app.theme.fullness(1.0)),
            Span::styled(cut(&row.name, room.saturating_sub(cells + 1)), style),
        ]));
        if is_selected {
            if app.objects.is_open {
                let inner = width.saturating_sub(INDENT) as u16;
                for detail in &row.details {
                    for line in wrapped(detail, inner, app.theme.quiet()) {
                        let mut spans = vec![Span::raw(" ".repeat(INDENT))];
                        spans.extend(line.spans.into_iter().map(|s| s.style(app.theme.quiet())));
                        lines.push(Line::from(spans));
                    }
                }
            }
            of_selected = first..lines.len();
        }
    }
    around(lines, of_selected, room)
}

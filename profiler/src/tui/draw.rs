//! One frame: header, tabs, the screen, notices, keys. Changes nothing.

use profiler_core::text::is_harmful;
use profiler_core::view::View;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Wrap};

use super::app::{App, Tab};
use super::{header, screens};

/// The least terminal that everything fits into, in columns and rows.
const LEAST: (u16, u16) = (80, 24);

/// The areas: header, tabs, screen, notice, keys.
fn areas(app: &App, area: Rect) -> [Rect; 5] {
    let view = app.view.as_deref();
    let head = view.map_or(2, |view| header::lines(app, view, area.width).len() as u16);
    let notice = u16::from(header::notice(app, view, area.width).is_some());
    Layout::vertical([
        Constraint::Length(head),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(notice),
        Constraint::Length(1),
    ])
    .areas(area)
}

/// The part of the terminal that the screen has.
pub(super) fn body(app: &App) -> Rect {
    areas(app, Rect::new(0, 0, app.size.0, app.size.1))[2]
}

/// Draws the app, and removes untrusted text that would drive the terminal or reorder it.
pub(super) fn draw(app: &App, frame: &mut Frame) {
    fill(app, frame);
    clean(frame);
}

/// Removes untrusted text from a frame that would drive the terminal or reorder it.
pub(super) fn clean(frame: &mut Frame) {
    for cell in &mut frame.buffer_mut().content {
        if cell.symbol().contains(is_harmful) {
            let clean: String = cell.symbol().chars().filter(|c| !is_harmful(*c)).collect();
            cell.set_symbol(if clean.is_empty() { "?" } else { &clean });
        }
    }
}

/// Whether the terminal is too small for a screen; then it shows that.
pub(super) fn too_small(frame: &mut Frame) -> bool {
    let area = frame.area();
    if area.width >= LEAST.0 && area.height >= LEAST.1 {
        return false;
    }
    let text = format!(
        "fragscope needs {} × {}, this terminal is {} × {}: enlarge it, or press q.",
        LEAST.0, LEAST.1, area.width, area.height
    );
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
    true
}

fn fill(app: &App, frame: &mut Frame) {
    let area = frame.area();
    if too_small(frame) {
        return;
    }
    let [head, tabs, body, notice, keys] = areas(app, area);
    let view = app.view.as_deref();
    frame.render_widget(header::tabs(app), tabs);
    frame.render_widget(header::keys(app), keys);
    if let Some(line) = header::notice(app, view, area.width) {
        frame.render_widget(line, notice);
    }
    let Some(view) = view else {
        frame.render_widget(Paragraph::new("Walking the heap for the first time…"), body);
        return;
    };
    frame.render_widget(Paragraph::new(header::lines(app, view, area.width)), head);
    match lines(app, view, body.width) {
        Some(lines) => scrolled(app, frame, body, lines),
        None if app.tab == Tab::Sites => screens::sites::draw(app, view, frame, body),
        None if app.tab == Tab::Objects => screens::objects::draw(app, view, frame, body),
        None if app.tab == Tab::Pages => screens::pages::draw(app, view, frame, body),
        None => screens::overview::draw(app, view, frame, body),
    }
}

/// The lines of a screen that scrolls.
pub(super) fn lines(app: &App, view: &View, width: u16) -> Option<Vec<Line<'static>>> {
    let lines = match app.tab {
        _ if app.help => screens::help::lines,
        Tab::Overview | Tab::Pages | Tab::Objects | Tab::Sites => return None,
        Tab::Sizes => screens::sizes::lines,
        Tab::Arenas => screens::arenas::lines,
        Tab::Activity => screens::activity::lines,
        Tab::Why => screens::why::lines,
    };
    Some(lines(app, view, width))
}

/// Draws lines from the user's scroll position, never past the end. Shows how much is below.
fn scrolled(app: &App, frame: &mut Frame, area: Rect, mut lines: Vec<Line<'static>>) {
    let room = usize::from(area.height);
    let first = usize::from(app.scrolled()).min(lines.len().saturating_sub(room));
    lines.drain(..first);
    if lines.len() > room {
        // The last row says how much is below, itself included.
        let shown = room.saturating_sub(1);
        let more = format!("↓ {} more", lines.len() - shown);
        lines.truncate(shown);
        lines.push(Line::styled(more, app.theme.chosen()));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

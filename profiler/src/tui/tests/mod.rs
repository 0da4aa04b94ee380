//! Frames and keys, on ratatui's own test backend.

mod fixture;
pub(super) mod frames;
mod keys;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::app::{App, Cursor, Message, update};
use super::draw::draw;
use super::theme::Theme;

/// Pages on the map of the fixture.
const PAGES: usize = 6_000;

/// An app of a terminal of this size, with everything there is to show.
fn app(width: u16, height: u16) -> App {
    let mut app = App::new(Theme::new(true));
    update(&mut app, Message::Resize(width, height));
    update(&mut app, Message::View(Box::new(fixture::view(PAGES))));
    app
}

/// The same of the third of seventeen walks of a saved session.
fn saved(width: u16, height: u16) -> App {
    let mut app = app(width, height);
    update(&mut app, walk(2));
    app
}

/// A walk of a saved session, by its index.
fn walk(index: usize) -> Message {
    let cursor = Cursor {
        asked: index,
        index,
        count: 17,
        number: index as u64 + 1,
        last: 17,
    };
    Message::Walk(Box::new(fixture::view(PAGES)), cursor)
}

/// What is drawn.
fn frame(app: &App, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it cannot fail");
    terminal
        .draw(|frame| draw(app, frame))
        .expect("it cannot fail");
    terminal.backend().buffer().clone()
}

/// A frame as text, without blanks at the ends of lines.
pub(super) fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    buffer
        .content
        .chunks(width)
        .map(|row| {
            let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
            format!("{}\n", line.trim_end())
        })
        .collect()
}

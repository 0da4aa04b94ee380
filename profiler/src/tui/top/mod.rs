//! The screen of all processes: a pure update and a pure draw, driven by the same loop as all
//! screens.

mod app;
mod draw;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::Receiver;

use crossterm::event::KeyEvent;
use profiler_core::host::{Arrangement, HostView};
use ratatui::Frame;

use self::app::{App, Message, update};
use super::theme::Theme;
use super::{Leave, Program, play};

/// Messages from the session to the screen.
#[derive(Debug)]
pub enum Update {
    /// Something new to show.
    View(Box<HostView>),
    /// One line for the user.
    Note(String),
    /// Leave.
    Quit,
}

impl Leave for Update {
    fn leave() -> Self {
        Self::Quit
    }
}

/// The user's requests.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Leave.
    Quit,
    /// Leave, by Ctrl-C.
    Interrupt,
    /// The terminal was closed.
    Closed,
    /// Leave this screen for that of a process, by its pid.
    Attach(i32),
    /// Walk a process at once, by its pid.
    Walk(i32),
}

impl Program for App {
    type Update = Update;
    type Effect = Effect;
    const CLOSED: Effect = Effect::Closed;

    fn update(&mut self, new: Update) -> ControlFlow<()> {
        let message = match new {
            Update::View(view) => Message::View(view),
            Update::Note(note) => Message::Note(note),
            Update::Quit => return ControlFlow::Break(()),
        };
        update(self, message);
        ControlFlow::Continue(())
    }

    fn resize(&mut self, width: u16, height: u16) {
        update(self, Message::Resize(width, height));
    }

    fn press(&mut self, key: KeyEvent) -> Option<Effect> {
        update(self, Message::Key(key))
    }

    fn leaves(effect: Effect) -> bool {
        matches!(effect, Effect::Quit | Effect::Attach(_))
    }

    fn draw(&self, frame: &mut Frame) {
        draw::draw(self, frame);
    }
}

/// Draws until the user leaves or the session says so, starting with `arrangement`. For a tree, its
/// master is given. `effects` receives the user's requests.
///
/// # Errors
/// As [`run`](super::run).
pub fn run(
    updates: &Receiver<Update>,
    arrangement: Arrangement,
    tree_of: Option<i32>,
    effects: impl FnMut(Effect),
) -> io::Result<()> {
    play(
        App::new(Theme::from_environment(), arrangement).of_tree(tree_of),
        updates,
        effects,
    )
}

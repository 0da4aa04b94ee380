//! The terminal UI: pure `app::update` and `draw::draw` in a thin shell.

mod app;
mod draw;
mod header;
mod map_view;
mod screens;
mod terminal;
#[cfg(test)]
mod tests;
mod theme;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use profiler_core::view::View;
use signal_hook::consts::SIGTSTP;

use self::app::{App, Message};
pub use self::app::{Cursor, Effect};
use self::terminal::Screen;
use self::theme::Theme;

/// What the session sends to the screen.
#[derive(Debug)]
pub enum Update {
    /// Something new to show.
    View(Box<View>),
    /// A walk of a saved session, and which it is.
    Walk(Box<View>, Cursor),
    /// One line for the user, such as what an export wrote.
    Note(String),
    /// Leave.
    Quit,
}

/// Why no screen can be drawn.
#[derive(Debug, thiserror::Error)]
pub enum NoScreen {
    /// Input or output is something else.
    #[error("stdin and stdout must be a terminal for the screen")]
    NoTerminal,
    /// The terminal says that it knows no more than lines.
    #[error("this terminal cannot draw (TERM=dumb)")]
    Dumb,
}

/// Whether a screen can be drawn here.
///
/// # Errors
/// Why not.
pub fn supported() -> Result<(), NoScreen> {
    use std::io::IsTerminal;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(NoScreen::NoTerminal);
    }
    if std::env::var("TERM").is_ok_and(|term| term == "dumb") {
        return Err(NoScreen::Dumb);
    }
    Ok(())
}

/// How long a key press may wait for its effect.
const KEY_POLL: Duration = Duration::from_millis(50);

/// How long keys are waited for at a time. With none at all crossterm does not look for any.
const KEYS_WAIT: Duration = Duration::from_millis(1);

/// Draws until the user quits or the session says so. `effects` hears what the user wants. A
/// terminal that is closed counts as the user's interrupt.
///
/// # Errors
/// When the terminal fails. It is restored on every way out, panics included.
pub fn run(updates: &Receiver<Update>, mut effects: impl FnMut(Effect)) -> io::Result<()> {
    match drive(updates, &mut effects) {
        Err(_) if terminal::gone() => {
            effects(Effect::Interrupt);
            Ok(())
        }
        other => other,
    }
}

fn is_ctrl_z(key: &KeyEvent) -> bool {
    key.code == KeyCode::Char('z') && key.modifiers.contains(KeyModifiers::CONTROL)
}

fn drive(updates: &Receiver<Update>, effects: &mut impl FnMut(Effect)) -> io::Result<()> {
    let mut screen = Screen::enter()?;
    let suspend = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTSTP, Arc::clone(&suspend))?;
    let mut app = App::new(Theme::from_environment());
    let (width, height) = crossterm::terminal::size()?;
    app::update(&mut app, Message::Resize(width, height));
    let mut dirty = true;
    loop {
        match updates.recv_timeout(if dirty { Duration::ZERO } else { KEY_POLL }) {
            Ok(Update::View(view)) => {
                app::update(&mut app, Message::View(view));
                dirty = true;
                continue;
            }
            Ok(Update::Walk(view, cursor)) => {
                app::update(&mut app, Message::Walk(view, cursor));
                dirty = true;
                continue;
            }
            Ok(Update::Note(note)) => {
                app::update(&mut app, Message::Note(note));
                dirty = true;
                continue;
            }
            Ok(Update::Quit) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if suspend.swap(false, Ordering::Relaxed) {
            screen.suspend()?;
            dirty = true;
        }
        if std::mem::take(&mut dirty) {
            screen.draw(|frame| draw::draw(&app, frame))?;
        }
        if terminal::gone() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        while event::poll(KEYS_WAIT)? {
            let message = match event::read()? {
                // In raw mode the terminal sends no signal for it.
                Event::Key(key) if is_ctrl_z(&key) => {
                    suspend.store(true, Ordering::Relaxed);
                    continue;
                }
                Event::Key(key) if key.kind != KeyEventKind::Release => Message::Key(key),
                Event::Resize(width, height) => Message::Resize(width, height),
                _ => continue,
            };
            dirty = true;
            match app::update(&mut app, message) {
                Some(Effect::Quit) => {
                    effects(Effect::Quit);
                    return Ok(());
                }
                Some(effect) => effects(effect),
                None => {}
            }
        }
    }
}

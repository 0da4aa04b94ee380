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
pub mod top;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use profiler_core::view::View;
use ratatui::Frame;
use signal_hook::consts::SIGTSTP;

use self::app::{App, Message};
pub use self::app::{Cursor, Effect};
use self::terminal::Screen;
use self::theme::Theme;

/// Messages from the session to the screen.
#[derive(Debug)]
pub enum Update {
    /// Something new to show.
    View(Box<View>),
    /// A walk of a saved session, and its position.
    Walk(Box<View>, Cursor),
    /// One line for the user, such as the result of an export.
    Note(String),
    /// Leave.
    Quit,
}

/// The state that the terminal's loop drives: updates and keys change it, and it is drawn. No I/O.
trait Program {
    /// An update.
    type Update;
    /// A request of the user.
    type Effect: Copy;
    /// That the terminal was closed: the signal that the kernel sends then (SIGHUP) may be ignored.
    const CLOSED: Self::Effect;
    /// Handles an update; returns whether to leave the screen.
    fn update(&mut self, update: Self::Update) -> ControlFlow<()>;
    /// The terminal has another size.
    fn resize(&mut self, width: u16, height: u16);
    /// A key.
    fn press(&mut self, key: KeyEvent) -> Option<Self::Effect>;
    /// Whether this request leaves the screen.
    fn leaves(effect: Self::Effect) -> bool;
    /// Draws it.
    fn draw(&self, frame: &mut Frame);
}

impl Program for App {
    type Update = Update;
    type Effect = Effect;
    const CLOSED: Effect = Effect::Closed;

    fn update(&mut self, update: Update) -> ControlFlow<()> {
        let message = match update {
            Update::View(view) => Message::View(view),
            Update::Walk(view, cursor) => Message::Walk(view, cursor),
            Update::Note(note) => Message::Note(note),
            Update::Quit => return ControlFlow::Break(()),
        };
        app::update(self, message);
        ControlFlow::Continue(())
    }

    fn resize(&mut self, width: u16, height: u16) {
        app::update(self, Message::Resize(width, height));
    }

    fn press(&mut self, key: KeyEvent) -> Option<Effect> {
        app::update(self, Message::Key(key))
    }

    fn leaves(effect: Effect) -> bool {
        effect == Effect::Quit
    }

    fn draw(&self, frame: &mut Frame) {
        draw::draw(self, frame);
    }
}

/// A message that can make the screen leave.
pub trait Leave {
    /// The message that makes the screen leave.
    fn leave() -> Self;
}

impl Leave for Update {
    fn leave() -> Self {
        Self::Quit
    }
}

/// The width of the terminal on stdout, in columns; `None` if it is not a terminal.
pub fn width() -> Option<usize> {
    use std::io::IsTerminal;
    let size = io::stdout().is_terminal().then(crossterm::terminal::size)?;
    Some(usize::from(size.ok()?.0))
}

/// Why no screen can be drawn.
#[derive(Debug, thiserror::Error)]
pub enum NoScreen {
    /// Input or output is something else.
    #[error("stdin and stdout must be a terminal for the screen")]
    NoTerminal,
    /// The terminal reports that it only supports lines.
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
    if terminal::is_dumb() {
        return Err(NoScreen::Dumb);
    }
    Ok(())
}

/// How long a key press may wait for its effect.
const KEY_POLL: Duration = Duration::from_millis(50);

/// How long to wait for keys at a time. With 0, crossterm does not check for any.
const KEYS_WAIT: Duration = Duration::from_millis(1);

/// Draws until the user quits or the session says so. `effects` receives the user's requests,
/// including the closing of the terminal.
///
/// # Errors
/// When the terminal fails. It is restored on every exit path, including panics.
pub fn run(updates: &Receiver<Update>, effects: impl FnMut(Effect)) -> io::Result<()> {
    play(App::new(Theme::from_environment()), updates, effects)
}

/// The same for any program.
fn play<P: Program>(
    mut program: P,
    updates: &Receiver<P::Update>,
    mut effects: impl FnMut(P::Effect),
) -> io::Result<()> {
    match drive(&mut program, updates, &mut effects) {
        Err(_) if terminal::gone() => {
            effects(P::CLOSED);
            Ok(())
        }
        other => other,
    }
}

fn is_ctrl_z(key: &KeyEvent) -> bool {
    key.code == KeyCode::Char('z') && key.modifiers.contains(KeyModifiers::CONTROL)
}

fn drive<P: Program>(
    program: &mut P,
    updates: &Receiver<P::Update>,
    effects: &mut impl FnMut(P::Effect),
) -> io::Result<()> {
    let mut screen = Screen::enter()?;
    let suspend = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTSTP, Arc::clone(&suspend))?;
    let (width, height) = crossterm::terminal::size()?;
    program.resize(width, height);
    let mut dirty = true;
    loop {
        match updates.recv_timeout(if dirty { Duration::ZERO } else { KEY_POLL }) {
            Ok(update) => match program.update(update) {
                ControlFlow::Continue(()) => {
                    dirty = true;
                    continue;
                }
                ControlFlow::Break(()) => return Ok(()),
            },
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if suspend.swap(false, Ordering::Relaxed) {
            screen.suspend()?;
            dirty = true;
        }
        if std::mem::take(&mut dirty) {
            screen.draw(|frame| program.draw(frame))?;
        }
        if terminal::gone() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        while event::poll(KEYS_WAIT)? {
            let effect = match event::read()? {
                // In raw mode the terminal sends no signal for it.
                Event::Key(key) if is_ctrl_z(&key) => {
                    suspend.store(true, Ordering::Relaxed);
                    continue;
                }
                Event::Key(key) if key.kind != KeyEventKind::Release => program.press(key),
                Event::Resize(width, height) => {
                    program.resize(width, height);
                    None
                }
                _ => continue,
            };
            dirty = true;
            if let Some(effect) = effect {
                effects(effect);
                if P::leaves(effect) {
                    return Ok(());
                }
            }
        }
    }
}

//! The real terminal: raw mode and the alternate screen, given back on every way out.

use std::io::{self, Stdout};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;

use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};

/// The terminal while fragscope draws on it.
pub(super) struct Screen {
    /// Never dropped: ratatui's drop prints to stderr when the terminal was closed, which panics.
    /// [`restore`] does all that it would.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    /// Takes the terminal over. A panic on any thread gives it back before it prints.
    pub(super) fn enter() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen).inspect_err(|_| restore())?;
        let mut terminal =
            Terminal::new(CrosstermBackend::new(io::stdout())).inspect_err(|_| restore())?;
        terminal.hide_cursor().inspect_err(|_| restore())?;
        Ok(Self {
            terminal: ManuallyDrop::new(terminal),
        })
    }

    /// Draws one frame.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal was closed. crossterm 0.29 would read from it for ever.
pub(super) fn gone() -> bool {
    closed(io::stdin())
}

/// Whether the other end of a terminal or pipe is no more.
fn closed(end: impl AsFd) -> bool {
    let mut watched = [PollFd::new(end.as_fd(), PollFlags::empty())];
    let closed = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    poll(&mut watched, PollTimeout::ZERO).is_ok()
        && watched[0].revents().is_some_and(|of| of.intersects(closed))
}

fn restore() {
    // Nothing can be done about a terminal that is gone.
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, crossterm::cursor::Show);
}

#[cfg(test)]
mod tests {
    use super::closed;

    #[test]
    fn an_end_is_closed_once_the_other_is_dropped() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        assert!(!closed(&reader));
        drop(writer);
        assert!(closed(&reader));
    }
}

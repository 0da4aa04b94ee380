//! The real terminal: raw mode and the alternate screen, restored on every exit path.

use std::env;
use std::fs::File;
use std::io::{self, Stdout};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stdin, getpgid, getpgrp, getpid, getppid, getsid};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};
use signal_hook::consts::SIGTSTP;
use signal_hook::low_level::emulate_default_handler;

/// Whether the terminal says that it knows no more than lines.
pub(super) fn is_dumb() -> bool {
    env::var("TERM").is_ok_and(|term| term == "dumb")
}

/// Whether colours are wanted: unless `NO_COLOR` is set to something.
pub(super) fn has_colour() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The terminal while fragscope draws on it.
pub(super) struct Screen {
    /// Never dropped: ratatui's drop prints to stderr when the terminal was closed, which panics.
    /// [`restore`] does all that it would.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    /// Takes the terminal over. A panic on any thread gives it back before it prints, but not one in a process
    /// that was forked since: the terminal is not that one's, and nor are the locks for it.
    pub(super) fn enter() -> io::Result<Self> {
        let (before, own) = (std::panic::take_hook(), getpid());
        std::panic::set_hook(Box::new(move |panic| {
            if getpid() == own {
                restore();
                before(panic);
            }
        }));
        read_without_waiting()?;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen).inspect_err(|_| restore())?;
        let mut terminal =
            Terminal::new(CrosstermBackend::new(io::stdout())).inspect_err(|_| restore())?;
        terminal.hide_cursor().inspect_err(|_| restore())?;
        Ok(Self {
            terminal: ManuallyDrop::new(terminal),
        })
    }

    /// Gives the terminal back and stops this process, as Ctrl-Z does; once it goes on, takes the terminal
    /// over again. Without a shell that would let it go on, nothing happens.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        if !has_job_control() {
            return Ok(());
        }
        restore();
        let stopped = emulate_default_handler(SIGTSTP);
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        self.terminal.clear()?;
        self.terminal.hide_cursor()?;
        stopped
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

/// Whether the parent is of the same session and leads other jobs: the kernel ignores SIGTSTP elsewhere.
fn has_job_control() -> bool {
    let (own, parent) = (getpgrp(), Some(getppid()));
    getsid(parent).is_ok_and(|session| getsid(None) == Ok(session))
        && getpgid(parent).is_ok_and(|group| group != own)
}

/// Opens the terminal once more as stdin, so that reading it never waits. crossterm reads until there
/// is no more, which on a terminal that waits would be until the next key; and the shell's own
/// stdin, which is the same open file as ours, must go on waiting.
fn read_without_waiting() -> io::Result<()> {
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY).bits())
        .open("/proc/self/fd/0");
    match opened {
        Ok(terminal) => Ok(dup2_stdin(terminal)?),
        // A terminal of another user's, left by su or sudo, can be used and not be opened.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the terminal was closed.
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

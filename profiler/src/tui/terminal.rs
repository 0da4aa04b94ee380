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

/// Whether the terminal reports that it only supports lines.
pub(super) fn is_dumb() -> bool {
    env::var("TERM").is_ok_and(|term| term == "dumb")
}

/// Whether colours are wanted: unless `NO_COLOR` is set to something.
pub(super) fn has_colour() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The terminal while fragscope draws on it.
pub(super) struct Screen {
    /// Never dropped: ratatui's drop prints to stderr if the terminal was closed, which panics.
    /// [`restore`] does everything that it would do.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    /// Takes over the terminal. A panic on any thread restores it before printing, except in a
    /// process forked since: neither the terminal nor its locks belong to that process.
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

    /// Restores the terminal and stops this process, as Ctrl-Z does; when it continues, takes over
    /// the terminal again. Without a shell that could continue it, nothing happens.
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

/// Whether the parent is in the same session and leads another job: otherwise the kernel ignores
/// SIGTSTP.
fn has_job_control() -> bool {
    let (own, parent) = (getpgrp(), Some(getppid()));
    getsid(parent).is_ok_and(|session| getsid(None) == Ok(session))
        && getpgid(parent).is_ok_and(|group| group != own)
}

/// Opens the terminal again as stdin, so that reading it never blocks. crossterm reads until there
/// is no more, which would block until the next key. The shell's own stdin, which is the same open
/// file as ours, must keep blocking.
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

/// Whether the other end of a terminal or pipe is gone.
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

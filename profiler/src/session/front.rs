//! The front end of a session: the screen, or a line per interval.

use std::io::{self, Write};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use profiler_core::view::View;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::SessionError;
use super::options::AttachOptions;
use crate::export;
use crate::tui::{self, Effect, Update};

/// Where views go to and wishes come from.
pub(crate) enum Front {
    /// Lines on stdout.
    Lines(Lines),
    /// The terminal UI on a thread of its own.
    Screen(Screen),
}

impl Front {
    /// Lines when asked for, else the screen.
    ///
    /// # Errors
    /// When there is no terminal to draw on.
    pub(crate) fn open(options: &AttachOptions) -> Result<Self, SessionError> {
        if options.headless || options.json {
            return Ok(Self::Lines(Lines {
                json: options.json,
                printed: 0,
                notices: Vec::new(),
            }));
        }
        tui::supported().map_err(SessionError::Screen)?;
        let (updates, to_draw) = mpsc::channel();
        let (wishes, wished) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("screen".into())
            .spawn(move || {
                tui::run(&to_draw, |effect| {
                    // A session that is over wants nothing more.
                    let _ = wishes.send(effect);
                })
            })?;
        Ok(Self::Screen(Screen {
            updates,
            wished,
            thread,
            until_quit: options.duration.is_none(),
        }))
    }

    /// The user's next wish; never comes without a screen.
    pub(crate) async fn wish(&mut self) -> Effect {
        match self {
            Self::Lines(_) => std::future::pending().await,
            // A screen that is gone cannot be used any more.
            Self::Screen(screen) => screen.wished.recv().await.unwrap_or(Effect::Quit),
        }
    }

    /// Shows a view.
    ///
    /// # Errors
    /// When stdout fails.
    pub(crate) fn show(&mut self, view: View) -> io::Result<()> {
        match self {
            Self::Lines(lines) => lines.print(&view),
            Self::Screen(screen) => {
                screen.update(Update::View(Box::new(view)));
                Ok(())
            }
        }
    }

    /// Tells the user what an export came to.
    pub(crate) fn note(&mut self, note: String) {
        if let Self::Screen(screen) = self {
            screen.update(Update::Note(note));
        }
    }

    /// Whether the last sample stays on show when the target is gone.
    pub(crate) fn outlives_target(&self) -> bool {
        matches!(
            self,
            Self::Screen(Screen {
                until_quit: true,
                ..
            })
        )
    }

    /// Begins to give the terminal back.
    pub(crate) fn leave(&self) {
        if let Self::Screen(screen) = self {
            screen.update(Update::Quit);
        }
    }

    /// Gives the terminal back.
    ///
    /// # Errors
    /// When the screen had failed.
    pub(crate) fn close(self) -> Result<(), SessionError> {
        self.leave();
        if let Self::Screen(screen) = self {
            let drawn = screen.thread.join();
            drawn.map_err(|_| SessionError::Screen("the screen panicked".into()))??;
        }
        Ok(())
    }
}

/// The terminal UI's side of the session.
pub(crate) struct Screen {
    updates: Sender<Update>,
    wished: UnboundedReceiver<Effect>,
    thread: JoinHandle<io::Result<()>>,
    until_quit: bool,
}

impl Screen {
    fn update(&self, update: Update) {
        // A screen that the user left is closed by the wish that it sent before.
        let _ = self.updates.send(update);
    }
}

/// Lines on stdout, one an interval.
pub(crate) struct Lines {
    json: bool,
    printed: u64,
    /// Notices of the last view, each said on stderr when it comes up.
    notices: Vec<String>,
}

/// Lines between two headings of the aligned form.
const LINES_PER_HEADING: u64 = 20;

impl Lines {
    fn print(&mut self, view: &View) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", export::ndjson(view))?;
        } else {
            if self.printed.is_multiple_of(LINES_PER_HEADING) {
                writeln!(out, "{}", export::line_heading())?;
            }
            writeln!(out, "{}", export::line(view))?;
        }
        self.printed += 1;
        for notice in &view.notices {
            if !self.notices.contains(notice) {
                // Nobody may be listening there, which is no reason to end.
                let _ = writeln!(io::stderr(), "{notice}");
            }
        }
        self.notices.clone_from(&view.notices);
        out.flush()
    }
}

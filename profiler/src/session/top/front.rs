//! Where views of the host go and user requests come from: the screen, or lines of JSON.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};

use profiler_core::host::{HostView, TreeView};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::TopOptions;
use crate::export;
use crate::say;
use crate::session::SessionError;
use crate::session::reader::reader_gone;
use crate::session::screen::{Screen, last_wait};
use crate::tui::top::{self, Effect, Update};
use crate::tui::{self};

/// Lines that wait for their reader at most.
const WAITING_LINES: usize = 4;

pub(super) enum Front {
    /// Written by a separate thread, because the reader of a pipe may stop reading.
    Lines {
        views: SyncSender<HostView>,
        written: Receiver<io::Result<()>>,
        left_out: u64,
    },
    Screen {
        screen: Screen<Update>,
        wished: UnboundedReceiver<Effect>,
    },
}

impl Front {
    /// Lines if requested, else the screen.
    ///
    /// # Errors
    /// When there is no terminal to draw on.
    pub(super) fn open(options: &TopOptions) -> Result<Self, SessionError> {
        if options.json || options.headless {
            let (json, tree_of) = (options.json, options.tree_of);
            let (views, to_write) = sync_channel::<HostView>(WAITING_LINES);
            let (outcome, written) = channel();
            profiler_target::start_thread("lines", move || {
                let mut printed = 0_u64;
                let print = |view: HostView| {
                    printed += 1;
                    print(view, tree_of, json, printed - 1)
                };
                // The receiver may have ended.
                let _ = outcome.send(to_write.into_iter().try_for_each(print));
            })?;
            return Ok(Self::Lines {
                views,
                written,
                left_out: 0,
            });
        }
        tui::supported()?;
        let (wishes, wished) = unbounded_channel();
        let (arrangement, tree_of) = (options.arrangement.clone(), options.tree_of);
        let screen = Screen::drawn_by(move |updates: &Receiver<Update>| {
            top::run(updates, arrangement, tree_of, |effect| {
                // A session that is over wants nothing more.
                let _ = wishes.send(effect);
            })
        })?;
        Ok(Self::Screen { screen, wished })
    }

    /// The user's next wish. Without a screen it is that to end, once nobody reads the lines.
    pub(super) async fn wish(&mut self) -> Effect {
        match self {
            Self::Lines { .. } => {
                reader_gone().await;
                Effect::Quit
            }
            // A screen that is gone cannot be used any more.
            Self::Screen { wished, .. } => wished.recv().await.unwrap_or(Effect::Quit),
        }
    }

    /// Shows a view.
    ///
    /// # Errors
    /// When stdout fails.
    pub(super) fn show(&mut self, mut view: HostView) -> io::Result<()> {
        match self {
            Self::Screen { screen, .. } => screen.update(Update::View(Box::new(view))),
            Self::Lines {
                views,
                written,
                left_out,
            } => {
                if *left_out > 0 {
                    view.notices.push(format!(
                        "{left_out} lines were left out: the output was not read in time"
                    ));
                }
                match views.try_send(view) {
                    Ok(()) => *left_out = 0,
                    Err(TrySendError::Full(_)) => *left_out += 1,
                    // The writer has ended, which only happens on errors.
                    Err(TrySendError::Disconnected(_)) => {
                        let panicked = || io::Error::other("the thread that prints panicked");
                        return written.recv().unwrap_or_else(|_| Err(panicked()));
                    }
                }
            }
        }
        Ok(())
    }

    /// A line for the user.
    pub(super) fn note(&self, note: String) {
        if let Self::Screen { screen, .. } = self {
            screen.update(Update::Note(note));
        }
    }

    /// Restores the terminal; `in_haste` limits the wait for drawing and reading to a moment.
    ///
    /// # Errors
    /// When the screen or the output had failed.
    pub(super) fn close(self, in_haste: bool) -> io::Result<()> {
        match self {
            Self::Screen { screen, .. } => {
                screen.leave();
                screen.close(in_haste)
            }
            Self::Lines { views, written, .. } => {
                drop(views);
                // Nothing reads: pending lines are lost, and it ends anyway.
                written.recv_timeout(last_wait(in_haste)).unwrap_or(Ok(()))
            }
        }
    }
}

/// Lines of a tree between two headings.
const LINES_PER_HEADING: u64 = 20;

/// Prints a view: of a tree as one unit, of a host its processes.
fn print(view: HostView, tree_of: Option<i32>, json: bool, printed: u64) -> io::Result<()> {
    let Some(master) = tree_of else {
        return say::document(&export::host_line(&view));
    };
    let tree = TreeView {
        master,
        processes: view,
        objects: None,
    };
    if json {
        return say::document(&export::tree_line(&tree));
    }
    let mut text = String::new();
    if printed.is_multiple_of(LINES_PER_HEADING) {
        text += &format!("{}\n", export::top::tree_heading());
    }
    text += &format!("{}\n", export::top::tree_row(&tree));
    say::print(&text)
}

//! The front end of a session: the screen, or one line per interval.

use std::io;
use std::sync::mpsc::{
    self, Receiver, RecvError, RecvTimeoutError, SyncSender, TrySendError, sync_channel,
};
use std::time::Duration;

use profiler_core::prediction::Predictions;
use profiler_core::report::{FragReport, Mechanism};
use profiler_core::text::visible;
use profiler_core::trend::Grows;
use profiler_core::view::View;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::SessionError;
use super::options::AttachOptions;
use super::reader::reader_gone;
use super::screen::{Screen, last_wait};
use crate::export;
use crate::say;
use crate::tui::{self, Effect, Update};

/// Where views go and requests come from.
pub(crate) enum Front {
    /// Lines on stdout.
    Lines(Lines),
    /// The terminal UI on a separate thread.
    Screen(Drawn),
}

impl Front {
    /// Lines if requested, else the screen.
    ///
    /// # Errors
    /// When there is no terminal to draw on.
    pub(crate) fn open(options: &AttachOptions) -> Result<Self, SessionError> {
        if options.headless || options.json {
            return Ok(Self::Lines(Lines::open(options.json)?));
        }
        tui::supported()?;
        let (requests, requested) = unbounded_channel();
        let screen = Screen::open(move |effect| {
            // A session that is over wants nothing more.
            let _ = requests.send(effect);
        })?;
        Ok(Self::Screen(Drawn {
            screen,
            requested,
            until_quit: options.duration.is_none(),
        }))
    }

    /// The user's next request. Without a screen it is that to end, once nobody reads the lines.
    pub(crate) async fn next_request(&mut self) -> Effect {
        match self {
            Self::Lines(_) => {
                reader_gone().await;
                Effect::Quit
            }
            // A screen that is gone cannot be used any more.
            Self::Screen(drawn) => drawn.requested.recv().await.unwrap_or(Effect::Quit),
        }
    }

    /// Shows a view.
    ///
    /// # Errors
    /// When stdout fails.
    pub(crate) fn show(&mut self, view: View) -> io::Result<()> {
        match self {
            Self::Lines(lines) => lines.show(view),
            Self::Screen(drawn) => {
                drawn.screen.update(Update::View(Box::new(view)));
                Ok(())
            }
        }
    }

    /// Shows the user the result of an export.
    pub(crate) fn note(&mut self, note: String) {
        match self {
            Self::Screen(drawn) => drawn.screen.update(Update::Note(note)),
            Self::Lines(_) => say::line(visible(&note)),
        }
    }

    /// Whether the last sample stays on show when the target is gone.
    pub(crate) fn outlives_target(&self) -> bool {
        matches!(
            self,
            Self::Screen(Drawn {
                until_quit: true,
                ..
            })
        )
    }

    /// Begins to give the terminal back.
    pub(crate) fn leave(&self) {
        if let Self::Screen(drawn) = self {
            drawn.screen.leave();
        }
    }

    /// Restores the terminal; `in_haste` limits the wait for drawing and reading to a moment.
    ///
    /// # Errors
    /// When the screen had failed.
    pub(crate) fn close(self, in_haste: bool) -> Result<(), SessionError> {
        self.leave();
        match self {
            Self::Screen(drawn) => {
                drawn.screen.close(in_haste)?;
            }
            Self::Lines(lines) => lines.close(last_wait(in_haste))?,
        }
        Ok(())
    }
}

/// The terminal UI's side of the session.
pub(crate) struct Drawn {
    screen: Screen,
    requested: UnboundedReceiver<Effect>,
    until_quit: bool,
}

/// Lines on stdout, one per interval, written by a separate thread: a reader may stop reading,
/// which must not keep the session from ending.
pub(crate) struct Lines {
    views: SyncSender<View>,
    /// Receives how the writer ended; `None` once it has.
    written: Option<Receiver<io::Result<()>>>,
    /// Lines left out since the last one because nothing read them.
    left_out: u64,
}

/// Lines that wait for their reader at most.
const WAITING_LINES: usize = 16;
/// Lines between two headings of the aligned form.
const LINES_PER_HEADING: u64 = 20;

impl Lines {
    fn open(json: bool) -> io::Result<Self> {
        let (views, to_write) = sync_channel(WAITING_LINES);
        let (outcome, written) = mpsc::channel();
        let mut writer = Writer {
            json,
            printed: 0,
            notices: Vec::new(),
            concluded: None,
        };
        profiler_target::start_thread("lines", move || {
            let mut all = to_write.into_iter();
            // A session that has ended asks no more.
            let _ = outcome.send(all.try_for_each(|view| writer.print(&view)));
        })?;
        Ok(Self {
            views,
            written: Some(written),
            left_out: 0,
        })
    }

    fn show(&mut self, mut view: View) -> io::Result<()> {
        if self.left_out > 0 {
            let notice = format!(
                "{} lines were left out: the output was not read in time",
                self.left_out
            );
            view.notices.push(notice);
        }
        match self.views.try_send(view) {
            Ok(()) => self.left_out = 0,
            Err(TrySendError::Full(_)) => self.left_out += 1,
            // The writer has ended, which only happens on errors.
            Err(TrySendError::Disconnected(_)) => {
                if let Some(written) = self.written.take() {
                    written.recv().unwrap_or_else(panicked)?;
                }
            }
        }
        Ok(())
    }

    fn close(self, timeout: Duration) -> io::Result<()> {
        drop(self.views);
        let Some(written) = self.written else {
            return Ok(());
        };
        match written.recv_timeout(timeout) {
            Ok(written) => written,
            // Nothing reads: pending lines are lost, and the session ends anyway.
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => panicked(RecvError),
        }
    }
}

/// The result for a writer that gave none.
fn panicked(_: RecvError) -> io::Result<()> {
    Err(io::Error::other("the thread that prints panicked"))
}

/// Writes the lines.
struct Writer {
    json: bool,
    printed: u64,
    /// Notices of the last view, each reported on stderr when it first appears.
    notices: Vec<String>,
    /// The basis of the last printed verdict.
    concluded: Option<Grounds>,
}

/// The basis of a verdict: as long as it is the same, only the verdict's figures may have changed.
#[derive(Eq, PartialEq)]
struct Grounds {
    cause: Option<Mechanism>,
    /// The predicted walk, and the number of candidates known for it.
    predicted: Option<(u64, usize)>,
    /// What has been growing recently.
    grows: Option<Grows>,
    /// Whether live memory grew between two readings of objects; `None` without two.
    is_growing: Option<bool>,
}

impl Grounds {
    fn of(report: &FragReport) -> Self {
        let predictions = report.predictions.as_ref();
        Self {
            grows: report.trend.and_then(|trend| trend.grows),
            is_growing: report.growth.as_ref().map(|growth| growth.is_growing),
            cause: report.findings.first().map(|finding| finding.mechanism),
            predicted: predictions.map(|all| {
                // Of those that are under way a line each is too many.
                let known = if all.pending > 0 {
                    0
                } else {
                    all.candidates.len()
                };
                // Why nothing is known stays the same from walk to walk.
                let is_none = all.pending == 0 && all.candidates.is_empty();
                (if is_none { 0 } else { all.walk_ns }, known)
            }),
        }
    }
}

impl Writer {
    fn print(&mut self, view: &View) -> io::Result<()> {
        if self.json {
            say::document(&export::ndjson(view))?;
        } else {
            let mut text = String::new();
            if self.printed.is_multiple_of(LINES_PER_HEADING) {
                text += &format!("{}\n", export::line_heading());
            }
            text += &format!("{}\n", export::line(view));
            if let Some(what_if) = &view.what_if {
                let phrases = what_if.phrases().join("; ");
                text += &format!("         what if: {}\n", visible(phrases));
            }
            let grounds = Grounds::of(&view.report);
            if self.concluded.as_ref() != Some(&grounds) {
                text += &conclusion(&view.report);
                self.concluded = Some(grounds);
            }
            say::print(&text)?;
        }
        self.printed += 1;
        for notice in &view.notices {
            if !self.notices.contains(notice) {
                say::line(visible(notice));
            }
        }
        self.notices.clone_from(&view.notices);
        Ok(())
    }
}

/// The verdict, and what it was predicted from, on separate lines.
fn conclusion(report: &FragReport) -> String {
    let mut text = format!("         verdict: {}\n", visible(&report.verdict));
    let predictions = report.predictions.as_ref();
    let phrases = predictions.map(Predictions::phrases).unwrap_or_default();
    if !phrases.is_empty() {
        let phrases = phrases.join("; ");
        text += &format!("         predicted: {}\n", visible(phrases));
    }
    let trouble = predictions.and_then(|all| all.trouble.as_ref());
    if let Some(why) = trouble {
        text += &format!("         not predicted: {}\n", visible(why));
    }
    text
}

#[cfg(test)]
mod tests {
    use profiler_core::allocator::AllocatorTitle;
    use profiler_core::candidate::CandidateName;
    use profiler_core::prediction::Prediction;

    use super::*;

    /// Lines whose writer has ended without an outcome.
    fn without_writer() -> Lines {
        let (views, _) = sync_channel(WAITING_LINES);
        let (_, written) = mpsc::channel();
        Lines {
            views,
            written: Some(written),
            left_out: 0,
        }
    }

    /// A session shows a view, notices that the reader is gone, and ends: that is not another
    /// error.
    #[test]
    fn how_the_writer_ended_is_said_once() {
        let (views, _) = sync_channel(WAITING_LINES);
        let (outcome, written) = mpsc::channel();
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        outcome.send(Err(closed)).expect("it is listened to");
        drop(outcome);
        let mut lines = Lines {
            views,
            written: Some(written),
            left_out: 0,
        };
        let view = crate::export::sample_view::passive();
        let shown = lines.show(view).expect_err("the reader has gone");
        assert_eq!(shown.kind(), io::ErrorKind::BrokenPipe);
        lines.close(last_wait(false)).expect("it was said");
    }

    #[test]
    fn a_verdict_is_printed_again_when_more_was_predicted() {
        let report = |pending, of_walk| {
            let mut predictions = Predictions::under_way(of_walk);
            predictions.pending = pending;
            if pending < 2 {
                let (name, title) = (
                    CandidateName::parse("glibc"),
                    AllocatorTitle::parse("glibc"),
                );
                predictions.candidates.push(Prediction::of(name, title));
            }
            Grounds::of(
                &crate::export::sample_view::passive()
                    .report
                    .with_predictions(predictions),
            )
        };
        assert!(report(2, 7) == report(1, 7), "some are under way");
        assert!(report(1, 7) != report(0, 7), "all are known");
        assert!(report(0, 7) != report(0, 8), "another walk");
        let not_predicted = |of_walk| {
            let none = Predictions::none(of_walk, "its heap has changed");
            Grounds::of(
                &crate::export::sample_view::passive()
                    .report
                    .with_predictions(none),
            )
        };
        assert!(not_predicted(7) == not_predicted(8), "nothing new");
    }

    #[test]
    fn a_writer_that_panicked_ends_the_session_with_an_error() {
        let closed = without_writer().close(last_wait(false));
        let error = closed.expect_err("nothing more is printed");
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}

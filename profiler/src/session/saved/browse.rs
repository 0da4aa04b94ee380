//! `view`: all screens on a saved session, with a cursor over its walks.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use profiler_core::report::FragReport;
use profiler_core::view::{Point, View};
use profiler_trace::limits::{Incomplete, Limits, Meter, Stopped, TableOwner};
use profiler_trace::snapshot::{Censuses, Observation, ReadError, Reader, Record};

use super::{SavedError, SavedOptions};
use crate::session::history::History;
use crate::session::outputs::Outputs;
use crate::session::screen::{CLOSED, Screen};
use crate::session::{Ending, interrupt};
use crate::tui::{self, Cursor, Effect, Update};
use profiler_target::open_regular;

/// How long a signal may have to wait for its effect.
const SIGNAL_POLL: Duration = Duration::from_millis(50);

/// Shows a saved session until the user leaves it. Returns how it ended, and why the file could not
/// be read completely.
///
/// # Errors
/// When the file contains nothing to show, or there is no terminal.
pub fn view(options: &SavedOptions) -> Result<(Ending, Option<Incomplete>), SavedError> {
    tui::supported()?;
    let interrupted = interrupt::flag()?;
    let failed = |why| SavedError::Read {
        path: options.file.clone(),
        why,
    };
    let mut session = Session::open(options, &interrupted).map_err(failed)?;
    if session.walks.is_empty() {
        return Err(SavedError::NoWalk {
            path: options.file.clone(),
            trouble: session.trouble,
        });
    }
    let shown = match session.last_shown() {
        Ok(shown) => shown,
        Err(_) if interrupted.load(Ordering::Relaxed) => {
            return Ok((Ending::Interrupted("a signal"), session.trouble));
        }
        Err(error) => return Err(error),
    };
    let (requests, requested) = channel();
    let screen = Screen::open(move |effect| {
        // A session that is over wants nothing more.
        let _ = requests.send(effect);
    })?;
    let ending = browse(&mut session, shown, &screen, &requested, &interrupted);
    screen.leave();
    screen.close(matches!(ending, Ending::Interrupted(_)))?;
    Ok((ending, session.trouble))
}

fn browse(
    session: &mut Session,
    mut shown: Shown,
    screen: &Screen,
    requested: &Receiver<Effect>,
    interrupted: &AtomicBool,
) -> Ending {
    screen.update(session.update(&shown, shown.index));
    if let Some(trouble) = &session.trouble {
        screen.update(Update::Note(format!("incomplete: {}", trouble.why)));
    }
    loop {
        if interrupted.load(Ordering::Relaxed) {
            return Ending::Interrupted("a signal");
        }
        match requested.recv_timeout(SIGNAL_POLL) {
            Err(RecvTimeoutError::Timeout) => {}
            // The screen is gone, and reports why when it is closed.
            Err(RecvTimeoutError::Disconnected) | Ok(Effect::Quit) => return Ending::Done,
            Ok(Effect::Closed) => return Ending::Interrupted(CLOSED),
            Ok(Effect::Interrupt) => return Ending::Interrupted("Ctrl-C"),
            Ok(Effect::Show(index)) => {
                let (found, unreadable) = session.nearest(index, shown.index);
                shown = found.unwrap_or(shown);
                screen.update(session.update(&shown, index));
                if let Some(why) = unreadable {
                    screen.update(Update::Note(why));
                }
            }
            Ok(Effect::Export) => {
                let saved = Outputs::default().export_now(&shown.view);
                screen.update(Update::Note(saved.unwrap_or_else(|error| error)));
            }
            // A saved session is neither walked nor paused: the screen says so.
            Ok(Effect::Walk | Effect::ReadObjects | Effect::Pause(_)) => {}
        }
    }
}

/// The walk on the screen.
struct Shown {
    index: usize,
    view: View,
}

/// The position of one walk.
struct Walk {
    number: u64,
    /// The offset of its record in the file.
    sample_at: u64,
    /// The offset of its last observation's record.
    observation_at: Option<u64>,
    /// Points of the curves until then.
    points: usize,
    /// Observations with a census until then.
    censuses: usize,
}

/// A saved session in a seekable file: what is shown is read again.
struct Session {
    path: PathBuf,
    reader: Reader<File>,
    limits: Limits,
    interrupted: Arc<AtomicBool>,
    walks: Vec<Walk>,
    points: Vec<Point>,
    /// The offsets of observations with a census.
    censuses: Vec<u64>,
    trouble: Option<Incomplete>,
}

impl Session {
    /// Reads the file once, and records the positions of its walks.
    fn open(options: &SavedOptions, interrupted: &Arc<AtomicBool>) -> Result<Self, ReadError> {
        let limits = options.limits();
        let meter = Meter::new(limits, Arc::clone(interrupted));
        let file = open_regular(&options.file)?;
        let mut session = Self {
            path: options.file.clone(),
            reader: Reader::new(file, meter.clone())?,
            limits,
            interrupted: Arc::clone(interrupted),
            walks: Vec::new(),
            points: Vec::new(),
            censuses: Vec::new(),
            trouble: None,
        };
        session.trouble = match session.index(&meter) {
            Ok(()) => session.reader.trouble().map(Incomplete::from),
            Err(ReadError::Stopped(limit @ Stopped::Limit { .. })) => Some((&limit).into()),
            Err(other) => return Err(other),
        };
        Ok(session)
    }

    fn index(&mut self, meter: &Meter) -> Result<(), ReadError> {
        while let Some(record) = self.reader.next_record()? {
            let at = self.reader.offset();
            match record {
                Record::Walk { number, .. } => self.walks.push(Walk {
                    number,
                    sample_at: at,
                    observation_at: None,
                    points: self.points.len(),
                    censuses: self.censuses.len(),
                }),
                Record::Observation { walk, observation } => {
                    self.points.extend(&observation.points);
                    if !observation.objects.is_empty() {
                        self.censuses.push(at);
                    }
                    if let Some(last) = self.walks.last_mut().filter(|last| last.number == walk) {
                        last.observation_at = Some(at);
                        last.points = self.points.len();
                        last.censuses = self.censuses.len();
                    }
                }
            }
            let bytes = size_of_val(self.walks.as_slice())
                + size_of_val(self.points.as_slice())
                + size_of_val(self.censuses.as_slice());
            meter.hold(TableOwner::Index, bytes as u64)?;
        }
        Ok(())
    }

    /// The last walk that can be shown.
    ///
    /// # Errors
    /// When none can, or a signal came.
    fn last_shown(&mut self) -> Result<Shown, SavedError> {
        let last = self.walks.len() - 1;
        let (shown, unreadable) = self.nearest(last, self.walks.len());
        let Some(shown) = shown else {
            let trouble = unreadable.map(Incomplete::from).or(self.trouble.take());
            return Err(SavedError::NoWalk {
                path: self.path.clone(),
                trouble,
            });
        };
        if let Some(why) = unreadable {
            self.trouble = Some(match self.trouble.take() {
                None => why.into(),
                Some(trouble) => trouble.and(&why),
            });
        }
        Ok(shown)
    }

    /// The walk at `index` or, if that cannot be shown, the next one that can in the direction from
    /// `from` to it, up to the end; and the reason.
    fn nearest(&mut self, index: usize, from: usize) -> (Option<Shown>, Option<String>) {
        let onwards: Vec<usize> = match index < from {
            true => (0..=index).rev().collect(),
            false => (index..self.walks.len()).collect(),
        };
        let mut unreadable = None;
        for index in onwards {
            match self.view(index) {
                Ok(view) => return (Some(Shown { index, view }), unreadable),
                Err(error) => {
                    let number = self.walks[index].number;
                    let why = || format!("walk {number} cannot be shown: {error}");
                    unreadable.get_or_insert_with(why);
                    if matches!(error, ReadError::Stopped(Stopped::Interrupted)) {
                        break;
                    }
                }
            }
        }
        (None, unreadable)
    }

    /// The screen's update, in answer to its request for the walk at `asked`.
    fn update(&self, shown: &Shown, asked: usize) -> Update {
        let cursor = Cursor {
            index: shown.index,
            asked,
            count: self.walks.len(),
            number: self.walks[shown.index].number,
            last: self.walks[self.walks.len() - 1].number,
        };
        Update::Walk(Box::new(shown.view.clone()), cursor)
    }

    /// The view of a walk, as it was.
    fn view(&mut self, index: usize) -> Result<View, ReadError> {
        let walk = &self.walks[index];
        let (sample_at, observation_at) = (walk.sample_at, walk.observation_at);
        let (points, censuses) = (walk.points, walk.censuses);
        let meter = Meter::new(self.limits, Arc::clone(&self.interrupted));
        self.reader.go_to(sample_at, meter.clone())?;
        // Checked first: of many unreadable walks none may be expensive.
        let sample = match self.reader.next_record()? {
            Some(Record::Walk { sample, .. }) => sample.sample(&meter)?,
            _ => return Err(changed()),
        };
        let observation = match observation_at {
            None => Observation::default(),
            Some(at) => self.observation(at, &meter)?,
        };
        let known = &self.censuses[..censuses];
        let last_two = known[known.len().saturating_sub(2)..].to_vec();
        let mut censuses = Censuses::default();
        for at in last_two {
            censuses.add(&self.observation(at, &meter)?.objects);
        }
        let mut history = History::default();
        for point in &self.points[..points] {
            history.push(*point);
        }
        let report = Arc::new(censuses.apply(FragReport::from_sample(&sample)));
        Ok(observation.into_view(report, history.points()))
    }
}

impl Session {
    /// The observation that begins there.
    fn observation(&mut self, at: u64, meter: &Meter) -> Result<Observation, ReadError> {
        self.reader.go_to(at, meter.clone())?;
        match self.reader.next_record()? {
            Some(Record::Observation { observation, .. }) => Ok(*observation),
            _ => Err(changed()),
        }
    }
}

fn changed() -> ReadError {
    ReadError::Io(io::Error::other("the file has changed since it was opened"))
}

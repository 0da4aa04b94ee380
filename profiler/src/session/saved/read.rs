//! One walk of a saved session, for commands without a screen.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use profiler_core::objects::Census;
use profiler_core::prediction::Predictions;
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_lab::input::Input;
use profiler_trace::limits::{Incomplete, Meter, Stopped, TableOwner};
use profiler_trace::snapshot::{Censuses, Observation, ReadError, Reader, Record, SavedSample};

use super::{Saved, SavedError, SavedExport, SavedOptions};
use crate::export::{self, Format};
use crate::say;
use crate::session::history::History;
use crate::session::predictor::predict_now;
use crate::session::{interrupt, outputs};

/// Reads a session, which may come from a pipe, and returns one of its walks.
///
/// # Errors
/// When there is no such walk, or a signal came.
pub fn load(options: &SavedOptions) -> Result<Saved, SavedError> {
    read(options, false)
}

/// The same with predictions, which are made if the session has none of that walk.
///
/// # Errors
/// As [`load`].
pub fn load_predicted(options: &SavedOptions) -> Result<Saved, SavedError> {
    read(options, true)
}

fn read(options: &SavedOptions, is_predicted: bool) -> Result<Saved, SavedError> {
    let interrupted = interrupt::flag()?;
    let meter = Meter::new(options.limits(), Arc::clone(&interrupted));
    let Walk {
        moment,
        sample,
        mut trouble,
    } = Walk::find(options, &meter, &interrupted)?;
    let mut censuses = moment.censuses;
    let mut before = None;
    if let Some(since) = &options.since {
        let earlier = Earlier::read(options, since, &sample)?;
        before = Some(earlier.report);
        censuses = censuses.since(&earlier.census);
        // If both files lack something, the first is named: it is the one being explained.
        trouble = trouble.or(earlier.trouble.map(|trouble| trouble.of_file(since)));
    }
    let mut report = censuses.apply(FragReport::from_sample(&sample));
    if let Some(before) = before {
        report = report.since(&before);
    }
    let observation = moment.observation;
    // What could not be predicted then may be predictable now.
    let is_complete = |all: &Predictions| {
        all.pending == 0 && all.walk_ns == sample.taken_at_ns && all.trouble.is_none()
    };
    if is_predicted && !observation.predictions.as_ref().is_some_and(is_complete) {
        report = report.with_predictions(predict_now(&sample, None, &interrupted));
    }
    let report = Arc::new(report);
    Ok(Saved {
        view: observation.into_view(report, moment.history.points()),
        trouble,
    })
}

/// The walk that is wanted.
struct Walk {
    moment: SavedWalk,
    sample: Sample,
    /// Why the session could not be read completely, if it could not.
    trouble: Option<Incomplete>,
}

impl Walk {
    fn find(
        options: &SavedOptions,
        meter: &Meter,
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Self, SavedError> {
        let failed = |why| SavedError::Read {
            path: options.file.clone(),
            why,
        };
        let input = open(options, interrupted).map_err(failed)?;
        let mut reader = Reader::new(input, meter.clone()).map_err(failed)?;
        let mut found = WalkSearch::new(options.at);
        let stopped = found.take_all(&mut reader, meter).map_err(failed)?;
        let mut trouble = stopped.or_else(|| Some(reader.trouble()?.into()));
        let path = || options.file.clone();
        let Some(mut moment) = found.newest else {
            return Err(match (options.at, found.last) {
                (Some(at), Some(last)) => SavedError::NoSuchWalk {
                    path: path(),
                    at,
                    last,
                },
                _ => SavedError::NoWalk {
                    path: path(),
                    trouble,
                },
            });
        };
        let before = found.before.filter(|_| options.at.is_none());
        let sample = match (moment.sample.sample(meter), before) {
            (Err(ReadError::Malformed(why)), Some(before)) => {
                let (lost, shown) = (moment.number, before.number);
                let why =
                    format!("walk {lost} cannot be read ({why}), walk {shown} is taken instead");
                trouble = Some(match trouble {
                    None => why.into(),
                    Some(trouble) => trouble.and(&why),
                });
                moment = before;
                moment.sample.sample(meter)
            }
            (sample, _) => sample,
        };
        Ok(Self {
            moment,
            sample: sample.map_err(failed)?,
            trouble,
        })
    }
}

/// The objects of an earlier session of the same process.
struct Earlier {
    census: Arc<Census>,
    /// The report of its walk.
    report: Arc<FragReport>,
    trouble: Option<Incomplete>,
}

impl Earlier {
    fn read(options: &SavedOptions, since: &Path, sample: &Sample) -> Result<Self, SavedError> {
        let Saved { view, trouble } = read(&options.of(since), false)?;
        let path = || since.to_owned();
        let Some(census) = &view.report.objects else {
            return Err(SavedError::NoObjects {
                path: path(),
                trouble,
            });
        };
        let before = &view.report.target;
        if !before.may_be(&sample.target) {
            return Err(SavedError::OtherProcess {
                path: path(),
                earlier: before.pid,
                later: sample.target.pid,
            });
        }
        if census.taken_at_ns >= sample.taken_at_ns {
            return Err(SavedError::NotEarlier(path()));
        }
        Ok(Self {
            census: Arc::clone(census),
            report: Arc::clone(&view.report),
            trouble,
        })
    }
}

fn open(options: &SavedOptions, interrupted: &Arc<AtomicBool>) -> Result<Input, ReadError> {
    use profiler_trace::trace::ReadError as InputError;
    Input::open(&options.file, interrupted).map_err(|error| match error {
        InputError::Stopped(stopped) => ReadError::Stopped(stopped),
        InputError::Io(error) => ReadError::Io(error),
        other => ReadError::Malformed(other.to_string()),
    })
}

/// A walk, and what was known at and before it.
struct SavedWalk {
    number: u64,
    sample: SavedSample,
    observation: Observation,
    history: History,
    censuses: Censuses,
}

/// The search for the walk that is wanted, record by record.
struct WalkSearch {
    /// Its number; `None` means the last.
    at: Option<u64>,
    /// The walk, or the last one read so far.
    newest: Option<SavedWalk>,
    /// The previous one: a walk's content is only processed after everything was read.
    before: Option<SavedWalk>,
    history: History,
    censuses: Censuses,
    /// The number of the last walk.
    last: Option<u64>,
}

impl WalkSearch {
    fn new(at: Option<u64>) -> Self {
        Self {
            at,
            newest: None,
            before: None,
            history: History::default(),
            censuses: Censuses::default(),
            last: None,
        }
    }

    /// Bytes of the walks that are kept.
    fn held_bytes(&self) -> u64 {
        let kept = self.newest.iter().chain(&self.before);
        kept.map(|moment| moment.sample.held_bytes()).sum()
    }

    /// Takes all records; returns why it stopped before the last, if it did.
    fn take_all(
        &mut self,
        reader: &mut Reader<Input>,
        meter: &Meter,
    ) -> Result<Option<Incomplete>, ReadError> {
        let ended = loop {
            match reader.next_record() {
                Ok(Some(record)) => self.take(record),
                Ok(None) => return Ok(None),
                Err(why) => break why,
            }
            if let Err(limit) = meter.hold(TableOwner::Index, self.held_bytes()) {
                break limit.into();
            }
        };
        match ended {
            ReadError::Stopped(limit @ Stopped::Limit { .. }) => Ok(Some(Incomplete::from(&limit))),
            why => Err(why),
        }
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Walk { number, sample } => {
                self.last = Some(number);
                if self.at.is_none_or(|at| at == number) {
                    let moment = SavedWalk {
                        number,
                        sample,
                        observation: Observation::default(),
                        history: self.history.clone(),
                        censuses: self.censuses.clone(),
                    };
                    self.before = self.newest.replace(moment);
                }
            }
            Record::Observation { walk, observation } => {
                if self.at.is_some_and(|at| walk > at) {
                    return;
                }
                for point in &observation.points {
                    self.history.push(*point);
                }
                self.censuses.add(&observation.objects);
                if let Some(moment) = self.newest.as_mut().filter(|of| of.number == walk) {
                    moment.history = self.history.clone();
                    moment.censuses = self.censuses.clone();
                    moment.observation = *observation;
                }
            }
        }
    }
}

/// Writes one walk of a session in another format, to a file (completely or not at all) or to
/// stdout. Returns why the session could not be read completely.
///
/// # Errors
/// When there is no such walk, or it cannot be written.
pub fn export(options: &SavedExport) -> Result<Option<Incomplete>, SavedError> {
    let output = options.output.as_deref();
    let place = output.map(|path| outputs::place(path, &[&options.saved.file]));
    let place = place.transpose()?;
    let saved = read(&options.saved, options.is_predicted)?;
    let bytes = export::bytes(&saved.view, options.format).map_err(SavedError::Format)?;
    match (&place, options.format) {
        (Some(place), _) => {
            place.write(&bytes)?;
            say::line(format_args!("wrote {}", visible(place.path().display())));
        }
        (None, Format::Text) => say::print(&String::from_utf8_lossy(&bytes))?,
        (None, _) => say::bytes(&bytes)?,
    }
    Ok(saved.trouble)
}

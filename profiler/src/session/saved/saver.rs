//! The files of a session that is being saved: each walk is written as soon as it is taken.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use profiler_core::host::ProcessEnd;
use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_core::view::{Point, View};
use profiler_target::MemoryKills;
use profiler_trace::snapshot::{Observation, Writer};
use profiler_trace::whole_file::{Output, Place, WriteError};

use crate::say;
use crate::session::black_box::{self, TargetBlackBox};

/// Saves a session into any number of files. Clones share the same state.
#[derive(Clone, Debug)]
pub(crate) struct SessionSaver(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    files: Vec<SavedFile>,
    black_box: Option<TargetBlackBox>,
    /// Points that are in no observation yet.
    points: Vec<Point>,
    /// When the last walk that was saved was taken.
    last_walk_ns: Option<u64>,
    /// When the walk of the last census that was saved was taken.
    last_census_ns: Option<u64>,
    is_over: bool,
}

#[derive(Debug)]
struct SavedFile {
    place: Place,
    /// The number of walks that are readable in it, whatever happens.
    walks: u64,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// The file in its place is unchanged.
    NotBegun,
    Growing(Writer<Output>),
    /// Nothing more is written; what was written stays.
    Failed(WriteError),
    Done,
}

impl SessionSaver {
    /// Files at these places, which may be none, and a black box. They appear with the first walk.
    pub(crate) fn new(places: &[Place], black_box: Option<TargetBlackBox>) -> Self {
        let file = |place: &Place| SavedFile {
            place: place.clone(),
            walks: 0,
            progress: Progress::NotBegun,
        };
        Self(Arc::new(Mutex::new(State {
            files: places.iter().map(file).collect(),
            points: Vec::new(),
            last_walk_ns: None,
            last_census_ns: None,
            is_over: places.is_empty() && black_box.is_none(),
            black_box,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new point of the curves over time.
    pub(crate) fn point(&self, point: Point) {
        let mut state = self.state();
        if !state.is_over {
            state.points.push(point);
            if let Some(black_box) = &mut state.black_box {
                black_box.point(point);
            }
        }
    }

    /// Adds a walk and its view.
    pub(crate) fn walk(&self, sample: &Sample, view: &View) {
        let mut state = self.state();
        if state.is_over {
            return;
        }
        let observation = state.observation(view);
        state.last_walk_ns = Some(sample.taken_at_ns);
        for file in &mut state.files {
            file.walk(sample, &observation);
        }
        if let Some(black_box) = &mut state.black_box {
            black_box.walk(sample, view);
        }
    }

    /// How the process of this number and beginning ended, which is there no more.
    pub(crate) fn how_ended(&self, kills: &MemoryKills, id: (i32, u64)) -> ProcessEnd {
        let state = self.state();
        let victims = state.black_box.as_ref().and_then(TargetBlackBox::victims);
        black_box::end(victims, kills, id)
    }

    /// The target has ended, as the view says: its black box is not changed any more.
    pub(crate) fn target_ended(&self, view: &View, end: &ProcessEnd) {
        if let Some(mut black_box) = self.state().black_box.take() {
            black_box.end(view, end);
        }
    }

    /// Why a file is no longer written, if that is so.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.state();
        let mut files = state.files.iter();
        let failed = files.find_map(|file| match &file.progress {
            Progress::Failed(error) => Some(format!("the session is not saved any more: {error}")),
            _ => None,
        });
        let black_box = state.black_box.as_ref();
        failed.or_else(|| Some(black_box?.trouble()?.to_owned()))
    }

    /// Ends the session with its last view. If `in_haste`, it waits neither for the disk nor for a
    /// walk that is just being written; the file then ends after that walk.
    ///
    /// Returns why files were not written to their ends.
    pub(crate) fn end(&self, view: &View, in_haste: bool) -> Vec<WriteError> {
        let mut state = match self.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if in_haste => return Vec::new(),
            Err(TryLockError::WouldBlock) => self.state(),
        };
        state.is_over = true;
        // A walk that was not shown yet has an observation of its own.
        let is_of_last_walk = state.last_walk_ns == Some(view.report.taken_at_ns);
        let last = is_of_last_walk.then(|| state.observation(view));
        let files = state.files.iter_mut();
        let failed = files.filter_map(|file| file.end(last.as_ref(), in_haste).err());
        failed.collect()
    }
}

impl State {
    /// The observation of a view, with the points and censuses that are new.
    fn observation(&mut self, view: &View) -> Observation {
        let mut observation = Observation::of(view, std::mem::take(&mut self.points));
        let saved = self.last_census_ns;
        observation
            .objects
            .retain(|census| Some(census.taken_at_ns) > saved);
        let last = observation.objects.last().map(|census| census.taken_at_ns);
        self.last_census_ns = last.or(saved);
        observation
    }
}

impl SavedFile {
    fn walk(&mut self, sample: &Sample, observation: &Observation) {
        self.write(|writer| {
            writer.walk(sample)?;
            // A file without a walk is useless, whereas the file in its place may not be.
            writer.output().appear().map_err(WriteError::into_io)
        });
        if matches!(self.progress, Progress::Growing(_)) {
            self.walks += 1;
        }
        self.write(|writer| writer.observe(observation));
    }

    fn write(&mut self, write: impl FnOnce(&mut Writer<Output>) -> io::Result<()>) {
        if matches!(self.progress, Progress::NotBegun) {
            self.progress = match self.begin() {
                Ok(writer) => Progress::Growing(writer),
                Err(error) => Progress::Failed(error),
            };
        }
        if let Progress::Growing(writer) = &mut self.progress
            && let Err(source) = write(writer)
        {
            self.progress = Progress::Failed(self.failed(source));
        }
    }

    fn begin(&self) -> Result<Writer<Output>, WriteError> {
        let output = self.place.begin()?;
        Writer::new(output).map_err(|source| self.failed(source))
    }

    fn end(&mut self, last: Option<&Observation>, in_haste: bool) -> Result<(), WriteError> {
        if let (Some(last), Progress::Growing(_)) = (last, &self.progress) {
            self.write(|writer| writer.observe(last));
        }
        match std::mem::replace(&mut self.progress, Progress::Done) {
            Progress::NotBegun | Progress::Done => return Ok(()),
            Progress::Failed(error) => return Err(error),
            Progress::Growing(writer) => {
                let output = writer.finish().map_err(|source| self.failed(source))?;
                if !in_haste {
                    let finished = output.finish();
                    finished.map_err(|error| self.failed(error.into_io()))?;
                }
            }
        }
        wrote(&self.place);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> WriteError {
        let path = self.place.path().to_owned();
        let kept = match self.walks {
            0 => return WriteError::Io { path, source },
            1 => "1 walk in it can be read".to_owned(),
            walks => format!("{walks} walks in it can be read"),
        };
        WriteError::Cut { path, source, kept }
    }
}

/// Writes a session with one walk to its place, completely or not at all.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_whole(place: &Place, sample: &Sample, view: &View) -> Result<(), WriteError> {
    let cannot = |source| WriteError::Io {
        path: place.path().to_owned(),
        source,
    };
    let mut writer = Writer::new(place.begin()?).map_err(cannot)?;
    writer.walk(sample).map_err(cannot)?;
    let observation = Observation::of(view, view.history.to_vec());
    writer.observe(&observation).map_err(cannot)?;
    writer.finish().map_err(cannot)?.finish()?;
    wrote(place);
    Ok(())
}

fn wrote(place: &Place) {
    say::line(format_args!("wrote {}", visible(place.path().display())));
}

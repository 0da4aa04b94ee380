//! The black box: the last walks of each watched process, kept on disk, and how the process ended.

mod host;
mod target;
mod victims;

use std::path::PathBuf;

use profiler_core::host::{ProcessEnd, ProcessSample, program};
use profiler_core::sample::{Sample, Target};
use profiler_core::view::Point;
pub(crate) use profiler_trace::black_box::BlackBoxLimits;
use profiler_trace::black_box::{BlackBox, BlackBoxError};
use profiler_trace::snapshot::{Fate, Observation};
use profiler_trace::whole_file::WriteError;

pub(crate) use self::host::HostBlackBox;
pub(crate) use self::target::TargetBlackBox;
pub(crate) use self::victims::{VictimWatch, end};

/// The most points of a process that are kept between two walks: beyond that, every other one is
/// dropped.
const MAX_POINTS: usize = 512;

/// The location of the black box, and its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct BlackBoxOptions {
    /// The folder.
    pub folder: PathBuf,
    /// How much.
    pub limits: BlackBoxLimits,
}

impl BlackBoxOptions {
    fn open(&self) -> Result<BlackBox, WriteError> {
        BlackBox::open(&self.folder, self.limits)
    }
}

/// What is kept of one process.
#[derive(Debug, Default)]
struct KeptProcess {
    /// The name of its file, if it has one.
    name: Option<String>,
    /// Points since the last walk.
    points: Vec<Point>,
}

impl KeptProcess {
    fn point(&mut self, point: Point) {
        if self.points.len() >= MAX_POINTS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.points.push(point);
    }

    /// Adds a walk to its file; the observation's history is replaced by the kept points.
    fn walk(
        &mut self,
        black_box: &mut BlackBox,
        sample: &Sample,
        observation: Observation,
    ) -> Result<(), BlackBoxError> {
        let observation = Observation {
            points: std::mem::take(&mut self.points),
            ..observation
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => black_box.name(&program_of(&sample.target), &sample.target)?,
        };
        let walked = black_box.walk(&name, sample, &observation);
        // A file that is unreadable, or another's, stays as it is.
        let name = match walked {
            Err(error) if error.is_of_name() => {
                let another = black_box.name(&program_of(&sample.target), &sample.target)?;
                black_box.walk(&another, sample, &observation)?;
                another
            }
            walked => walked.map(|()| name)?,
        };
        self.name = Some(name);
        Ok(())
    }

    /// Adds its end to its file, if it has one.
    fn end(
        &mut self,
        black_box: &mut BlackBox,
        pid: i32,
        end: &ProcessEnd,
        observation: Observation,
    ) -> Result<(), BlackBoxError> {
        let Some(name) = &self.name else {
            return Ok(());
        };
        let fate = match end.is_for_memory() {
            true => Fate::Killed,
            false => Fate::Ended,
        };
        let points = std::mem::take(&mut self.points);
        black_box.end(
            name,
            pid,
            &Observation {
                points,
                ..observation
            },
            fate,
        )
    }
}

/// The script or module that a process runs.
fn program_of(target: &Target) -> String {
    program(&ProcessSample {
        comm: target.comm.clone(),
        cmdline: target.cmdline.clone(),
        ..ProcessSample::default()
    })
}

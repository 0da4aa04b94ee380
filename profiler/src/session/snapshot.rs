//! `snapshot` and `explain`: one passive walk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use profiler_core::objects::{Census, Lengths, NoCensus};
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::view::{Point, View};
use profiler_sampling::{Sampler, SamplingOptions, now_ns, sample_of_core};
use profiler_target::TargetState;

use super::SessionError;
use super::interrupt;
use super::objects::room_for;
use super::options::{ReadObjects, SnapshotOptions, Subject};
use super::outputs::{Outputs, Unwritten};
use super::predictor::predict_now;
use crate::say;

/// Shown while waiting for growth.
const OBJECTS_AGAIN: &str = "objects were read once; to see what grows, again";

/// The interval of kernel counts while waiting for growth: they show whether growth continues.
const BETWEEN_COUNTS_NS: u64 = 200_000_000;

/// What taking one snapshot came to.
#[derive(Debug)]
pub struct SnapshotOutcome {
    /// What was read, for the caller to print whatever happened to the outputs.
    pub view: View,
    /// Bytes that are missing at the end of the core file that was read.
    pub missing_bytes: u64,
    /// Whether a signal ended the wait for growth, or the predictions.
    pub interrupted: bool,
    /// Why there is no second walk although one was to follow: most likely the target is gone.
    pub not_again: Option<SessionError>,
    /// Whether all outputs were written.
    pub saved: Result<(), Unwritten>,
}

/// What was read of the subject.
struct Reading {
    sample: Sample,
    missing_bytes: u64,
    /// The running process.
    sampler: Option<Sampler>,
    /// The report of an earlier walk.
    earlier: Option<FragReport>,
    /// The kernel's counts since that walk.
    counts: Vec<Point>,
    /// The census of its objects, if requested.
    census: Option<Result<Census, NoCensus>>,
    /// The census before that one.
    before: Option<Arc<Census>>,
    /// Why there was no second walk.
    not_again: Option<SessionError>,
}

/// Walks the subject, and reads its objects as requested.
fn observe(options: &SnapshotOptions, interrupted: &AtomicBool) -> Result<Reading, SessionError> {
    let (pid, sampling) = match &options.subject {
        Subject::Process { pid, sampling } => (*pid, *sampling),
        Subject::Core {
            file,
            exe,
            max_walk,
        } => {
            let core = sample_of_core(file, exe.as_deref(), *max_walk)?;
            return Ok(Reading {
                census: options.objects.map(|_| core.census()),
                missing_bytes: core.missing_bytes,
                sampler: None,
                earlier: None,
                counts: Vec::new(),
                sample: core.sample,
                before: None,
                not_again: None,
            });
        }
    };
    let sampler = Sampler::open(pid)?;
    let reading = match options.objects {
        None => Reading::once(sampler.take(sampling)?, None),
        Some(ReadObjects {
            in_stop,
            twice: None,
        }) => {
            let (sample, census) = walk_and_read(&sampler, sampling, in_stop)?;
            Reading::once(sample, Some(census))
        }
        Some(ReadObjects {
            in_stop,
            twice: Some(apart),
        }) => {
            let walk = || walk_and_read(&sampler, sampling, in_stop);
            read_twice(&sampler, walk, apart, interrupted)?
        }
    };
    Ok(Reading {
        sampler: Some(sampler),
        ..reading
    })
}

impl Reading {
    /// Of one walk.
    fn once(sample: Sample, census: Option<Result<Census, NoCensus>>) -> Self {
        Self {
            sample,
            missing_bytes: 0,
            sampler: None,
            earlier: None,
            counts: Vec::new(),
            census,
            before: None,
            not_again: None,
        }
    }
}

/// Walks and reads objects twice, `apart` from each other, unless interrupted before.
fn read_twice(
    sampler: &Sampler,
    walk: impl Fn() -> io::Result<(Sample, Result<Census, NoCensus>)>,
    apart: Duration,
    interrupted: &AtomicBool,
) -> Result<Reading, SessionError> {
    let began = Instant::now();
    let (sample, census) = walk()?;
    let mut reading = Reading::once(sample, None);
    let census = match census {
        // That a program is not Python's needs no notice.
        Err(NoCensus::NotPython) => return Ok(reading),
        Err(why) => {
            reading.census = Some(Err(why));
            return Ok(reading);
        }
        Ok(census) => census,
    };
    let report = FragReport::from_sample(&reading.sample);
    let mut counted = CountedBetween::since(&report, &census);
    let rest = apart.saturating_sub(began.elapsed());
    let is_time = interrupt::wait(rest, OBJECTS_AGAIN, interrupted, || {
        counted.count(sampler, &report)
    });
    reading.counts = counted.points;
    reading.census = Some(Ok(census));
    if !is_time {
        return Ok(reading);
    }
    match walk() {
        Ok((again, Ok(mut read))) => {
            counted.lengths.give_courses(&mut read);
            let before = reading.census.replace(Ok(read));
            reading.before = before.and_then(Result::ok).map(Arc::new);
            reading.sample = again;
            reading.earlier = Some(report);
        }
        // The first reading is worth more than a walk without objects.
        Ok((_, Err(why))) => reading.not_again = Some(SessionError::NoGrowth(why)),
        // The first reading is all that will ever be known about it.
        Err(why) => reading.not_again = Some(why.into()),
    }
    Ok(reading)
}

/// A walk, and the census of its objects: read in the walk's stop if requested, else from the copy
/// made there, or from present contents while the target runs.
pub(super) fn walk_and_read(
    sampler: &Sampler,
    sampling: SamplingOptions,
    in_stop: bool,
) -> io::Result<(Sample, Result<Census, NoCensus>)> {
    if in_stop {
        let (sample, census) = sampler.take_at(sampling, |moment| moment.census())?;
        let census = census.map(|mut census| {
            census.taken_at_ns = sample.taken_at_ns;
            // The stop may have ended before all was read.
            census.exact &= sample.completeness.stand_still.is_throughout();
            census
        });
        return Ok((sample, census));
    }
    let (sample, copied) = sampler.take_and_copy(sampling)?;
    if say::is_watched() {
        say::progress("reading Python's objects");
    }
    let census =
        room_for(&sample).and_then(|()| sampler.census(&sample, copied.as_ref(), sampling));
    if say::is_watched() {
        say::clear_progress();
    }
    Ok((sample, census))
}

/// What is counted of a process between two readings of its objects, while it runs on.
pub(super) struct CountedBetween {
    /// What the kernel counts.
    pub(super) points: Vec<Point>,
    /// How many items its largest containers have.
    pub(super) lengths: Lengths,
}

impl CountedBetween {
    /// From a walk on, whose objects were read.
    pub(super) fn since(report: &FragReport, census: &Census) -> Self {
        Self {
            points: vec![Point::of(report)],
            lengths: Lengths::of(census),
        }
    }

    /// Counts again: the items each time, as what becomes longer and shorter is seen by the lowest of many counts, and what
    /// the kernel knows where the last time is a while ago. Whether the target was still there.
    pub(super) fn count(&mut self, sampler: &Sampler, report: &FragReport) -> bool {
        self.lengths.count(now_ns(), &sampler.target().memory());
        let is_due = |last: &Point| now_ns().saturating_sub(last.time_ns) >= BETWEEN_COUNTS_NS;
        if !self.points.last().is_none_or(is_due) {
            return true;
        }
        let Some(now) = counted(sampler, report) else {
            return false;
        };
        self.points.push(now);
        true
    }
}

/// The kernel's present counts, after the walk; `None` if the process has ended.
fn counted(sampler: &Sampler, report: &FragReport) -> Option<Point> {
    let count = sampler.target().quick_count().ok()?;
    let is_same = sampler.target().state() == TargetState::Same;
    (is_same && count.rss_bytes > 0).then(|| Point {
        time_ns: now_ns(),
        rss_bytes: count.rss_bytes,
        swap_bytes: count.swap_bytes,
        ..Point::of(report)
    })
}

/// Walks the target once, without probes, and writes the outputs.
///
/// # Errors
/// When the target cannot be opened or read, an output has no place to be, or a signal came before there was
/// anything to show.
pub fn snapshot(options: &SnapshotOptions) -> Result<SnapshotOutcome, SessionError> {
    let outputs = Outputs::reserve(&options.outputs, &options.subject.files())?;
    let flag = interrupt::flag()?;
    let observed = {
        let options = options.clone();
        interrupt::unless_interrupted("snapshot", &flag, move |flag| observe(&options, flag))
    };
    let Reading {
        sample,
        missing_bytes,
        sampler,
        earlier,
        counts,
        census,
        before,
        not_again,
    } = observed?;
    let mut report = FragReport::from_sample(&sample);
    let mut notices = Vec::new();
    match census {
        Some(Ok(census)) => report = report.with_objects(Arc::new(census), before),
        Some(Err(why)) => notices.push(format!("objects were not read: {why}")),
        None => {}
    }
    if let Some(earlier) = &earlier {
        report = report.since(earlier);
    }
    if options.predict {
        let root = sampler.as_ref().and_then(|of| of.target().foreign_root());
        report = report.with_predictions(predict_now(&sample, root.as_deref(), &flag));
    }
    let walked = sampler.as_ref().map(|_| Point::of(&report));
    let counted = sampler.as_ref().and_then(|of| counted(of, &report));
    let history = counts.into_iter().chain(walked).chain(counted).collect();
    let interrupted = flag.load(Ordering::Relaxed);
    let view = View::of_one_look(report, history, notices);
    let saved = outputs.save_once(&sample, &view);
    Ok(SnapshotOutcome {
        view,
        missing_bytes,
        interrupted,
        not_again,
        saved,
    })
}

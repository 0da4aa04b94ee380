//! A live session: scheduled walks, the kernel's counts at every tick, and views of both.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::host::ProcessEnd;
use profiler_core::over_time::OverTime;
use profiler_core::report::FragReport;
use profiler_core::sample::{KernelCount, Sample};
use profiler_core::view::{ObjectsState, Point, View, WhatIf};
use profiler_probe::clock_ns;
use profiler_sampling::{
    CopiedMemory, CopySpace, Sampler, SamplingOptions, WalkSchedule, WalkedTarget, now_ns,
};
use profiler_target::{MemoryKills, TargetState};

use super::history::History;
use super::objects::ObjectReader;
use super::predictor::Predictor;
use super::probes::Probes;
use super::saved::SessionSaver;
use super::what_if::WhatIfSession;

/// A walk no older than this is as good as a new one.
const FRESH_NS: u64 = 1_000_000_000;

/// Background work on the walks of a session.
pub(crate) struct Background {
    /// `None` if predictions are not requested.
    pub(crate) predictor: Option<Predictor>,
    /// `None` if objects are not requested.
    pub(crate) objects: Option<ObjectReader>,
}

/// One target being watched.
pub(crate) struct LiveSession {
    sampler: Arc<Sampler>,
    sampling: SamplingOptions,
    schedule: WalkSchedule,
    probes: Probes,
    what_if: Option<WhatIfSession>,
    /// `None` if predictions are not requested.
    predictor: Option<Predictor>,
    /// `None` if objects are not requested.
    objects: Option<ObjectReader>,
    saver: SessionSaver,
    kills: MemoryKills,
    history: History,
    over_time: OverTime,
    report: Arc<FragReport>,
    ended: Option<String>,
    trouble: Option<String>,
}

impl LiveSession {
    /// Takes the first sample of the target and begins to watch it.
    ///
    /// # Errors
    /// When the first sample cannot be taken.
    pub(crate) fn start(
        sampler: Arc<Sampler>,
        sampling: SamplingOptions,
        mut schedule: WalkSchedule,
        probes: Probes,
        what_if: Option<WhatIfSession>,
        background: Background,
        saver: SessionSaver,
    ) -> io::Result<Self> {
        let Background {
            mut predictor,
            mut objects,
        } = background;
        let (sample, moment) = walk(&sampler, sampling, &mut schedule, objects.as_ref())?;
        if let Some(predictor) = &mut predictor {
            predictor.offer(&sample, sampler.target().foreign_root());
        }
        let report = FragReport::from_sample(&sample);
        let report = match &predictor {
            Some(predictor) => predictor.apply(report),
            None => report,
        };
        if let Some(objects) = &mut objects {
            objects.offer(&sample, moment.copied);
        }
        let mut session = Self {
            kills: MemoryKills::of(sampler.target().pid()),
            sampler,
            sampling,
            schedule,
            probes,
            what_if,
            predictor,
            objects,
            saver,
            history: History::default(),
            over_time: OverTime::default(),
            report: Arc::new(report),
            ended: None,
            trouble: None,
        };
        session.over_time.add(&session.report);
        session.note_point(Point::of(&session.report));
        session.saver.walk(&sample, &session.view());
        Ok(session)
    }

    /// Asks for a walk at the next tick.
    pub(crate) fn walk_now(&mut self) {
        self.schedule.request_walk(Instant::now());
    }

    /// Asks for Python's objects to be read after a walk at the next tick.
    pub(crate) fn read_objects_now(&mut self) {
        if let Some(objects) = &mut self.objects {
            objects.read_now();
            self.walk_now();
        }
    }

    /// Observes the target once more: walks it if `walking` and a walk is due. A target that is
    /// gone ends the session, and its last sample is kept.
    pub(crate) fn tick(&mut self, walking: bool) {
        if self.ended.is_some() {
            return;
        }
        self.probes.poll();
        if let Some(predictor) = &self.predictor {
            self.report = predictor.refresh(&self.report);
        }
        if let Some(objects) = &mut self.objects {
            self.report = objects.refresh(&self.report);
        }
        if let Some(what_if) = &mut self.what_if {
            what_if.poll();
        }
        if let Err(error) = self.observe(walking) {
            self.trouble = Some(format!("the target could not be read: {error}"));
        } else {
            self.trouble = None;
        }
        let end = match self.sampler.target().state() {
            TargetState::Same => {
                self.kills.follow();
                self.kills.renew();
                return;
            }
            TargetState::Exited(_) => {
                let end = self.end();
                let how = end.sentence(self.sampler.target().pid());
                self.ended = Some(format!("the target {how}"));
                end
            }
            TargetState::Execed => {
                self.ended = Some("the target executed another program".into());
                ProcessEnd::Exited
            }
        };
        // The program that a process has become must not be probed.
        self.probes.end();
        self.saver.target_ended(&self.view(), &end);
    }

    /// How the target ended, as far as known.
    fn end(&self) -> ProcessEnd {
        let target = &self.report.target;
        let id = (target.pid, target.began_ticks.unwrap_or(0));
        self.saver.how_ended(&self.kills, id)
    }

    fn observe(&mut self, walking: bool) -> io::Result<()> {
        let count = self.sampler.target().quick_count()?;
        self.schedule
            .rss_changed(self.report.kernel.rss_bytes, count.rss_bytes);
        if walking && self.schedule.due(Instant::now()) {
            self.probes.walk_begins();
            let objects = self.objects.as_ref();
            let taken = walk(&self.sampler, self.sampling, &mut self.schedule, objects);
            if taken.is_err() {
                self.note_count(&count);
            }
            let (sample, moment) = taken?;
            // A target that ended or executed another program meanwhile gives an empty or foreign
            // sample: the last good one is kept.
            if self.sampler.target().state() == TargetState::Same {
                self.probes.walked(&sample, moment.at_ns);
                let mut report = FragReport::from_sample(&sample);
                if let Some(objects) = &mut self.objects {
                    objects.offer(&sample, moment.copied);
                    report = objects.apply(report);
                }
                self.note_point(Point::of(&report));
                self.over_time.add(&report);
                self.report = Arc::new(match &mut self.predictor {
                    Some(predictor) => {
                        predictor.offer(&sample, self.sampler.target().foreign_root());
                        predictor.apply(report)
                    }
                    None => report,
                });
                self.saver.walk(&sample, &self.view());
            }
        } else {
            self.note_count(&count);
        }
        Ok(())
    }

    /// Records the kernel's counts, between two walks and when one failed.
    fn note_count(&mut self, count: &KernelCount) {
        // Another program's memory does not belong to this curve.
        if count.rss_bytes > 0 && self.sampler.target().state() == TargetState::Same {
            if let Some(objects) = &mut self.objects {
                objects.count();
            }
            self.note_point(Point {
                time_ns: now_ns(),
                rss_bytes: count.rss_bytes,
                swap_bytes: count.swap_bytes,
                ..Point::of(&self.report)
            });
        }
    }

    fn note_point(&mut self, point: Point) {
        self.history.push(point);
        self.saver.point(point);
    }

    /// The present view.
    pub(crate) fn view(&self) -> View {
        let foreign = !self.report.target.is_python();
        let foreign = foreign.then(|| "this is not a Python process: malloc is shown".to_owned());
        let activity = self.probes.activity();
        let what_if = self.what_if.as_ref().map(WhatIfSession::get);
        // Failures come first: a screen has one line for all of them.
        let trouble = [self.trouble.clone(), self.saver.trouble()];
        let mut notices: Vec<String> = trouble.into_iter().flatten().collect();
        // Probes end with their target, which is reported in other words.
        if self.ended.is_none() {
            notices.extend(activity.iter().flat_map(|activity| activity.troubles()));
        }
        notices.extend(what_if.iter().flat_map(WhatIf::troubles));
        notices.extend(self.what_if.iter().flat_map(WhatIfSession::notices));
        notices.extend([self.probes.notice(), foreign].into_iter().flatten());
        View {
            report: Arc::clone(&self.report),
            activity,
            sites: self.probes.sites(),
            probes_wanted: !matches!(self.probes, Probes::Off | Probes::ForWhatIf),
            probes_attaching: matches!(self.probes, Probes::Starting(_)),
            notices,
            history: self.history.points(),
            over_time: self.over_time,
            objects: match &self.objects {
                Some(objects) => objects.state(),
                None => ObjectsState::Off,
            },
            what_if,
            ended: self.ended.clone(),
        }
        .with_trend(true)
    }

    /// Ends the session: removes the probes, takes a last walk, and returns the last view. The last
    /// walk may come sooner than the schedule allows, so that what is saved is the state at the
    /// end.
    pub(crate) fn finish(mut self, walk: bool) -> View {
        self.probes.wait();
        if let Some(what_if) = &mut self.what_if {
            what_if.end();
        }
        if walk && now_ns().saturating_sub(self.report.taken_at_ns) > FRESH_NS {
            self.walk_now();
        }
        self.tick(walk);
        self.view()
    }
}

/// Data that belongs to the moment of a walk.
struct Moment {
    /// On the clock of the probes' events.
    at_ns: u64,
    /// The memory that may hold objects, if these are to be read.
    copied: Option<CopiedMemory>,
}

/// Walks, for `objects` to be read if that is due.
fn walk(
    sampler: &Sampler,
    sampling: SamplingOptions,
    schedule: &mut WalkSchedule,
    objects: Option<&ObjectReader>,
) -> io::Result<(Sample, Moment)> {
    let is_read = objects.is_some_and(ObjectReader::is_due);
    let is_copied = is_read && !sampling.slices;
    let space = is_copied.then(|| CopySpace::for_target(sampler.target()));
    let moment = |walked: &WalkedTarget<'_>| {
        // Read last, so that it is not earlier than the stop.
        let age = walked.age();
        let at_ns = clock_ns().saturating_sub(age.as_nanos() as u64);
        let space = space.as_ref();
        let copied = space.and_then(|space| CopiedMemory::of(walked, sampling.max_stop, space));
        Moment { at_ns, copied }
    };
    let began = Instant::now();
    let (sample, moment) = sampler.take_at(sampling, moment).inspect_err(|_| {
        // It may have been stopped all that time; the next attempt follows the schedule, too.
        let took = began.elapsed();
        schedule.walked(Instant::now(), took, took);
    })?;
    let stop = Duration::from_nanos(sample.completeness.stop_ns);
    let walk = Duration::from_nanos(sample.completeness.walk_ns);
    schedule.walked(Instant::now(), stop, walk);
    Ok((sample, moment))
}

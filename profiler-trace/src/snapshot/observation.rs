//! Data shown beside a walk: what the probes saw, the history, how the session ended.

use std::io;
use std::sync::Arc;

use hdrhistogram::Histogram;
use profiler_core::activity::{Activity, ClassActivity, ProbeCost, ProbeState, ProbeStatus};
use profiler_core::allocator::{Allocator, AllocatorTitle};
use profiler_core::candidate::CandidateName;
use profiler_core::objects::Census;
use profiler_core::over_time::{Moment, OverTime};
use profiler_core::prediction::{Needs, Prediction, Predictions, SelfCheck};
use profiler_core::report::{FragReport, Mechanism};
use profiler_core::sites::Sites;
use profiler_core::size_class::SizeClass;
use profiler_core::view::{ObjectsState, Point, Shadow, View, WhatIf};

use super::heap::OLDER_ENVIRONMENT;
use super::wire::{Input, Wire, count, fields, malformed, put_framed};
use crate::varint::{self, put_text};

/// Everything in a [`View`] except the report, which is recomputed from the sample.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// What the probes had seen by then; `None` without probes.
    pub activity: Option<Arc<Activity>>,
    /// Whether probes were requested.
    pub probes_wanted: bool,
    /// Messages for the user.
    pub notices: Vec<String>,
    /// The points of the curves over time that were added since the observation before.
    pub points: Vec<Point>,
    /// Fragmentation over the walks up to then: saved, because otherwise a session of a day would
    /// have to be read from its beginning.
    pub over_time: OverTime,
    /// The worker under other allocators.
    pub what_if: Option<WhatIf>,
    /// Why the session ended, when the target was gone.
    pub ended: Option<String>,
    /// The predictions for the walk: saved, because replaying takes seconds.
    pub predictions: Option<Predictions>,
    /// The censuses of Python's objects that were taken since the observation before, the oldest first.
    pub objects: Vec<Arc<Census>>,
    /// Where the allocations seen by the probes up to then came from; `None` without probes.
    pub sites: Option<Arc<Sites>>,
    /// Whether probes were being attached.
    pub probes_attaching: bool,
}

/// The last two censuses of a session, which give growth.
#[derive(Clone, Debug, Default)]
pub struct Censuses {
    now: Option<Arc<Census>>,
    before: Option<Arc<Census>>,
}

impl Censuses {
    /// Takes over those of a later observation.
    pub fn add(&mut self, later: &[Arc<Census>]) {
        for census in later {
            let is_new = |now: &Arc<Census>| now.taken_at_ns < census.taken_at_ns;
            if self.now.as_ref().is_none_or(is_new) {
                self.push(Arc::clone(census));
            }
        }
    }

    /// Takes over the one that was read last, whatever the clock says.
    pub fn push(&mut self, census: Arc<Census>) {
        self.before = self.now.replace(census);
    }

    /// The last of them.
    pub fn now(&self) -> Option<&Arc<Census>> {
        self.now.as_ref()
    }

    /// The last of them, relative to `before`.
    pub fn since(self, before: &Arc<Census>) -> Self {
        Self {
            before: Some(Arc::clone(before)),
            ..self
        }
    }

    /// A report with them.
    pub fn apply(&self, report: FragReport) -> FragReport {
        match &self.now {
            Some(now) => report.with_objects(Arc::clone(now), self.before.clone()),
            None => report,
        }
    }
}

impl Observation {
    /// The observation of a view, with the points that are new.
    pub fn of(view: &View, points: Vec<Point>) -> Self {
        Self {
            activity: view.activity.clone(),
            probes_wanted: view.probes_wanted,
            notices: view.notices.clone(),
            points,
            over_time: view.over_time,
            what_if: view.what_if.clone(),
            ended: view.ended.clone(),
            predictions: view.report.predictions.clone(),
            objects: [&view.report.objects_before, &view.report.objects]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
            sites: view.sites.clone(),
            probes_attaching: view.probes_attaching,
        }
    }

    /// The view of that moment, with a report of the sample and all points until then.
    pub fn into_view(self, report: Arc<FragReport>, history: Arc<Vec<Point>>) -> View {
        let report = match self.predictions {
            // Those that were made of the walk itself, which are newer, stay.
            Some(predictions) if report.predictions.is_none() => {
                Arc::new(report.with_predictions(of_its_heap(predictions, &report)))
            }
            _ => report,
        };
        View {
            report,
            activity: self.activity,
            sites: self.sites,
            probes_wanted: self.probes_wanted,
            probes_attaching: self.probes_attaching,
            notices: self.notices,
            history,
            over_time: self.over_time,
            objects: ObjectsState::Off,
            what_if: self.what_if,
            ended: self.ended,
        }
        .with_trend(false)
    }
}

/// Settings of glibc's were always read from its heap.
fn of_its_heap(predictions: Predictions, report: &FragReport) -> Predictions {
    let serving = report.serving().map(|heap| heap.allocator);
    let unknown = predictions.environment_unknown;
    Predictions {
        environment_unknown: unknown.filter(|_| serving != Some(Allocator::Glibc)),
        ..predictions
    }
}

fields!(Observation {
    activity,
    probes_wanted,
    notices,
    points,
    over_time,
    what_if,
    ended
} later {
    predictions,
    objects,
    sites,
    probes_attaching
});

fields!(Predictions {
    walk_ns,
    self_check,
    candidates,
    pending,
    trouble
} later {
    rss_bytes,
    environment_unknown or OLDER_ENVIRONMENT
});
fields!(SelfCheck {
    measured_bytes,
    predicted_bytes
});
/// As text.
impl Wire for CandidateName {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_string().put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok(Self::parse(input.text()?))
    }
}

/// The allocator's name and its version are two fields.
impl Wire for Prediction {
    fn put(&self, out: &mut Vec<u8>) {
        let Self {
            candidate,
            allocator,
            path,
            is_carried,
            set,
            step,
            remedies,
            needs,
            runs,
            failure,
        } = self;
        put_framed(out, |out| {
            candidate.put(out);
            put_text(out, allocator.name());
            allocator.version().map(str::to_owned).put(out);
            path.put(out);
            is_carried.put(out);
            set.put(out);
            step.put(out);
            remedies.put(out);
            needs.put(out);
            runs.put(out);
            failure.put(out);
        });
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mut own = input.framed()?;
        Ok(Self {
            candidate: Wire::take(&mut own)?,
            allocator: {
                let name = String::take(&mut own)?;
                AllocatorTitle::named(&name, Wire::take(&mut own)?)
            },
            path: Wire::take(&mut own)?,
            is_carried: Wire::take(&mut own)?,
            set: Wire::take(&mut own)?,
            step: Wire::take(&mut own)?,
            remedies: Wire::take(&mut own)?,
            needs: Wire::take(&mut own)?,
            runs: Wire::take(&mut own)?,
            failure: Wire::take(&mut own)?,
        })
    }
}
fields!(Needs {
    bytes,
    low_bytes,
    high_bytes
});

fields!(Point {
    time_ns,
    rss_bytes,
    swap_bytes,
    live_bytes,
    heap_bytes
} later {
    live_resident_bytes,
    threads
});
fields!(Moment {
    time_ns,
    heap,
    live
});
fields!(OverTime {
    last,
    most_live,
    most_heap,
    sum,
    time
});
fields!(WhatIf {
    shadows,
    turned_over,
    events_lost
} later {
    gone_share,
    allocated_bytes,
    cost,
    ended,
    environment_unknown or OLDER_ENVIRONMENT
});
fields!(Shadow {
    name,
    resident_bytes,
    worker_bytes,
    ended
} later {
    is_baseline
});

fields!(Activity {
    elapsed_ns,
    armed_ns,
    allocs,
    alloc_bytes,
    frees,
    frees_of_older,
    events_lost,
    alloc_rate,
    free_rate,
    alloc_byte_rate,
    tracked_blocks,
    tracked_bytes,
    untracked_blocks,
    lifetimes,
    sizes,
    classes,
    probes,
    cost,
    ended,
});

fields!(ClassActivity {
    class,
    allocs,
    frees,
    alloc_bytes,
    lifetime_p50_ns,
    lifetime_p90_ns,
    lifetime_p99_ns,
});

fields!(ProbeStatus {
    function,
    object,
    site,
    hits,
    state
});
fields!(ProbeCost {
    hits,
    ns_per_hit,
    share,
    budget
});

impl Wire for SizeClass {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let class = Self(u16::take(input)?);
        match usize::from(class.0) < Self::COUNT {
            true => Ok(class),
            false => Err(malformed("a size class that there is not")),
        }
    }
}

impl Wire for Mechanism {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.code());
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mechanism = Self::of_code(input.byte()?);
        mechanism.ok_or_else(|| malformed("a mechanism that this fragscope does not know"))
    }
}

impl Wire for ProbeState {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Firing => out.push(0),
            Self::Silent => out.push(1),
            Self::Failed(why) => {
                out.push(2);
                why.put(out);
            }
        }
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok(match input.byte()? {
            0 => Self::Firing,
            1 => Self::Silent,
            2 => Self::Failed(String::take(input)?),
            _ => {
                return Err(malformed(
                    "a probe in a state that this fragscope does not know",
                ));
            }
        })
    }
}

/// The most significant digits of a histogram, which determine how much memory it takes.
const MAX_DIGITS: u8 = 3;

/// Digits, bounds, and each value with its count.
impl Wire for Histogram<u64> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.sigfig());
        varint::put(out, self.low());
        varint::put(out, self.high());
        varint::put(out, self.iter_recorded().count() as u64);
        let mut before = 0;
        for step in self.iter_recorded() {
            varint::put(out, step.value_iterated_to() - before);
            varint::put(out, step.count_at_value());
            before = step.value_iterated_to();
        }
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let unsound = || malformed("a histogram is not sound");
        let digits = input.byte()?;
        let (low, high) = (input.number()?, input.number()?);
        if digits > MAX_DIGITS {
            return Err(unsound());
        }
        let histogram = Self::new_with_bounds(low, high, digits);
        let mut histogram = histogram.map_err(|_| unsound())?;
        let bytes = histogram.distinct_values() as u64 * size_of::<u64>() as u64;
        input.memory.add(bytes)?;
        let mut value = 0u64;
        for _ in 0..count::<u64>(input)? {
            value = value.checked_add(input.number()?).ok_or_else(unsound)?;
            let count = input.number()?;
            histogram.record_n(value, count).map_err(|_| unsound())?;
        }
        Ok(histogram)
    }
}

//! The input of one screen or export: a report, what the probes saw, and the history.

use std::sync::Arc;

use crate::activity::{Activity, ProbeCost};
use crate::allocator::UnknownEnvironment;
use crate::metrics::Metric;
use crate::over_time::OverTime;
use crate::prediction::saving_stands;
use crate::report::{FragReport, ToCome};
use crate::sites::Sites;
pub use crate::trend::Point;
use crate::trend::Trend;
use crate::units::bytes;
use crate::worth;

impl Point {
    /// Of a walk.
    pub fn of(report: &FragReport) -> Self {
        // Figures of a part of the heaps are not comparable with those of another walk's part.
        let is_whole = report.completeness.out_of_time_ns.is_none();
        let of_walk = |figure: Option<u64>| figure.filter(|_| is_whole);
        Self {
            time_ns: report.taken_at_ns,
            rss_bytes: report.kernel.rss_bytes,
            swap_bytes: report.kernel.swap_bytes,
            live_bytes: of_walk(report.live_bytes()),
            heap_bytes: of_walk(report.heap_resident_bytes()),
            live_resident_bytes: of_walk(report.live_resident_bytes()),
            threads: Some(report.target.threads),
        }
    }
}

/// The worker's events replayed under another allocator while it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WhatIf {
    /// The allocators, in the order that the user gave.
    pub shadows: Vec<Shadow>,
    /// Bytes allocated since the stream began, for each byte that was live then.
    pub turned_over: Option<f64>,
    /// Events that were lost.
    pub events_lost: u64,
    /// The share of the bytes live at the beginning of the stream that was freed since. The layout
    /// of the rest in another allocator is only estimated.
    pub gone_share: Option<f64>,
    /// Bytes allocated since the stream began.
    pub allocated_bytes: u64,
    /// The cost of the probes that record the stream; `None` until it is known.
    pub cost: Option<ProbeCost>,
    /// Why the recording ended before the session and its target did.
    pub ended: Option<String>,
    /// Why it is unknown which settings the worker has: the baseline has the defaults.
    pub environment_unknown: Option<UnknownEnvironment>,
}

/// One shadow: a process that has all the blocks that the worker has, from another allocator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shadow {
    /// The allocator.
    pub name: String,
    /// malloc's resident bytes, including swapped ones, at the last checkpoint that it reached.
    pub resident_bytes: Option<u64>,
    /// The worker's at the same checkpoint.
    pub worker_bytes: Option<u64>,
    /// Why it has ended, if it has.
    pub ended: Option<String>,
    /// Whether it has the worker's own allocator: its error is a measure of the other shadows'
    /// errors.
    pub is_baseline: bool,
}

/// A baseline with a larger error than this share supports no conclusion.
const FAITHFUL: f64 = 0.1;

impl WhatIf {
    /// The worker's own memory and each shadow's, a phrase each, then how far to trust them.
    pub fn phrases(&self) -> Vec<String> {
        let worker = self
            .shadows
            .iter()
            .filter_map(|s| s.worker_bytes)
            .next_back();
        let own = worker.map(|own| format!("malloc now {}", bytes(own)));
        let mut all = Vec::from_iter(own);
        all.extend(self.shadows.iter().map(Shadow::phrase));
        let baseline = self.shadows.iter().find(|shadow| shadow.is_baseline);
        let off = baseline.and_then(Shadow::compared);
        if let Some(off) = off.filter(|off| off.abs() > FAITHFUL) {
            let percent = off.abs() * 100.0;
            let larger: Vec<&str> = self.shadows.iter().filter_map(|s| s.stands(off)).collect();
            all.push(match larger.is_empty() {
                true => format!("no verdict: the baseline is off by {percent:.0} %"),
                false => format!(
                    "the baseline is off by {percent:.0} %: only the saving of {} is larger",
                    larger.join(", ")
                ),
            });
        }
        all.extend(self.environment_unknown.map(|reason| {
            let why = reason.because();
            format!(
                "the settings of the worker are unknown, and the baseline may not have them: {why}"
            )
        }));
        // What the worker frees again shows only once it has asked for as much as there is.
        if worker.is_some_and(|own| self.allocated_bytes < own) {
            let allocated = bytes(self.allocated_bytes);
            all.push(format!("too early: {allocated} allocated since attaching"));
        }
        if let Some(share) = self.gone_share {
            let percent = share * 100.0;
            all.push(format!(
                "{percent:.0} % of what was live at attaching has been freed"
            ));
        }
        all
    }
}

impl WhatIf {
    /// Whether none of the allocators plays any more, and nothing was compared.
    pub fn came_to_nothing(&self) -> bool {
        let mut all = self.shadows.iter();
        all.all(|shadow| shadow.ended.is_some() && shadow.resident_bytes.is_none())
    }

    /// The cost of the probes while they record.
    pub fn cost(&self) -> Option<ProbeCost> {
        self.cost.filter(|_| self.ended.is_none())
    }

    /// The shadows that have ended, a sentence each.
    pub fn ended_shadows(&self) -> Vec<String> {
        let ended = |shadow: &Shadow| {
            let why = shadow.ended.as_ref()?;
            Some(format!("the shadow {} has ended: {why}", shadow.name))
        };
        self.shadows.iter().filter_map(ended).collect()
    }

    /// Problems with the recording and the shadows, one sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let all = self.ended.iter();
        let all = all.map(|why| format!("the comparison with other allocators has ended: {why}"));
        all.chain(self.ended_shadows()).collect()
    }
}

impl Shadow {
    /// How much more memory it takes than the worker, as a share of the worker's.
    pub fn compared(&self) -> Option<f64> {
        let worker = self.worker_bytes.filter(|worker| *worker > 0)?;
        Some(self.resident_bytes? as f64 / worker as f64 - 1.0)
    }

    /// Its name, if it saves something even allowing for an error of the share `off`, the
    /// baseline's.
    fn stands(&self, off: f64) -> Option<&str> {
        let worker = self.worker_bytes.filter(|_| !self.is_baseline)?;
        let least = worth::OF_MALLOC.least(worker);
        saving_stands(worker, self.resident_bytes?, least, off.abs()).then_some(&self.name)
    }

    /// Its memory, and the comparison with the worker's at the same moment.
    pub fn phrase(&self) -> String {
        let name = &self.name;
        let Some(own) = self.resident_bytes else {
            return match &self.ended {
                Some(why) => format!("{name} ended: {why}"),
                None => format!("{name} starting"),
            };
        };
        let compared = self.compared();
        let compared = compared.map_or(String::new(), |by| format!(" ({:+.0} %)", by * 100.0));
        let ended = self.ended.as_ref();
        let ended = ended.map_or(String::new(), |why| format!(", ended: {why}"));
        format!("{name} {}{compared}{ended}", bytes(own))
    }
}

/// The state of reading Python objects in a session.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ObjectsState {
    /// It was not requested, or nothing can do it.
    #[default]
    Off,
    /// It is read at the next walk, or at a later one.
    Planned,
    /// It is being read.
    Reading {
        /// Live blocks that are gone through.
        blocks: u64,
        /// For how long already, in ns.
        elapsed_ns: u64,
    },
    /// It failed, and why.
    Failed(String),
}

/// What is known about the target's calls, and its source.
#[derive(Copy, Clone, Debug)]
pub enum ActivitySource<'a> {
    /// Nothing, and no probes were requested.
    NotRequested,
    /// Nothing yet: probes are being attached.
    Attaching,
    /// Nothing: the notices say why.
    NoProbes,
    /// Probes that sample, in windows within a budget.
    Sampled(&'a Activity),
    /// Probes that record every call for the shadows of `--what-if`, and are armed all the time.
    Recorded(&'a WhatIf),
}

impl ActivitySource<'_> {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotRequested => "not_requested",
            Self::Attaching => "attaching",
            Self::NoProbes => "no_probes",
            Self::Sampled(_) => "sampled",
            Self::Recorded(_) => "recorded",
        }
    }

    /// Why there are no more calls, if the probes ended before they were removed.
    pub fn ended(&self) -> Option<&str> {
        match self {
            Self::NotRequested | Self::Attaching | Self::NoProbes => None,
            Self::Sampled(activity) => activity.ended.as_deref(),
            Self::Recorded(what_if) => what_if.ended.as_deref(),
        }
    }

    /// The cost of the probes while there are any, if known.
    pub fn cost(&self) -> Option<ProbeCost> {
        match self {
            Self::NotRequested | Self::Attaching | Self::NoProbes => None,
            Self::Sampled(activity) => Some(activity.cost).filter(|_| activity.ended.is_none()),
            Self::Recorded(what_if) => what_if.cost(),
        }
    }
}

/// Everything that is shown or exported at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The last walk's report.
    pub report: Arc<FragReport>,
    /// What the sampling probes saw; `None` without them: [`View::activity_source`] says why.
    pub activity: Option<Arc<Activity>>,
    /// Call sites of allocations seen by the sampling probes; `None` without them.
    pub sites: Option<Arc<Sites>>,
    /// Whether sampling probes were requested, so that their absence is worth mentioning.
    pub probes_wanted: bool,
    /// Whether they are being attached yet.
    pub probes_attaching: bool,
    /// Why there are no probes or no walks, and other things the user must know, one per line.
    pub notices: Vec<String>,
    /// The past, oldest first, bounded in length by the session.
    pub history: Arc<Vec<Point>>,
    /// Fragmentation over the walks of the session.
    pub over_time: OverTime,
    /// The state of reading Python objects.
    pub objects: ObjectsState,
    /// The worker under other allocators; `None` when that was not requested.
    pub what_if: Option<WhatIf>,
    /// Why the session ended (the target exited, the duration is over), if it has.
    pub ended: Option<String>,
}

impl View {
    /// The metrics of the last walk, and those over time that are known.
    pub fn metrics(&self) -> Vec<Metric> {
        let over_time = self.over_time.ratios().into_iter();
        let known = over_time.filter(|metric| metric.value.is_some());
        self.report.metrics.iter().copied().chain(known).collect()
    }

    /// A view of one passive observation, with the counts made during it.
    pub fn of_one_look(report: FragReport, history: Vec<Point>, notices: Vec<String>) -> Self {
        Self {
            report: Arc::new(report),
            activity: None,
            sites: None,
            probes_wanted: false,
            probes_attaching: false,
            notices,
            history: Arc::new(history),
            over_time: OverTime::default(),
            objects: ObjectsState::default(),
            what_if: None,
            ended: None,
        }
        .with_trend(false)
    }

    /// Adds the process's recent growth, from the history: live and saved views get it here. For
    /// `live` ones, more is to come.
    pub fn with_trend(mut self, is_live: bool) -> Self {
        let to_come = match (is_live && self.ended.is_none(), &self.objects) {
            (false, _) => ToCome::Nothing,
            (true, ObjectsState::Planned | ObjectsState::Reading { .. }) => ToCome::Objects,
            (true, ObjectsState::Off | ObjectsState::Failed(_)) => ToCome::Walks,
        };
        let trend = Trend::of(&self.history);
        let is_grown = trend.is_some() || self.report.growth.is_some();
        if is_grown || self.report.to_come != to_come {
            let report = self.report.with_history(trend, &self.history, to_come);
            self.report = Arc::new(report);
        }
        self
    }

    /// The source of what is known about the target's calls.
    pub fn activity_source(&self) -> ActivitySource<'_> {
        match (&self.activity, &self.what_if, self.probes_wanted) {
            (Some(activity), _, _) => ActivitySource::Sampled(activity),
            (None, Some(what_if), _) => ActivitySource::Recorded(what_if),
            (None, None, _) if self.probes_attaching => ActivitySource::Attaching,
            (None, None, true) => ActivitySource::NoProbes,
            (None, None, false) => ActivitySource::NotRequested,
        }
    }

    /// Events lost since attaching, by the newest account.
    pub fn events_lost(&self) -> u64 {
        let seen = match self.activity_source() {
            ActivitySource::NotRequested | ActivitySource::Attaching | ActivitySource::NoProbes => {
                0
            }
            ActivitySource::Sampled(activity) => activity.events_lost,
            ActivitySource::Recorded(what_if) => what_if.events_lost,
        };
        self.report.completeness.events_lost.max(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_that_is_off_silences_no_saving_that_is_larger() {
        let shadow = |name: &str, mib: u64| Shadow {
            name: name.into(),
            resident_bytes: Some(mib << 20),
            worker_bytes: Some(200 << 20),
            ..Shadow::default()
        };
        let said = |baseline, jemalloc| {
            let what_if = WhatIf {
                shadows: vec![
                    Shadow {
                        is_baseline: true,
                        ..shadow("baseline", baseline)
                    },
                    shadow("jemalloc", jemalloc),
                ],
                allocated_bytes: 1 << 30,
                ..WhatIf::default()
            };
            what_if.phrases().pop().expect("some")
        };
        assert_eq!(said(230, 150), "no verdict: the baseline is off by 15 %");
        assert_eq!(
            said(230, 8),
            "the baseline is off by 15 %: only the saving of jemalloc is larger"
        );
        assert_eq!(said(210, 8), "jemalloc 8.0 MiB (-96 %)");
    }
}

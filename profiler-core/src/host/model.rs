//! State of each process over time: growth, and the last walk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sums::Cost;
use super::turns::{Turn, urgency};
use super::{EndedProcess, HostSample, ProcessId, ProcessSample, TreeHistory};
use crate::allocator::AllocatorTitle;
use crate::completeness::Confidence;
use crate::explain::ShortVerdict;
use crate::fork::ForkSharing;
use crate::mechanism::Mechanism;
use crate::metrics::MetricId;
use crate::report::FragReport;
use crate::sample::Host;
use crate::tables::{LedgerPart, LedgerRow};
use crate::trend::RssGrowth;

/// The result of walking a process, as far as a table shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct WalkFigures {
    /// When, in nanoseconds since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// Live bytes in all heaps; `None` if none could be walked.
    pub live_bytes: Option<u64>,
    /// The part of these that is in memory.
    pub live_resident_bytes: Option<u64>,
    /// Resident heap bytes that hold nothing live.
    pub fragmentation_bytes: Option<u64>,
    /// Of those, on pages that another process maps as well.
    pub shared_fragmentation_bytes: u64,
    /// Memory that it has shared with its parent since the fork.
    pub fork: Option<ForkSharing>,
    /// Bytes that a trim would return.
    pub trim_returnable_bytes: Option<u64>,
    /// Its memory by class; `None` if its heap's classes are unknown.
    pub ledger: Option<Arc<[LedgerRow]>>,
    /// The allocator that serves malloc.
    pub malloc: Option<AllocatorTitle>,
    /// How long the process was stopped, in nanoseconds.
    pub stop_ns: u64,
    /// How sure the walk is.
    pub confidence: Confidence,
    /// The verdict.
    pub verdict: ShortVerdict,
}

impl WalkFigures {
    /// Of the report on a walk.
    pub fn of(report: &FragReport) -> Self {
        // The readable part of a swapped heap says nothing about the process, nor do Python's pools
        // if malloc's heap was not walked.
        let first = report.findings.first().map(|first| first.mechanism);
        let is_known = !report.is_heap_in_swap()
            && first != Some(Mechanism::NotSure)
            && report.completeness.out_of_time_ns.is_none();
        let of_heap = |figure: Option<u64>| figure.filter(|_| is_known);
        let fragments = report.ledger.iter();
        let fragments = fragments.filter(|row| row.class.part() == LedgerPart::Fragmentation);
        Self {
            taken_at_ns: report.taken_at_ns,
            live_bytes: of_heap(report.live_bytes()),
            live_resident_bytes: of_heap(report.live_resident_bytes()),
            fragmentation_bytes: of_heap(report.amount(MetricId::FragmentationBytes)),
            shared_fragmentation_bytes: fragments.map(|row| row.shared_bytes).sum(),
            fork: report.fork,
            trim_returnable_bytes: of_heap(report.amount(MetricId::TrimReturnableBytes)),
            ledger: is_known.then(|| report.ledger.as_slice().into()),
            malloc: report.target.malloc.clone(),
            stop_ns: report.completeness.stop_ns,
            confidence: report.completeness.layout_confidence,
            verdict: report.short_verdict(),
        }
    }
}

/// A process of the table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessRow {
    /// Its last observation.
    pub process: ProcessSample,
    /// Growth of its RSS while it was watched, in bytes per second.
    pub growth: Option<f64>,
    /// Whether it gained enough, and fast enough, to be called growing.
    pub is_growing: bool,
    /// Its last walk.
    pub walk: Option<WalkFigures>,
    /// How long ago that was, in nanoseconds.
    pub walk_age_ns: Option<u64>,
    /// Why it was not walked in its turn, in one sentence.
    pub not_walked: Option<String>,
}

impl ProcessRow {
    /// The verdict in at most three words; `None` before the first walk, unless it grows.
    pub fn verdict(&self) -> Option<String> {
        match &self.walk {
            Some(walk) => Some(walk.verdict.words(self.is_growing)),
            None => self.is_growing.then(|| "growing".to_owned()),
        }
    }
}

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostView {
    /// Nanoseconds since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// The host.
    pub host: Host,
    /// The processes, by their numbers.
    pub rows: Vec<ProcessRow>,
    /// What is not shown and why.
    pub notices: Vec<String>,
    /// Processes that cannot be inspected.
    pub unreadable: u64,
    /// The cost of watching so far.
    pub cost: Cost,
    /// The planned walks; `None` if there are none.
    pub walks: Option<PlannedWalks>,
    /// For a tree: its processes that started and ended meanwhile.
    pub history: Option<TreeHistory>,
}

/// How walks go on.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct PlannedWalks {
    /// Time until the budget allows the next walk, in ns.
    pub until_next_ns: u64,
    /// The share of one core that is allowed; `None` is without limit.
    pub budget: Option<f64>,
}

impl HostView {
    /// How many processes wait for their first walk, and why, as a phrase; `None` if none does.
    pub fn waiting(&self) -> Option<String> {
        let walks = self.walks?;
        let rows = self.rows.iter();
        let waiting = rows.filter(|row| {
            row.process.python.is_some() && row.walk.is_none() && row.not_walked.is_none()
        });
        let waiting = waiting.count();
        let next = walks.until_next_ns as f64 / 1e9;
        let budget = walks.budget.map_or_else(String::new, |budget| {
            format!(", as the budget of {:.0} % allows", budget * 100.0)
        });
        let who = match waiting {
            0 => return None,
            1 => "1 waits for its first walk".to_owned(),
            some => format!("{some} wait for their first walk"),
        };
        Some(format!("{who}, the next in {next:.0} s{budget}"))
    }
}

#[derive(Debug)]
struct Watched {
    /// When it was first observed, and its RSS then.
    first: (u64, u64),
    last: ProcessSample,
    walk: Option<WalkFigures>,
    not_walked: Option<String>,
}

/// The watched processes. Nothing is kept of a process that is gone.
#[derive(Debug, Default)]
pub struct HostModel {
    watched: BTreeMap<ProcessId, Watched>,
    taken_at_ns: u64,
    host: Host,
    notices: Vec<String>,
    unreadable: u64,
    history: Option<TreeHistory>,
}

impl HostModel {
    /// For the tree of a master: its processes that start and end have a history.
    pub fn of_tree() -> Self {
        Self {
            history: Some(TreeHistory::default()),
            ..Self::default()
        }
    }

    /// Adds an observation.
    pub fn observe(&mut self, sample: HostSample) {
        self.taken_at_ns = sample.taken_at_ns;
        self.host = sample.host;
        self.notices = sample.notices;
        self.unreadable = sample.unreadable;
        let mut before = std::mem::take(&mut self.watched);
        let is_first = before.is_empty();
        for process in sample.processes {
            let known = before.remove(&process.id);
            let seen = (sample.taken_at_ns, process.memory.rss_bytes);
            let watched = match known {
                Some(known) => Watched {
                    last: process,
                    ..known
                },
                None => {
                    if let Some(history) = self.history.as_mut().filter(|_| !is_first) {
                        history.came += 1;
                    }
                    Watched {
                        first: seen,
                        last: process,
                        walk: None,
                        not_walked: None,
                    }
                }
            };
            self.watched.insert(watched.last.id, watched);
        }
        if let Some(history) = &mut self.history {
            for gone in before.into_values() {
                let walk = gone.walk.as_ref();
                history.end(EndedProcess {
                    pid: gone.last.id.pid,
                    is_python: gone.last.python.is_some(),
                    rss_bytes: gone.last.memory.rss_bytes,
                    uss_bytes: gone.last.memory.uss_bytes,
                    fragmentation_bytes: walk.and_then(|walk| walk.fragmentation_bytes),
                    age_ns: gone.last.age_ns,
                });
            }
        }
    }

    /// Adds a walk, or the reason why there was none.
    pub fn walked(&mut self, id: ProcessId, walk: Result<WalkFigures, String>) {
        if let Some(watched) = self.watched.get_mut(&id) {
            match walk {
                Ok(figures) => {
                    watched.walk = Some(figures);
                    watched.not_walked = None;
                }
                Err(why) => watched.not_walked = Some(why),
            }
        }
    }

    /// The process with this number.
    pub fn process(&self, pid: i32) -> Option<ProcessId> {
        let mut ids = self.watched.keys();
        ids.find(|id| id.pid == pid).copied()
    }

    /// The view at `now_ns`; `cost` is what watching took.
    pub fn view(&self, now_ns: u64, cost: Cost) -> HostView {
        HostView {
            taken_at_ns: self.taken_at_ns,
            host: self.host.clone(),
            rows: self
                .watched
                .values()
                .map(|of| self.row(of, now_ns))
                .collect(),
            notices: self.notices.clone(),
            unreadable: self.unreadable,
            cost,
            walks: None,
            history: self.history.clone(),
        }
    }

    /// The process to walk next, among those for which `due` is true.
    pub fn next(&self, now_ns: u64, due: impl Fn(ProcessId) -> bool) -> Option<ProcessId> {
        let due = self.watched.iter().filter(|(id, of)| {
            // A process that does not run Python is stopped only at the user's request.
            of.last.python.is_some() && due(**id)
        });
        let urgent = due.map(|(id, of)| {
            let turn = Turn {
                rss_bytes: of.last.memory.rss_bytes,
                growth: self.growth(of),
                walk_age_ns: of.walk_age_ns(now_ns),
                is_near_limit: of.last.group.as_ref().is_some_and(|of| of.is_near_limit()),
                was_tried: of.not_walked.is_some(),
            };
            (urgency(&turn), *id)
        });
        urgent.max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, id)| id)
    }

    fn rss_growth(&self, of: &Watched) -> Option<RssGrowth> {
        let now = (self.taken_at_ns, of.last.memory.rss_bytes);
        RssGrowth::between(of.first, now)
    }

    /// In bytes per second, once it was watched long enough.
    fn growth(&self, of: &Watched) -> Option<f64> {
        Some(self.rss_growth(of)?.bytes_per_second)
    }

    fn row(&self, of: &Watched, now_ns: u64) -> ProcessRow {
        let growth = self.rss_growth(of);
        ProcessRow {
            process: of.last.clone(),
            growth: growth.map(|growth| growth.bytes_per_second),
            is_growing: growth.is_some_and(|growth| growth.is_growing),
            walk: of.walk.clone(),
            walk_age_ns: of.walk_age_ns(now_ns),
            not_walked: of.not_walked.clone(),
        }
    }
}

impl Watched {
    fn walk_age_ns(&self, now_ns: u64) -> Option<u64> {
        let walk = self.walk.as_ref()?;
        Some(now_ns.saturating_sub(walk.taken_at_ns))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::host::Memory;

    const SECOND: u64 = 1_000_000_000;

    pub(crate) fn process(pid: i32, parent: i32, rss_bytes: u64) -> ProcessSample {
        ProcessSample {
            id: ProcessId {
                pid,
                began_ticks: pid as u64,
                program: (1, 1),
            },
            parent,
            comm: format!("python{pid}"),
            cmdline: vec!["/usr/bin/python3".into(), format!("job{pid}.py")],
            python: Some("CPython 3.11.2".into()),
            memory: Memory {
                rss_bytes,
                ..Memory::default()
            },
            group: None,
            age_ns: None,
        }
    }

    fn walk(taken_at_ns: u64) -> WalkFigures {
        WalkFigures {
            taken_at_ns,
            ..WalkFigures::of(&FragReport::from_sample(&Default::default()))
        }
    }

    fn sample(at: u64, processes: &[ProcessSample]) -> HostSample {
        HostSample {
            taken_at_ns: at * SECOND,
            processes: processes.to_vec(),
            ..HostSample::default()
        }
    }

    #[test]
    fn growth_is_over_the_time_that_a_process_was_watched_and_unknown_at_first() {
        let mut model = HostModel::default();
        model.observe(sample(1, &[process(7, 1, 100 << 20)]));
        assert_eq!(model.view(SECOND, Cost::default()).rows[0].growth, None);
        model.observe(sample(
            11,
            &[process(7, 1, 200 << 20), process(8, 1, 1 << 20)],
        ));
        let rows = model.view(11 * SECOND, Cost::default()).rows;
        assert_eq!(rows[0].growth, Some((10 << 20) as f64));
        assert_eq!(rows[0].verdict().as_deref(), Some("growing"));
        assert_eq!((rows[1].growth, rows[1].verdict()), (None, None));
        model.observe(sample(21, &[process(7, 1, 0)]));
        let rows = model.view(21 * SECOND, Cost::default()).rows;
        assert!(rows.len() == 1 && rows[0].growth < Some(0.0) && !rows[0].is_growing);
    }

    #[test]
    fn a_process_that_gets_the_number_of_another_has_none_of_its_past() {
        let mut model = HostModel::default();
        model.observe(sample(1, &[process(7, 1, 100)]));
        let id = model.process(7).expect("it is there");
        model.walked(id, Ok(walk(SECOND)));
        let mut later = process(7, 1, 900);
        later.id.began_ticks += 5;
        model.observe(sample(9, &[later]));
        // A walk in progress belongs to the previous process.
        model.walked(id, Ok(walk(SECOND)));
        let rows = model.view(9 * SECOND, Cost::default()).rows;
        assert!(rows.len() == 1 && rows[0].walk.is_none() && rows[0].growth.is_none());
    }

    #[test]
    fn the_unwalked_come_first_and_of_them_the_largest_and_the_fastest_growing() {
        let mut model = HostModel::default();
        let small = |rss| process(3, 1, rss);
        let processes = [
            process(1, 0, 300 << 20),
            process(2, 1, 200 << 20),
            small(10 << 20),
        ];
        model.observe(sample(0, &processes));
        let mut turns = Vec::new();
        while let Some(id) = model.next(SECOND, |id| !turns.contains(&id.pid)) {
            turns.push(id.pid);
        }
        assert_eq!(turns, [1, 2, 3]);
        // The small one gains 10 MiB a second.
        model.observe(sample(
            10,
            &[processes[0].clone(), processes[1].clone(), small(110 << 20)],
        ));
        assert_eq!(model.next(10 * SECOND, |_| true).map(|id| id.pid), Some(3));
        for pid in [1, 2, 3] {
            let id = model.process(pid).expect("it is there");
            model.walked(id, Ok(walk((11 + pid as u64) * SECOND)));
        }
        // The process that waited longest, weighted; every process gets a turn.
        let mut seen = [0; 3];
        for now in 20..80 {
            let id = model.next(now * SECOND, |_| true).expect("all are due");
            model.walked(id, Ok(walk(now * SECOND)));
            seen[id.pid as usize - 1] += 1;
        }
        assert!(
            seen[2] > seen[0] && seen[0] > seen[1] && seen[1] > 0,
            "{seen:?}"
        );
    }

    #[test]
    fn what_was_read_of_a_heap_that_is_in_swap_is_no_figure_of_the_process() {
        let mut report = FragReport::from_sample(&Default::default());
        report.metrics.iter_mut().for_each(|metric| {
            if metric.id == MetricId::FragmentationBytes {
                metric.value = Some(crate::units::Value::Whole(23 << 10));
            }
        });
        let of_pools = WalkFigures::of(&report);
        let why = "Python's pools are all that was walked, and malloc's heap is more";
        assert_eq!(
            of_pools.verdict.mechanism,
            Some(Mechanism::NotSure),
            "{why}"
        );
        assert_eq!(of_pools.fragmentation_bytes, None, "{why}");
        report.findings.clear();
        let known = WalkFigures::of(&report);
        assert_eq!(known.fragmentation_bytes, Some(23 << 10));
        for row in &mut report.ledger {
            if row.class == crate::report::LedgerClass::Unknown {
                row.swapped_bytes = 80 << 20;
            }
        }
        let walk = WalkFigures::of(&report);
        let figures = [
            walk.live_bytes,
            walk.live_resident_bytes,
            walk.fragmentation_bytes,
            walk.trim_returnable_bytes,
        ];
        assert_eq!(figures, [None; 4]);
        assert_eq!(walk.verdict.words(true), "in swap");
        assert!(!walk.verdict.is_fragmentation());
    }

    #[test]
    fn a_process_without_python_is_walked_for_whoever_asks_alone() {
        let mut model = HostModel::default();
        let mut other = process(5, 1, 1 << 30);
        other.python = None;
        model.observe(sample(1, &[other]));
        assert_eq!(model.next(SECOND, |_| true), None);
    }

    #[test]
    fn one_that_could_not_be_walked_says_why_and_waits_behind_the_others() {
        let mut model = HostModel::default();
        model.observe(sample(
            1,
            &[process(1, 0, 900 << 20), process(2, 0, 1 << 20)],
        ));
        let id = model.process(1).expect("it is there");
        model.walked(id, Err("it is traced".into()));
        assert_eq!(model.next(2 * SECOND, |_| true).map(|id| id.pid), Some(2));
        let rows = model.view(SECOND, Cost::default()).rows;
        assert_eq!(rows[0].not_walked.as_deref(), Some("it is traced"));
    }
}

//! The black box of a host: for each process that runs Python.

use std::collections::BTreeMap;
use std::sync::Arc;

use profiler_core::host::{HostSample, ProcessId, ProcessSample};
use profiler_core::over_time::OverTime;
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::view::{Point, View};
use profiler_target::{Listed, MemoryKills};
use profiler_trace::black_box::{BlackBox, BlackBoxError};
use profiler_trace::snapshot::Observation;
use profiler_trace::whole_file::WriteError;

use super::victims::{self, VictimWatch};
use super::{BlackBoxOptions, KeptProcess};
use crate::say;

/// The last walks of the processes of a host.
#[derive(Debug)]
pub(crate) struct HostBlackBox {
    black_box: BlackBox,
    victims: Option<VictimWatch>,
    /// By pid and start time: a process that executes another program remains the same.
    watched: BTreeMap<(i32, u64), WatchedProcess>,
    is_in_trouble: bool,
    /// The last notice about kept files.
    notice: Option<String>,
}

#[derive(Debug)]
struct WatchedProcess {
    listed: Listed,
    kept: KeptProcess,
    kills: MemoryKills,
    over_time: OverTime,
    /// The report on its last walk.
    report: Option<Arc<FragReport>>,
}

impl WatchedProcess {
    fn new(process: &ProcessSample) -> Self {
        Self {
            listed: Listed {
                id: process.id,
                parent: process.parent,
                comm: process.comm.clone(),
            },
            kept: KeptProcess::default(),
            kills: MemoryKills::of(process.id.pid),
            over_time: OverTime::default(),
            report: None,
        }
    }

    fn see(&mut self, taken_at_ns: u64, process: &ProcessSample) {
        self.kills.follow();
        self.kills.renew();
        let walk = self.report.as_ref();
        self.kept.point(Point {
            time_ns: taken_at_ns,
            rss_bytes: process.memory.rss_bytes,
            swap_bytes: process.memory.swap_bytes.unwrap_or(0),
            live_bytes: walk.and_then(|report| report.live_bytes()),
            heap_bytes: walk.and_then(|report| report.heap_resident_bytes()),
            live_resident_bytes: walk.and_then(|report| report.live_resident_bytes()),
            threads: walk.map(|report| report.target.threads),
        });
    }
}

impl HostBlackBox {
    /// Opens the directory.
    ///
    /// # Errors
    /// When it is not usable.
    pub(crate) fn open(options: &BlackBoxOptions) -> Result<Self, WriteError> {
        let mut opened = Self {
            black_box: options.open()?,
            victims: VictimWatch::start(),
            watched: BTreeMap::new(),
            is_in_trouble: false,
            notice: None,
        };
        opened.say_notice();
        Ok(opened)
    }

    /// Processes an observation of all processes: those that no longer exist have ended.
    pub(crate) fn look(&mut self, seen: &HostSample) {
        let mut before = std::mem::take(&mut self.watched);
        let pythons = seen.processes.iter().filter(|one| one.python.is_some());
        for process in pythons {
            let key = key(process.id);
            let known = before.remove(&key);
            let mut known = known.unwrap_or_else(|| WatchedProcess::new(process));
            known.see(seen.taken_at_ns, process);
            self.watched.insert(key, known);
        }
        for (key, known) in before {
            // A process that is not listed because there are too many has not ended.
            match known.listed.is_there() {
                true => drop(self.watched.insert(key, known)),
                false => self.end(known),
            }
        }
    }

    /// Adds a walk.
    pub(crate) fn walked(&mut self, id: ProcessId, sample: &Sample, report: FragReport) {
        let Some(known) = self.watched.get_mut(&key(id)) else {
            return;
        };
        known.over_time.add(&report);
        known.kept.point(Point::of(&report));
        let view = View {
            over_time: known.over_time,
            ..View::of_one_look(report, Vec::new(), Vec::new())
        };
        let observation = Observation::of(&view, Vec::new());
        let kept = known.kept.walk(&mut self.black_box, sample, observation);
        known.report = Some(view.report);
        self.took(kept);
    }

    fn end(&mut self, mut known: WatchedProcess) {
        // Without a walk it has no file.
        let Some(report) = known.report.take() else {
            return;
        };
        let id = known.listed.id;
        let (pid, watch) = (id.pid, self.victims.as_ref());
        let end = victims::end(watch, &known.kills, key(id));
        let view = View {
            over_time: known.over_time,
            ended: Some(end.sentence(pid)),
            ..View::of_one_look((*report).clone(), Vec::new(), Vec::new())
        };
        let observation = Observation::of(&view, Vec::new());
        let kept = known.kept.end(&mut self.black_box, pid, &end, observation);
        if let (true, Some(name)) = (end.is_for_memory(), &known.kept.name) {
            let path = self.black_box.path(name);
            let its = match kept {
                Ok(()) => "its last walks are in",
                Err(_) => "that is not in the file of its last walks,",
            };
            say::line(format_args!(
                "{}: {its} {}",
                end.sentence(pid),
                profiler_core::text::visible(path.display())
            ));
        }
        self.took(kept);
    }

    /// Reports problems with kept files when they change.
    fn say_notice(&mut self) {
        let notice = self.black_box.notice();
        if let Some(notice) = notice
            .as_ref()
            .filter(|now| self.notice.as_ref() != Some(now))
        {
            say::line(format_args!("the black box: {notice}"));
        }
        self.notice = notice;
    }

    /// Reports when keeping files begins to fail and when it works again: a full disk affects all
    /// processes.
    fn took(&mut self, kept: Result<(), BlackBoxError>) {
        self.say_notice();
        match (kept, std::mem::take(&mut self.is_in_trouble)) {
            (Ok(()), false) => {}
            (Ok(()), true) => say::line("the black box is written again"),
            (Err(error), was) => {
                self.is_in_trouble = true;
                if !was {
                    say::line(format_args!(
                        "the black box: {error}; what it has is kept, and it is tried again with each walk"
                    ));
                }
            }
        }
    }
}

fn key(id: ProcessId) -> (i32, u64) {
    (id.pid, id.began_ticks)
}

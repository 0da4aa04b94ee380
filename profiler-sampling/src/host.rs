//! Samples a whole host: the kernel's counts of every process at each interval, and walks of one
//! process after another within a budget. A [`Sampler`] does each walk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use profiler_core::host::{Cost, HostSample, Memory, ProcessId, ProcessSample};
use profiler_core::sample::{Host, Sample};
use profiler_target::host::{hides_processes, most_open_files, own_cpu};
use profiler_target::{ErrorKind, Gone, Listed, MemoryGroups, OpenError, Process, Target, list};

use super::options::SamplingOptions;
use super::sampler::{Sampler, now_ns};
use super::schedule::{STOP_PART_OF_BUDGET, WalkSchedule};

/// Processes that are listed at most.
const MAX_LISTED: usize = 65_536;
/// The most processes that are shown, those with the lowest pids.
const MAX_SHOWN: usize = 4096;
/// A process that was not a Python is inspected again after this long, because it may load one.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// A process that could not be walked is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// At most 1/N of a session's time may be spent waiting for file systems that do not answer.
const WAITING_PART: u32 = 10;
/// Full counts of processes that are known take this part of what looks may take: the most is for walks.
const COUNTS_PART: f64 = 0.4;
/// A shorter time does not count as waiting.
const NO_WAIT: Duration = Duration::from_secs(1);
/// Files kept open for a held process: its directory, its memory, its pidfd, and a spare one.
const FILES_HELD: u64 = 4;
/// The most processes held between their walks, so that what is known of their files is kept.
const MAX_HELD: u64 = 512;

/// How a host is sampled.
#[derive(Copy, Clone, Debug)]
pub struct HostOptions {
    /// Whether other processes than Python's are shown, too.
    pub all: bool,
    /// Only this process and its descendants.
    pub tree_of: Option<i32>,
    /// A process is walked no more often than this.
    pub interval: Duration,
    /// Share of one core that sampling may take, and share of the time that processes may be stopped, all
    /// together; `None` is without limit.
    pub budget: Option<f64>,
    /// How a process is walked.
    pub sampling: SamplingOptions,
}

/// Why a process was not walked.
#[derive(Debug, thiserror::Error)]
pub enum NotWalked {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is no longer readable.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is not watched, or no longer.
    #[error("the process has exited")]
    Unknown,
}

impl NotWalked {
    /// Whether the process no longer exists, which need not be reported in a list.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Unknown
            | Self::Open(
                OpenError::Gone(_) | OpenError::NoSuchProcess { .. } | OpenError::Zombie { .. },
            ) => true,
            Self::Open(_) => false,
            Self::Read(error) => Gone::of(error).is_some(),
        }
    }
}

/// State of a process.
#[derive(Debug)]
struct WatchedProcess {
    kind: Kind,
    schedule: WalkSchedule,
    sampler: Option<Sampler>,
    /// The time of its last walk.
    walked: Option<Instant>,
    /// The last full count by the kernel: `smaps_rollup` goes through the entire page table.
    counted: Option<Counted>,
    /// Whether that was at this look.
    is_counted_now: bool,
    /// Whether it mapped files that the kernel does not serve itself when it was inspected.
    is_served: bool,
}

/// A full count of a process's memory.
#[derive(Copy, Clone, Debug)]
struct Counted {
    memory: Memory,
    at: Instant,
    /// Processor time of the count.
    took: Duration,
}

#[derive(Debug)]
enum Kind {
    Python(String),
    Other {
        looked: Instant,
    },
    /// It cannot be inspected.
    Closed(String),
    /// It could not be inspected, but that may change: for example, fragscope has too many files
    /// open.
    Failed {
        why: String,
        looked: Instant,
    },
    /// It is inspected later: its files have a server that may not answer, and other processes'
    /// servers did not.
    Deferred,
}

impl WatchedProcess {
    /// Counts all of its memory.
    fn count(&mut self, listed: &Listed, at: Instant) {
        let cpu = own_cpu();
        let memory = listed.memory();
        let took = own_cpu().saturating_sub(cpu);
        self.counted = memory.map(|memory| Counted { memory, at, took });
        self.is_counted_now = self.counted.is_some();
    }

    /// Its memory: the full count of this interval, else the quickly readable part combined with
    /// the last full count. `None` if it has ended.
    fn memory(&mut self, listed: &Listed) -> Option<Memory> {
        let counted = self.counted?.memory;
        if std::mem::take(&mut self.is_counted_now) {
            return Some(counted);
        }
        let now = listed.quick_memory()?;
        let most = |bytes: Option<u64>| bytes.map(|bytes| bytes.min(now.rss_bytes));
        Some(Memory {
            pss_bytes: most(counted.pss_bytes),
            uss_bytes: most(counted.uss_bytes),
            ..now
        })
    }
}

/// Samples the processes of this host.
#[derive(Debug)]
pub struct HostSampler {
    options: HostOptions,
    host: Host,
    known: BTreeMap<ProcessId, WatchedProcess>,
    /// When the next walk of any process may begin.
    budget: WalkSchedule,
    began: (Instant, Duration),
    /// Until then no further waiting is allowed.
    waits_from: Instant,
    cost: Cost,
    most_held: usize,
}

impl HostSampler {
    /// A sampler that has not observed anything yet.
    pub fn new(options: HostOptions) -> Self {
        let now = Instant::now();
        let files = most_open_files().unwrap_or(256) / 2 / FILES_HELD;
        Self {
            options,
            host: profiler_target::host(),
            known: BTreeMap::new(),
            budget: WalkSchedule::new(Duration::ZERO, options.budget, now),
            began: (now, own_cpu()),
            waits_from: now,
            cost: Cost::default(),
            most_held: files.min(MAX_HELD) as usize,
        }
    }

    /// The cost so far.
    pub fn cost(&self) -> Cost {
        Cost {
            elapsed_ns: self.began.0.elapsed().as_nanos() as u64,
            cpu_ns: own_cpu().saturating_sub(self.began.1).as_nanos() as u64,
            ..self.cost
        }
    }

    /// Reads the kernel's counts of every process. Processes that are gone are dropped.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub fn look(&mut self) -> io::Result<HostSample> {
        let (began, cpu) = (Instant::now(), own_cpu());
        let mut listing = list(MAX_LISTED)?;
        if let Some(master) = self.options.tree_of {
            listing.processes = tree_of(master, listing.processes);
        }
        let half = self
            .options
            .interval
            .mul_f64(self.options.budget.unwrap_or(1.0) / 2.0);
        let is_to_be_counted = self.to_be_counted(half.mul_f64(COUNTS_PART));
        let mut before = std::mem::take(&mut self.known);
        let mut groups = MemoryGroups::now();
        let mut closed: Option<(u64, String)> = None;
        let (mut left_out, mut deferred) = (listing.left_out, 0);
        let mut processes = Vec::new();
        for listed in listing.processes {
            let known = before.remove(&listed.id);
            let mut known = known.unwrap_or_else(|| self.unknown(began));
            let is_to_be_looked_into = match known.kind {
                Kind::Other { looked } | Kind::Failed { looked, .. } => {
                    began >= looked + LOOK_AGAIN
                }
                Kind::Deferred => true,
                Kind::Python(_) | Kind::Closed(_) => false,
            };
            if is_to_be_looked_into {
                (known.kind, known.is_served) = self.kind(&listed, began);
            }
            match &known.kind {
                Kind::Closed(why) | Kind::Failed { why, .. } => {
                    closed.get_or_insert_with(|| (0, why.clone())).0 += 1;
                }
                Kind::Deferred => deferred += 1,
                _ => {}
            }
            let is_shown = self.options.all || matches!(known.kind, Kind::Python(_));
            if is_shown && processes.len() >= MAX_SHOWN {
                left_out += 1;
            } else if is_shown {
                if known.counted.is_none() || is_to_be_counted.contains(&listed.id) {
                    known.count(&listed, began);
                }
                processes.extend(sample(&listed, &mut known, &mut groups));
            }
            self.known.insert(listed.id, known);
        }
        let is_hidden = hides_processes().then(|| {
            "/proc is mounted with hidepid: processes of other users may be hidden".to_owned()
        });
        let unreadable = closed.as_ref().map_or(0, |(count, _)| *count);
        let closed = closed.map(|(count, why)| match count {
            1 => format!("1 process cannot be read: {why}"),
            count => format!("{count} processes cannot be read; the first: {why}"),
        });
        let left_out = (left_out > 0).then(|| {
            format!("{left_out} processes are left out: no more than {MAX_SHOWN} are shown")
        });
        let deferred = (deferred > 0).then(|| {
            format!(
                "{deferred} processes are not looked into yet: they map files of file systems that may not answer, as \
                 others' did not"
            )
        });
        // Observations continue at each interval; walks get at least half of the budget.
        let took = own_cpu().saturating_sub(cpu);
        self.budget.spent(Instant::now(), took.min(half));
        Ok(HostSample {
            taken_at_ns: now_ns(),
            host: self.host.clone(),
            processes,
            unreadable,
            notices: [closed, is_hidden, left_out, deferred]
                .into_iter()
                .flatten()
                .collect(),
        })
    }

    /// The processes to count fully at this interval within `time` of processor time, the longest
    /// not counted first: a process with many pages costs milliseconds. For the others only what is
    /// nearly free is read. Without a budget, all are counted.
    fn to_be_counted(&self, time: Duration) -> BTreeSet<ProcessId> {
        let counted = self.known.iter();
        let mut counted: Vec<(ProcessId, Counted)> = counted
            .filter_map(|(id, known)| Some((*id, known.counted?)))
            .collect();
        if self.options.budget.is_none() {
            return counted.into_iter().map(|(id, _)| id).collect();
        }
        counted.sort_by_key(|(_, of)| of.at);
        let mut left = Some(time);
        let due = counted.into_iter().take_while(|(_, of)| {
            // At least one, whatever it costs.
            let is_left = left.is_some();
            left = left.and_then(|left| left.checked_sub(of.took));
            is_left
        });
        due.map(|(id, _)| id).collect()
    }

    /// Delays walks further because the work so far, including observations and the first
    /// identification, took more than the budget: at most by their normal wait, so that walks
    /// continue meanwhile.
    fn pay_back(&mut self, now: Instant) {
        let Some(share) = self
            .options
            .budget
            .filter(|share| (0.0..1.0).contains(share))
        else {
            return;
        };
        let wait = self.budget.until_due(now);
        let spent = own_cpu().saturating_sub(self.began.1);
        let allowed = (self.began.0.elapsed() + wait).mul_f64(share);
        let behind = spent.saturating_sub(allowed);
        if share > 0.0 {
            self.budget
                .not_before(now + wait + behind.div_f64(share).min(wait));
        }
    }

    fn unknown(&self, now: Instant) -> WatchedProcess {
        let share = self.options.budget.map(|share| share * STOP_PART_OF_BUDGET);
        WatchedProcess {
            kind: Kind::Deferred,
            is_served: false,
            schedule: WalkSchedule::new(self.options.interval, share, now),
            sampler: None,
            walked: None,
            counted: None,
            is_counted_now: false,
        }
    }

    /// The kind of a process, by the one rule that identifies Python, and whether it maps files
    /// that the kernel does not serve itself.
    fn kind(&mut self, listed: &Listed, now: Instant) -> (Kind, bool) {
        let target = match Target::open(listed.id.pid) {
            Ok(target) => target,
            Err(error @ OpenError::NotPermitted { .. }) => {
                return (Kind::Closed(error.to_string()), false);
            }
            Err(error @ OpenError::Io { .. }) if !matches!(error.kind(), ErrorKind::TargetGone) => {
                let why = error.to_string();
                return (Kind::Failed { why, looked: now }, false);
            }
            // It has ended, or it cannot be inspected at all: not a Python that could be walked.
            Err(_) => return (Kind::Other { looked: now }, false),
        };
        target.waits_once();
        let failed = |error: io::Error| match target.check() {
            Err(_) => Kind::Other { looked: now },
            Ok(()) => Kind::Failed {
                why: format!("process {}: {error}", listed.id.pid),
                looked: now,
            },
        };
        let began = Instant::now();
        let is_served = match target.maps_served_files() {
            Ok(is_served) => is_served,
            Err(error) => return (failed(error), false),
        };
        if is_served && began < self.waits_from {
            return (Kind::Deferred, is_served);
        }
        let kind = match target.python() {
            Ok(Some(python)) => Kind::Python(format!("CPython {}", python.full_version)),
            Ok(None) => Kind::Other { looked: now },
            Err(error) => failed(error),
        };
        self.has_waited(is_served, began);
        (kind, is_served)
    }

    /// Records the time spent on a process since `began`, which may have been spent waiting for its
    /// files.
    fn has_waited(&mut self, is_served: bool, began: Instant) {
        let took = began.elapsed();
        if is_served && took >= NO_WAIT {
            self.waits_from = Instant::now() + took * (WAITING_PART - 1);
        }
    }

    /// The share of one core that it may take; `None` means no limit.
    pub fn budget(&self) -> Option<f64> {
        self.options.budget
    }

    /// Whether a process maps files that the kernel does not serve itself: other processes are
    /// walked before it.
    pub fn is_served(&self, id: ProcessId) -> bool {
        self.known.get(&id).is_some_and(|known| known.is_served)
    }

    /// Time until the host's budget allows a walk.
    pub fn until_walk(&self) -> Duration {
        self.budget.until_due(Instant::now())
    }

    /// Whether a process may be walked by its own schedule: stops take at most a share of its time.
    pub fn is_due(&self, id: ProcessId) -> bool {
        let now = Instant::now();
        self.known.get(&id).is_some_and(|known| {
            let waits = known.is_served && known.sampler.is_none();
            known.schedule.due(now) && (!waits || now >= self.waits_from)
        })
    }

    /// Records that a process was stopped on our behalf by other code until now.
    pub fn was_stopped(&mut self, id: ProcessId, stop: Duration) {
        if let Some(known) = self.known.get_mut(&id) {
            known.schedule.walked(Instant::now(), stop, stop);
        }
    }

    /// Walks a process regardless of its schedule.
    ///
    /// # Errors
    /// Why it was not walked; it is not due again for a while.
    pub fn walk(&mut self, id: ProcessId) -> Result<Sample, NotWalked> {
        let (sampling, cpu, began) = (self.options.sampling, own_cpu(), Instant::now());
        let known = self.known.get_mut(&id).ok_or(NotWalked::Unknown)?;
        let taken = take(known, id, sampling);
        let (now, took) = (Instant::now(), own_cpu().saturating_sub(cpu));
        let stop = match &taken {
            Ok(sample) => {
                let walk = Duration::from_nanos(sample.completeness.walk_ns);
                let stop = Duration::from_nanos(sample.completeness.stop_ns);
                known.schedule.walked(now, stop, walk);
                known.walked = Some(now);
                self.cost.walks += 1;
                self.cost.stop_ns += sample.completeness.stop_ns;
                self.cost.longest_stop_ns =
                    self.cost.longest_stop_ns.max(sample.completeness.stop_ns);
                self.cost.stops.count(sample.completeness.stop_ns);
                stop
            }
            Err(error) => {
                self.cost.failed_walks += u64::from(!error.is_gone());
                known.sampler = None;
                known.schedule.not_before(now + TRY_AGAIN);
                Duration::ZERO
            }
        };
        // It may map other files than when it was inspected.
        if began.elapsed() >= NO_WAIT
            && let Some(sampler) = &known.sampler
            // If it has ended meanwhile, that does not matter.
            && let Ok(is_served) = sampler.target().maps_served_files()
        {
            known.is_served = is_served;
        }
        let is_served = known.is_served;
        self.has_waited(is_served, began);
        // The larger of the two counts; then the other is within its share too.
        self.budget.spent(now, took.max(stop));
        self.pay_back(now);
        self.hold_fewer();
        taken
    }

    /// Releases the process walked longest ago if too many are held.
    fn hold_fewer(&mut self) {
        let held = self.known.values().filter(|known| known.sampler.is_some());
        if held.count() <= self.most_held {
            return;
        }
        let held = self
            .known
            .values_mut()
            .filter(|known| known.sampler.is_some());
        if let Some(oldest) = held.min_by_key(|known| known.walked) {
            oldest.sampler = None;
        }
    }
}

/// The process with this pid and its descendants. A process that is older than its parent descends
/// from an earlier process with the parent's pid.
fn tree_of(master: i32, mut processes: Vec<Listed>) -> Vec<Listed> {
    let family = processes.iter().map(|one| (one.id, one.parent));
    let tree = descendants(master, family);
    processes.retain(|one| tree.contains(&one.id.pid));
    processes.sort_by_key(|one| one.id.pid);
    processes
}

/// The pids in the tree below this process, including itself, from processes and their parents in
/// any order: neither pids, which wrap around, nor the clock, which has 100 ticks per second, order
/// parents before children.
fn descendants(master: i32, family: impl Iterator<Item = (ProcessId, i32)>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<ProcessId>> = BTreeMap::new();
    let mut began_ticks = 0;
    for (id, parent) in family {
        if id.pid == master {
            began_ticks = id.began_ticks;
        }
        children.entry(parent).or_default().push(id);
    }
    let mut tree = BTreeSet::from([master]);
    let mut to_look_below = vec![(master, began_ticks)];
    while let Some((parent, began_ticks)) = to_look_below.pop() {
        let below = children.remove(&parent).unwrap_or_default().into_iter();
        for child in below.filter(|child| child.began_ticks >= began_ticks) {
            if tree.insert(child.pid) {
                to_look_below.push((child.pid, child.began_ticks));
            }
        }
    }
    tree
}

/// Walks a process, opening it unless it is held.
fn take(
    known: &mut WatchedProcess,
    id: ProcessId,
    sampling: SamplingOptions,
) -> Result<Sample, NotWalked> {
    let sampler = match known.sampler.take() {
        Some(sampler) => sampler,
        None => {
            let sampler = Sampler::open(id.pid)?;
            sampler.target().waits_once();
            sampler
        }
    };
    // The pid may have been reused between listing and opening.
    if sampler.target().began_ticks()? != id.began_ticks {
        return Err(NotWalked::Unknown);
    }
    let sampler = known.sampler.insert(sampler);
    Ok(sampler.take(sampling)?)
}

/// The data of a process; `None` if it ended meanwhile.
fn sample(
    listed: &Listed,
    known: &mut WatchedProcess,
    groups: &mut MemoryGroups,
) -> Option<ProcessSample> {
    let sample = ProcessSample {
        id: listed.id,
        parent: listed.parent,
        comm: listed.comm.clone(),
        cmdline: listed.cmdline(),
        python: match &known.kind {
            Kind::Python(version) => Some(version.clone()),
            _ => None,
        },
        memory: known.memory(listed)?,
        group: groups.of(listed.id.pid),
        age_ns: listed.age_ns(),
    };
    // All that was read is of the process that was listed.
    listed.is_there().then_some(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_the_same_tick_belongs_to_its_parent_whichever_number_it_has() {
        let id = |pid, began_ticks| ProcessId {
            pid,
            began_ticks,
            ..ProcessId::default()
        };
        // The pids wrapped around within tick 70: 40, 30 and 20 are the child, grandchild and
        // great-grandchild of 50.
        let mut family = vec![
            (id(1, 0), 0),
            (id(20, 70), 30),
            (id(30, 70), 40),
            (id(40, 70), 50),
            (id(50, 70), 1),
            (id(60, 71), 20),
            // Of an earlier process that was 50, and of none of the tree.
            (id(5, 69), 50),
            (id(6, 80), 5),
            (id(7, 90), 1),
        ];
        let tree = BTreeSet::from([20, 30, 40, 50, 60]);
        assert_eq!(descendants(50, family.iter().copied()), tree);
        family.reverse();
        assert_eq!(descendants(50, family.into_iter()), tree);
    }
}

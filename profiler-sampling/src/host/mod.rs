//! Sampling a whole host: what the kernel counts of every process at each interval, and walks in turn
//! within a budget. Each walk is a [`Sampler`]'s.

mod answers;
mod left_out;
mod read;
mod silence;
mod tree;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use profiler_core::host::{Cost, HostSample, ProcessId};
use profiler_core::sample::{Host, Sample};
use profiler_target::host::{most_open_files, own_cpu};
use profiler_target::{Gone, Listed, MemoryGroups, OpenError, list, user_of};

use self::answers::{Answers, NoAnswer};
use self::left_out::LeftOut;
use self::read::{examine, walk};
use self::silence::Silence;
use self::tree::tree_of;
use self::watched::{Counted, Deferred, Kind, WatchedProcess};
use super::options::SamplingOptions;
use super::sampler::now_ns;
use super::schedule::{STOP_PART_OF_BUDGET, WalkSchedule};

/// Processes that are listed at most.
const MAX_LISTED: usize = 65_536;
/// Processes that are shown at most; of more, those with the lower numbers.
const MAX_SHOWN: usize = 4096;
/// One that could not be walked is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Full counts of processes that are known take this part of what looks may take: the most is for walks.
const COUNTS_PART: f64 = 0.4;
/// How long a process may take to give its command line: usually it takes some 20 µs.
const ANSWER: Duration = Duration::from_secs(2);
/// How long it may take to find out what a process is: its files may be slow, and those that do not answer are given up
/// after 10 s.
const EXAMINATION: Duration = Duration::from_secs(15);
/// How long the kernel may take to go through the page table of a process: a second for each 100 GiB.
const COUNT: Duration = Duration::from_secs(10);
/// How much longer than its walk may take a process is waited for: its files are looked into before.
const AROUND_A_WALK: Duration = Duration::from_secs(60);
/// Files that a held process keeps open: its directory, its memory, its pidfd, and room.
const FILES_HELD: u64 = 4;
/// Processes that are held between their walks at most, so that what was learned of their files stays.
const MAX_HELD: u64 = 512;

/// How a host is sampled.
#[derive(Copy, Clone, Debug)]
pub struct HostOptions {
    /// Whether other processes than Python's are shown, too.
    pub all: bool,
    /// Only this process and those that descend from it.
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
    /// It cannot be read any more.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It does not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// It is not watched, or not any more.
    #[error("the process has exited")]
    Unknown,
}

impl NotWalked {
    /// Whether the process is there no more, which is no news in a list.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Unknown
            | Self::Open(
                OpenError::Gone(_) | OpenError::NoSuchProcess { .. } | OpenError::Zombie { .. },
            ) => true,
            Self::Open(_) | Self::NoAnswer(_) => false,
            Self::Read(error) => Gone::of(error).is_some(),
        }
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
    answers: Answers,
    silence: Silence,
    cost: Cost,
    most_held: usize,
    /// How often all processes were looked at.
    looks: u64,
}

impl HostSampler {
    /// Nothing was looked at yet.
    pub fn new(options: HostOptions) -> Self {
        let now = Instant::now();
        let files = most_open_files().unwrap_or(256) / 2 / FILES_HELD;
        Self {
            options,
            host: profiler_target::host(),
            known: BTreeMap::new(),
            budget: WalkSchedule::new(Duration::ZERO, options.budget, now),
            began: (now, own_cpu()),
            answers: Answers::default(),
            silence: Silence::none(now),
            cost: Cost::default(),
            looks: 0,
            most_held: files.min(MAX_HELD) as usize,
        }
    }

    /// What it took so far.
    pub fn cost(&self) -> Cost {
        Cost {
            elapsed_ns: self.began.0.elapsed().as_nanos() as u64,
            cpu_ns: own_cpu().saturating_sub(self.began.1).as_nanos() as u64,
            ..self.cost
        }
    }

    /// What the kernel counts of every process. What is gone is forgotten.
    ///
    /// # Errors
    /// When there is no `/proc`, or no thread can be started to read processes on.
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
        let mut left_out = LeftOut::of_list(listing.left_out);
        let mut processes = Vec::new();
        for listed in listing.processes {
            let known = before.remove(&listed.id);
            let mut known = known.unwrap_or_else(|| self.unknown(began));
            let answered = match self.observe(&listed, &mut known, began) {
                // At the first look nothing is known without, and later what is known stays.
                Err(NoAnswer::Thread(error)) if self.looks == 0 => return Err(error),
                answered => answered,
            };
            left_out.count(&known.kind, answered.err());
            let is_shown = self.is_shown(&known);
            if is_shown && processes.len() >= MAX_SHOWN {
                left_out.not_listed += 1;
            } else if is_shown {
                if known.counted.is_none() || is_to_be_counted.contains(&listed.id) {
                    self.count(&listed, &mut known, began);
                }
                processes.extend(known.sample(&listed, &mut groups));
            }
            self.known.insert(listed.id, known);
        }
        self.looks += 1;
        // Looking goes on at each interval; walks have at least half of the budget.
        let took = own_cpu().saturating_sub(cpu);
        self.budget.spent(Instant::now(), took.min(half));
        Ok(HostSample {
            taken_at_ns: now_ns(),
            host: self.host.clone(),
            processes,
            unreadable: left_out.unreadable(),
            notices: left_out.notices(MAX_SHOWN),
        })
    }

    fn is_shown(&self, known: &WatchedProcess) -> bool {
        self.options.all || matches!(known.kind, Kind::Python(_))
    }

    /// Reads the command line of a process that is shown, and finds out what it is where that is not known.
    ///
    /// # Errors
    /// When it does not answer; what was known of it stays.
    fn observe(
        &mut self,
        listed: &Listed,
        known: &mut WatchedProcess,
        began: Instant,
    ) -> Result<(), NoAnswer> {
        self.silence.forget(began);
        known.remember(&self.silence, || user_of(listed.id.pid), began);
        let is_new = known.kind.is_to_be_looked_into(began);
        if is_new || self.is_shown(known) {
            let one = listed.clone();
            known.cmdline = self.ask(listed.id, known, ANSWER, move || one.cmdline())?;
            known.has_answered = true;
        }
        let may_wait = self.may_wait();
        if is_new && known.is_suspect() && !may_wait {
            known.kind = Kind::Deferred(Deferred::Suspect);
        } else if is_new {
            let (pid, asked) = (listed.id.pid, Instant::now());
            let question = move || examine(pid, may_wait);
            (known.kind, known.is_served) = self.ask(listed.id, known, EXAMINATION, question)?;
            self.has_waited(known.is_served, asked);
        }
        Ok(())
    }

    /// Has the kernel count all of the memory of a process, if it does.
    fn count(&mut self, listed: &Listed, known: &mut WatchedProcess, at: Instant) {
        if known.is_suspect() && !self.may_wait() {
            return;
        }
        let one = listed.clone();
        let counted = self.ask(listed.id, known, COUNT, move || {
            let cpu = own_cpu();
            (one.memory(), own_cpu().saturating_sub(cpu))
        });
        // That it does not answer is reported at the next look.
        if let Ok((memory, took)) = counted {
            known.counted = memory.map(|memory| Counted { memory, at, took });
            known.is_counted_now = known.counted.is_some();
        }
    }

    /// Whether there is time to wait for a process that may not answer.
    fn may_wait(&self) -> bool {
        self.silence.may_wait(Instant::now())
    }

    /// Asks a process at a look, for at most `time`, or shortly after others did not answer.
    fn ask<T: Send + 'static>(
        &mut self,
        id: ProcessId,
        known: &mut WatchedProcess,
        time: Duration,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let time = self.silence.time(time, Instant::now());
        self.ask_for(id, known, time, question)
    }

    /// Asks a process for all of `time`. If that is not short and it does not answer, that is noted.
    fn ask_for<T: Send + 'static>(
        &mut self,
        id: ProcessId,
        known: &mut WatchedProcess,
        time: Duration,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let began = Instant::now();
        let user = || user_of(id.pid);
        let answer = self
            .answers
            .ask(id, known.has_answered, user, time, question);
        if matches!(answer, Err(NoAnswer::Silent { .. })) && Silence::is_told_by(time) {
            known.was_silent = Some(began);
            self.silence.note(user(), began);
            self.has_waited(true, began);
        }
        answer
    }

    /// Those of which all is counted at this look, the longest ago first, for so much processor time: a process of many
    /// pages costs milliseconds. Of the others only what costs next to nothing is read. Without a budget it is all.
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
            // One at the least, whatever it costs.
            let is_left = left.is_some();
            left = left.and_then(|left| left.checked_sub(of.took));
            is_left
        });
        due.map(|(id, _)| id).collect()
    }

    /// How much longer walks wait because what was done so far, looks and the first identification included, took more
    /// than the budget: at most as long as they wait anyway, so that they go on meanwhile.
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
            kind: Kind::Deferred(Deferred::New),
            is_served: false,
            is_of_silent_user: false,
            was_silent: None,
            has_answered: false,
            cmdline: Vec::new(),
            schedule: WalkSchedule::new(self.options.interval, share, now),
            sampler: None,
            walked: None,
            counted: None,
            is_counted_now: false,
        }
    }

    /// Takes note of what was done since `began` with a process, which may have been waiting for it or for its files.
    fn has_waited(&mut self, may_be_slow: bool, began: Instant) {
        if may_be_slow {
            self.silence.has_waited(began, Instant::now());
        }
    }

    /// The share of one core that it may take; `None` is without limit.
    pub fn budget(&self) -> Option<f64> {
        self.options.budget
    }

    /// Whether a process may keep us waiting, because it maps files for which the kernel does not answer itself or
    /// because it, or another process of its user, did not answer before: others are to be walked before it.
    pub fn may_be_slow(&self, id: ProcessId) -> bool {
        self.known.get(&id).is_some_and(WatchedProcess::may_be_slow)
    }

    /// How long it is until the budget of the host allows a walk.
    pub fn until_walk(&self) -> Duration {
        self.budget.until_due(Instant::now())
    }

    /// Whether a process may be walked by its own schedule: stops take at most a share of its time.
    pub fn is_due(&self, id: ProcessId) -> bool {
        let now = Instant::now();
        self.known.get(&id).is_some_and(|known| {
            let waits = known.is_suspect() || known.is_served && known.sampler.is_none();
            known.schedule.due(now) && (!waits || self.silence.may_wait(now))
        })
    }

    /// Notes that a process was stopped by somebody else on our behalf until now.
    pub fn was_stopped(&mut self, id: ProcessId, stop: Duration) {
        if let Some(known) = self.known.get_mut(&id) {
            known.schedule.walked(Instant::now(), stop, stop);
        }
    }

    /// Walks a process, whatever its schedule says.
    ///
    /// # Errors
    /// Why it was not walked; it is not due again for a while.
    pub fn walk(&mut self, id: ProcessId) -> Result<Sample, NotWalked> {
        let (sampling, cpu, began) = (self.options.sampling, own_cpu(), Instant::now());
        let mut known = self.known.remove(&id).ok_or(NotWalked::Unknown)?;
        let memory = known.counted.map(|counted| counted.memory);
        let (rss, swap) = memory.map_or((0, None), |memory| (memory.rss_bytes, memory.swap_bytes));
        let time = sampling.longest_walk(rss, swap.unwrap_or(0)) + AROUND_A_WALK;
        let sampler = known.sampler.take();
        let walked = self.ask_for(id, &mut known, time, move || walk(sampler, id, sampling));
        let taken = walked.map_err(NotWalked::from).and_then(|walk| {
            known.sampler = walk.sampler;
            // It may map others since it was looked into.
            known.is_served = walk.is_served.unwrap_or(known.is_served);
            walk.sample
        });
        let known = self.known.entry(id).or_insert(known);
        let (now, took) = (Instant::now(), own_cpu().saturating_sub(cpu));
        let stop = match &taken {
            Ok(sample) => {
                let walk = Duration::from_nanos(sample.completeness.walk_ns);
                let stop = Duration::from_nanos(sample.completeness.stop_ns);
                known.schedule.walked(now, stop, walk);
                known.walked = Some(now);
                self.cost.walks += 1;
                self.cost.stop_ns += sample.completeness.stop_ns;
                self.cost.longest_stop_ns = self
                    .cost
                    .longest_stop_ns
                    .max(sample.completeness.longest_stop_ns());
                self.cost.stops.count(sample.completeness.longest_stop_ns());
                stop
            }
            Err(error) => {
                self.cost.failed_walks += u64::from(!error.is_gone());
                known.sampler = None;
                known.schedule.not_before(now + TRY_AGAIN);
                Duration::ZERO
            }
        };
        let is_served = known.is_served;
        self.has_waited(is_served, began);
        // Whatever of the two is the more, the other is within its share then.
        self.budget.spent(now, took.max(stop));
        self.pay_back(now);
        self.hold_fewer();
        taken
    }

    /// Lets go of what was walked the longest ago, where too many are held.
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    fn sampler() -> HostSampler {
        HostSampler::new(HostOptions {
            all: true,
            tree_of: None,
            interval: Duration::from_secs(5),
            budget: None,
            sampling: SamplingOptions {
                stop: false,
                swap_in: false,
                max_stop: WAIT,
                slices: false,
                max_walk: None,
            },
        })
    }

    /// This process.
    fn own(sampler: &HostSampler) -> (Listed, WatchedProcess) {
        let own = Listed::of(std::process::id().cast_signed());
        (own.expect("it is there"), sampler.unknown(Instant::now()))
    }

    #[test]
    fn a_process_that_takes_its_lock_during_a_walk_is_marked_and_leaves_time_to_others() {
        let mut sampler = sampler();
        let (listed, mut known) = own(&sampler);
        let (answer_now, answer) = channel::<()>();
        // As a walk does, which goes on when nobody waits for it any more.
        let walked = sampler.ask_for(listed.id, &mut known, WAIT, move || answer.recv());
        assert!(matches!(walked, Err(NoAnswer::Silent { .. })));
        assert!(known.was_silent.is_some() && known.is_suspect() && known.may_be_slow());
        assert!(!sampler.may_wait());
        let id = listed.id;
        sampler.known.insert(id, known);
        assert!(!sampler.is_due(id), "while others have the time");
        // The next walk of it is refused, and one of another process goes on beside it.
        let mut known = sampler.known.remove(&id).expect("just inserted");
        let again = sampler.ask_for(id, &mut known, WAIT, || 5);
        assert!(matches!(again, Err(NoAnswer::Silent { .. })));
        let other = ProcessId { pid: 1, ..id };
        let mut of_other = sampler.unknown(Instant::now());
        let walked = sampler.ask_for(other, &mut of_other, WAIT * 30, || 6);
        assert_eq!(walked.expect("an answer"), 6);
        assert!(of_other.was_silent.is_none());
        drop(answer_now);
    }

    #[test]
    fn a_suspect_is_looked_into_later_and_after_ten_minutes_as_any_other() {
        let mut sampler = sampler();
        let (listed, mut known) = own(&sampler);
        let now = Instant::now();
        known.was_silent = Some(now);
        sampler.silence.has_waited(now, now + WAIT * 1000);
        let observed = sampler.observe(&listed, &mut known, now);
        observed.expect("its command line is read");
        assert!(matches!(known.kind, Kind::Deferred(Deferred::Suspect)));
        let much_later = now + Duration::from_secs(600);
        let observed = sampler.observe(&listed, &mut known, much_later);
        observed.expect("an answer");
        assert!(matches!(known.kind, Kind::Other { .. }), "{:?}", known.kind);
        assert!(known.has_answered && !known.is_suspect());
    }

    #[test]
    fn what_is_asked_quickly_marks_nobody() {
        let mut sampler = sampler();
        let (listed, mut known) = own(&sampler);
        let now = Instant::now();
        sampler.silence.has_waited(now, now + WAIT * 1000);
        let (answer_now, answer) = channel::<()>();
        let asked = sampler.ask(listed.id, &mut known, WAIT * 1000, move || answer.recv());
        assert!(matches!(asked, Err(NoAnswer::Silent { .. })));
        assert!(known.was_silent.is_none());
        drop(answer_now);
    }
}

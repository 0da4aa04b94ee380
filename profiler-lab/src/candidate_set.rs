//! Replays many candidates, several at a time, and repeats those whose results vary.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use profiler_core::parallel::SideThread;

use super::candidates::{Candidate, Trim};
use super::outcome::{Outcome, Run};
use super::play::{GapFill, PlayError, Played, ReplayProgram, Setup, Touch, cores, play};

/// Runs of a random candidate, in any case.
const FEWEST_RUNS: u32 = 3;
/// Runs of a random candidate, as long as the set has been running for less than [`LONG`].
const RUNS: u32 = 5;
/// Runs of a random candidate, as long as the set has been running for less than [`SHORT`].
const MAX_RUNS: u32 = 15;
const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(75);
/// Periodic trims are replayed this many times, each with the first trim a fraction of the period
/// earlier: the point in a period at which the program ends depends on when it began, and a timer
/// in the program would be just as arbitrary.
const PHASES: u32 = 5;
/// Of the memory that is available now, all players together may take this share.
const MEMORY_SHARE: f64 = 0.8;

/// How a set of candidates is played.
#[derive(Debug)]
pub struct ReplayConfig<'a> {
    /// Runs of each random candidate; `None` means as many as time allows.
    pub runs: Option<u32>,
    /// Processors that the program had.
    pub cpus: Option<u32>,
    /// Whether playing large blocks untouched can differ from playing them touched.
    pub touch_is_uncertain: bool,
    /// Whether the heap existed before the recording, so that the former content of its gaps is
    /// unknown.
    pub gaps_are_uncertain: bool,
    /// The first `shown` candidates are shown; the others only explain and need no range.
    pub shown: usize,
    /// Bytes that can be allocated now without pressing the host.
    pub available_bytes: u64,
    /// Set when the user wants it to end.
    pub interrupted: &'a AtomicBool,
}

/// How far a set is.
#[derive(Copy, Clone, Debug)]
pub struct Progress {
    /// Operations played.
    pub played: u64,
    /// Operations to replay, as far as that is decided.
    pub of: u64,
    /// Candidates whose necessary runs are all done.
    pub done: usize,
    /// Candidates.
    pub candidates: usize,
}

#[derive(Copy, Clone, Debug)]
struct Job {
    candidate: usize,
    assumed: Assumed,
    walk: bool,
    /// By how many of [`PHASES`] its trims come earlier.
    phase: u32,
}

/// What is assumed where the recording does not show it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
struct Assumed {
    touch: Touch,
    fill: GapFill,
}

impl Assumed {
    /// Whether it is the most likely case.
    fn is_likely(self) -> bool {
        self == Self::default()
    }
}

struct State {
    queue: VecDeque<Job>,
    outcomes: Vec<Outcome>,
    started: Vec<u32>,
    finished: Vec<u32>,
    jobs: u64,
    longest: Vec<Duration>,
}

/// Replays all candidates. Returns their results in the same order. `progress` is called with the
/// progress from time to time.
pub fn run(
    program: &ReplayProgram,
    candidates: &[Candidate],
    config: &ReplayConfig<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Vec<Outcome> {
    let set = CandidateSet::new(program, candidates, config, progress);
    let players = set.players();
    thread::scope(|scope| {
        for core in 0..players {
            let set = &set;
            // Those that there is a thread for play all.
            SideThread::begin(scope, move || set.work(core, players));
        }
    });
    let state = set.state.into_inner();
    state.unwrap_or_else(PoisonError::into_inner).outcomes
}

struct CandidateSet<'a> {
    program: &'a ReplayProgram,
    candidates: &'a [Candidate],
    config: &'a ReplayConfig<'a>,
    progress: &'a (dyn Fn(Progress) + Sync),
    state: Mutex<State>,
    /// Operations played in jobs that have ended, and in each that runs.
    ended: AtomicU64,
    running: Vec<AtomicU64>,
    began: Instant,
}

impl<'a> CandidateSet<'a> {
    fn new(
        program: &'a ReplayProgram,
        candidates: &'a [Candidate],
        config: &'a ReplayConfig<'a>,
        progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Self {
        let mut queue = VecDeque::new();
        let mut outcomes = Vec::new();
        let mut bounds = Vec::new();
        for (number, candidate) in candidates.iter().enumerate() {
            let mut outcome = Outcome::default();
            match &candidate.allocator {
                Err(why) => outcome.failure = Some(why.clone()),
                Ok(_) if candidate.same_as_now.is_some() => {}
                Ok(allocator) => {
                    let job = |touch, fill| Job {
                        candidate: number,
                        assumed: Assumed { touch, fill },
                        walk: number == 0,
                        phase: 0,
                    };
                    let phases = match candidate.trim {
                        Trim::Every(_) => PHASES,
                        Trim::Never | Trim::AtCheckpoints => 1,
                    };
                    queue.extend((0..phases).map(|phase| Job {
                        phase,
                        ..job(Touch::Most, GapFill::First)
                    }));
                    if config.touch_is_uncertain && number < config.shown {
                        bounds.push(job(Touch::Least, GapFill::First));
                    }
                    // The C library's own malloc gets the heap that was there.
                    let is_other = allocator.object.is_some();
                    if config.gaps_are_uncertain && is_other && number < config.shown {
                        bounds.push(job(Touch::Most, GapFill::Second));
                    }
                }
            }
            outcomes.push(outcome);
        }
        queue.extend(bounds);
        let jobs = queue.len() as u64;
        Self {
            program,
            candidates,
            config,
            progress,
            state: Mutex::new(State {
                queue,
                started: vec![0; outcomes.len()],
                finished: vec![0; outcomes.len()],
                longest: vec![Duration::ZERO; outcomes.len()],
                outcomes,
                jobs,
            }),
            ended: AtomicU64::new(0),
            running: (0..cores()).map(|_| AtomicU64::new(0)).collect(),
            began: Instant::now(),
        }
    }

    /// Players at a time: one for each processor, if the memory is enough.
    fn players(&self) -> usize {
        // A recording may claim anything.
        let each = self.program.summary().peak_live_bytes.max(1);
        let each = each.saturating_mul(2);
        let fit = self.limit(1) / each;
        cores()
            .min(usize::try_from(fit).unwrap_or(usize::MAX))
            .max(1)
    }

    /// The memory limit of each of `players` players, in bytes.
    fn limit(&self, players: usize) -> u64 {
        (self.config.available_bytes as f64 * MEMORY_SHARE) as u64 / players as u64
    }

    fn work(&self, core: usize, players: usize) {
        while let Some(job) = self.next() {
            let candidate = &self.candidates[job.candidate];
            let began = Instant::now();
            let setup = self.setup(candidate, &job, core, self.limit(players));
            let played = play(self.program, &setup, &|operations| {
                self.running[core].store(operations, Ordering::Relaxed);
                self.report();
                !self.config.interrupted.load(Ordering::Relaxed)
            });
            self.running[core].store(0, Ordering::Relaxed);
            self.ended
                .fetch_add(self.program.published(), Ordering::Relaxed);
            self.put(&job, played, began.elapsed());
            self.report();
        }
    }

    fn setup(&self, candidate: &Candidate, job: &Job, core: usize, limit: u64) -> Setup {
        let allocator = candidate.allocator.as_ref().ok();
        Setup {
            preload: allocator.and_then(|allocator| allocator.object.clone()),
            env: candidate.env.variables().to_vec(),
            touch: job.assumed.touch,
            fill: job.assumed.fill,
            objects: candidate.objects,
            trim_every: match candidate.trim {
                Trim::Every(period) => Some(period),
                Trim::Never | Trim::AtCheckpoints => None,
            },
            trim_phase: match candidate.trim {
                Trim::Every(period) => period / PHASES * job.phase,
                Trim::Never | Trim::AtCheckpoints => Duration::ZERO,
            },
            trim_at_checkpoints: candidate.trim == Trim::AtCheckpoints,
            cpus: self.config.cpus,
            core: Some(core),
            memory_limit: Some(limit),
            count_calls: true,
            walk: job.walk,
            ..Setup::default()
        }
    }

    /// What to replay next; `None` when it is enough.
    fn next(&self) -> Option<Job> {
        if self.config.interrupted.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state();
        if let Some(job) = state.queue.pop_front() {
            if job.assumed.is_likely() {
                state.started[job.candidate] += 1;
            }
            return Some(job);
        }
        let again = (0..self.candidates.len())
            .filter(|&number| {
                let candidate = &self.candidates[number];
                candidate.random
                    && candidate.same_as_now.is_none()
                    && state.outcomes[number].failure.is_none()
            })
            .min_by_key(|&number| state.started[number])?;
        let done = state.started[again];
        let until = self.began.elapsed() + state.longest[again];
        let wanted = match self.config.runs {
            Some(runs) => done < runs,
            None if again >= self.config.shown => done < FEWEST_RUNS,
            None => {
                done < FEWEST_RUNS
                    || done < RUNS && until < LONG
                    || done < MAX_RUNS && until < SHORT
            }
        };
        if !wanted {
            return None;
        }
        state.started[again] += 1;
        state.jobs += 1;
        Some(Job {
            candidate: again,
            assumed: Assumed::default(),
            walk: false,
            phase: state.started[again] % PHASES,
        })
    }

    fn put(&self, job: &Job, played: Result<Played, PlayError>, took: Duration) {
        let mut state = self.state();
        state.finished[job.candidate] += 1;
        let longest = &mut state.longest[job.candidate];
        *longest = took.max(*longest);
        let outcome = &mut state.outcomes[job.candidate];
        match played {
            Err(PlayError::Cancelled) => {}
            Err(why) => outcome.failure = Some(why.into()),
            Ok(played) => {
                let run = Run {
                    resident: played
                        .checkpoints
                        .iter()
                        .map(|c| c.resident_bytes)
                        .collect(),
                    cpu_seconds: played.cpu_seconds,
                    faults: played.faults,
                    kernel_calls: played.kernel_calls,
                };
                if let Some(sample) = played.end_sample {
                    outcome.sample = Some(sample);
                }
                match job.assumed.is_likely() {
                    true => outcome.runs.push(run),
                    false => outcome.bounds.push(run),
                }
            }
        }
    }

    fn report(&self) {
        let operations = self.program.published();
        let state = self.state();
        let to_play = |c: &&Candidate| c.same_as_now.is_none();
        let candidates = self.candidates.iter().filter(to_play).count();
        let of = state.jobs.saturating_mul(operations);
        let done = state.finished.iter().zip(&state.outcomes);
        let done = done.filter(|(runs, outcome)| **runs > 0 || outcome.failure.is_some());
        let done = done.count();
        drop(state);
        let running = self.running.iter().map(|one| one.load(Ordering::Relaxed));
        let played = self.ended.load(Ordering::Relaxed) + running.sum::<u64>();
        (self.progress)(Progress {
            played: played.min(of),
            of,
            done,
            candidates,
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

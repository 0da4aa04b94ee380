//! Replays all candidates of a prediction, a few players at a time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use profiler_core::allocator::{PRELOAD, UnknownEnvironment};
use profiler_core::prediction::{Needs, Prediction, Predictions, SelfCheck};

use super::band::{HeapFigures, Walked};
use super::candidates::{HeapCandidate, Interpretation};
use crate::play::{PlayError, ReplayProgram, Setup, play};
use crate::shadow::is_pressed;

/// Everything that is to be replayed.
pub(super) struct HeapCandidateSet<'a> {
    pub(super) candidates: Vec<HeapCandidate>,
    pub(super) programs: Vec<Arc<ReplayProgram>>,
    /// The program of [`IDLE`].
    pub(super) idle: Option<Arc<ReplayProgram>>,
    /// The program of [`IDLE_THREADS`], if there are several threads.
    pub(super) idle_threads: Option<Arc<ReplayProgram>>,
    pub(super) walk_ns: u64,
    pub(super) walked: Walked,
    /// Why the heap as it is is played with the defaults, where its settings are unknown.
    pub(super) environment_unknown: Option<UnknownEnvironment>,
    pub(super) cpus: u32,
    /// Bytes that a player may take.
    pub(super) limit: u64,
    /// The same limit for a program in which each thread keeps its cache.
    pub(super) idle_limit: u64,
    pub(super) interrupted: &'a AtomicBool,
    /// Whether this host is short of memory.
    pub(super) is_pressed: AtomicBool,
    pub(super) progress: &'a (dyn Fn(&Predictions) + Sync),
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    queue: VecDeque<(usize, usize)>,
    outcomes: Vec<HeapOutcome>,
}

/// What playing one candidate came to.
#[derive(Clone, Default)]
struct HeapOutcome {
    /// Resident bytes at the end, by history.
    resident: Vec<Option<u64>>,
    failure: Option<String>,
}

impl HeapCandidateSet<'_> {
    pub(super) fn run(&self, players: usize) -> Predictions {
        let all = self.candidates.iter().enumerate();
        let played = all.filter(|(_, candidate)| candidate.exact.is_none());
        let all = played.flat_map(|(number, candidate)| {
            (0..self.runs(candidate)).map(move |run| (number, run))
        });
        *self.state() = State {
            queue: all.collect(),
            outcomes: self
                .candidates
                .iter()
                .map(|candidate| HeapOutcome {
                    resident: vec![None; self.runs(candidate)],
                    failure: candidate.failure(),
                })
                .collect(),
        };
        let started = thread::scope(|scope| {
            let start = |_| {
                let thread = thread::Builder::new().name("prediction".into());
                thread.spawn_scoped(scope, || self.work()).is_ok()
            };
            (0..players)
                .map(start)
                .filter(|is_started| *is_started)
                .count()
        });
        let mut predictions = self.predictions();
        if self.interrupted.load(Ordering::Relaxed) {
            predictions.trouble = Some("interrupted".to_owned());
        } else if started == 0 {
            predictions.trouble = Some("no thread could be started".to_owned());
        } else if self.is_pressed.load(Ordering::Relaxed) {
            predictions.trouble = Some("this host is short of memory".to_owned());
        }
        if predictions.trouble.is_some() {
            predictions.pending = 0;
        }
        predictions
    }

    fn work(&self) {
        while let Some((candidate, history)) = self.next() {
            let played = self.play(candidate, history);
            let mut state = self.state();
            let outcome = &mut state.outcomes[candidate];
            match played {
                Ok(resident) => outcome.resident[history] = Some(resident),
                Err(PlayError::Cancelled) => return,
                Err(why) => outcome.failure = Some(why.to_string()),
            }
            let is_done = outcome.failure.is_some() || outcome.resident.iter().all(Option::is_some);
            if candidate == 0 && is_done && !self.is_reproduced(&state.outcomes[0]) {
                // The results that follow would not be credible.
                state.queue.clear();
            }
            drop(state);
            if is_done {
                (self.progress)(&self.predictions());
            }
        }
    }

    /// How often a candidate is replayed; the last time for idle threads, if they decide.
    fn runs(&self, candidate: &HeapCandidate) -> usize {
        let of_histories = candidate.interpretation.runs(self.programs.len());
        of_histories + usize::from(self.threads_decide(candidate))
    }

    /// Whether each thread has its own cache besides what the walk shows: so in another allocator.
    fn threads_decide(&self, candidate: &HeapCandidate) -> bool {
        self.idle_threads.is_some()
            && candidate.interpretation != Interpretation::Baseline
            && !candidate.is_glibc()
    }

    fn is_over(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed) || self.is_pressed.load(Ordering::Relaxed)
    }

    /// What to play next: a candidate and a history.
    fn next(&self) -> Option<(usize, usize)> {
        let mut state = self.state();
        while !self.is_over() {
            let (candidate, history) = state.queue.pop_front()?;
            if state.outcomes[candidate].failure.is_none() {
                return Some((candidate, history));
            }
        }
        None
    }

    fn is_reproduced(&self, baseline: &HeapOutcome) -> bool {
        let predicted = baseline.resident.first().copied().flatten();
        predicted.is_some_and(|predicted| self.self_check(predicted).holds())
    }

    /// The self-check: the heap as it is, which took `played_bytes` when replayed.
    fn self_check(&self, played_bytes: u64) -> SelfCheck {
        SelfCheck {
            measured_bytes: self.walked.measured,
            predicted_bytes: played_bytes.saturating_add(self.walked.blank),
        }
    }

    fn play(&self, candidate: usize, history: usize) -> Result<u64, PlayError> {
        let threads_decide = self.threads_decide(&self.candidates[candidate]);
        let HeapCandidate {
            candidate,
            interpretation,
            ..
        } = &self.candidates[candidate];
        let is_of_threads = threads_decide && history >= interpretation.runs(self.programs.len());
        let allocator = candidate.allocator.as_ref().ok();
        let is_last = history >= self.programs.len();
        let limit = match is_of_threads {
            true => self.idle_limit,
            false => self.limit,
        };
        let setup = Setup {
            preload: allocator.and_then(|allocator| allocator.object.clone()),
            env: candidate.env.variables().to_vec(),
            trim_at_checkpoints: is_last
                && !is_of_threads
                && *interpretation == Interpretation::Collected,
            cpus: (self.cpus > 0).then_some(self.cpus),
            memory_limit: Some(limit),
            background: true,
            ..Setup::default()
        };
        let goes_on = |_| {
            if is_pressed() {
                self.is_pressed.store(true, Ordering::Relaxed);
            }
            !self.is_over()
        };
        // After the histories, the first of them comes again: idle at its end, or with everything
        // returned.
        let idle = self
            .idle
            .as_ref()
            .filter(|_| *interpretation == Interpretation::Idle);
        let of_threads = self.idle_threads.as_ref().filter(|_| is_of_threads);
        let first = of_threads.or(idle).unwrap_or(&self.programs[0]);
        let program = self.programs.get(history).unwrap_or(first);
        let played = play(program, &setup, &goes_on)?;
        // Each program ends with a checkpoint.
        Ok(played.peak_and_final().map_or(0, |both| both.at_end))
    }

    fn predictions(&self) -> Predictions {
        let state = self.state();
        let mut all = self.candidates.iter().zip(&state.outcomes);
        let baseline = all.next().map(|(_, outcome)| outcome);
        let predicted = baseline.and_then(|outcome| *outcome.resident.first()?);
        let mut pending = 0;
        let candidates = all
            .filter_map(|(candidate, outcome)| {
                let needs = self.needs(candidate, outcome, predicted);
                if needs.is_none() && outcome.failure.is_none() {
                    pending += 1;
                    return None;
                }
                Some(prediction(candidate, outcome, needs))
            })
            .collect();
        Predictions {
            walk_ns: self.walk_ns,
            rss_bytes: self.walked.rss,
            self_check: predicted.map(|played| self.self_check(played)),
            candidates,
            pending,
            environment_unknown: self.environment_unknown,
            trouble: baseline.and_then(|outcome| {
                let why = outcome.failure.as_ref()?;
                Some(format!("the heap as it is cannot be played: {why}"))
            }),
        }
    }

    fn needs(
        &self,
        candidate: &HeapCandidate,
        outcome: &HeapOutcome,
        baseline: Option<u64>,
    ) -> Option<Needs> {
        if let Some(bytes) = candidate.exact {
            return Some(Needs {
                bytes,
                low_bytes: bytes,
                high_bytes: bytes,
            });
        }
        if outcome.failure.is_some() {
            return None;
        }
        let mut all: Vec<u64> = outcome.resident.iter().copied().collect::<Option<_>>()?;
        let idle_threads = match self.threads_decide(candidate) {
            true => all.pop(),
            false => None,
        };
        let played = HeapFigures {
            all,
            idle_threads,
            baseline: baseline?,
        };
        self.walked
            .needs(candidate.interpretation, candidate.is_glibc(), played)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prediction(
    candidate: &HeapCandidate,
    outcome: &HeapOutcome,
    needs: Option<Needs>,
) -> Prediction {
    let HeapCandidate {
        candidate, undoes, ..
    } = candidate;
    let allocator = candidate.allocator.as_ref().ok();
    let listed = allocator.and_then(|allocator| allocator.listed.clone());
    let preload = listed.clone().map(|listed| (PRELOAD.to_owned(), listed));
    Prediction {
        candidate: candidate.name.clone(),
        allocator: match allocator {
            Some(allocator) => allocator.identity.title(),
            None => candidate.name.title(),
        },
        path: listed,
        is_carried: allocator.is_some_and(|allocator| !allocator.is_installed),
        set: preload
            .into_iter()
            .chain(candidate.env.variables().iter().cloned())
            .collect(),
        step: candidate.step.clone(),
        remedies: *undoes,
        needs,
        runs: outcome.resident.iter().flatten().count() as u32,
        failure: outcome.failure.clone(),
    }
}

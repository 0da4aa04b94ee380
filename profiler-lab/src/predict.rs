//! Predictions from one walk: the heap, as several programs that it may have come from, played into
//! the real allocators.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use profiler_common::program::Op;
use profiler_core::allocator::Allocator as Kind;
use profiler_core::prediction::{Needs, Prediction, Predictions, SelfCheck};
use profiler_core::report::Mechanism;
use profiler_core::sample::Sample;
use profiler_core::units::bytes;
use profiler_target::host;
use profiler_trace::compile::Summary;
use profiler_trace::limits::{Limits, Meter, Stopped};

use super::allocators::Allocator;
use super::environment::Environment;
use super::play::{PlayError, ReplayProgram, Setup, play};
use super::seed::{
    Fill, LargeGaps, Overlap, SeedHeap, SeedOptions, Written, measured_bytes, write,
};
use super::shadow::is_pressed;

/// Of the memory that is available, players may take this share together.
const MEMORY_SHARE: f64 = 0.5;
/// A player may need so much more than the heap takes before it is started…
const HEADROOM: f64 = 1.3;
/// …and so many bytes besides, for itself and its allocator's state.
const OWN_BYTES: u64 = 64 << 20;
/// What an allocator may need more than the heap takes before its player is ended.
const MOST_TIMES: u64 = 4;
/// No heap of more operations is played: it would take minutes, and its program 512 MiB.
const MOST_OPERATIONS: u64 = 1 << 25;
/// Of another allocator, the ends of the band lie so much beyond those that were played: what the
/// program does beside the blocks that a walk shows, which mostly takes some more
/// (`docs/prediction.md`).
const MARGIN: Margin = Margin {
    below: 0.03,
    above: 0.10,
    least: 1 << 20,
};

/// The same of a setting of the allocator that the program has.
const OWN_MARGIN: Margin = Margin {
    below: 0.01,
    above: 0.01,
    least: 256 << 10,
};

struct Margin {
    /// As a share of the lower end.
    below: f64,
    /// As a share of the upper end.
    above: f64,
    /// In bytes, at either end.
    least: u64,
}

impl Margin {
    fn of(&self, end: u64, share: f64) -> u64 {
        self.least.max((end as f64 * share) as u64)
    }
}

/// The histories that a heap may have. The first two are its middle; all of them are its band.
const HISTORIES: [SeedOptions; 4] = [
    SeedOptions {
        fill: Fill::Neighbours,
        large: LargeGaps::ByShare,
        slack: 8,
        overlap: Overlap::Together,
        ..SeedOptions::DEFAULT
    },
    SeedOptions {
        fill: Fill::Exact,
        large: LargeGaps::ByShare,
        slack: 0,
        overlap: Overlap::OneByOne,
        ..SeedOptions::DEFAULT
    },
    SeedOptions {
        fill: Fill::Exact,
        large: LargeGaps::LargeBlocks,
        slack: 8,
        overlap: Overlap::OneByOne,
        ..SeedOptions::DEFAULT
    },
    SeedOptions {
        fill: Fill::Neighbours,
        large: LargeGaps::AsOthers,
        slack: 0,
        overlap: Overlap::Together,
        ..SeedOptions::DEFAULT
    },
];
/// How many of them are the middle.
const MIDDLE: usize = 2;
/// Of a heap that takes more, only these are played: it takes too long else.
const LARGE_HEAP: u64 = 1 << 30;
/// A heap that takes less is not worth it.
const LEAST_HEAP: u64 = 4 << 20;

/// The first history, of a program that does nothing any more once the fill was freed.
const IDLE: SeedOptions = SeedOptions {
    goes_on: false,
    ..HISTORIES[0]
};

/// How far what was played says what the program would need.
#[derive(Copy, Clone, Eq, PartialEq)]
enum Reach {
    /// It is the heap as it is: any of the histories shows whether that is reproduced.
    Itself,
    /// All that decides is in the walk and the histories.
    Full,
    /// When it gives back what was freed depends on what the program does next (mimalloc): it was
    /// played once more with all of it given back, and lies between.
    Collected,
    /// It gives back what was freed only when it is called (jemalloc without a background thread): it
    /// was played once more for a program that is idle, which is the upper end.
    Idle,
    /// It gives nothing back: what it needs was decided at the peak (tcmalloc).
    Peak,
    /// The heap of another allocator does not show what it would have kept: up to what there was.
    Other,
}

impl Reach {
    /// How often it is played.
    fn runs(self, histories: usize) -> usize {
        match self {
            Self::Itself => 1,
            Self::Collected | Self::Idle => histories + 1,
            Self::Full | Self::Peak | Self::Other => histories,
        }
    }
}

/// A candidate.
struct Candidate {
    name: String,
    allocator: Result<Allocator, String>,
    env: Environment,
    /// What it needs, where that follows from the walk and need not be played.
    exact: Option<u64>,
    step: Option<&'static str>,
    remedies: Option<Mechanism>,
    reach: Reach,
}

/// Predicts what the heap that serves malloc in a sample would need elsewhere. `progress` gets what is
/// known whenever a candidate is done. Players give way to all that wants a processor.
pub fn predict(
    sample: &Sample,
    interrupted: &Arc<AtomicBool>,
    progress: &(dyn Fn(&Predictions) + Sync),
) -> Predictions {
    let none = |why: &str| Predictions::none(sample.taken_at_ns, why);
    let (Some(heap), Some(measured)) = (SeedHeap::of(sample), measured_bytes(sample)) else {
        return none("malloc's heap was not walked");
    };
    if measured < LEAST_HEAP {
        let measured = bytes(measured);
        return none(&format!(
            "malloc's heap takes {measured}, too little for it to matter"
        ));
    }
    let available = host::available_bytes();
    let histories = match measured {
        LARGE_HEAP.. => MIDDLE,
        _ => HISTORIES.len(),
    };
    let mut programs = Vec::new();
    for history in HISTORIES[..histories].iter().chain([&IDLE]) {
        match program(&heap, history, available, interrupted) {
            Ok(program) => programs.push(program),
            Err(error) if matches!(Stopped::of(&error), Some(Stopped::Limit { .. })) => {
                return none("the heap has too many blocks to be played");
            }
            Err(error) => return none(&format!("the heap cannot be played: {error}")),
        }
    }
    let peaks = programs.iter().map(|p| p.summary().peak_live_bytes);
    let peak = peaks.max().unwrap_or(0);
    let room = (available as f64 * MEMORY_SHARE) as u64;
    let each = scaled(peak, HEADROOM).saturating_add(OWN_BYTES);
    let players = cores().min((room / each) as usize);
    if players == 0 {
        return none(&format!(
            "too little memory is available to fragscope to play a heap of {}: {}",
            bytes(measured),
            bytes(available)
        ));
    }
    let idle = programs.pop();
    let field = Field {
        idle,
        candidates: candidates(&heap, measured),
        programs,
        walk_ns: sample.taken_at_ns,
        measured,
        peak: at_least_one(
            sample.kernel.peak_rss_bytes,
            sample
                .kernel
                .rss_bytes
                .saturating_add(sample.kernel.swap_bytes),
        ),
        threads_per_arena: at_least_one(sample.target.threads.into(), heap.arenas().len() as u64),
        live: heap.live_bytes(),
        unknown: heap.unknown_bytes(),
        is_glibc: heap.allocator() == Kind::Glibc,
        cpus: sample.host.cpus,
        limit: (room / players as u64)
            .min(peak.saturating_mul(MOST_TIMES).saturating_add(OWN_BYTES)),
        interrupted,
        is_pressed: AtomicBool::new(false),
        progress,
        state: Mutex::default(),
    };
    field.run(players)
}

fn program(
    heap: &SeedHeap<'_>,
    history: &SeedOptions,
    available: u64,
    interrupted: &Arc<AtomicBool>,
) -> io::Result<Arc<ReplayProgram>> {
    let most = MOST_OPERATIONS * size_of::<Op>() as u64;
    let limits = Limits::new(Some(most), None, available);
    let meter = Meter::new(limits, Arc::clone(interrupted));
    ReplayProgram::of_operations(meter, |sink| {
        let Written {
            threads,
            slots,
            peak_bytes,
            ..
        } = write(heap, history, sink)?;
        Ok(Summary {
            threads,
            slots: slots.into(),
            peak_live_bytes: peak_bytes,
            ..Summary::default()
        })
    })
}

/// What is tried: first the heap as it is, then what is asked for most.
fn candidates(heap: &SeedHeap<'_>, measured: u64) -> Vec<Candidate> {
    let own = heap.allocator();
    let env = settings_of(heap);
    let with = |name: &str, allocator: Result<Allocator, String>, env: &Environment| Candidate {
        name: name.to_owned(),
        allocator,
        env: env.clone(),
        exact: None,
        step: None,
        remedies: None,
        reach: Reach::Full,
    };
    let installed = |build: &str| Allocator::to_preload(build).map_err(|error| error.to_string());
    let as_it_is = match own {
        Kind::Glibc => Ok(Allocator::glibc()),
        other => as_the_worker_has(heap, installed(other.name())),
    };
    let empty = Environment::default();
    let mut all = vec![Candidate {
        reach: Reach::Itself,
        ..with("baseline", as_it_is, &env)
    }];
    let mut background = Environment::default();
    background.set_setting(Kind::Jemalloc, "background_thread", "true");
    let others = [
        ("jemalloc background", "jemalloc", &background),
        ("jemalloc", "jemalloc", &empty),
        ("mimalloc2", "mimalloc2", &empty),
        ("mimalloc", "mimalloc", &empty),
        ("tcmalloc", "tcmalloc", &empty),
    ];
    for (name, build, env) in others {
        let candidate = with(name, installed(build), env);
        if candidate
            .allocator
            .as_ref()
            .is_ok_and(|a| a.identity.is(own))
        {
            continue;
        }
        all.push(Candidate {
            remedies: (name == "jemalloc background").then_some(Mechanism::PinnedPages),
            reach: match name {
                "jemalloc" => Reach::Idle,
                "mimalloc" | "mimalloc2" => Reach::Collected,
                "tcmalloc" => Reach::Peak,
                _ => Reach::Full,
            },
            ..candidate
        });
    }
    let glibc_env = if own == Kind::Glibc { env } else { empty };
    let glibc = |name: &str, settings: &[(&str, &str)], remedies| {
        let mut env = glibc_env.clone();
        for (setting, value) in settings {
            env.set_setting(Kind::Glibc, setting, value);
        }
        Candidate {
            remedies,
            ..with(name, Ok(Allocator::glibc()), &env)
        }
    };
    if own != Kind::Glibc {
        all.push(Candidate {
            reach: Reach::Other,
            ..glibc("glibc", &[], None)
        });
        return all;
    }
    let fixed = [("mmap_threshold", "131072")];
    let trimmed = [("trim_threshold", "131072"), ("mmap_threshold", "33554432")];
    all.extend([
        glibc(
            "mmap_threshold=128K",
            &fixed,
            Some(Mechanism::DynamicMmapThreshold),
        ),
        glibc("trim_threshold=128K", &trimmed, None),
        Candidate {
            exact: Some(measured.saturating_sub(heap.trimmable_bytes())),
            step: Some("call malloc_trim(0) after peaks: ctypes.CDLL(None).malloc_trim(0)"),
            ..glibc("malloc_trim", &[], Some(Mechanism::Untrimmed))
        },
    ]);
    if heap.arenas().len() > 1 {
        let sprawl = Some(Mechanism::ArenaSprawl);
        all.push(glibc("arena_max=2", &[("arena_max", "2")], sprawl));
        all.push(glibc("arena_max=1", &[("arena_max", "1")], sprawl));
    }
    all
}

/// The allocator of a worker that has another than glibc, where that can be had as it is.
fn as_the_worker_has(
    heap: &SeedHeap<'_>,
    found: Result<Allocator, String>,
) -> Result<Allocator, String> {
    let found = found?;
    let here = found.identity.version.as_deref().unwrap_or("unknown");
    if here != heap.version() {
        return Err(format!(
            "the process has version {}, and {here} is what can be played here",
            heap.version()
        ));
    }
    if heap.has_settings() {
        return Err(
            "its settings are those of its environment, which players do not get".to_owned(),
        );
    }
    Ok(found)
}

/// glibc's settings in force, as far as they were changed and a variable sets them.
fn settings_of(heap: &SeedHeap<'_>) -> Environment {
    let mut env = Environment::default();
    if heap.allocator() != Kind::Glibc {
        return env;
    }
    let is_fixed = heap.setting("no_dyn_threshold") == Some(1);
    for (setting, tunable) in [
        ("arena_max", "arena_max"),
        ("top_pad", "top_pad"),
        ("tcache_count", "tcache_count"),
        ("n_mmaps_max", "mmap_max"),
        ("mmap_threshold", "mmap_threshold"),
        ("trim_threshold", "trim_threshold"),
    ] {
        let adapts = tunable.ends_with("threshold") && !is_fixed;
        if let Some(value) = heap.changed_setting(setting).filter(|_| !adapts) {
            env.set_setting(Kind::Glibc, tunable, &value.to_string());
        }
    }
    env
}

/// All that is to be played.
struct Field<'a> {
    candidates: Vec<Candidate>,
    programs: Vec<Arc<ReplayProgram>>,
    /// That of [`IDLE`].
    idle: Option<Arc<ReplayProgram>>,
    walk_ns: u64,
    measured: u64,
    /// What the process took at its peak, for what it takes now.
    peak: f64,
    /// Threads for each of glibc's arenas: each keeps something of its own in mimalloc.
    threads_per_arena: f64,
    /// Bytes of live blocks.
    live: u64,
    /// Bytes of which it is not known what they are.
    unknown: u64,
    /// Whether glibc serves malloc.
    is_glibc: bool,
    cpus: u32,
    /// Bytes that a player may take.
    limit: u64,
    interrupted: &'a AtomicBool,
    /// Whether this host is short of memory.
    is_pressed: AtomicBool,
    progress: &'a (dyn Fn(&Predictions) + Sync),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(usize, usize)>,
    outcomes: Vec<Outcome>,
}

/// What playing one candidate came to.
#[derive(Clone, Default)]
struct Outcome {
    /// Resident bytes at the end, by history.
    resident: Vec<Option<u64>>,
    failure: Option<String>,
}

impl Field<'_> {
    fn run(&self, players: usize) -> Predictions {
        let histories = self.programs.len();
        let all = self.candidates.iter().enumerate();
        let played = all.filter(|(_, candidate)| candidate.exact.is_none());
        let all = played.flat_map(|(number, candidate)| {
            (0..candidate.reach.runs(histories)).map(move |run| (number, run))
        });
        *self.state() = State {
            queue: all.collect(),
            outcomes: self
                .candidates
                .iter()
                .map(|candidate| Outcome {
                    resident: vec![None; candidate.reach.runs(histories)],
                    failure: candidate.allocator.as_ref().err().cloned(),
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
                // What follows could not be believed.
                state.queue.clear();
            }
            drop(state);
            if is_done {
                (self.progress)(&self.predictions());
            }
        }
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

    fn is_reproduced(&self, baseline: &Outcome) -> bool {
        let predicted = baseline.resident.first().copied().flatten();
        predicted.is_some_and(|predicted_bytes| {
            let check = SelfCheck {
                measured_bytes: self.measured,
                predicted_bytes,
            };
            check.holds()
        })
    }

    fn play(&self, candidate: usize, history: usize) -> Result<u64, PlayError> {
        let candidate = &self.candidates[candidate];
        let allocator = candidate.allocator.as_ref().ok();
        let is_last = history >= self.programs.len();
        let setup = Setup {
            preload: allocator.and_then(|allocator| allocator.object.clone()),
            env: candidate.env.variables().to_vec(),
            trim_at_checkpoints: is_last && candidate.reach == Reach::Collected,
            cpus: (self.cpus > 0).then_some(self.cpus),
            memory_limit: Some(self.limit),
            background: true,
            ..Setup::default()
        };
        let goes_on = |_| {
            if is_pressed() {
                self.is_pressed.store(true, Ordering::Relaxed);
            }
            !self.is_over()
        };
        // After the histories comes the first of them again: idle at its end, or all given back.
        let idle = self
            .idle
            .as_ref()
            .filter(|_| candidate.reach == Reach::Idle);
        let first = idle.unwrap_or(&self.programs[0]);
        let program = self.programs.get(history).unwrap_or(first);
        let played = play(program, &setup, &goes_on)?;
        let at_end = played.checkpoints.last();
        // Each program ends with a checkpoint.
        Ok(at_end.map_or(0, |checkpoint| checkpoint.resident_bytes))
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
            self_check: predicted.map(|predicted_bytes| SelfCheck {
                measured_bytes: self.measured,
                predicted_bytes,
            }),
            candidates,
            pending,
            trouble: baseline.and_then(|outcome| {
                let why = outcome.failure.as_ref()?;
                Some(format!("the heap as it is cannot be played: {why}"))
            }),
        }
    }

    fn needs(
        &self,
        candidate: &Candidate,
        outcome: &Outcome,
        baseline: Option<u64>,
    ) -> Option<Needs> {
        if let Some(bytes) = candidate.exact {
            let (low_bytes, high_bytes) = (bytes, bytes);
            return Some(Needs {
                bytes,
                low_bytes,
                high_bytes,
            });
        }
        let mut all: Vec<u64> = outcome.resident.iter().copied().collect::<Option<_>>()?;
        if outcome.failure.is_some() {
            return None;
        }
        let baseline = baseline?;
        let own_error = self.measured.abs_diff(baseline);
        let is_glibc = candidate
            .allocator
            .as_ref()
            .is_ok_and(|a| a.identity.is(Kind::Glibc));
        let margin = match is_glibc {
            true => &OWN_MARGIN,
            false => &MARGIN,
        };
        if is_glibc && self.is_glibc {
            // A setting is compared with the same allocator as played: what both are off by cancels.
            for bytes in &mut all {
                *bytes = bytes.saturating_add(self.measured).saturating_sub(baseline);
            }
        }
        let (mut low, mut high) = (*all.iter().min()?, *all.iter().max()?);
        let mut middle = geometric_mean(&all[..MIDDLE.min(all.len())]);
        match candidate.reach {
            Reach::Itself | Reach::Full => {}
            Reach::Collected => {
                if self.programs[0].summary().threads > 1 {
                    // Other threads' heaps are collected by these alone.
                    low = low.min(self.live);
                }
                middle = (middle + low) / 2;
                high = scaled(high, self.threads_per_arena);
            }
            Reach::Peak => {
                high = scaled(high, self.peak);
                middle = scaled(middle, self.peak);
            }
            Reach::Idle => {}
            Reach::Other => high = high.max(scaled(self.measured, self.peak)),
        }
        Some(Needs {
            bytes: middle,
            low_bytes: low.saturating_sub(margin.of(low, margin.below).max(own_error)),
            high_bytes: high
                .saturating_add(margin.of(high, margin.above).max(own_error))
                .saturating_add(self.unknown),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prediction(candidate: &Candidate, outcome: &Outcome, needs: Option<Needs>) -> Prediction {
    let allocator = candidate.allocator.as_ref().ok();
    let listed = allocator.and_then(|allocator| allocator.listed.clone());
    let preload = listed
        .clone()
        .map(|listed| ("LD_PRELOAD".to_owned(), listed));
    Prediction {
        candidate: candidate.name.clone(),
        allocator: match allocator.and_then(|allocator| allocator.identity.kind) {
            Some(kind) => kind.name().to_owned(),
            None => candidate.name.clone(),
        },
        version: allocator.and_then(|allocator| allocator.identity.version.clone()),
        path: listed,
        is_carried: allocator.is_some_and(Allocator::is_carried),
        set: preload
            .into_iter()
            .chain(candidate.env.variables().iter().cloned())
            .collect(),
        step: candidate.step.map(str::to_owned),
        remedies: candidate.remedies,
        needs,
        runs: outcome.resident.iter().flatten().count() as u32,
        failure: outcome.failure.clone(),
    }
}

/// `part` for each `of`, where that is more than one.
fn at_least_one(part: u64, of: u64) -> f64 {
    (part as f64 / of.max(1) as f64).max(1.0)
}

fn scaled(bytes: u64, times: f64) -> u64 {
    (bytes as f64 * times) as u64
}

/// The mean of what may differ by factors: of 10 and 1000 it is 100.
fn geometric_mean(all: &[u64]) -> u64 {
    let sum: f64 = all.iter().map(|bytes| (*bytes.max(&1) as f64).ln()).sum();
    (sum / all.len() as f64).exp().round() as u64
}

/// Processors to play on.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

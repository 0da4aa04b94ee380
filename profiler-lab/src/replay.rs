//! `replay`: replays a trace under a set of allocators and settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use profiler_core::allocator::BuildId;
use profiler_core::text::visible;
use profiler_target::host;
use profiler_trace::compile::{ProgramCheckpoint, Summary};
use profiler_trace::limits::{Incomplete, Limits};
use profiler_trace::trace::TraceDescription;

use super::ablation::{self, GapCause, Share};
use super::calibrate::{CalibrationFactors, Point, calibrate};
use super::candidate_set::{self, Progress, ReplayConfig};
use super::candidates::{self, Candidate, Facts, Tunable};
use super::failure::Failure;
use super::figures::{Endings, Figure, PeakAndFinal, median};
use super::object_arenas::ObjectArenas;
use super::open::open;
use super::outcome::{Outcome, Run};
use super::play::confine::Confinement;
use super::play::{CompileError, ReplayProgram};
use super::recorded;
use super::report::{self, CandidateReport, Checkpoint, Measured, Report, TraceFacts};
use super::verdict::verdict;

/// The share of the peak live bytes from which uncertainty about touched pages is replayed both
/// ways.
const NOTABLE_TOUCH: f64 = 0.01;
/// If the uncertainty about the arenas of Python's object allocator makes up a larger share of a
/// peak, that peak is unknown.
const VAGUE_PEAK: f64 = 0.1;

/// What `replay` does.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// The trace.
    pub trace: PathBuf,
    /// Allocators to try instead of the default set.
    pub allocators: Vec<String>,
    /// Settings to try instead of it.
    pub tunables: Vec<Tunable>,
    /// Runs of each candidate that is random.
    pub runs: Option<u32>,
    /// The most bytes that the trace may have, and that tables may take ([`Limits`]); `None` is the
    /// default.
    pub max_size: Option<u64>,
    /// See above.
    pub max_memory: Option<u64>,
    /// Whether the object that the trace names as the allocator may be loaded, if it belongs to
    /// root or the caller.
    pub allow_recorded: bool,
}

/// Why nothing could be replayed.
#[derive(Debug, thiserror::Error)]
#[error("cannot replay {}: {}", visible(path.display()), visible(why))]
pub struct ReplayError {
    /// The trace.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub why: CompileError,
}

/// Plays a trace into the allocators that the options name.
///
/// # Errors
/// When nothing of the trace can be read. Candidates that fail are part of the report.
pub fn replay(
    options: &ReplayOptions,
    interrupted: &Arc<AtomicBool>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report, ReplayError> {
    let available_bytes = host::available_bytes();
    let limits = Limits::new(options.max_size, options.max_memory, available_bytes);
    let opened = open(&options.trace, limits, interrupted).map_err(|why| ReplayError {
        path: options.trace.clone(),
        why,
    })?;
    let program = &*opened.program;
    let summary = program.summary();
    let (env, not_taken) = recorded::environment(program.description());
    let facts = Facts {
        description: program.description(),
        threads: summary.threads,
        duration: Duration::from_nanos(summary.duration_ns),
        env,
        allow_recorded: options.allow_recorded,
    };
    let checkpoints = program.checkpoints();
    let objects = ObjectArenas::of(&summary, &checkpoints);
    let tried = Tried::of(options, &facts, objects.is_some());
    let touch_share = summary.uncertain_touch_bytes as f64 / summary.peak_live_bytes.max(1) as f64;
    let config = ReplayConfig {
        runs: options.runs,
        cpus: cpus(program.description()),
        touch_is_uncertain: touch_share > NOTABLE_TOUCH,
        gaps_are_uncertain: summary.seed_blocks > 0,
        shown: tried.shown,
        available_bytes,
        interrupted,
    };
    let outcomes = candidate_set::run(program, &tried.candidates, &config, progress);
    let played = PlayedSet {
        program,
        trouble: opened.trouble.as_ref(),
        summary: &summary,
        objects,
        checkpoints,
        candidates: &tried.candidates,
        outcomes: &outcomes,
        shown: tried.shown,
    };
    let mut report = played.report(options);
    report.trace.not_taken = not_taken;
    report.trace.not_loaded = tried.not_loaded;
    report.not_confined = Confinement::of_host().lacks().to_vec();
    report.shares = played.shares(&tried.causes, &facts);
    report.interrupted = interrupted.load(Ordering::Relaxed);
    report.verdict = verdict(&report);
    Ok(report)
}

/// What a recording is replayed into.
struct Tried {
    /// The baseline, the candidates compared with it, and the steps of its gap.
    candidates: Vec<Candidate>,
    /// How many of them are shown: the steps are not.
    shown: usize,
    /// The cause that each of those steps removes.
    causes: Vec<GapCause>,
    /// Why the recorded allocator is not the baseline.
    not_loaded: Option<Failure>,
}

impl Tried {
    fn of(options: &ReplayOptions, facts: &Facts<'_>, has_objects: bool) -> Self {
        let is_own = !options.allocators.is_empty() || !options.tunables.is_empty();
        let (baseline, not_loaded) = candidates::baseline(facts);
        let mut all = vec![baseline];
        all.extend(match is_own {
            true => candidates::chosen_candidates(facts, &options.allocators, &options.tunables),
            false => candidates::default_candidates(facts),
        });
        if has_objects {
            all.extend(candidates::without_object_allocator(&all));
        }
        let shown = all.len();
        let steps = match is_own {
            true => Vec::new(),
            false => ablation::steps(facts),
        };
        let (causes, steps): (Vec<GapCause>, Vec<Candidate>) = steps.into_iter().unzip();
        all.extend(steps);
        Self {
            candidates: all,
            shown,
            causes,
            not_loaded,
        }
    }
}

fn cpus(description: &TraceDescription) -> Option<u32> {
    // Linux knows no more (`CONFIG_NR_CPUS`).
    description.cpus.filter(|cpus| (1..=8192).contains(cpus))
}

/// A set of candidates that was played.
struct PlayedSet<'a> {
    program: &'a ReplayProgram,
    trouble: Option<&'a Incomplete>,
    summary: &'a Summary,
    objects: Option<ObjectArenas>,
    checkpoints: Vec<ProgramCheckpoint>,
    candidates: &'a [Candidate],
    outcomes: &'a [Outcome],
    shown: usize,
}

impl PlayedSet<'_> {
    fn report(&self, options: &ReplayOptions) -> Report {
        let mut rows: Vec<CandidateReport> =
            (0..self.shown).map(|number| self.row(number)).collect();
        // A candidate that does not differ from what the program had has the same needs.
        let baseline = rows[0].clone();
        for row in rows.iter_mut().filter(|row| row.same_as_now.is_some()) {
            row.measured = baseline.measured;
            row.failure.clone_from(&baseline.failure);
            row.checkpoints.clone_from(&baseline.checkpoints);
        }
        let calibration = calibrate(self.points(), &self.factors(&rows[0]));
        report::rank(&mut rows);
        Report {
            trace: self.trace(options),
            calibration,
            candidates: rows,
            ..Report::default()
        }
    }

    fn processes(&self) -> Vec<u32> {
        let all = self.checkpoints.iter();
        all.map(|at| at.checkpoint.process).collect()
    }

    /// When they ended.
    fn endings(&self) -> Endings {
        Endings::of(&self.checkpoints, &self.summary.ends)
    }

    fn row(&self, number: usize) -> CandidateReport {
        let (candidate, outcome) = (&self.candidates[number], &self.outcomes[number]);
        let (set, unset) = candidate.changes(&self.candidates[0]);
        let measured = self.measured(number);
        let not_played = measured.is_none() && candidate.same_as_now.is_none();
        let not_played = not_played.then(|| "not played to its end".to_owned().into());
        CandidateReport {
            name: candidate.name.clone(),
            allocator: candidate.allocator.as_ref().ok().cloned(),
            is_baseline: number == 0,
            objects: candidate.objects,
            env: candidate.variables(),
            set,
            unset,
            step: candidate.step.clone(),
            price: candidate.price.to_owned(),
            measured: outcome.failure.is_none().then_some(measured).flatten(),
            failure: outcome.failure.clone().or(not_played),
            same_as_now: candidate.same_as_now.clone(),
            rank: None,
            checkpoints: self.checkpoints(number),
        }
    }

    /// The arenas of Python's object allocator, if these count and a candidate has them.
    fn arenas(&self, number: usize) -> Option<&ObjectArenas> {
        let arenas = self.objects.as_ref();
        arenas.filter(|_| !self.candidates[number].objects)
    }

    /// The values of a candidate at the checkpoints in its runs, and in those that only widen the
    /// range: including those arenas.
    fn runs(&self, number: usize) -> (Vec<Run>, Vec<Run>) {
        let Outcome { runs, bounds, .. } = &self.outcomes[number];
        match self.arenas(number) {
            Some(arenas) => arenas.with(runs, bounds),
            None => (runs.clone(), bounds.clone()),
        }
    }

    fn measured(&self, number: usize) -> Option<Measured> {
        let outcome = &self.outcomes[number];
        let (likely, bounds) = self.runs(number);
        let of = |likely: &[Run], bounds: &[Run]| {
            PeakAndFinal::of_runs(likely, bounds, &self.processes(), &self.endings())
        };
        let memory = of(&likely, &bounds)?;
        let arenas = self.arenas(number);
        let most = arenas.and_then(|arenas| of(&arenas.with_most(&outcome.runs), &[]));
        let most = most.map_or(memory.peak.bytes, |most| most.peak.bytes);
        let apart = most.saturating_sub(memory.peak.bytes) as f64;
        let cpu: Vec<f64> = outcome.runs.iter().map(|run| run.cpu_seconds).collect();
        let faults: Vec<u64> = outcome.runs.iter().map(|run| run.faults).collect();
        let calls = outcome.runs.iter().filter_map(|run| run.kernel_calls);
        let calls: Vec<u64> = calls.collect();
        Some(Measured {
            memory,
            peak_is_unknown: apart > memory.peak.bytes as f64 * VAGUE_PEAK,
            runs: outcome.runs.len() as u32,
            cpu_seconds: median(&cpu)?,
            faults: median(&faults)?,
            kernel_calls: median(&calls),
        })
    }

    fn checkpoints(&self, number: usize) -> Vec<Checkpoint> {
        let (likely, bounds) = self.runs(number);
        let mut all = self.checkpoints_of(&likely, &bounds);
        if let Some(arenas) = &self.objects {
            for (at, arenas) in all.iter_mut().zip(arenas.least()) {
                at.recorded_bytes = at.recorded_bytes.map(|bytes| bytes.saturating_add(*arenas));
            }
        }
        all
    }

    /// The recorded checkpoints with the values of these runs.
    fn checkpoints_of(&self, likely: &[Run], bounds: &[Run]) -> Vec<Checkpoint> {
        let all = self.checkpoints.iter().enumerate();
        let all = all.filter_map(|(number, reached)| {
            let at = |run: &Run| run.resident.get(number).copied();
            let runs: Vec<u64> = likely.iter().filter_map(at).collect();
            let bounds = bounds.iter().filter_map(at);
            let (low, high) = runs
                .iter()
                .copied()
                .chain(bounds)
                .fold((u64::MAX, 0), |(low, high), bytes| {
                    (low.min(bytes), high.max(bytes))
                });
            Some(Checkpoint {
                time_ns: reached.checkpoint.time_ns,
                process: reached.checkpoint.process,
                resident_bytes: median(&runs)?,
                low_bytes: low,
                high_bytes: high,
                recorded_bytes: reached.checkpoint.figures.malloc_bytes(),
                live_bytes: reached.live_bytes,
                on_request: reached.checkpoint.figures.on_request,
            })
        });
        all.collect()
    }

    fn points(&self) -> Vec<Point> {
        // malloc's alone: the arenas are not replayed.
        let now = self.checkpoints_of(&self.outcomes[0].runs, &self.outcomes[0].bounds);
        let points = now.iter().map(|checkpoint| Point {
            time_ns: checkpoint.time_ns,
            process: checkpoint.process,
            recorded_bytes: checkpoint.recorded_bytes,
            replayed_bytes: checkpoint.resident_bytes,
        });
        points.collect()
    }

    fn factors(&self, baseline: &CandidateReport) -> CalibrationFactors {
        let description = self.program.description();
        let band = baseline.measured.map_or(0.0, |measured| {
            let part = |figure: Figure| {
                (figure.bytes - figure.low_bytes) as f64 / figure.bytes.max(1) as f64
            };
            let both = measured.memory.map(part);
            both.peak.max(both.at_end)
        });
        CalibrationFactors {
            events: self.summary.events,
            lost: self.summary.lost.saturating_add(self.summary.left_out),
            seed_bytes: self.summary.seed_bytes,
            seed_gone_bytes: self.summary.seed_gone_bytes,
            touch_band: if self.outcomes[0].bounds.is_empty() {
                0.0
            } else {
                band
            },
            other_allocator: self.other_allocator(),
            failure: baseline.failure.as_ref().map(|failure| failure.why.clone()),
            foreign: foreign(description),
            endings: self.endings(),
        }
    }

    /// The recorded allocator and the one that replaced it, if these are not known to be the same.
    fn other_allocator(&self) -> Option<(String, String)> {
        let description = self.program.description();
        let recorded = description.malloc.as_ref()?.to_string();
        let played = self.candidates[0].allocator.as_ref().ok()?;
        // For the C library's own allocator it is the player's.
        let played = match played.object {
            Some(_) => played.identity.title().to_string(),
            None => self.outcomes[0].sample.as_ref()?.target.libc.clone()?,
        };
        (recorded != played).then_some((recorded, played))
    }

    fn trace(&self, options: &ReplayOptions) -> TraceFacts {
        let description = self.program.description();
        let summary = self.summary;
        TraceFacts {
            path: options.trace.to_string_lossy().into_owned(),
            command: description.command.clone(),
            pid: description.pid,
            python: description.python.clone(),
            libc: description.libc.clone(),
            malloc: description.malloc.clone(),
            cpus: description.cpus.map(u64::from),
            started_at: description.started_at.clone(),
            format: foreign(description),
            lacks: lacking(description),
            events: summary.events,
            lost: summary.lost,
            left_out: summary.left_out,
            threads: summary.threads,
            processes: summary.processes,
            duration_ns: summary.duration_ns,
            trims: summary.trims,
            peak_live_bytes: summary.peak_live_bytes,
            has_objects: self.objects.is_some(),
            lacks_objects: description.objects.is_some() && self.objects.is_none(),
            live_at_final_bytes: self.live_at_final(),
            kept_bytes: self.kept_bytes(),
            checkpoints: self
                .checkpoints
                .iter()
                .filter(|at| at.checkpoint.figures.malloc_bytes().is_some())
                .count() as u64,
            trouble: self.trouble.cloned(),
            environment_unknown: description.environment_unknown,
            not_taken: Vec::new(),
            not_loaded: None,
            last_checkpoint_ns: self.last().map_or(0, |at| at.checkpoint.time_ns),
        }
    }

    /// The checkpoint that gives the final value.
    fn last(&self) -> Option<&ProgramCheckpoint> {
        let only_played = self.endings().only_played;
        let mut all = self.checkpoints.iter().rev();
        all.find(|at| !only_played.contains(&at.checkpoint.process))
    }

    fn live_at_final(&self) -> Option<u64> {
        let all = self.checkpoints.iter();
        let all = all.map(|at| (at.checkpoint.process, at.live_bytes));
        let all: Vec<_> = all.collect();
        Some(PeakAndFinal::of_ending(&all, &self.endings())?.at_end)
    }

    /// The live bytes at the end of the recording; `None` if the last checkpoint is of a process
    /// that ended, which takes apart what it had, and for several processes, whose ends free what
    /// they had.
    fn kept_bytes(&self) -> Option<u64> {
        let is_final = self.last()?.checkpoint.figures.is_final;
        let is_one = self.summary.processes == 1;
        (is_one && !is_final).then_some(self.summary.end_live_bytes)
    }

    /// The gap in parts, if every replay that it needs was completed.
    fn shares(&self, causes: &[GapCause], facts: &Facts<'_>) -> Vec<Share> {
        let of = |number: usize| -> Option<PeakAndFinal<u64>> {
            let outcome = self.outcomes.get(number)?;
            let measured = self
                .measured(number)
                .filter(|_| outcome.failure.is_none())?;
            Some(measured.memory.map(|figure| figure.bytes))
        };
        let default_of = |build: BuildId| {
            let mut all = self.candidates.iter();
            all.position(|candidate| candidate.name.is_default_of(build))
        };
        let glibc = if facts.is_glibc() {
            Some(0)
        } else {
            default_of(BuildId::Glibc)
        };
        let steps = causes.iter().enumerate();
        let steps = steps.map(|(i, cause)| Some((*cause, of(self.shown + i)?)));
        let (Some(glibc), Some(jemalloc), Some(steps)) = (
            glibc.and_then(of),
            default_of(BuildId::Jemalloc).and_then(of),
            steps.collect::<Option<Vec<_>>>(),
        ) else {
            return Vec::new();
        };
        if steps.is_empty() {
            return Vec::new();
        }
        ablation::shares(glibc, &steps, jemalloc)
    }
}

fn foreign(description: &TraceDescription) -> Option<String> {
    let format = description.format.clone();
    format.filter(|format| !format.is_empty())
}

/// A description of what the format that was read does not contain.
fn lacking(description: &TraceDescription) -> Vec<String> {
    let lacks = description.lacks.iter();
    lacks.map(|what| what.replace('_', " ")).collect()
}

//! Playing a program into one allocator, in a process of its own that is measured from outside.

mod child;
pub(crate) mod confine;
mod control;
mod guard;
mod kernel_calls;
mod preload;
mod program;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use profiler_common::program::PlayerMessage;
use profiler_core::metrics::malloc_resident;
use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_core::units::bytes;
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_target::{OpenError, Process, Target};
use profiler_trace::compile::ProgramCheckpoint;

pub use self::child::end_all as end_players;
use self::child::{Activity, Child};
use self::kernel_calls::Calls;
pub use self::program::{CompileError, OperationsSink, ProgramBuilder, ReplayProgram};
use super::figures::{At, PeakAndFinal};

/// Time without progress after which a player is taken to hang, unless the setup says another.
const HANGS_AFTER: Duration = Duration::from_secs(20);

/// Signals and memory are checked so often at least.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// The allocator and its settings.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The allocator's shared object; `None` is the C library's own malloc.
    pub preload: Option<PathBuf>,
    /// The environment of the process, all of it.
    pub env: Vec<(String, String)>,
    /// What is done with large blocks of which it is not known how much of them is touched.
    pub touch: Touch,
    /// What the gaps between blocks from before the recording are filled with.
    pub fill: GapFill,
    /// `malloc_trim(0)` is called so often in the program's time.
    pub trim_every: Option<Duration>,
    /// `malloc_trim(0)` is called before each checkpoint is measured.
    pub trim_at_checkpoints: bool,
    /// The number of processors that the allocator sees; `None` is this machine's.
    pub cpus: Option<u32>,
    /// The processor to play on: threads take turns, so one is enough, and turns are quicker there.
    pub core: Option<usize>,
    /// The player is ended when it has more bytes resident.
    pub memory_limit: Option<u64>,
    /// Time without progress after which it is taken to hang; `None` is 20 s.
    pub patience: Option<Duration>,
    /// Whether it gives way to everything else that wants a processor.
    pub background: bool,
    /// Whether to count kernel calls: meanwhile those of all processes here take a little longer.
    pub count_calls: bool,
    /// Whether to walk the heap at the end.
    pub walk: bool,
}

/// What is done with large blocks of which it is not known how much of them is touched.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Touch {
    /// They are written to from end to end.
    #[default]
    Most,
    /// They are not written to.
    Least,
}

/// What the gaps between blocks from before the recording are filled with, for allocators that are not
/// the C library's own (`docs/prediction.md`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum GapFill {
    /// Blocks of the sizes of live ones nearby; large ones where most of the heap is large gaps.
    #[default]
    First,
    /// The same where these fill a gap exactly, else large blocks.
    Second,
}

/// What playing came to.
#[derive(Debug)]
pub struct Played {
    /// malloc's memory at each checkpoint of the trace.
    pub checkpoints: Vec<PlayedCheckpoint>,
    /// The first process as it was at the end.
    pub end_sample: Option<Sample>,
    /// Processor time that playing took, over all processes.
    pub cpu_seconds: f64,
    /// Page faults that needed no reading.
    pub faults: u64,
    /// Calls of brk, mmap, munmap, mremap, madvise and mprotect while playing, over all processes;
    /// `None` when they were not counted, or the kernel does not let us.
    pub kernel_calls: Option<u64>,
    /// How long playing took.
    pub wall: Duration,
}

/// malloc's memory at one checkpoint.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct PlayedCheckpoint {
    /// Nanoseconds since the recording began.
    pub time_ns: u64,
    /// The process, by its number in the trace.
    pub process: u32,
    /// Whether the checkpoint is one of the trace, or was added.
    pub recorded: bool,
    /// malloc's resident bytes, swapped ones included: what the target would need.
    pub resident_bytes: u64,
    /// Bytes live, as asked for.
    pub live_bytes: u64,
}

impl Played {
    /// Peak and final of malloc's memory, of all processes together; `None` without any checkpoint.
    pub fn peak_and_final(&self) -> Option<PeakAndFinal<u64>> {
        let all = self.checkpoints.iter();
        let all: Vec<At> = all.map(|at| (at.process, at.resident_bytes)).collect();
        PeakAndFinal::of(&all)
    }
}

/// Why a player did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// It could not be started.
    #[error("the player did not start: {0}")]
    Start(io::Error),
    /// The allocator was not loaded.
    #[error("{} was not loaded into the player: {}", visible(path.display()), visible(why))]
    NotLoaded {
        /// The allocator.
        path: PathBuf,
        /// What the loader said.
        why: String,
    },
    /// It was ended by a signal.
    #[error("crashed ({})", visible(.0))]
    Crashed(String),
    /// Somebody else ended it.
    #[error("was killed (SIGKILL) {}", if *.for_memory {
        "by the kernel, most likely: the host or its control group was short of memory meanwhile"
    } else {
        "by somebody else"
    })]
    Killed {
        /// Whether the kernel ended any process for want of memory meanwhile.
        for_memory: bool,
    },
    /// It made no progress.
    #[error("stopped making progress after {played} of {of} operations")]
    Hung {
        /// Operations played.
        played: u64,
        /// Operations there are.
        of: u64,
    },
    /// It grew beyond what it was allowed.
    #[error("needed more than {} and was ended", bytes(*limit_bytes))]
    TooLarge {
        /// What it was allowed.
        limit_bytes: u64,
    },
    /// The allocator gave no memory.
    #[error("gave no memory for a block of {bytes} bytes")]
    NoMemory {
        /// What was asked for.
        bytes: u64,
    },
    /// The player itself failed.
    #[error("the player failed: {}", visible(.0))]
    Player(String),
    /// It could not be measured.
    #[error("cannot read the memory of the player: {0}")]
    Unreadable(#[from] OpenError),
    /// Talking to it failed.
    #[error("cannot communicate with the player: {0}")]
    Io(#[from] io::Error),
    /// fragscope is to end.
    #[error("was ended early")]
    Cancelled,
}

/// How long a player has made no progress, as far as fragscope itself ran (while that is suspended, so is
/// its player) and as far as it could have made any: players give way to everything, and one that waits for
/// a processor does not hang.
struct Idle {
    observed: Instant,
    /// The processor time that the player took by then.
    used: Duration,
    time: Duration,
    /// The same, however little of a processor it got.
    in_all: Duration,
}

impl Idle {
    /// The most that passes between two looks of a fragscope that runs.
    const MOST: Duration = Duration::from_secs(1);
    /// How many times longer is waited for one that gets no processor.
    const STARVED: u32 = 15;

    fn since(now: Instant) -> Self {
        Self {
            observed: now,
            used: Duration::ZERO,
            time: Duration::ZERO,
            in_all: Duration::ZERO,
        }
    }

    fn observe(&mut self, now: Instant, player: Activity) {
        let passed = now.duration_since(self.observed).min(Self::MOST);
        self.time += match player.is_runnable {
            true => passed.min(player.used.saturating_sub(self.used)),
            false => passed,
        };
        self.in_all += passed;
        self.observed = now;
        self.used = player.used;
    }

    /// Whether it hangs, for one who is patient for so long.
    fn is_hang(&self, patience: Duration) -> bool {
        self.time > patience || self.in_all > patience * Self::STARVED
    }

    /// It made progress.
    fn end(&mut self, now: Instant) {
        self.observed = now;
        self.time = Duration::ZERO;
        self.in_all = Duration::ZERO;
    }
}

/// Plays a program; `progress` gets how many operations have been played now and then, and ends
/// the player by giving false.
///
/// # Errors
/// Whatever keeps it from coming to its end.
pub fn play(
    program: &ReplayProgram,
    setup: &Setup,
    progress: &dyn Fn(u64) -> bool,
) -> Result<Played, PlayError> {
    play_along(program, setup, progress, &|_| {})
}

/// The same of a program that may grow; `on_checkpoint` gets each checkpoint when it is
/// reached.
///
/// # Errors
/// As [`play`].
pub fn play_along(
    program: &ReplayProgram,
    setup: &Setup,
    progress: &dyn Fn(u64) -> bool,
    on_checkpoint: &dyn Fn(&PlayedCheckpoint),
) -> Result<Played, PlayError> {
    let began = Instant::now();
    let patience = setup.patience.unwrap_or(HANGS_AFTER);
    let mut child = Child::start(program, setup)?;
    let mut measurements = Measurements::default();
    let mut calls = None;
    let mut played = 0;
    let mut idle = Idle::since(Instant::now());
    let mut checked = Instant::now();
    loop {
        let message = child.receive()?;
        // A program of many checkpoints never is silent.
        if message.is_none() || checked.elapsed() > CHECK_EVERY {
            checked = Instant::now();
            let now = child.control().played()?;
            if now == played {
                idle.observe(checked, child.activity()?);
            } else {
                played = now;
                idle.end(checked);
            }
            if !progress(now) {
                return Err(PlayError::Cancelled);
            }
            if let Some(limit_bytes) = setup.memory_limit
                && child.has_more_than(limit_bytes, program.shared_bytes())?
            {
                return Err(PlayError::TooLarge { limit_bytes });
            }
        }
        match message {
            None => {
                // One that has played all there is waits for more.
                if idle.is_hang(patience) && played < program.published() {
                    let of = program.published();
                    return Err(PlayError::Hung { played, of });
                }
            }
            Some(PlayerMessage::Start) => {
                if setup.count_calls {
                    calls = Calls::of(child.pid()).ok();
                }
                child.go_on()?;
            }
            Some(PlayerMessage::Checkpoint) => {
                let number = measurements.checkpoints.len();
                let reached = program.checkpoint(number).ok_or_else(|| {
                    PlayError::Player(format!("it reached an unknown checkpoint, {number}"))
                })?;
                measurements.measure(&child, &reached)?;
                idle.end(Instant::now());
                measurements
                    .checkpoints
                    .last()
                    .into_iter()
                    .for_each(on_checkpoint);
                child.go_on()?;
            }
            Some(PlayerMessage::End) => break,
            // That is an error of receiving it.
            Some(PlayerMessage::Failure) => {}
        }
    }
    measurements
        .usage
        .insert(u32::MAX, child.control().usage()?);
    let kernel_calls = calls.and_then(|calls| calls.count().ok());
    let end_sample = match setup.walk {
        false => None,
        true => Some(Sampler::open(child.pid())?.take(SAMPLING)?),
    };
    child.go_on()?;
    progress(program.published());
    // The last word of a process holds all that it used.
    let usage = measurements.usage.values();
    let (cpu_ns, faults) = usage.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    Ok(Played {
        checkpoints: measurements.checkpoints,
        end_sample,
        cpu_seconds: cpu_ns as f64 / 1e9,
        faults,
        kernel_calls,
        wall: began.elapsed(),
    })
}

/// How a player's heap is walked.
const SAMPLING: SamplingOptions = SamplingOptions {
    stop: true,
    swap_in: false,
    max_stop: Duration::from_secs(60),
};

/// What was measured of a player's processes.
#[derive(Default)]
struct Measurements {
    targets: BTreeMap<u32, Target>,
    usage: BTreeMap<u32, (u64, u64)>,
    checkpoints: Vec<PlayedCheckpoint>,
}

impl Measurements {
    /// Measures a process that waits at a checkpoint.
    fn measure(&mut self, child: &Child, reached: &ProgramCheckpoint) -> Result<(), PlayError> {
        let process = reached.checkpoint.process;
        let resident_bytes = self.resident(child, process)?.unwrap_or(0);
        self.usage.insert(process, child.control().usage()?);
        self.checkpoints.push(PlayedCheckpoint {
            time_ns: reached.checkpoint.time_ns,
            process,
            recorded: reached.recorded,
            resident_bytes,
            live_bytes: reached.live_bytes,
        });
        Ok(())
    }

    /// malloc's memory of one process, now; `None` when it has ended.
    fn resident(&mut self, child: &Child, process: u32) -> Result<Option<u64>, PlayError> {
        let Some(pid) = child.pid_of(process)? else {
            return Ok(None);
        };
        let target = match self.targets.entry(process) {
            Entry::Occupied(mut known) => {
                if known.get().pid() != pid {
                    known.insert(Target::open(pid)?);
                }
                known.into_mut()
            }
            Entry::Vacant(new) => new.insert(Target::open(pid)?),
        };
        let residency = target.residency(&target.mappings()?)?;
        let malloc = malloc_resident(&residency, &[]);
        Ok(Some(malloc.resident_bytes + malloc.swapped_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_fragscope_was_suspended_is_no_hang() {
        let began = Instant::now();
        let mut idle = Idle::since(began);
        let at = |ms| began + Duration::from_millis(ms);
        idle.observe(at(50), Activity::default());
        idle.observe(at(3_600_000), Activity::default());
        assert_eq!(idle.time, Duration::from_millis(1050));
        idle.end(at(3_600_000));
        idle.observe(at(3_600_050), Activity::default());
        assert_eq!(idle.time, Duration::from_millis(50));
    }

    #[test]
    fn a_player_that_waits_for_a_processor_does_not_hang() {
        let began = Instant::now();
        let mut idle = Idle::since(began);
        let runnable = |ms| Activity {
            used: Duration::from_millis(ms),
            is_runnable: true,
        };
        for second in 1..=60 {
            idle.observe(began + Duration::from_secs(second), runnable(10 * second));
        }
        assert_eq!(idle.time, Duration::from_millis(600));
        // One that runs and gets nowhere does.
        for second in 61..=80 {
            let used = 600 + 1000 * (second - 60);
            idle.observe(began + Duration::from_secs(second), runnable(used));
        }
        assert_eq!(idle.time, Duration::from_millis(20_600));
        assert!(idle.is_hang(Duration::from_secs(20)));
        // One that gets nothing for good is given up at last, also where the time that was used falls
        // because a process of its has ended.
        let mut idle = Idle::since(began);
        for second in 1..=299 {
            idle.observe(began + Duration::from_secs(second), runnable(300 - second));
        }
        assert!(!idle.is_hang(Duration::from_secs(20)));
        for second in 300..=301 {
            idle.observe(began + Duration::from_secs(second), runnable(0));
        }
        assert!(idle.is_hang(Duration::from_secs(20)));
    }
}

//! Replays a program with one allocator, in a separate process that is measured from outside.

mod child;
mod command;
pub(crate) mod confine;
mod control;
mod guard;
mod kernel_calls;
mod players;
mod preload;
mod program;
mod watch;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use profiler_common::program::PlayerMessage;
use profiler_core::metrics::malloc_resident_but;
use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_core::units::bytes;
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_target::{OpenError, Process, Target};
use profiler_trace::compile::ProgramCheckpoint;

use self::child::Child;
use self::kernel_calls::Calls;
pub use self::players::end_all as end_players;
pub use self::program::{CompileError, OperationsSink, ProgramBuilder, ReplayProgram};
use self::watch::Watch;
use super::figures::{At, PeakAndFinal};

/// Signals and memory are checked at least this often.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// The allocator and its settings.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The allocator's shared object; `None` is the C library's own malloc.
    pub preload: Option<PathBuf>,
    /// The environment of the process, complete.
    pub env: Vec<(String, String)>,
    /// How large blocks are treated if it is not known how much of them is touched.
    pub touch: Touch,
    /// What fills the gaps between blocks from before the recording.
    pub fill: GapFill,
    /// Whether Python's requests to its object allocator go to this allocator.
    pub objects: bool,
    /// `malloc_trim(0)` is called at this interval of the program's time.
    pub trim_every: Option<Duration>,
    /// The first call comes this much earlier than one interval after the start.
    pub trim_phase: Duration,
    /// `malloc_trim(0)` is called before each checkpoint is measured.
    pub trim_at_checkpoints: bool,
    /// The number of processors that the allocator sees; `None` is this machine's.
    pub cpus: Option<u32>,
    /// The processor to run on: threads take turns, so one is enough, and turns are quicker there.
    pub core: Option<usize>,
    /// The player is ended when it has more bytes resident.
    pub memory_limit: Option<u64>,
    /// Time without progress after which it is considered hung; `None` is 20 s.
    pub patience: Option<Duration>,
    /// Whether it yields to everything else that wants a processor.
    pub background: bool,
    /// Whether to count kernel calls: meanwhile those of all processes here take a little longer.
    pub count_calls: bool,
    /// Whether to walk the heap at the end.
    pub walk: bool,
}

/// How large blocks are treated if it is not known how much of them is touched.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Touch {
    /// They are written to from end to end.
    #[default]
    Most,
    /// They are not written to.
    Least,
}

/// What fills the gaps between blocks from before the recording, for allocators other than the C
/// library's own (`docs/prediction.md`).
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
    /// malloc's resident bytes, including swapped ones: what the target would need.
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

/// Why a player did not complete.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// It could not be started.
    #[error("the player did not start: {0}")]
    Start(io::Error),
    /// Nothing here can execute it.
    #[error(
        "players need {0} of the GNU C library (Debian's libc6), which is not there: install it, or save a session \
             here and have it explained on a host that has it"
    )]
    NoLoader(&'static str),
    /// The allocator was not loaded.
    #[error("{} was not loaded into the player: {}", visible(path.display()), visible(why))]
    NotLoaded {
        /// The allocator.
        path: PathBuf,
        /// The loader's message.
        why: String,
    },
    /// A signal ended it.
    #[error("crashed ({})", visible(.0))]
    Crashed(String),
    /// Somebody else ended it.
    #[error("was killed (SIGKILL) {}", if *.for_memory {
        "by the kernel, most likely: the host or its control group was short of memory meanwhile"
    } else {
        "by somebody else"
    })]
    Killed {
        /// Whether the kernel's OOM killer ended any process meanwhile.
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
    /// It grew beyond its limit.
    #[error("needed more than {} and was ended", bytes(*limit_bytes))]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The allocator gave no memory.
    #[error("gave no memory for a block of {bytes} bytes")]
    NoMemory {
        /// The requested size.
        bytes: u64,
    },
    /// The player itself failed.
    #[error("the player failed: {}", visible(.0))]
    Player(String),
    /// It could not be measured.
    #[error("cannot read the memory of the player: {0}")]
    Unreadable(#[from] OpenError),
    /// The communication with it failed.
    #[error("cannot communicate with the player: {0}")]
    Io(#[from] io::Error),
    /// fragscope is to end.
    #[error("was ended early")]
    Cancelled,
}

/// Processors to run on: those that fragscope may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Plays a program; `progress` is called from time to time with the number of operations played,
/// and ends the player by returning false.
///
/// # Errors
/// Whatever prevents it from completing.
pub fn play(
    program: &ReplayProgram,
    setup: &Setup,
    progress: &dyn Fn(u64) -> bool,
) -> Result<Played, PlayError> {
    play_along(program, setup, progress, &|_| {})
}

/// The same for a program that may grow; `on_checkpoint` gets each checkpoint when it is reached.
///
/// # Errors
/// As for [`play`].
pub fn play_along(
    program: &ReplayProgram,
    setup: &Setup,
    progress: &dyn Fn(u64) -> bool,
    on_checkpoint: &dyn Fn(&PlayedCheckpoint),
) -> Result<Played, PlayError> {
    let began = Instant::now();
    let mut child = Child::start(program, setup)?;
    let mut watch = Watch::new(program, setup, progress);
    let mut measurements = Measurements::default();
    let mut calls = None;
    loop {
        let received = child.receive(&|| watch.is_wanted());
        let checked = received.and_then(|message| {
            watch.check(&mut child, message.is_none())?;
            Ok(message)
        });
        if matches!(checked, Err(PlayError::Cancelled)) {
            child.cancel();
        }
        let message = checked?;
        match message {
            // The failure is reported as an error of receiving it.
            None | Some(PlayerMessage::Failure) => {}
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
                on_checkpoint(&measurements.measure(&child, &reached)?);
                watch.is_at_checkpoint();
                child.go_on()?;
            }
            Some(PlayerMessage::End) => break,
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
    // The last message of a process contains all that it used.
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
    slices: false,
    max_walk: None,
};

/// The measurements of a player's processes.
#[derive(Default)]
struct Measurements {
    targets: BTreeMap<u32, Target>,
    usage: BTreeMap<u32, (u64, u64)>,
    checkpoints: Vec<PlayedCheckpoint>,
}

impl Measurements {
    /// Measures a process that waits at a checkpoint.
    fn measure(
        &mut self,
        child: &Child,
        reached: &ProgramCheckpoint,
    ) -> Result<PlayedCheckpoint, PlayError> {
        let process = reached.checkpoint.process;
        let resident_bytes = self.resident(child, process)?.unwrap_or(0);
        self.usage.insert(process, child.control().usage()?);
        let measured = PlayedCheckpoint {
            time_ns: reached.checkpoint.time_ns,
            process,
            recorded: reached.recorded,
            resident_bytes,
            live_bytes: reached.live_bytes,
        };
        self.checkpoints.push(measured);
        Ok(measured)
    }

    /// malloc's memory of one process, now; `None` if it has ended.
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
        let stacks = child.control().stacks(process)?;
        let malloc = malloc_resident_but(&residency, &[stacks]);
        Ok(Some(malloc.resident_bytes + malloc.swapped_bytes))
    }
}

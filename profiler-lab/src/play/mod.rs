//! Playing a program into one allocator, in a process of its own that is looked at from outside.

mod child;
pub(crate) mod confine;
mod control;
mod kernel_calls;
mod preload;
mod program;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use profiler_core::metrics::malloc_resident;
use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_core::units::bytes;
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_target::{OpenError, Process, Target};

pub use self::child::end_all as end_players;
use self::child::{Child, Heard};
use self::kernel_calls::Calls;
pub use self::program::{CompileError, Growing, Program};

/// Time without progress after which a player is taken to hang, unless the setup says another.
const HANGS_AFTER: Duration = Duration::from_secs(20);

/// Signals and memory are looked at so often at least.
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
    /// `malloc_trim(0)` is called so often in the program's time.
    pub trim_every: Option<Duration>,
    /// `malloc_trim(0)` is called before each checkpoint is looked at.
    pub trim_at_checkpoints: bool,
    /// The number of processors that the allocator is told of; `None` is this machine's.
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

/// What playing came to.
#[derive(Debug)]
pub struct Played {
    /// malloc's memory at each checkpoint of the trace.
    pub checkpoints: Vec<PlayedCheckpoint>,
    /// Peak of malloc's resident memory over all checkpoints, of all processes together.
    pub peak_bytes: u64,
    /// malloc's resident memory at the end, of all processes that live.
    pub rest_bytes: u64,
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
    /// malloc's resident bytes, swapped ones included: what the target would need.
    pub resident_bytes: u64,
    /// Bytes live, as asked for.
    pub live_bytes: u64,
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
    #[error("crashed ({0})")]
    Crashed(String),
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
    /// It could not be looked at.
    #[error("cannot read the memory of the player: {0}")]
    Look(#[from] OpenError),
    /// Talking to it failed.
    #[error("cannot communicate with the player: {0}")]
    Io(#[from] io::Error),
    /// fragscope is to end.
    #[error("was ended early")]
    Cancelled,
}

/// Plays a program; `progress` is told how many operations have been played now and then, and ends
/// the player by giving false.
///
/// # Errors
/// Whatever keeps it from coming to its end.
pub fn play(
    program: &Program,
    setup: &Setup,
    progress: &dyn Fn(u64) -> bool,
) -> Result<Played, PlayError> {
    play_along(program, setup, progress, &|_| {})
}

/// The same of a program that may grow; `reached` is told of each checkpoint when it is reached.
///
/// # Errors
/// As [`play`].
pub fn play_along(
    program: &Program,
    setup: &Setup,
    progress: &dyn Fn(u64) -> bool,
    reached: &dyn Fn(&PlayedCheckpoint),
) -> Result<Played, PlayError> {
    let began = Instant::now();
    let patience = setup.patience.unwrap_or(HANGS_AFTER);
    let mut child = Child::start(program, setup)?;
    let mut looks = Looks::default();
    let mut calls = None;
    let (mut played, mut moved) = (0, Instant::now());
    let mut checked = Instant::now();
    loop {
        let heard = child.listen()?;
        // A program of many checkpoints never is silent.
        if heard == Heard::Nothing || checked.elapsed() > CHECK_EVERY {
            checked = Instant::now();
            let now = child.control().played()?;
            if now != played {
                (played, moved) = (now, checked);
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
        match heard {
            Heard::Nothing => {
                // One that has played all there is waits for more.
                if moved.elapsed() > patience && played < program.published() {
                    let of = program.published();
                    return Err(PlayError::Hung { played, of });
                }
            }
            Heard::Start => {
                if setup.count_calls {
                    calls = Calls::of(child.pid()).ok();
                }
                child.go_on()?;
            }
            Heard::Checkpoint => {
                let number = looks.checkpoints.len();
                let stop = program.stop(number).ok_or_else(|| {
                    PlayError::Player(format!("it reached an unknown checkpoint, {number}"))
                })?;
                looks.look(
                    &child,
                    stop.checkpoint.process,
                    stop.checkpoint.time_ns,
                    stop.live_bytes,
                )?;
                moved = Instant::now();
                looks.checkpoints.last().into_iter().for_each(reached);
                child.go_on()?;
            }
            Heard::End => break,
        }
    }
    looks.usage.insert(u32::MAX, child.control().usage()?);
    let kernel_calls = calls.and_then(|calls| calls.count().ok());
    let end_sample = match setup.walk {
        false => None,
        true => Some(Sampler::open(child.pid())?.take(LOOK)?),
    };
    let rest_bytes = looks.now(&child)?;
    child.go_on()?;
    progress(program.published());
    // The last word of a process holds all that it used.
    let usage = looks.usage.values();
    let (cpu_ns, faults) = usage.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    Ok(Played {
        peak_bytes: looks.peak_bytes.max(rest_bytes),
        rest_bytes,
        checkpoints: looks.checkpoints,
        end_sample,
        cpu_seconds: cpu_ns as f64 / 1e9,
        faults,
        kernel_calls,
        wall: began.elapsed(),
    })
}

/// How a player's heap is walked.
const LOOK: SamplingOptions = SamplingOptions {
    stop: true,
    swap_in: false,
    max_stop: Duration::from_secs(60),
};

/// What was seen of a player's processes.
#[derive(Default)]
struct Looks {
    targets: BTreeMap<u32, Target>,
    last: BTreeMap<u32, u64>,
    usage: BTreeMap<u32, (u64, u64)>,
    checkpoints: Vec<PlayedCheckpoint>,
    peak_bytes: u64,
}

impl Looks {
    /// Looks at one process, which waits.
    fn look(
        &mut self,
        child: &Child,
        process: u32,
        time_ns: u64,
        live_bytes: u64,
    ) -> Result<(), PlayError> {
        let resident_bytes = self.resident(child, process)?.unwrap_or(0);
        self.usage.insert(process, child.control().usage()?);
        self.last.insert(process, resident_bytes);
        self.checkpoints.push(PlayedCheckpoint {
            time_ns,
            process,
            resident_bytes,
            live_bytes,
        });
        // What has ended takes no memory any more.
        for (other, bytes) in &mut self.last {
            if child.pid_of(*other)?.is_none() {
                *bytes = 0;
            }
        }
        self.peak_bytes = self.peak_bytes.max(self.last.values().sum());
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

    /// malloc's memory of all processes that live, now.
    fn now(&mut self, child: &Child) -> Result<u64, PlayError> {
        let mut sum = self.resident(child, 0)?.unwrap_or(0);
        let others: Vec<u32> = self.last.keys().copied().filter(|&p| p != 0).collect();
        for process in others {
            sum += self.resident(child, process)?.unwrap_or(0);
        }
        Ok(sum)
    }
}

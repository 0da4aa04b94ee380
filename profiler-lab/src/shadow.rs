//! Shadows: players that follow a running worker, each with another allocator.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use procfs::{Current, Meminfo};
use profiler_core::activity::ProbeCost;
use profiler_core::allocator::Environment;
use profiler_core::view::{Shadow, WhatIf};
use profiler_trace::limits::Meter;
use profiler_trace::trace::{Item, TraceDescription};

use super::allocators::PlayableAllocator;
use super::candidates::{self, Candidate, Facts};
use super::play::{PlayError, PlayedCheckpoint, ProgramBuilder, ReplayProgram, Setup, play_along};
use super::recorded;

/// The interval at which received events are passed on.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);
/// A shadow that is this many operations behind cannot keep up: they take 1 GiB of the temporary
/// directory.
const MAX_OPS_BEHIND: u64 = 1 << 26;
/// Shadows end when less than this part of the host's memory is available.
const PRESSED: u64 = 20;

/// What is known of the shadows, shared with the thread that shows it.
#[derive(Clone, Debug, Default)]
pub struct SharedWhatIf(Arc<Mutex<WhatIf>>);

impl SharedWhatIf {
    /// A copy of all of it.
    pub fn get(&self) -> WhatIf {
        self.lock().clone()
    }

    /// The cost of the probes that record for the shadows.
    pub fn set_cost(&self, cost: ProbeCost) {
        self.lock().cost = Some(cost);
    }

    fn lock(&self) -> MutexGuard<'_, WhatIf> {
        // Nothing that holds the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, number: usize, change: impl FnOnce(&mut Shadow)) {
        if let Some(shadow) = self.lock().shadows.get_mut(number) {
            change(shadow);
        }
    }
}

/// The shadows of one worker.
#[derive(Debug)]
pub struct Shadows {
    builder: ProgramBuilder,
    players: Vec<Player>,
    shared: SharedWhatIf,
    published: Instant,
    events: u64,
}

#[derive(Debug)]
struct Player {
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
}

/// Shared by a player's thread and the thread that feeds it.
#[derive(Debug, Default)]
struct Link {
    played: AtomicU64,
    /// Why it is to end.
    end: Mutex<Option<String>>,
}

impl Link {
    fn end(&self, why: &str) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.get_or_insert_with(|| why.to_owned());
    }

    fn why(&self) -> Option<String> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.clone()
    }
}

impl Shadows {
    /// Starts a shadow with the worker's allocator and settings, by which the others are judged,
    /// and one for each of `allocators`; their results are shared.
    ///
    /// # Errors
    /// If there is no room for the program or no thread.
    pub fn start(
        description: TraceDescription,
        allocators: &[PlayableAllocator],
        memory_limit: u64,
        shared: SharedWhatIf,
    ) -> io::Result<Self> {
        let cpus = description.cpus;
        let baseline = baseline(&description);
        // The worker's own is there already.
        let is_own = |allocator: &PlayableAllocator| {
            let own = baseline.allocator.as_ref();
            own.is_ok_and(|own| own.object == allocator.object)
                && baseline.env.variables().is_empty()
        };
        let others: Vec<&PlayableAllocator> =
            allocators.iter().filter(|one| !is_own(one)).collect();
        let others = others.into_iter().map(|allocator| {
            let name = short_title(allocator);
            Candidate::called(&name, Ok(allocator.clone()), Environment::default())
        });
        shared.lock().environment_unknown = description.environment_unknown;
        let builder = ProgramBuilder::new(description, Meter::default())?;
        let mut players = Vec::new();
        for (number, candidate) in std::iter::once(baseline).chain(others).enumerate() {
            let mut shadow = Shadow {
                name: candidate.name.to_string(),
                is_baseline: number == 0,
                ..Shadow::default()
            };
            let failure = candidate.allocator.as_ref().err();
            shadow.ended = failure.map(|failure| failure.why.clone());
            shared.lock().shadows.push(shadow);
            let Ok(allocator) = candidate.allocator else {
                continue;
            };
            let setup = Setup {
                preload: allocator.object,
                env: candidate.env.variables().to_vec(),
                cpus,
                memory_limit: Some(memory_limit),
                background: true,
                ..Setup::default()
            };
            let link = Arc::new(Link::default());
            let program = Arc::clone(builder.program());
            let (shared, for_thread) = (shared.clone(), Arc::clone(&link));
            let thread = profiler_target::start_thread("shadow", move || {
                follow(&program, &setup, &for_thread, &shared, number)
            })?;
            players.push(Player {
                link,
                thread: Some(thread),
            });
        }
        Ok(Self {
            builder,
            players,
            shared,
            published: Instant::now(),
            events: 0,
        })
    }

    /// Takes in the next item of the worker's stream.
    ///
    /// # Errors
    /// If there is no room.
    pub fn item(&mut self, item: Item) -> io::Result<()> {
        self.events += u64::from(matches!(item, Item::Event(_)));
        self.builder.item(item)
    }

    /// Events received.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Passes on what was received, when it is time, and frees room.
    ///
    /// # Errors
    /// If there is no room.
    pub fn pass_on(&mut self) -> io::Result<()> {
        if self.published.elapsed() < PUBLISH_INTERVAL {
            return Ok(());
        }
        self.published = Instant::now();
        self.builder.publish()?;
        let program = self.builder.program();
        let (published, summary) = (program.published(), program.summary());
        let mut least = published;
        for player in self.running() {
            let played = player.link.played.load(Ordering::Relaxed);
            if published - played.min(published) > MAX_OPS_BEHIND {
                player.link.end("could not keep up with the worker");
            }
            least = least.min(played);
        }
        let mut shared = self.shared.lock();
        shared.events_lost = summary.lost;
        shared.turned_over = (summary.seed_bytes > 0)
            .then(|| summary.allocated_bytes as f64 / summary.seed_bytes as f64);
        shared.allocated_bytes = summary.allocated_bytes;
        shared.gone_share = (summary.seed_bytes > 0)
            .then(|| summary.seed_gone_bytes as f64 / summary.seed_bytes as f64);
        drop(shared);
        self.builder.forget(least)
    }

    /// Whether any shadow is left.
    pub fn any(&self) -> bool {
        self.running().next().is_some()
    }

    fn running(&self) -> impl Iterator<Item = &Player> {
        let all = self.players.iter();
        all.filter(|player| player.thread.as_ref().is_some_and(|t| !t.is_finished()))
    }

    /// Lets them play to the end of what they got, for a moment, then ends them.
    pub fn finish(mut self) {
        // What cannot be written any more is not played.
        let _ = self.builder.close();
        let until = Instant::now() + END_TIMEOUT;
        while self.any() && Instant::now() < until {
            std::thread::sleep(PUBLISH_INTERVAL);
        }
    }
}

/// The worker's allocator and settings.
fn baseline(description: &TraceDescription) -> Candidate {
    let facts = Facts {
        description,
        threads: 1,
        duration: Duration::ZERO,
        env: recorded::environment(description).0,
        allow_recorded: false,
    };
    candidates::baseline(&facts).0
}

/// A path is long, and its end identifies it.
fn short_title(allocator: &PlayableAllocator) -> String {
    let title = allocator.title();
    title.rsplit('/').next().unwrap_or(&title).to_owned()
}

/// How long a session waits for its shadows at its end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

impl Drop for Shadows {
    fn drop(&mut self) {
        for player in &mut self.players {
            player.link.end("the session ended before it had caught up");
            if let Some(thread) = player.thread.take() {
                // A thread that panicked has ended too.
                let _ = thread.join();
            }
        }
    }
}

/// Plays along until the program is over, or the shadow is to end.
fn follow(
    program: &ReplayProgram,
    setup: &Setup,
    link: &Link,
    shared: &SharedWhatIf,
    number: usize,
) {
    let progress = |played| {
        link.played.store(played, Ordering::Relaxed);
        if is_pressed() {
            link.end("the host is short of memory");
        }
        link.why().is_none()
    };
    let on_checkpoint = |at: &PlayedCheckpoint| {
        let worker = worker_bytes(program, at);
        shared.set(number, |shadow| {
            shadow.resident_bytes = Some(at.resident_bytes);
            shadow.worker_bytes = worker;
        });
    };
    let ended = match play_along(program, setup, &progress, &on_checkpoint) {
        Ok(_) => return,
        Err(PlayError::Cancelled) => link.why().unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    shared.set(number, |shadow| shadow.ended = Some(ended));
}

/// malloc's memory of the worker itself at a checkpoint, including swapped bytes.
fn worker_bytes(program: &ReplayProgram, at: &PlayedCheckpoint) -> Option<u64> {
    let all = program.checkpoints();
    let reached = all
        .iter()
        .rev()
        .find(|one| (one.checkpoint.time_ns, one.checkpoint.process) == (at.time_ns, at.process))?;
    reached.checkpoint.figures.malloc_bytes()
}

/// Whether the host is short of memory.
pub(crate) fn is_pressed() -> bool {
    Meminfo::current().is_ok_and(|memory| {
        let available = memory.mem_available.unwrap_or(memory.mem_free);
        available < memory.mem_total / PRESSED
    })
}

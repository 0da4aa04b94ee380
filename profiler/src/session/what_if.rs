//! `attach --what-if`: the worker's stream, recorded through probes and played at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use profiler_core::view::WhatIf;
use profiler_lab::allocators::Allocator;
use profiler_lab::play::Setup;
use profiler_lab::shadow::{Board, Shadows};
use profiler_probe::plan::ProbePlan;
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_target::Target;
use profiler_trace::trace::{Checkpoint, Event, Item, SeedBlock};

use super::Ending;
use super::record::{Cut, Output, RecordError, Running, unless_gone};

/// Between two looks at the ring.
const NAP: Duration = Duration::from_millis(3);
/// Between two checkpoints at the most: what the shadows have is known only there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is to be compared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WhatIfOptions {
    /// Allocators by name or path.
    pub allocators: Vec<String>,
    /// A shadow ends when it has more bytes resident.
    pub memory_limit: u64,
}

/// Shadows of a worker, fed by a thread of their own.
pub(crate) struct WhatIfSession {
    board: Board,
    over: Arc<AtomicBool>,
    begun: Receiver<Result<(), RecordError>>,
    thread: Option<JoinHandle<Result<(), String>>>,
    notice: Option<String>,
}

impl WhatIfSession {
    /// Begins to follow the process.
    ///
    /// # Errors
    /// When an allocator is not to be had, in one sentence.
    pub(crate) fn start(
        pid: i32,
        options: &WhatIfOptions,
        sampling: SamplingOptions,
    ) -> Result<Self, String> {
        let mut setups = Vec::new();
        for name in &options.allocators {
            let allocator = Allocator::find(name).map_err(|why| format!("{name}: {why}"))?;
            // A path is long, and its end tells it.
            let title = allocator.title();
            let short = title.rsplit('/').next().unwrap_or(&title);
            setups.push((short.to_owned(), setup(&allocator, options.memory_limit)));
        }
        let board = Board::default();
        let over = Arc::new(AtomicBool::new(false));
        let (for_thread, end) = (board.clone(), Arc::clone(&over));
        let (tell, begun) = channel();
        let thread = std::thread::Builder::new()
            .name("what-if".into())
            .spawn(move || {
                let running = match begin(pid, &setups, sampling, for_thread) {
                    Ok(running) => running,
                    Err(error) => {
                        // Who does not wait for it any more has ended.
                        let _ = tell.send(Err(error));
                        return Ok(());
                    }
                };
                // As above.
                let _ = tell.send(Ok(()));
                follow(running, &end).map_err(|error| error.to_string())
            })
            .map_err(|error| error.to_string())?;
        Ok(Self {
            board,
            over,
            begun,
            thread: Some(thread),
            notice: None,
        })
    }

    /// Waits until the worker is followed.
    ///
    /// # Errors
    /// Why it cannot be: what the kernel or the target does not allow.
    pub(crate) fn wait_until_begun(&mut self) -> Result<(), RecordError> {
        // One that panicked says so when it is waited for.
        self.begun.recv().unwrap_or(Ok(()))
    }

    /// What there is to show now.
    pub(crate) fn get(&self) -> WhatIf {
        self.board.get()
    }

    /// Why there are no shadows, if that is so.
    pub(crate) fn notice(&self) -> Option<String> {
        self.notice.clone()
    }

    /// Takes notice when it has ended by itself.
    pub(crate) fn poll(&mut self) {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.wait();
        }
    }

    /// Ends it: probes off, shadows gone.
    pub(crate) fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.wait();
    }

    fn wait(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.notice = match thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(format!("the comparison with other allocators ended: {why}")),
            Err(_) => Some(
                "the comparison with other allocators ended: an internal error (panic)".to_owned(),
            ),
        };
    }
}

impl Drop for WhatIfSession {
    fn drop(&mut self) {
        self.end();
    }
}

fn setup(allocator: &Allocator, memory_limit: u64) -> Setup {
    Setup {
        preload: allocator.object.clone(),
        memory_limit: Some(memory_limit),
        background: true,
        ..Setup::default()
    }
}

fn begin(
    pid: i32,
    setups: &[(String, Setup)],
    sampling: SamplingOptions,
    board: Board,
) -> Result<Running<Feed>, RecordError> {
    let sampler = Sampler::open(pid)?;
    let target = Target::open(pid)?;
    let plan = ProbePlan::for_recording(sampler.target())?;
    let running = Running::begin(sampler, &plan, sampling, |description| {
        Ok(Feed(Shadows::start(description.clone(), setups, board)?))
    });
    let mut running = running.map_err(|error| unless_gone(&target, error))?;
    running.look_every(LOOK_EVERY);
    Ok(running)
}

fn follow(mut running: Running<Feed>, over: &AtomicBool) -> Result<(), RecordError> {
    let ending = loop {
        std::thread::sleep(NAP);
        running.take()?;
        running.look_if_due()?;
        if let Some(how) = running.check(None)? {
            break how;
        }
        if over.load(Ordering::Relaxed) || !running.output().0.any() {
            break Ending::Done;
        }
    };
    running.finish(&ending)
}

/// Passes the stream on to the shadows.
struct Feed(Shadows);

impl Feed {
    fn item(&mut self, item: Item) -> Result<(), Cut> {
        let events = self.0.events();
        self.0.item(item).map_err(|why| cut(events, why))
    }
}

fn cut(events: u64, why: std::io::Error) -> Cut {
    Cut::new(std::env::temp_dir(), events, why)
}

impl Output for Feed {
    fn seed(&mut self, blocks: &[SeedBlock]) -> Result<(), Cut> {
        self.item(Item::Seed(blocks.to_vec()))
    }

    fn event(&mut self, event: &Event) -> Result<(), Cut> {
        self.item(Item::Event(*event))
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Cut> {
        self.item(Item::Checkpoint(checkpoint.clone()))
    }

    fn progress(&mut self) -> Result<(), Cut> {
        let events = self.0.events();
        self.0.pass_on().map_err(|why| cut(events, why))
    }

    /// The board says all there is.
    fn remark(&mut self, _remark: String) {}

    fn say(&mut self, _what: String) {}

    fn events(&self) -> u64 {
        self.0.events()
    }

    fn finish(self) -> Result<(), Cut> {
        self.0.finish();
        Ok(())
    }
}

//! The host on a thread of its own, so that signals and keys are answered while it is looked at and
//! walked.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use profiler_core::host::{HostModel, HostView, ProcessId, WalkFigures};
use profiler_core::report::FragReport;
use profiler_sampling::{HostSampler, now_ns};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::TopOptions;
use crate::session::SessionError;

/// What the watcher is asked to do.
enum Request {
    /// Look at all processes, and walk those whose turn it is.
    Tick,
    /// Show once more what is known.
    Show,
    /// Walk this process now.
    Walk(i32),
    /// It was attached to until now.
    Attached(i32),
}

type Seen = Result<HostView, SessionError>;

/// The watcher, from outside of its thread.
pub(super) struct Watcher {
    requests: Sender<Request>,
    seen: UnboundedReceiver<Option<Seen>>,
    /// Requests that were not answered yet.
    waiting: usize,
}

impl Watcher {
    /// Starts it; nothing is looked at before the first [`Self::tick`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(options: &TopOptions) -> io::Result<Self> {
        let (requests, requested) = channel();
        let (show, seen) = unbounded_channel();
        let options = options.clone();
        std::thread::Builder::new()
            .name("top".into())
            .spawn(move || run(&options, &requested, &show))?;
        Ok(Self {
            requests,
            seen,
            waiting: 0,
        })
    }

    /// Asks for a look, unless something is under way.
    pub(super) fn tick(&mut self) {
        if self.waiting == 0 {
            self.ask(Request::Tick);
        }
    }

    /// Asks for what is known.
    pub(super) fn show(&mut self) {
        self.ask(Request::Show);
    }

    /// Asks for a walk.
    pub(super) fn walk(&mut self, pid: i32) {
        self.ask(Request::Walk(pid));
    }

    /// Says that the process was attached to, which stops it, until now.
    pub(super) fn attached_to(&mut self, pid: i32) {
        self.ask(Request::Attached(pid));
    }

    fn ask(&mut self, request: Request) {
        self.waiting += 1;
        // A thread that has ended said why.
        let _ = self.requests.send(request);
    }

    /// The next view. Of one request there may be several.
    ///
    /// # Errors
    /// Why there will be no more.
    pub(super) async fn next(&mut self) -> Seen {
        loop {
            match self.seen.recv().await {
                Some(Some(seen)) => return seen,
                Some(None) => self.waiting = self.waiting.saturating_sub(1),
                None => {
                    return Err(SessionError::Io(io::Error::other(
                        "the watching thread panicked",
                    )));
                }
            }
        }
    }

    /// Waits until nothing is under way.
    pub(super) async fn rest(&mut self) {
        while self.waiting > 0 && self.seen.recv().await.is_some_and(|seen| seen.is_some()) {}
        while self.waiting > 0 {
            match self.seen.recv().await {
                Some(None) => self.waiting -= 1,
                Some(Some(_)) => {}
                None => return,
            }
        }
    }
}

fn run(options: &TopOptions, requests: &Receiver<Request>, show: &UnboundedSender<Option<Seen>>) {
    let mut host = WatchedHost::new(options);
    for request in requests {
        // Whoever left does not look.
        let send = |seen: Seen| show.send(Some(seen)).is_ok();
        let began = Instant::now();
        match request {
            Request::Tick => match host.look() {
                Ok(()) => {
                    send(Ok(host.view()));
                    // The first walk is shown at once, the others together: the next look is near.
                    while options.walks && began.elapsed() < options.interval && host.walk_next() {
                        if !send(Ok(host.view())) {
                            return;
                        }
                    }
                }
                Err(error) => {
                    send(Err(error.into()));
                }
            },
            Request::Show => {
                send(Ok(host.view()));
            }
            Request::Walk(pid) => {
                host.walk_now(pid);
                send(Ok(host.view()));
            }
            Request::Attached(pid) => host.attached_to(pid),
        }
        if show.send(None).is_err() {
            return;
        }
    }
}

/// The host: the sampler that looks, and the model that remembers.
pub(super) struct WatchedHost {
    sampler: HostSampler,
    model: HostModel,
}

impl WatchedHost {
    pub(super) fn new(options: &TopOptions) -> Self {
        Self {
            sampler: HostSampler::new(options.host()),
            model: HostModel::default(),
        }
    }

    /// Looks at all processes.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub(super) fn look(&mut self) -> io::Result<()> {
        self.model.observe(self.sampler.look()?);
        Ok(())
    }

    pub(super) fn view(&self) -> HostView {
        self.model.view(now_ns(), self.sampler.cost())
    }

    /// Walks the process whose turn it is, when the budget allows it; whether it did.
    fn walk_next(&mut self) -> bool {
        let next = self
            .sampler
            .may_walk()
            .then(|| self.model.next(now_ns(), |id| self.sampler.is_due(id)));
        let next = next.flatten();
        if let Some(id) = next {
            self.walk(id);
        }
        next.is_some()
    }

    /// Walks a process that was not walked yet, whatever it costs; whether there was one.
    pub(super) fn walk_unwalked(&mut self, tried: &mut Vec<ProcessId>) -> bool {
        let next = self.model.next(now_ns(), |id| !tried.contains(&id));
        if let Some(id) = next {
            tried.push(id);
            self.walk(id);
        }
        next.is_some()
    }

    fn walk_now(&mut self, pid: i32) {
        if let Some(id) = self.model.process(pid) {
            self.walk(id);
        }
    }

    fn attached_to(&mut self, pid: i32) {
        if let Some(id) = self.model.process(pid) {
            // It ended with a walk; how long that stopped it is not known here.
            self.sampler.was_stopped(id, AFTER_ATTACH);
        }
    }

    fn walk(&mut self, id: ProcessId) {
        match self.sampler.walk(id) {
            Ok(sample) => {
                let figures = WalkFigures::of(&FragReport::from_sample(&sample));
                self.model.walked(id, Ok(figures));
            }
            // It is not there at the next look.
            Err(gone) if gone.is_gone() => {}
            Err(error) => self.model.walked(id, Err(error.to_string())),
        }
    }
}

/// What a process that was attached to is taken to have been stopped for at last.
const AFTER_ATTACH: Duration = Duration::from_millis(100);

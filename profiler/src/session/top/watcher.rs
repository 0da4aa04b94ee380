//! Watches the host on a separate thread, so that signals and keys are answered while processes are
//! counted and walked.

use std::collections::HashSet;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use profiler_core::host::{HostModel, HostView, PlannedWalks, ProcessId, WalkFigures};
use profiler_core::report::FragReport;
use profiler_sampling::{HostOptions, HostSampler, now_ns};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::session::SessionError;
use crate::session::black_box::HostBlackBox;

/// Requests to the watcher.
enum Request {
    /// Observe all processes.
    Tick,
    /// Walk this process now.
    Walk(i32),
    /// Walk nothing until further notice.
    Rest,
    /// Continue; this process was attached to until now. Send the present view.
    Resume {
        attached_to: i32,
        walk: Option<Box<WalkFigures>>,
    },
}

type HostViewResult = Result<HostView, SessionError>;

/// The watcher, as used from outside its thread.
pub(in crate::session) struct Watcher {
    requests: Sender<Request>,
    seen: UnboundedReceiver<Option<HostViewResult>>,
    /// Requests that were not answered yet.
    waiting: usize,
}

impl Watcher {
    /// Starts it, with or without walks; nothing is observed before the first [`Self::tick`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub(in crate::session) fn start(
        options: HostOptions,
        walks: bool,
        black_box: Option<HostBlackBox>,
    ) -> io::Result<Self> {
        let (requests, requested) = channel();
        let (show, seen) = unbounded_channel();
        profiler_target::start_thread("top", move || {
            run(
                WatchedHost::new(options, black_box),
                walks,
                &requested,
                &show,
            )
        })?;
        Ok(Self {
            requests,
            seen,
            waiting: 0,
        })
    }

    /// Asks for a look, unless something is under way.
    pub(in crate::session) fn tick(&mut self) {
        if self.waiting == 0 {
            self.ask(Request::Tick);
        }
    }

    /// Asks for a walk.
    pub(in crate::session) fn walk(&mut self, pid: i32) {
        self.ask(Request::Walk(pid));
    }

    /// Continues after [`Self::rest`]: until now the process was attached to, which stops it, and
    /// this was its last walk.
    pub(in crate::session) fn resume(&mut self, attached_to: i32, walk: Option<WalkFigures>) {
        let walk = walk.map(Box::new);
        self.ask(Request::Resume { attached_to, walk });
    }

    fn ask(&mut self, request: Request) {
        self.waiting += 1;
        // A thread that has ended said why.
        let _ = self.requests.send(request);
    }

    /// The next view. One request may cause several.
    ///
    /// # Errors
    /// Why there will be no more.
    pub(in crate::session) async fn next(&mut self) -> HostViewResult {
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

    /// Pauses it, and waits until nothing is in progress.
    pub(in crate::session) async fn rest(&mut self) {
        self.ask(Request::Rest);
        while self.waiting > 0 {
            match self.seen.recv().await {
                Some(None) => self.waiting -= 1,
                Some(Some(_)) => {}
                None => return,
            }
        }
    }
}

fn run(
    mut host: WatchedHost,
    walks: bool,
    requests: &Receiver<Request>,
    show: &UnboundedSender<Option<HostViewResult>>,
) {
    let (mut is_resting, mut is_all_walked) = (false, false);
    let send = |host: &WatchedHost| {
        let mut view = host.view();
        view.walks = walks.then(|| host.planned());
        show.send(Some(Ok(view))).is_ok()
    };
    loop {
        let pause = match walks && !is_resting {
            true if is_all_walked => LOOK,
            true => host.sampler.until_walk(),
            false => IDLE,
        };
        let is_wanted = match requests.recv_timeout(pause) {
            Ok(Request::Tick) => {
                is_all_walked = false;
                match host.look() {
                    Ok(()) => send(&host),
                    Err(error) => show.send(Some(Err(error.into()))).is_ok(),
                }
            }
            Ok(Request::Walk(pid)) => {
                host.walk_now(pid);
                send(&host)
            }
            Ok(Request::Rest) => {
                is_resting = true;
                true
            }
            Ok(Request::Resume { attached_to, walk }) => {
                is_resting = false;
                host.attached_to(attached_to, walk.map(|walk| *walk));
                send(&host)
            }
            Err(RecvTimeoutError::Timeout) => {
                if walks && !is_resting {
                    is_all_walked = !host.walk_next();
                    if !is_all_walked && !send(&host) {
                        return;
                    }
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // The screen may have ended.
        if !is_wanted || show.send(None).is_err() {
            return;
        }
    }
}

/// Between two looks whether a walk is due.
const LOOK: Duration = Duration::from_millis(200);
/// The same if no walk is wanted.
const IDLE: Duration = Duration::from_secs(3600);

/// The host: the sampler that looks, and the model that remembers.
pub(super) struct WatchedHost {
    sampler: HostSampler,
    model: HostModel,
    black_box: Option<HostBlackBox>,
}

impl WatchedHost {
    pub(super) fn new(options: HostOptions, black_box: Option<HostBlackBox>) -> Self {
        Self {
            model: match options.tree_of {
                Some(_) => HostModel::of_tree(),
                None => HostModel::default(),
            },
            sampler: HostSampler::new(options),
            black_box,
        }
    }

    /// Observes all processes.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let seen = self.sampler.look()?;
        if let Some(black_box) = &mut self.black_box {
            black_box.look(&seen);
        }
        self.model.observe(seen);
        Ok(())
    }

    pub(super) fn view(&self) -> HostView {
        self.model.view(now_ns(), self.sampler.cost())
    }

    fn planned(&self) -> PlannedWalks {
        PlannedWalks {
            until_next_ns: self.sampler.until_walk().as_nanos() as u64,
            budget: self.sampler.budget(),
        }
    }

    /// Walks the process whose turn it is; returns whether one was due.
    fn walk_next(&mut self) -> bool {
        if self.sampler.until_walk() > Duration::ZERO {
            return false;
        }
        let next = self.model.next(now_ns(), |id| self.sampler.is_due(id));
        if let Some(id) = next {
            self.walk(id);
        }
        next.is_some()
    }

    /// Walks a process that was not walked yet, whatever it costs, those of `first` before others;
    /// returns whether there was one.
    pub(super) fn walk_unwalked(
        &mut self,
        first: &HashSet<ProcessId>,
        tried: &mut Vec<ProcessId>,
    ) -> bool {
        let is_new = |id| !tried.contains(&id);
        // What may have to be waited for takes nobody else's time.
        let at_once = |id| is_new(id) && !self.sampler.may_be_slow(id);
        let now = now_ns();
        let next = self
            .model
            .next(now, |id| first.contains(&id) && at_once(id));
        let next = next.or_else(|| self.model.next(now, |id| first.contains(&id) && is_new(id)));
        let next = next.or_else(|| self.model.next(now, at_once));
        let next = next.or_else(|| self.model.next(now, is_new));
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

    fn attached_to(&mut self, pid: i32, walk: Option<WalkFigures>) {
        if let Some(id) = self.model.process(pid) {
            if let Some(walk) = walk {
                self.model.walked(id, Ok(walk));
            }
            // It ended with a walk; how long that stopped the process is not known here.
            self.sampler.was_stopped(id, AFTER_ATTACH);
        }
    }

    fn walk(&mut self, id: ProcessId) {
        match self.sampler.walk(id) {
            Ok(sample) => {
                let report = FragReport::from_sample(&sample);
                self.model.walked(id, Ok(WalkFigures::of(&report)));
                if let Some(black_box) = &mut self.black_box {
                    black_box.walked(id, &sample, report);
                }
            }
            // It will be missing in the next observation.
            Err(gone) if gone.is_gone() => {}
            Err(error) => self.model.walked(id, Err(error.to_string())),
        }
    }
}

/// The assumed length of the last stop of a process that was attached to.
const AFTER_ATTACH: Duration = Duration::from_millis(100);

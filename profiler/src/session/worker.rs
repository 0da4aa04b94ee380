//! Runs the session on a separate thread, so that signals and keys are answered while it walks a
//! large heap or loads the probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use profiler_core::view::View;
use profiler_sampling::{STOP_PART_OF_BUDGET, Sampler, WalkSchedule};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::SessionError;
use super::live::{Background, LiveSession};
use super::objects::ObjectReader;
use super::options::{AttachOptions, Budget};
use super::predictor::Predictor;
use super::probes::Probes;
use super::saved::SessionSaver;
use super::what_if::WhatIfSession;

/// Requests to the session.
enum Request {
    /// Observe the target, and walk it if that is due and wanted.
    Tick { walking: bool },
    /// Walk it now.
    Walk,
    /// Walk it now, and read its objects.
    Objects,
    /// Detach, look once more, and end.
    Finish { walking: bool },
}

/// Its results.
type ViewResult = Result<View, SessionError>;

/// The session, as used from outside its thread.
pub(crate) struct SessionWorker {
    requests: Sender<Request>,
    seen: UnboundedReceiver<ViewResult>,
    /// Whether a look was requested that has not been answered.
    is_busy: bool,
    /// Set when the session is to end: nothing that takes long is begun any more.
    ending: Arc<AtomicBool>,
}

impl SessionWorker {
    /// Starts the session; its first view comes after the first observation of the target.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(
        options: AttachOptions,
        sampler: Sampler,
        saver: SessionSaver,
    ) -> Result<Self, SessionError> {
        let (requests, requested) = channel();
        let (show, seen) = unbounded_channel();
        let ending = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&ending);
        profiler_target::start_thread("session", move || {
            let began = begin(&options, sampler, saver, &for_thread);
            if let Err(error) = began.map(|session| run(session, &requested, &show)) {
                // The screen may have ended.
                let _ = show.send(Err(error));
            }
        })?;
        Ok(Self {
            requests,
            seen,
            is_busy: true,
            ending,
        })
    }

    /// Asks for a look, unless one is under way.
    pub(crate) fn tick(&mut self, walking: bool) {
        if !std::mem::replace(&mut self.is_busy, true) {
            self.ask(Request::Tick { walking });
        }
    }

    /// Asks for a walk.
    pub(crate) fn walk_now(&mut self) {
        self.is_busy = true;
        self.ask(Request::Walk);
    }

    /// Requests reading its objects after a walk.
    pub(crate) fn read_objects_now(&mut self) {
        self.is_busy = true;
        self.ask(Request::Objects);
    }

    /// Asks it to end; [`Self::last`] then returns its last view.
    pub(crate) fn finish(&mut self, walking: bool) {
        self.ending.store(true, Ordering::Relaxed);
        self.ask(Request::Finish { walking });
    }

    fn ask(&self, request: Request) {
        // A thread that has ended said why.
        let _ = self.requests.send(request);
    }

    /// The next view.
    ///
    /// # Errors
    /// Why there will be no more.
    pub(crate) async fn next(&mut self) -> ViewResult {
        let seen = self.seen.recv().await;
        self.is_busy = false;
        seen.unwrap_or_else(|| Err(panicked()))
    }

    /// The last view, once the session has ended as asked.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn last(&mut self) -> ViewResult {
        let mut last = None;
        while let Some(seen) = self.seen.recv().await {
            last = Some(seen);
        }
        last.unwrap_or_else(|| Err(panicked()))
    }
}

fn panicked() -> SessionError {
    SessionError::Io(std::io::Error::other("the session panicked"))
}

fn run(mut session: LiveSession, requests: &Receiver<Request>, show: &UnboundedSender<ViewResult>) {
    let show = |view| {
        // The screen may have ended.
        let _ = show.send(Ok(view));
    };
    show(session.view());
    for request in requests {
        match request {
            Request::Tick { walking } => session.tick(walking),
            Request::Walk => {
                session.walk_now();
                session.tick(true);
            }
            Request::Objects => {
                session.read_objects_now();
                session.tick(true);
            }
            Request::Finish { walking } => {
                show(session.finish(walking));
                return;
            }
        }
        show(session.view());
    }
}

fn begin(
    options: &AttachOptions,
    sampler: Sampler,
    saver: SessionSaver,
    ending: &Arc<AtomicBool>,
) -> Result<LiveSession, SessionError> {
    // Probes that record stay armed, and feed the shadows alone.
    let what_if = match &options.what_if {
        None => None,
        Some(wanted) => {
            let started = WhatIfSession::start(options.pid, wanted, options.sampling);
            let mut what_if = started.map_err(SessionError::WhatIf)?;
            // Without probes there is nothing to compare, which is an error and no notice.
            what_if.wait_until_begun().map_err(SessionError::Shadows)?;
            Some(what_if)
        }
    };
    let start = |budget| Probes::start(options.pid, budget, options.sites, Arc::clone(ending));
    let probes = match (options.probes, options.budget) {
        (false, _) => Probes::Off,
        (true, _) if what_if.is_some() => Probes::ForWhatIf,
        (true, Budget::Unlimited) => start(profiler_probe::Budget::Unlimited),
        (true, Budget::Share(share)) => {
            let share = share * (1.0 - STOP_PART_OF_BUDGET);
            start(profiler_probe::Budget::Share(share))
        }
    };
    let stop_share = match options.budget {
        Budget::Share(share) => Some(share * STOP_PART_OF_BUDGET),
        Budget::Unlimited => None,
    };
    let schedule = WalkSchedule::new(options.interval, stop_share, Instant::now());
    let sampling = options.sampling;
    let sampler = Arc::new(sampler);
    let reader = || ObjectReader::new(Arc::clone(&sampler), options.sampling, options.budget);
    let background = Background {
        predictor: options.predict.then(Predictor::default),
        objects: options.objects.then(reader),
    };
    let session = LiveSession::start(
        sampler, sampling, schedule, probes, what_if, background, saver,
    )?;
    Ok(session)
}

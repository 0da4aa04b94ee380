//! Pushes profiles to an endpoint that keeps their history. A separate thread does it, so that
//! nothing waits for the endpoint; profiles that the endpoint does not accept in time are replaced
//! by newer ones.

mod endpoint;
mod settings;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use profiler_core::host::{HostView, PushFigures};
use profiler_core::view::View;
use profiler_sampling::now_ns;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use self::endpoint::Endpoint;
use self::endpoint::PushError;
use self::settings::PushSettings;
use super::SessionError;
use crate::export::pushed::{Pushed, TargetPushes, of_host};
use crate::say;

/// The pause before the first retry; it doubles with each failure up to a limit.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The last profiles of a session are waited for no longer.
const LAST: Duration = Duration::from_secs(3);

/// Where profiles are pushed to, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PushOptions {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The file with the endpoint's settings.
    pub settings: Option<PathBuf>,
    /// Time between two pushes.
    pub interval: Duration,
}

/// What profiles are made of.
enum Seen {
    Host {
        view: Box<HostView>,
        max_groups: usize,
    },
    Target(Box<View>),
}

/// The pusher, as used from outside its thread.
pub(crate) struct Pusher {
    shared: Arc<Shared>,
    interval: Duration,
    due: Instant,
    news: UnboundedReceiver<String>,
    ended: Receiver<()>,
}

/// What both sides see.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is to be pushed next.
    waiting: Option<Seen>,
    is_ending: bool,
    figures: PushFigures,
}

impl Shared {
    /// Entries are replaced as a whole, so a panic elsewhere left nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to push and `not_before` has passed. `None` at the end.
    fn next(&self, not_before: Instant) -> Option<Seen> {
        let mut state = self.state();
        loop {
            let pause = not_before.saturating_duration_since(Instant::now());
            if state.is_ending || (pause.is_zero() && state.waiting.is_some()) {
                return state.waiting.take();
            }
            let pause = if pause.is_zero() {
                LONGEST_PAUSE
            } else {
                pause
            };
            let waited = self.changed.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Puts back what was not accepted, unless there is something newer.
    fn put_back(&self, seen: Seen) {
        let mut state = self.state();
        state.figures.failures += 1;
        match (&state.waiting, state.is_ending) {
            (None, false) => state.waiting = Some(seen),
            _ => state.figures.dropped += 1,
        }
    }
}

/// Counts of pushed profiles so far, for the server's metrics.
pub(crate) struct PushCounts(Arc<Shared>);

impl PushCounts {
    pub(crate) fn get(&self) -> PushFigures {
        self.0.state().figures
    }
}

impl Pusher {
    /// Starts it; nothing is pushed before something is offered.
    ///
    /// # Errors
    /// When the settings are not usable, or no thread can be started.
    pub(crate) fn start(options: &PushOptions) -> Result<Self, SessionError> {
        let settings = load(options)?;
        if settings.has_secrets() && !options.endpoint.keeps_secrets() {
            say::line(format_args!(
                "warning: whoever can listen in on the way to {} learns the password or the headers: there is no \
                 encryption",
                options.endpoint
            ));
        }
        let host = profiler_target::kernel_text("/proc/sys/kernel/hostname").unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Looking up an address may take longer than an attempt: then the next one waits for
            // it.
            .max_blocking_threads(1)
            .build()?;
        let shared = Arc::new(Shared::default());
        let (tell, news) = unbounded_channel();
        let (end, ended) = channel();
        let mut work = Work {
            shared: Arc::clone(&shared),
            runtime,
            options: options.clone(),
            settings,
            host: host.trim().to_owned(),
            pushed: TargetPushes::default(),
            failing: None,
            dropped_before: 0,
            news: tell,
        };
        profiler_target::start_thread("push", move || {
            work.run();
            // A lookup in progress does not delay the end.
            work.runtime.shutdown_background();
            // There may be no receiver.
            let _ = end.send(());
        })?;
        Ok(Self {
            shared,
            interval: options.interval,
            due: Instant::now(),
            news,
            ended,
        })
    }

    /// Counts of pushed profiles so far.
    pub(crate) fn counts(&self) -> PushCounts {
        PushCounts(Arc::clone(&self.shared))
    }

    /// Offers a view to be pushed when it is due.
    pub(crate) fn offer_host(&mut self, view: &HostView, max_groups: usize) {
        if self.is_due() {
            let view = Box::new(view.clone());
            self.offer(Seen::Host { view, max_groups });
        }
    }

    /// The same for one process.
    pub(crate) fn offer_target(&mut self, view: &View) {
        if self.is_due() {
            self.offer(Seen::Target(Box::new(view.clone())));
        }
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.due <= now;
        if is_due {
            self.due = (self.due + self.interval).max(now);
        }
        is_due
    }

    fn offer(&self, seen: Seen) {
        let mut state = self.shared.state();
        if state.waiting.replace(seen).is_some() {
            state.figures.dropped += 1;
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// News about the endpoint: that it accepts nothing, and that it does again.
    async fn news(&mut self) -> String {
        match self.news.recv().await {
            Some(news) => news,
            // The thread has ended, with a panic: there is nothing more to come.
            None => std::future::pending().await,
        }
    }

    /// Pushes the last view, which is waited for a moment, unless `in_haste`.
    pub(crate) fn finish(mut self, last: Option<&View>, in_haste: bool) {
        if let Some(view) = last.filter(|_| !in_haste) {
            self.offer(Seen::Target(Box::new(view.clone())));
        }
        self.shared.state().is_ending = true;
        self.shared.changed.notify_one();
        let wait = if in_haste { Duration::ZERO } else { LAST };
        let is_late = self.ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
        while let Ok(news) = self.news.try_recv() {
            say::line(news);
        }
        let PushFigures { taken, dropped, .. } = self.shared.state().figures;
        let is_complete = dropped == 0 && !is_late;
        if !is_complete {
            let last = if is_late {
                ", and the last profiles may not have been"
            } else {
                ""
            };
            say::line(format_args!(
                "profiles of {taken} moments were pushed; those of {dropped} were not taken{last}"
            ));
        }
    }
}

/// News about the endpoint; never completes without one.
pub(crate) async fn news(pusher: Option<&mut Pusher>) -> String {
    match pusher {
        Some(pusher) => pusher.news().await,
        None => std::future::pending().await,
    }
}

fn load(options: &PushOptions) -> Result<PushSettings, SessionError> {
    let settings = options.settings.as_deref().map(PushSettings::load);
    Ok(settings.transpose()?.unwrap_or_default())
}

/// The pusher on its thread.
struct Work {
    shared: Arc<Shared>,
    runtime: Runtime,
    options: PushOptions,
    settings: PushSettings,
    host: String,
    pushed: TargetPushes,
    failing: Option<Failing>,
    /// How many had been dropped when something was taken last.
    dropped_before: u64,
    news: UnboundedSender<String>,
}

/// The present series of failures.
struct Failing {
    failures: u32,
    /// The errors already reported.
    said: Vec<std::mem::Discriminant<PushError>>,
}

impl Work {
    fn run(&mut self) {
        let mut not_before = Instant::now();
        while let Some(seen) = self.shared.next(not_before) {
            match self.push(&seen) {
                Ok(true) => self.recovered(),
                // Nothing was sent, so it is unknown whether the endpoint accepts profiles.
                Ok(false) => {}
                Err(error) => {
                    self.shared.put_back(seen);
                    let pause = self.failed(&error);
                    not_before = Instant::now() + pause;
                    self.renew();
                }
            }
        }
    }

    /// Pushes what is new at this moment; returns whether there was anything.
    fn push(&mut self, seen: &Seen) -> Result<bool, PushError> {
        let (pushed, next) = match seen {
            Seen::Host { view, max_groups } => {
                let pushed = of_host(view, *max_groups, &self.host);
                (pushed.map_err(PushError::Packing)?, None)
            }
            Seen::Target(view) => {
                let pushed = self.pushed.next(view, &self.host, now_ns());
                let (pushed, next) = pushed.map_err(PushError::Packing)?;
                (pushed, Some(next))
            }
        };
        if !pushed.is_empty() {
            self.send(&pushed)?;
            self.shared.state().figures.taken += 1;
        }
        if let Some(next) = next {
            self.pushed = next;
        }
        Ok(!pushed.is_empty())
    }

    fn send(&self, pushed: &Pushed) -> Result<(), PushError> {
        let pushing = self.options.endpoint.push(&self.settings, pushed.message());
        self.runtime.block_on(pushing)
    }

    /// Reads the settings again: a password may be renewed from time to time. While they are
    /// unreadable, the previous ones apply.
    fn renew(&mut self) {
        if let Ok(settings) = load(&self.options) {
            self.settings = settings;
        }
    }

    /// Reports the error unless it was reported already; returns how long to wait.
    fn failed(&mut self, error: &PushError) -> Duration {
        let failing = self.failing.get_or_insert(Failing {
            failures: 0,
            said: Vec::new(),
        });
        let pause = pause(failing.failures, error.after());
        failing.failures += 1;
        let kind = std::mem::discriminant(error);
        if !failing.said.contains(&kind) {
            failing.said.push(kind);
            // There may be no receiver any more.
            let _ = self.news.send(format!(
                "profiles were not taken by {}: {error}; it is tried again, ever more seldom up to every {} minutes",
                self.options.endpoint,
                LONGEST_PAUSE.as_secs() / 60
            ));
        }
        pause
    }

    /// Reports that pushing works again, if it had failed.
    fn recovered(&mut self) {
        let dropped = self.shared.state().figures.dropped;
        let meanwhile = dropped - std::mem::replace(&mut self.dropped_before, dropped);
        if self.failing.take().is_some() {
            // There may be no receiver any more.
            let _ = self.news.send(format!(
                "{} takes profiles again; those of {meanwhile} moments were dropped meanwhile",
                self.options.endpoint
            ));
        }
    }
}

/// How long to wait after `failures` failures in a row, and at least as long as the endpoint
/// `asked` for, within the limit. Each client waits a random part of the pause, so that many that
/// fail together do not return together.
fn pause(failures: u32, asked: Option<Duration>) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.min(16));
    let longest = doubled.min(LONGEST_PAUSE);
    let chance = RandomState::new().hash_one(failures) as f64 / u64::MAX as f64;
    let pause = longest.mul_f64(0.5 + chance / 2.0);
    pause.max(asked.unwrap_or(Duration::ZERO).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_what_the_endpoint_asks_for_is_kept() {
        for failures in 0..40 {
            let whole = FIRST_PAUSE * 2u32.pow(failures.min(9));
            let whole = whole.min(LONGEST_PAUSE);
            let pause = pause(failures, None);
            assert!(
                pause >= whole / 2 && pause <= whole,
                "{failures}: {pause:?}"
            );
        }
        let asked = |seconds| pause(0, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(60), Duration::from_secs(60));
        assert_eq!(asked(1 << 40), LONGEST_PAUSE);
    }

    #[test]
    fn what_is_newer_replaces_what_was_not_taken_and_that_is_counted() {
        let shared = Shared::default();
        let view = || Seen::Host {
            view: Box::default(),
            max_groups: 1,
        };
        shared.put_back(view());
        assert!(shared.next(Instant::now()).is_some());
        shared.state().waiting = Some(view());
        shared.put_back(view());
        let figures = shared.state().figures;
        assert_eq!((figures.failures, figures.dropped), (2, 1));
        // At the end there is no waiting for a pause.
        shared.state().is_ending = true;
        let later = Instant::now() + LONGEST_PAUSE;
        assert!(shared.next(later).is_some() && shared.next(later).is_none());
    }
}

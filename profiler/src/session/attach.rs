//! `attach`: the loop between the session, the clock, the signals and the front end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::report::FragReport;
use profiler_core::view::View;
use profiler_sampling::Sampler;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::aside::aside;
use super::black_box::TargetBlackBox;
use super::children;
use super::front::Front;
use super::options::AttachOptions;
use super::outputs::Outputs;
use super::push::{Pusher, news};
use super::saved::SessionSaver;
use super::screen::CLOSED;
use super::signals::{AFTER_SIGNAL, Signals};
use super::worker::SessionWorker;
use super::{Ending, SessionError, event_loop};
use crate::say;
use crate::tui::Effect;

/// Of a session that has nothing to save.
const NOTHING_SAVED: &str = "ended before the first walk of the target: nothing was saved";

/// Attaches to the target until the duration is over, the user or a signal ends it, or the target
/// is gone; then writes the exports.
///
/// # Errors
/// When the target cannot be opened, the front end fails, or an export cannot be written. In every
/// case the probes are removed and the target runs.
pub fn attach(options: &AttachOptions) -> Result<Ending, SessionError> {
    let (runtime, mut signals) = event_loop()?;
    attach_on(options, &runtime, &mut signals)
}

/// As [`attach_on`], with the last walk that was seen of the target.
pub(super) fn attach_seen(
    options: &AttachOptions,
    runtime: &Runtime,
    signals: &mut Signals,
) -> (Result<Ending, SessionError>, Option<Arc<FragReport>>) {
    let mut seen = None;
    let ending = attach_and_keep(options, runtime, signals, &mut seen);
    (ending, seen)
}

/// The same with signals that are already being waited for, so that no earlier one is lost.
///
/// # Errors
/// As [`attach`].
pub(super) fn attach_on(
    options: &AttachOptions,
    runtime: &Runtime,
    signals: &mut Signals,
) -> Result<Ending, SessionError> {
    attach_and_keep(options, runtime, signals, &mut None)
}

fn attach_and_keep(
    options: &AttachOptions,
    runtime: &Runtime,
    signals: &mut Signals,
    seen: &mut Option<Arc<FragReport>>,
) -> Result<Ending, SessionError> {
    // Outputs, target and screen are checked before anything is attached.
    let outputs = Outputs::reserve(&options.outputs, &options.inputs())?;
    let black_box = options.black_box.as_ref().map(TargetBlackBox::open);
    let black_box = black_box.transpose().map_err(SessionError::BlackBox)?;
    let saver = outputs.saver(black_box);
    let mut pusher = options.push.as_ref().map(Pusher::start).transpose()?;
    let pid = options.pid;
    let sampler = match open(pid, runtime, signals)? {
        Ok(sampler) => sampler,
        Err(name) => {
            say::line(NOTHING_SAVED);
            say::line(format_args!("ended by {name}"));
            return Ok(Ending::Interrupted(name));
        }
    };
    let mut front = Front::open(options)?;
    if let Some(children) = children::of(pid) {
        front.note(children);
    }
    let watched = runtime.block_on(watch(
        options,
        sampler,
        signals,
        &mut front,
        &outputs,
        &saver,
        pusher.as_mut(),
    ));
    let in_haste = matches!(
        &watched,
        Ok(Watched {
            ending: Ok(Ending::Interrupted(_)),
            ..
        })
    );
    // Whatever else failed, the terminal is restored first, and then what was observed is saved.
    let closed = front.close(in_haste);
    let Watched {
        view,
        ending,
        failed,
    } = watched?;
    *seen = view.as_ref().map(|view| Arc::clone(&view.report));
    match &view {
        Some(view) => outputs.save_last(&saver, view, in_haste)?,
        None => say::line(NOTHING_SAVED),
    }
    if let Some(pusher) = pusher {
        pusher.finish(view.as_ref(), in_haste);
    }
    closed?;
    let ending = ending?;
    match &ending {
        Ending::Done => {}
        Ending::Interrupted(by) => say::line(format_args!("ended by {by}")),
        Ending::TargetGone(how) => say::line(format_args!("{how}: its last walk is kept")),
    }
    match failed {
        Some(why) if ending == Ending::Done => Err(SessionError::NothingCompared(why)),
        _ => Ok(ending),
    }
}

/// Opens the target, unless a signal comes before, whose name is the inner error.
fn open(
    pid: i32,
    runtime: &Runtime,
    signals: &mut Signals,
) -> Result<Result<Sampler, &'static str>, SessionError> {
    runtime.block_on(async {
        tokio::select! {
            biased;
            name = signals.next() => Ok(Err(name)),
            // Its files may be many and large.
            opened = aside("open", move || Sampler::open(pid)) => Ok(Ok(opened??)),
        }
    })
}

/// The outcome of a session.
struct Watched {
    /// The last view, unless it ended before the first.
    view: Option<View>,
    /// How it ended, or why nothing can be shown any more.
    ending: io::Result<Ending>,
    /// Why none of the requested allocators could be compared, if that was not because of the end.
    failed: Option<String>,
}

async fn watch(
    options: &AttachOptions,
    sampler: Sampler,
    signals: &mut Signals,
    front: &mut Front,
    outputs: &Outputs,
    saver: &SessionSaver,
    pusher: Option<&mut Pusher>,
) -> Result<Watched, SessionError> {
    let began = Instant::now();
    let session = SessionWorker::start(options.clone(), sampler, saver.clone())?;
    let deadline = options.duration.map(|duration| began + duration);
    let far = began + Duration::from_secs(u64::from(u32::MAX));
    let over = sleep_until(deadline.unwrap_or(far).into());
    tokio::pin!(over);
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch {
        session,
        front,
        outputs,
        pusher,
        walking: true,
        last: None,
    };
    let ending = loop {
        // However short the duration, something is shown and saved.
        let has_shown = watch.last.is_some();
        let ended = tokio::select! {
            biased;
            name = signals.next() => Some(Ok(Ending::Interrupted(name))),
            news = news(watch.pusher.as_deref_mut()) => {
                watch.front.note(news);
                None
            }
            request = watch.front.next_request() => watch.answer(request).map(Ok),
            () = &mut over, if has_shown => Some(Ok(Ending::Done)),
            view = watch.session.next() => watch.show(view?).transpose(),
            _ = ticks.tick() => {
                watch.session.tick(watch.walking);
                None
            }
        };
        if let Some(ending) = ended {
            break ending;
        }
    };
    watch.finish(signals, ending).await
}

/// A session in progress.
struct Watch<'a> {
    session: SessionWorker,
    front: &'a mut Front,
    outputs: &'a Outputs,
    pusher: Option<&'a mut Pusher>,
    walking: bool,
    last: Option<View>,
}

impl Watch<'_> {
    /// Does what the user requests, unless it ends the session.
    fn answer(&mut self, request: Effect) -> Option<Ending> {
        let is_gone = self.last.as_ref().is_some_and(|view| view.ended.is_some());
        match request {
            Effect::Quit => return Some(Ending::Done),
            Effect::Closed => return Some(Ending::Interrupted(CLOSED)),
            Effect::Interrupt => return Some(Ending::Interrupted("Ctrl-C")),
            Effect::Walk if is_gone => {
                let why = "the target is gone: there is nothing left to walk";
                self.front.note(why.into());
            }
            Effect::Walk => self.session.walk_now(),
            Effect::ReadObjects if is_gone => {
                let why = "the target is gone: its objects cannot be read";
                self.front.note(why.into());
            }
            Effect::ReadObjects => self.session.read_objects_now(),
            Effect::Pause(paused) => self.walking = !paused,
            // Only of a saved session are there other walks to show.
            Effect::Show(_) => {}
            Effect::Export => {
                let saved = self.last.as_ref();
                let saved = saved.map(|view| self.outputs.export_now(view));
                let none_yet = || Err("there is nothing to export yet".to_owned());
                let note = saved.unwrap_or_else(none_yet);
                self.front.note(note.unwrap_or_else(|error| error));
            }
        }
        None
    }

    /// Shows a view, which may be the last of a target.
    fn show(&mut self, view: View) -> io::Result<Option<Ending>> {
        let shown = self.front.show(view.clone());
        let ended = view.ended.clone();
        if let Some(pusher) = &mut self.pusher {
            pusher.offer_target(&view);
        }
        self.last = Some(view);
        shown?;
        let ended = ended.filter(|_| !self.front.outlives_target());
        Ok(ended.map(Ending::TargetGone))
    }

    /// Removes the probes and takes the last view.
    async fn finish(
        mut self,
        signals: &mut Signals,
        mut ending: io::Result<Ending>,
    ) -> Result<Watched, SessionError> {
        let compared = self.last.as_ref().and_then(|view| view.what_if.as_ref());
        let nothing = compared.filter(|compared| compared.came_to_nothing());
        let failed = nothing.map(|nothing| nothing.troubles().join("; "));
        // Removing the probes takes a moment, during which the user should not see a dead screen.
        self.front.leave();
        self.session.finish(self.walking);
        if !matches!(ending, Ok(Ending::Interrupted(_))) {
            tokio::select! {
                biased;
                name = signals.next() => ending = ending.map(|_| Ending::Interrupted(name)),
                view = self.session.last() => self.last = Some(view?),
            }
        }
        if matches!(ending, Ok(Ending::Interrupted(_))) {
            // Work in progress is abandoned: when this process ends, its guards undo what it did to
            // the target.
            if let Ok(view) = timeout(AFTER_SIGNAL, self.session.last()).await {
                self.last = Some(view?);
            }
        }
        let gone = self.last.as_ref().and_then(|view| view.ended.clone());
        if let (Some(how), Ok(Ending::Done)) = (gone, &ending) {
            ending = Ok(Ending::TargetGone(how));
        }
        Ok(Watched {
            view: self.last,
            ending,
            failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};
    use profiler_sampling::SamplingOptions;
    use profiler_testing::child::Child;

    use super::*;
    use crate::session::options::{Budget, SiteOptions};

    /// Like a user who returns to `top` while the session waits for a walk before it attaches.
    #[test]
    fn a_signal_that_came_before_ends_it() {
        let child = Child::python("print(1, flush=True)\ninput()");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut signals = {
            let _entered = runtime.enter();
            Signals::new().expect("taken over")
        };
        raise(Signal::SIGTERM).expect("handled");
        let options = AttachOptions {
            pid: child.pid(),
            headless: true,
            json: false,
            interval: Duration::from_secs(1),
            duration: None,
            budget: Budget::Unlimited,
            probes: false,
            sites: SiteOptions::default(),
            predict: false,
            objects: false,
            what_if: None,
            sampling: SamplingOptions {
                stop: true,
                swap_in: false,
                max_stop: Duration::from_secs(2),
                slices: false,
                max_walk: None,
            },
            black_box: None,
            push: None,
            outputs: Vec::new(),
        };
        let ended = attach_on(&options, &runtime, &mut signals).expect("it ends");
        assert_eq!(ended, Ending::Interrupted("SIGTERM"));
    }
}
